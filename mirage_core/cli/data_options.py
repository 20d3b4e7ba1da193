"""Options of ``mirage data make``: where footage comes from, models, and what clips hold."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final

from ..conditioning.features import SideFeature
from ..errors import CacheFormatError
from ..training.data.build_clip import CHUNK_STEP
from ..writing.policy import WRITE_POLICIES
from .inputs import parse_path

Group = Any

DRAWN: Final = {"nearest": SideFeature.DRAWN, "best_view": SideFeature.DRAWN_BEST}
"""Drawings that clips can hold, by the names of how the memory is looked at."""


def add_sources(group: Group) -> None:
    """Add where footage or rooms come from, and what goes with them, to a group of arguments."""
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


def add_models(group: Group) -> None:
    """Add the codec and the estimators, to a group of arguments."""
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


def add_clips(group: Group) -> None:
    """Add what clips hold, to a group of arguments."""
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
        "--drawn", nargs="?", choices=list(DRAWN), const="nearest",
        help="store the readout as drawings: of the nearest points, for --side-features drawn,... "
        "(nearest, the default of --drawn), or of the best views, for drawn_best,... (best_view); "
        "requires --embedded-codec",
    )  # fmt: skip


def expect_paths(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise `CacheFormatError` for the first of some arguments whose path is not there."""
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
