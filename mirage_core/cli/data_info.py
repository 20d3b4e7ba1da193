"""``mirage data info``: what a data set holds, in words and as a sheet of pictures."""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any, Final

from ..codecs.base import LatentCodec
from ..codecs.dct import CODEC_NAME, DctCodec
from ..errors import CacheFormatError
from ..files import atomic_path
from ..training.data.dataset import ClipDataset
from ..training.data.manifest import read_manifest, read_skipped
from ..training.data.sheet import data_sheet
from ..training.data.stored import has_clips
from .data_options import expect_paths
from .inputs import parse_path

SHEETS: Final = (".png", ".jpg", ".jpeg")
"""Formats of `mirage data info --pictures`."""


def add_info(actions: Any) -> None:
    """Add ``info`` to the actions of ``mirage data``."""
    parser = actions.add_parser("info", help="describe a data set")
    parser.add_argument("folder", type=parse_path)
    parser.add_argument(
        "--pictures", type=parse_path, metavar="FILE",
        help="also draw a sheet of clips (.png or .jpg): frames, what the memory shows, cameras, "
        "and what was skipped",
    )  # fmt: skip
    parser.add_argument(
        "--vae", type=parse_path,
        help="Wan2.2 VAE, to decode the clips of --pictures; without it false colours are drawn",
    )  # fmt: skip
    parser.set_defaults(run=run_info)


def run_info(arguments: argparse.Namespace) -> int:
    """Print what a data set holds, and draw some of it."""
    expect_paths(arguments, ("vae",))
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
