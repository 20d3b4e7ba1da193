"""``mirage data``: training clips from footage, procedural rooms or released samples."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from ..codecs.dct import CODEC_NAME, DctCodec
from ..constants import MAX_CHUNK_FRAMES
from ..errors import CacheFormatError, ModelMismatchError, ValueRangeError
from ..log import logger
from ..rollout.settings import GenerationSettings
from ..training.data.build_clip import ClipSettings, DepthNoise
from ..training.data.footage import FootageSource
from ..training.data.pipeline import (
    DataJob,
    DataProgress,
    LocalPool,
    Pool,
    ShotSource,
    make_data,
)
from ..training.data.procedural import ProceduralSource
from ..training.data.ray_pool import RayPool
from ..training.data.released.lmdb_import import import_lmdb
from ..training.data.shot_masks import MaskFiles, MaskModel, ShotMasks
from ..training.data.stored import has_clips
from ..validate import expect_range
from . import data_options as options
from . import inputs, masks
from .captions import add_caption
from .data_info import add_info
from .data_options import expect_paths
from .inputs import parse_path
from .work import ItemBar, add_work, device_of

Group = Any

MAX_ROOMS: Final = 1_000_000
"""Rooms of one command; each gives some thirty clips."""


def add_command(commands: Any) -> None:
    """Add ``data`` with its actions to the commands of a parser."""
    parser = commands.add_parser("data", help="make training clips, or describe a data set")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    make = actions.add_parser(
        "make",
        help="turn footage or procedural rooms into training clips",
        description="Makes the clips that the folder does not have yet. Run the same command again "
        "to resume; a larger number of rooms or more footage adds clips.",
    )
    make.add_argument("--out", type=parse_path, required=True, help="folder for the clips")
    make.add_argument(
        "--size", type=inputs.parse_size, required=True, help="WIDTHxHEIGHT, multiples of 32"
    )
    options.add_sources(make.add_argument_group("sources"))
    options.add_models(make.add_argument_group("models"))
    masks.add_masks(make.add_argument_group("masks"), masks.OF_FOOTAGE)
    options.add_clips(make.add_argument_group("clips"))
    add_work(make.add_argument_group("processes"))
    make.set_defaults(run=run_make)
    _add_import(actions)
    add_caption(actions)
    add_info(actions)


def _add_import(actions: Any) -> None:
    parser = actions.add_parser(
        "import-lmdb",
        help="convert samples of the released code to training clips",
        description="Reads LMDB shards of pickled samples without executing any code in them. "
        "Run the same command again to resume.",
    )
    parser.add_argument("folder", type=parse_path, help="folder with shard_000.lmdb and so on")
    parser.add_argument("--out", type=parse_path, required=True, help="folder for the clips")
    parser.add_argument("--text-encoder", type=parse_path, help="UMT5-xxl, to embed captions")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--retry", action="store_true", help="retry what was skipped before")
    parser.set_defaults(run=run_import)


def run_make(arguments: argparse.Namespace) -> int:
    """Make clips; 0 also when some footage was skipped, which is reported.

    Raises:
        MirageError: All of it was skipped, or something about the input is wrong.
    """
    expect_paths(
        arguments,
        (
            "footage", "cameras", "captions", "geometry", "vae", "text_encoder", "depth_model",
            "tracker_model", "language_model",
        ),
    )
    if arguments.vae is not None and arguments.text_encoder is None:
        logger.warning(
            "Captions are not embedded, so models learn from these clips with an empty prompt; "
            "--text-encoder embeds them"
        )
    _expect_masks(arguments)
    job = job_of(arguments)
    for line in masks.licences(arguments):
        sys.stdout.write(f"{line}\n")
    open_pool: Callable[[Path, DataJob], Pool] = LocalPool
    if arguments.workers:
        open_pool = partial(
            RayPool, workers=arguments.workers, address=arguments.address,
            gpus=arguments.gpus_per_worker,
        )  # fmt: skip
    elif arguments.address:
        raise ModelMismatchError(
            "A cluster requires workers", got="--workers 0", fix="Set the number with --workers"
        )
    with ItemBar("clips") as bar:
        try:
            progress = make_data(
                arguments.out, job, open_pool, retry=arguments.retry, on_progress=bar
            )
        except KeyboardInterrupt:
            sys.stderr.write("\nFinished clips are stored. Run the same command again to resume.\n")
            raise
    sys.stdout.write(
        f"{progress.clips} clips made in {arguments.out}; {progress.done} of {progress.total} "
        f"items are done, {progress.skipped} items or shots were skipped\n"
    )
    if progress.unused:
        sys.stdout.write(
            f"{progress.unused} frames at the ends of items are not used: the last shot of an item "
            f"needs at least {MAX_CHUNK_FRAMES} frames, and all but the last have --shot-frames "
            f"{arguments.shot_frames}\n"
        )
    _tell_skipped(arguments.out, progress)
    return 0


def _tell_skipped(folder: Path, progress: DataProgress) -> None:
    """What can be done about what was skipped; raise `CacheFormatError` when that is all."""
    if not progress.skipped:
        return
    hint = "mirage data info names each with its reason; --retry tries them again"
    if not has_clips(folder):
        raise CacheFormatError(
            "No clip was made",
            got=f"{progress.skipped} items or shots that were skipped",
            fix=f"Mend what is wrong with them: {hint}",
        )
    sys.stdout.write(f"{hint}\n")


def run_import(arguments: argparse.Namespace) -> int:
    """Import released samples; 0 also when some were skipped, which is reported."""
    expect_paths(arguments, ("folder", "text_encoder"))
    text, encoder = _text(arguments, device_of(arguments))
    with ItemBar("clips") as bar:
        progress = import_lmdb(
            arguments.folder, arguments.out,
            text=text, text_name=encoder, retry=arguments.retry, on_progress=bar,
        )  # fmt: skip
    sys.stdout.write(
        f"{progress.clips} clips made in {arguments.out}; {progress.done} of {progress.total} "
        f"samples are done, {progress.skipped} samples or shards were skipped\n"
    )
    _tell_skipped(arguments.out, progress)
    return 0


def job_of(arguments: argparse.Namespace) -> DataJob:
    """The data set to make, as the arguments describe it."""
    device = device_of(arguments)
    loop = GenerationSettings.released() if arguments.released else GenerationSettings()
    given = {name: getattr(arguments, name) for name in ("references", "preceding")}
    loop = dataclasses.replace(loop, **{k: v for k, v in given.items() if v is not None})
    if arguments.policy is not None:
        rules = dataclasses.replace(loop.memory.rules, policy=arguments.policy)
        loop = loop.remembering(rules=rules)
    noise = DepthNoise(*arguments.depth_noise)
    drawn = options.DRAWN.get(arguments.drawn)
    settings = ClipSettings(loop, noise, arguments.planes, drawn, masks.name_masks(arguments))
    codec: Callable[[], Any] = DctCodec
    name = CODEC_NAME
    if arguments.vae is not None:
        from ..models.vae import WanCodec, load_vae

        codec, name = partial(load_vae, arguments.vae.absolute(), device=device), WanCodec.name
    text, encoder = _text(arguments, device)
    return DataJob(_source(arguments, device), codec, name, settings, text, encoder)


def _text(arguments: argparse.Namespace, device: str) -> tuple[Callable[[], Any] | None, str]:
    """What loads the text encoder, and its name; None and nothing without one."""
    path: Path | None = arguments.text_encoder
    if path is None:
        return None, ""
    from ..models.text import load_text_encoder

    return partial(load_text_encoder, path.absolute(), device=device), path.name


def _source(arguments: argparse.Namespace, device: str) -> ShotSource:
    width, height = arguments.size
    if arguments.procedural is not None:
        expect_range("The number of rooms", arguments.procedural, 1, MAX_ROOMS)
        rooms = range(arguments.first_room, arguments.first_room + arguments.procedural)
        return ProceduralSource(
            rooms, width, height, arguments.shots, arguments.shot_frames, device=device
        )
    estimator = None
    if arguments.depth_model is not None:
        from ..models.geometry_estimators import load_estimator

        estimator = partial(
            load_estimator, arguments.depth_kind, arguments.depth_model.absolute(), device=device
        )
    return FootageSource(
        arguments.footage.absolute(), width, height,
        cameras=_absolute(arguments.cameras),
        captions=_absolute(arguments.captions),
        geometry=_absolute(arguments.geometry),
        estimator=estimator,
        shot_frames=arguments.shot_frames,
        stride=arguments.stride,
        exact_depth=arguments.exact_depth,
        caption=arguments.caption,
        masks=_masks(arguments, device),
    )  # fmt: skip


def _expect_masks(arguments: argparse.Namespace) -> None:
    """Refuse masks that no footage could have, before any of it is read."""
    masks.expect_masks(arguments)
    if not arguments.masks:
        return
    if arguments.footage is None:
        raise ValueRangeError(
            "--masks is for footage", got="--procedural", expected="--footage",
            fix="Leave it out: nothing moves in procedural rooms",
        )  # fmt: skip
    folder = Path(arguments.masks[-1])
    if arguments.masks[0] == masks.FOLDER and not folder.is_dir():
        raise CacheFormatError(
            "The folder of masks does not exist", got=folder, expected="a folder on this machine",
            fix="Check the path",
        )  # fmt: skip


def _masks(arguments: argparse.Namespace, device: str) -> ShotMasks | None:
    """What finds the masks of footage; None where nothing is left out."""
    if not arguments.masks:
        return None
    if arguments.masks[0] == masks.FOLDER:
        root = Path(arguments.masks[1]).absolute()
        return ShotMasks(MaskFiles(root), arguments.grow_masks)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    load = masks.sam3_loader(arguments, device=device, dtype=dtype)
    return ShotMasks(MaskModel(load), arguments.grow_masks)


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()
