"""``mirage data caption``: captions of footage by a model, one text file for each video."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from ..errors import CacheFormatError
from ..files import atomic_write
from ..log import logger
from ..training.data.footage_files import CAPTION_SUFFIX, Footage, base_name, find_footage
from ..training.data.pipeline import DataProgress
from ..validate import expect_range
from .inputs import parse_path
from .work import ItemBar, device_of

MAX_PICTURES: Final = 64


def add_caption(actions: Any) -> None:
    """Add ``caption`` to the actions of ``mirage data``."""
    parser = actions.add_parser(
        "caption",
        help="write captions of footage with a picture-to-text model of transformers",
        description="Writes a .caption.txt for every video or folder of pictures that has none. "
        "Run the same command again to resume; captions that are there stay as they are.",
    )
    parser.add_argument("footage", type=parse_path, help="folder of the footage")
    parser.add_argument(
        "--model", type=parse_path, required=True,
        help="folder of the model, such as Qwen3-VL-4B-Instruct; its licence is printed",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=parse_path,
        help="folder for the captions, as in mirage data make; default: beside the footage",
    )  # fmt: skip
    parser.add_argument(
        "--pictures", type=int, default=4, help="pictures that the model sees of each (default: 4)"
    )
    parser.add_argument("--instruction", help="what the model is asked, if it follows instructions")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.set_defaults(run=run_caption)


def run_caption(arguments: argparse.Namespace) -> int:
    """Write captions; 0 also when some footage could not be read, which is reported.

    Raises:
        MirageError: None of it could be read, or something about the input is wrong.
    """
    expect_range("The number of pictures", arguments.pictures, 1, MAX_PICTURES)
    for path in (arguments.footage, arguments.model):
        if not path.exists():
            raise CacheFormatError(
                "The folder does not exist", got=path, expected="a folder on this machine",
                fix="Check the path",
            )  # fmt: skip
    items = find_footage(arguments.footage)
    out: Path = arguments.out or arguments.footage
    targets = {item: out / f"{base_name(item)}{CAPTION_SUFFIX}" for item in items}
    left = [item for item in items if not targets[item].exists()]
    bad = _write(arguments, left, targets) if left else 0
    sys.stdout.write(
        f"{len(left) - bad} captions written, {len(items) - len(left)} were there, "
        f"{bad} items could not be read\n"
    )
    if bad and bad == len(items):
        raise CacheFormatError(
            "No caption was written", got=f"{bad} items that cannot be read", fix="See the log"
        )
    return 0


def _write(arguments: argparse.Namespace, left: list[str], targets: dict[str, Path]) -> int:
    """Write what is missing; how many items could not be read."""
    from ..models.captioner import INSTRUCTION, licence_of, load_captioner

    device = device_of(arguments)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    caption = load_captioner(
        arguments.model, instruction=arguments.instruction or INSTRUCTION, device=device,
        dtype=dtype,
    )  # fmt: skip
    licence = licence_of(arguments.model) or "not stated in the folder"
    sys.stdout.write(f"captions by {arguments.model.name}; its licence: {licence}\n")
    bad = 0
    with ItemBar("captions") as bar:
        for number, item in enumerate(left, 1):
            try:
                pictures = chosen_pictures(arguments.footage / item, arguments.pictures)
                with atomic_write(targets[item], "w") as file:
                    file.write(f"{caption(pictures)}\n")
            except CacheFormatError as error:
                logger.warning("Skipped %s: %s", item, error)
                bad += 1
            bar(DataProgress(number, len(left), number - bad, bad, None))
    return bad


def chosen_pictures(path: Path, count: int) -> list[Image.Image]:
    """Evenly spaced pictures of a video or a folder of pictures; no others are held.

    Raises:
        CacheFormatError: The footage is damaged or empty.
    """
    footage = Footage(path)
    frames, _, _ = footage.measure()
    wanted = {round(step * (frames - 1) / max(1, count - 1)) for step in range(count)}
    found = [
        Image.fromarray(frame.numpy())
        for number, frame in enumerate(footage.frames()) if number in wanted
    ]  # fmt: skip
    if not found:
        raise CacheFormatError(
            f"{path.name} has no pictures", got="none that can be decoded", fix="Copy it again"
        )
    return found
