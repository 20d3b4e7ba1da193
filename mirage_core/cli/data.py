"""``mirage data``: training clips from footage, procedural rooms or released samples."""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..codecs.base import LatentCodec
from ..codecs.dct import CODEC_NAME, DctCodec
from ..constants import MAX_CHUNK_FRAMES
from ..errors import CacheFormatError, ModelMismatchError
from ..files import atomic_path
from ..log import logger
from ..rollout.settings import GenerationSettings
from ..training.data.build_clip import CHUNK_STEP, ClipSettings, DepthNoise
from ..training.data.dataset import ClipDataset
from ..training.data.footage import FootageSource
from ..training.data.manifest import read_manifest, read_skipped
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
from ..training.data.sheet import data_sheet
from ..training.data.stored import has_clips
from ..validate import expect_range
from ..writing.policy import WRITE_POLICIES
from . import inputs
from .captions import add_caption
from .inputs import parse_path
from .work import ItemBar, add_work, device_of

Group = Any

SHEETS: Final = (".png", ".jpg", ".jpeg")
"""Formats of `mirage data info --pictures`."""

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
    _add_sources(make.add_argument_group("sources"))
    _add_models(make.add_argument_group("models"))
    _add_clips(make.add_argument_group("clips"))
    add_work(make.add_argument_group("processes"))
    make.set_defaults(run=run_make)
    _add_import(actions)
    add_caption(actions)
    info = actions.add_parser("info", help="describe a data set")
    info.add_argument("folder", type=parse_path)
    info.add_argument(
        "--pictures", type=parse_path, metavar="FILE",
        help="also draw a sheet of clips (.png or .jpg): frames, what the memory shows, cameras, "
        "and what was skipped",
    )  # fmt: skip
    info.add_argument(
        "--vae", type=parse_path,
        help="Wan2.2 VAE, to decode the clips of --pictures; without it false colours are drawn",
    )  # fmt: skip
    info.set_defaults(run=run_info)


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


def _add_sources(group: Group) -> None:
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--procedural", type=int, metavar="ROOMS", help="number of rooms")
    source.add_argument(
        "--footage", type=parse_path, help="folder of videos, or of folders with a picture a frame"
    )
    group.add_argument("--first-room", type=int, default=0, help="seed of the first room")
    group.add_argument("--shots", type=int, default=8, help="camera moves per room (default: 8)")
    group.add_argument(
        "--shot-frames", type=int, default=2 * CHUNK_STEP + 1,
        help="frames per shot, 32n + 1 (default: 65); each shot begins with a new memory",
    )  # fmt: skip
    group.add_argument(
        "--cameras", type=parse_path, help="folder of camera files (RealEstate10K and others); "
        "default: next to the footage",
    )  # fmt: skip
    group.add_argument(
        "--geometry", type=parse_path, help="folder of geometry files; default: next to the footage"
    )
    group.add_argument(
        "--exact-depth",
        action="store_true",
        help="geometry files come from a renderer; noise is added to their depth",
    )
    group.add_argument(
        "--captions", type=parse_path, help="folder of captions (.caption.txt or .txt); default: "
        ".caption.txt next to the footage",
    )  # fmt: skip
    group.add_argument("--stride", type=int, default=1, help="use every n-th frame of the footage")
    group.add_argument(
        "--caption", default="", help="caption for footage without a .caption.txt file"
    )


def _add_models(group: Group) -> None:
    codec = group.add_mutually_exclusive_group(required=True)
    codec.add_argument("--vae", type=parse_path, help="Wan2.2 VAE")
    codec.add_argument(
        "--embedded-codec", action="store_true", help="use the embedded codec, which has no weights"
    )
    group.add_argument("--text-encoder", type=parse_path, help="UMT5-xxl, to embed captions")
    group.add_argument("--depth-model", type=parse_path, help="folder of a geometry estimator")
    group.add_argument(
        "--depth-kind", default="MapAnything",
        help="MapAnything (default) or Depth Anything 3, which also estimate cameras; UniDepth V2 "
        "or transformers",
    )  # fmt: skip
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def _add_clips(group: Group) -> None:
    group.add_argument("--policy", choices=WRITE_POLICIES, help="default: novelty")
    group.add_argument(
        "--references", type=int, help="maximum number of reference frames (default: 4)"
    )
    group.add_argument(
        "--preceding", type=int, help="maximum number of preceding frames (default: 2)"
    )
    group.add_argument(
        "--released", action="store_true",
        help="build the memory as the method's released code does",
    )  # fmt: skip
    group.add_argument(
        "--depth-noise", type=float, nargs=2, metavar=("SMOOTH", "WHITE"), default=(0.04, 0.02),
        help="largest relative noise added to exact depth (default: 0.04 0.02)",
    )  # fmt: skip
    group.add_argument(
        "--planes", action=argparse.BooleanOptionalAction, default=True,
        help="also store sub-cell offset and depth ratio",
    )  # fmt: skip
    group.add_argument(
        "--drawn", action="store_true",
        help="store the readout as drawings, for --side-features drawn,...; requires "
        "--embedded-codec",
    )  # fmt: skip


def run_make(arguments: argparse.Namespace) -> int:
    """Make clips; 0 also when some footage was skipped, which is reported.

    Raises:
        MirageError: All of it was skipped, or something about the input is wrong.
    """
    _expect_paths(
        arguments,
        ("footage", "cameras", "captions", "geometry", "vae", "text_encoder", "depth_model"),
    )
    if arguments.vae is not None and arguments.text_encoder is None:
        logger.warning(
            "Captions are not embedded, so models learn from these clips with an empty prompt; "
            "--text-encoder embeds them"
        )
    job = job_of(arguments)
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
    _expect_paths(arguments, ("folder", "text_encoder"))
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
    settings = ClipSettings(loop, noise, arguments.planes, arguments.drawn)
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
    )  # fmt: skip


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _expect_paths(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    for name in names:
        path = getattr(arguments, name)
        if path is not None and not path.exists():
            raise CacheFormatError(
                "The folder does not exist"
                if name == "folder"
                else f"The path of --{name.replace('_', '-')} does not exist",
                got=path,
                expected="a file or folder on this machine; nothing is downloaded",
                fix="Check the path",
            )


def run_info(arguments: argparse.Namespace) -> int:
    """Print what a data set holds, and draw some of it."""
    _expect_paths(arguments, ("vae",))
    _expect_sheet(arguments.pictures)
    folder: Path = arguments.folder
    manifest, skipped = read_manifest(folder), read_skipped(folder)
    why = [f"skipped: {name}: {reason}" for name, reason in skipped.items()]
    if skipped and not has_clips(folder):
        sys.stdout.write("\n".join(["no clips", *why]) + "\n")
        return 0
    dataset = ClipDataset(folder)
    numbers = range(0, len(dataset), max(1, len(dataset) // 200))
    shown = [float(dataset[number].condition.visible.float().mean()) for number in numbers]
    entries = [dataset.entry(number) for number in range(len(dataset))]
    texts = sum(entry.sizes.text > 0 for entry in entries)
    lines = [
        f"{len(dataset)} clips of {manifest.width} x {manifest.height} "
        f"in {len(dataset.shards)} shards",
        f"codec {manifest.codec}; memory {manifest.settings}",
        f"the memory shows {statistics.mean(shown):.0%} of a clip on average "
        f"({min(shown):.0%} to {max(shown):.0%}, {len(shown)} clips looked at)",
        f"references {_spread([entry.sizes.references for entry in entries])}, preceding frames "
        f"{_spread([entry.sizes.preceding for entry in entries])}, "
        f"{texts} clips with embedded text",
    ]
    lines += [f"damaged: {reason}" for reason in dataset.damaged.values()]
    if arguments.pictures is not None:
        codec = _codec_of(manifest.codec, arguments.vae)
        with atomic_path(arguments.pictures) as temporary:
            data_sheet(dataset, codec, skipped).save(temporary, quality=90)
        lines.append(f"pictures: {arguments.pictures}")
    sys.stdout.write("\n".join(lines + why) + "\n")
    return 0


def _codec_of(name: str, vae: Path | None) -> LatentCodec | None:
    """What decodes the clips of a data set; None where that would need weights."""
    if name == CODEC_NAME:
        return DctCodec()
    if vae is None:
        return None
    from ..models.vae import load_vae

    return load_vae(vae)


def _expect_sheet(path: Path | None) -> None:
    """Refuse other formats before clips are decoded."""
    if path is not None and path.suffix.lower() not in SHEETS:
        raise CacheFormatError(
            "A sheet of pictures has a format that is not written",
            got=path.name,
            expected=f"a name that ends with {' or '.join(SHEETS)}",
        )


def _spread(values: list[int]) -> str:
    return f"{min(values)} to {max(values)} (mean {statistics.mean(values):.1f})"
