"""Masks of what must not be remembered, by the options of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..actors.update import CastConfig
from ..cache.track import Behaviour
from ..errors import ModelMismatchError, ValueRangeError
from ..geometry.masks import MaskGrowth
from ..masks.folder import FolderMasks, find_masks
from ..rollout.mask_source import ProvidedMasks
from ..rollout.settings import GenerationSettings
from .inputs import parse_path

if TYPE_CHECKING:
    import torch

    from ..masks.sam3 import Sam3Masks
    from .models import DeviceSetup

SAM3, FOLDER = "sam3", "folder"
KINDS: Final = (SAM3, FOLDER)
UNSEEN: Final = [one.value for one in Behaviour if one is not Behaviour.PATH]


OF_A_SHOT: Final = (
    "keep what moves, and sky, out of the memory, in the picture and in every chunk: "
    "sam3 (with --tracker-model), or folder FOLDER with a picture for every frame"
)


OF_FOOTAGE: Final = (
    "keep what moves, and sky, out of the memory of every shot of footage: sam3 (with "
    "--tracker-model), or folder FOLDER with a folder a/b/ of masks for a/b.mp4, a picture for "
    "every frame or one for all"
)


def add_masks(group: Any, meaning: str = OF_A_SHOT) -> None:
    """Add the choice of masks to a group of arguments.

    Args:
        group: Of a parser.
        meaning: What ``--masks`` does, for the help.
    """
    group.add_argument(
        "--masks", nargs="+", default=[], metavar=("KIND", "FOLDER"), help=meaning
    )
    group.add_argument(
        "--names", default="", metavar="LIST",
        help='with --masks sam3: what moves, comma separated, such as "person, dog"',
    )  # fmt: skip
    group.add_argument(
        "--tracker-model", type=parse_path,
        help="with --masks sam3: folder of SAM3, such as a copy of facebook/sam3",
    )  # fmt: skip
    group.add_argument(
        "--language-model", type=parse_path,
        help="with --masks sam3: folder of a language model that sees pictures and names what "
        "moves, such as a copy of Qwen3-VL-8B-Instruct; without it --names are all",
    )  # fmt: skip
    group.add_argument(
        "--grow-masks", type=int, default=0, metavar="PIXELS",
        help="pixels by which masks grow on every side (default: 0)",
    )  # fmt: skip
    group.add_argument(
        "--unseen", choices=UNSEEN, default=Behaviour.STAY.value,
        help="with --masks that tell things apart, each of which becomes an actor: what they do "
        "when nobody looks (default: %(default)s)",
    )  # fmt: skip


def expect_masks(arguments: argparse.Namespace) -> None:
    """Refuse options that do not go together, and folders that are not there.

    Raises:
        ValueRangeError: An unknown kind of masks, or an option that means nothing with it.
        ModelMismatchError: There is no folder of SAM3.
    """
    given = list(arguments.masks)
    kind = given[0] if given else None
    wanted = 2 if kind == FOLDER else 1
    if kind is not None and (kind not in KINDS or len(given) != wanted):
        raise ValueRangeError(
            "--masks does not say where masks come from",
            got=" ".join(given),
            expected="sam3, or folder and the folder of the masks",
            fix="Write --masks sam3, or --masks folder FOLDER",
        )
    names = ("names", "tracker_model", "language_model")
    idle = [name for name in names if getattr(arguments, name)]
    if kind != SAM3 and idle:
        raise ValueRangeError(
            f"--{idle[0].replace('_', '-')} is for --masks sam3",
            got=f"--masks {kind}" if kind else "no --masks",
            expected="--masks sam3",
            fix="Add it, or leave the option out",
        )
    if kind == SAM3 and arguments.tracker_model is None:
        raise ModelMismatchError(
            "SAM3 is not there to track what moves",
            got="no --tracker-model",
            expected="the folder of SAM3 in the format of transformers; nothing is downloaded",
            fix="Set it with --tracker-model",
        )


def folder_masks(
    arguments: argparse.Namespace, frames: int, size: tuple[int, int]
) -> FolderMasks | None:
    """The masks of ``--masks folder``, looked through; None where they are not asked for.

    Args:
        arguments: Of the command line.
        frames: Frames of the shot.
        size: Its (width, height).
    """
    if not arguments.masks or arguments.masks[0] != FOLDER:
        return None
    found = find_masks(Path(arguments.masks[1]))
    found.expect_shot(frames, *size)
    return found


def load_masks(
    arguments: argparse.Namespace, files: FolderMasks | None, setup: DeviceSetup
) -> ProvidedMasks | None:
    """What finds the masks of the shot; None where nothing is left out.

    Args:
        arguments: Of the command line.
        files: From `folder_masks`.
        setup: Where models compute.
    """
    if files is not None:
        return ProvidedMasks(files, arguments.grow_masks)
    if not arguments.masks:
        return None
    load = sam3_loader(
        arguments, device=setup.device, rest=setup.load_device, dtype=setup.stable_dtype
    )
    return ProvidedMasks(load(), arguments.grow_masks)


def sam3_loader(
    arguments: argparse.Namespace,
    *,
    device: torch.device | str,
    rest: torch.device | str | None = None,
    dtype: torch.dtype,
) -> Callable[[], Sam3Masks]:
    """What reads the models of ``--masks sam3``; see `mirage_core.masks.sam3.load_sam3`.

    Raises:
        ModelMismatchError: Nothing says what to look for.
    """
    from ..masks.sam3 import expect_named, load_sam3

    language: Path | None = arguments.language_model
    expect_named(arguments.names, language)
    return partial(
        load_sam3, arguments.tracker_model.absolute(), names=arguments.names,
        language=None if language is None else language.absolute(),
        device=device, rest=rest, dtype=dtype,
    )  # fmt: skip


def name_masks(arguments: argparse.Namespace) -> str:
    """What the masks of footage are made by, without the files; "" where there are none."""
    if not arguments.masks:
        return ""
    models = [path.name for path in _models(arguments)]
    parts = [arguments.masks[0], arguments.names, *models, f"grown by {arguments.grow_masks}"]
    return ", ".join(part for part in parts if part)


def licences(arguments: argparse.Namespace) -> list[str]:
    """A line for each model that finds masks, with the licence that its card names."""
    from ..models.captioner import licence_of

    return [
        f"masks by {path.name}; its licence: {licence_of(path) or 'not stated in the folder'}"
        for path in _models(arguments)
    ]


def _models(arguments: argparse.Namespace) -> list[Path]:
    named = (arguments.tracker_model, arguments.language_model)
    return [path for path in named if path is not None]


def describe_masks(arguments: argparse.Namespace, files: FolderMasks | None) -> str:
    """Text that changes with what the masks of a shot follow from; "" where there are none."""
    if not arguments.masks:
        return ""
    parts = [arguments.masks[0], arguments.names, str(arguments.grow_masks), arguments.unseen]
    used = [] if files is None else [path for layer in files.layers.values() for path in layer]
    for folder in _models(arguments):
        used += sorted(folder.glob("*.safetensors"))
    parts += [f"{p.name}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in used]
    return "\0".join(parts)


def cast_of(arguments: argparse.Namespace) -> CastConfig:
    """How what masks tell apart becomes actors."""
    return CastConfig(behaviour=Behaviour(arguments.unseen))


def with_growth(settings: GenerationSettings, arguments: argparse.Namespace) -> GenerationSettings:
    """Settings with masks that grow as ``--grow-masks`` says."""
    growth = MaskGrowth(arguments.grow_masks)
    return replace(settings, memory=replace(settings.memory, growth=growth))
