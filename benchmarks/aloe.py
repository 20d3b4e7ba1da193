"""A real pair of photographs: the memory of the left one, read at the right camera.

Prints one JSON object and saves a sheet ``out/aloe.png``: the right photograph, what the memory
shows there, the unmoved left photograph, and what no patch covers.

``python benchmarks/aloe.py FOLDER``; without FOLDER the variable MIRAGE_ALOE names it, or the pair
lies in ``../shared/data/aloe`` beside the checkout. It is Middlebury 2006 "Aloe" at 1282 x 1110:
``left.jpg``, ``right.jpg`` and ``disparity.png``, the disparity of the left one in grey values.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mirage_core.cache.build import append_all, observe
from mirage_core.cache.types import LatentCache
from mirage_core.codecs.dct import DctCodec
from mirage_core.constants import SIZE_MULTIPLE
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.metrics import psnr
from mirage_core.preview.render import render_preview

FOCAL = 3740.0
"""Focal length of both cameras in pixels of the whole photograph."""

BASELINE = 0.16
"""Metres from the left camera to the right one."""

OFFSET = 270.0
"""Pixels to add to a disparity; the right principal point is moved by as much."""


FILES = ("left.jpg", "right.jpg", "disparity.png")


def find_pair() -> Path | None:
    """The folder with the pair, or None."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "aloe"
    folder = Path(os.environ.get("MIRAGE_ALOE") or beside)
    return folder if all((folder / name).is_file() for name in FILES) else None


@dataclass(frozen=True)
class Pair:
    """Both photographs, cropped in the middle to a size that the codec takes.

    Attributes:
        left: (1, H, W, 3) in 0..1.
        right: (1, H, W, 3) in 0..1, the same crop.
        depth: (1, H, W) metres of the left photograph, 0 where not measured.
        intrinsics: (2, 3, 3) of the left and the right camera.
    """

    left: Tensor
    right: Tensor
    depth: Tensor
    intrinsics: Tensor


def load_pair(folder: Path) -> Pair:
    """Read ``left.jpg``, ``right.jpg`` and ``disparity.png``."""
    left, right = (
        np.asarray(Image.open(folder / f"{side}.jpg").convert("RGB")) for side in ("left", "right")
    )
    disparity = np.asarray(Image.open(folder / "disparity.png").convert("L"))
    full_height, full_width = disparity.shape
    height, width = (size // SIZE_MULTIPLE * SIZE_MULTIPLE for size in disparity.shape)
    top, start = (full_height - height) // 2, (full_width - width) // 2
    window = slice(top, top + height), slice(start, start + width)
    shift = torch.from_numpy(disparity[window].copy()).float()
    depth = torch.where(shift > 0, FOCAL * BASELINE / (shift + OFFSET), 0.0)
    # A point at (x, y) with disparity d is seen at (x - d, y): the right principal point lies
    # OFFSET farther right, or the shift f b / z = d + OFFSET would be too large by it.
    middle_x, middle_y = full_width / 2 - start, full_height / 2 - top
    lens = torch.tensor([[FOCAL, 0, middle_x], [0, FOCAL, middle_y], [0, 0, 1]]).double()
    lenses = lens.repeat(2, 1, 1)
    lenses[1, 0, 2] += OFFSET
    photos = (torch.from_numpy(photo[window].copy()).float()[None] / 255 for photo in (left, right))
    return Pair(*photos, depth[None], lenses)


@dataclass(frozen=True)
class Comparison:
    """What the memory shows at the right camera, and how good it is.

    Attributes:
        picture: (H, W, 3) drawn picture.
        visible: (H, W) bool, pixels that a remembered patch covers.
        shown: PSNR of the drawn picture on visible pixels, dB.
        unmoved: PSNR of the left photograph on the same pixels.
        codec: PSNR of the codec's own reconstruction of the right photograph there.
    """

    picture: Tensor
    visible: Tensor
    shown: float
    unmoved: float
    codec: float


def compare(pair: Pair, codec: DctCodec) -> Comparison:
    """Remember the left photograph, look from the right, compare on visible pixels."""
    height, width = pair.left.shape[1:3]
    pose = torch.eye(4, dtype=torch.float64)[None]
    observation = observe(
        codec.encode_images(pair.left),
        FrameGeometry(pair.depth, pair.intrinsics[:1], metric=True),
        world_to_camera=pose,
        frames=torch.zeros(1),
    )
    cache = append_all(LatentCache(codec="embedded"), observation)
    moved = pose.clone()
    moved[0, 0, 3] = -BASELINE
    preview = render_preview(cache, Trajectory(moved, pair.intrinsics[1:], width, height), codec)
    visible = preview.depth > 0
    own = codec.decode_images(codec.encode_images(pair.right))
    return Comparison(
        preview.frames[0],
        visible[0],
        shown=psnr(preview.frames, pair.right, visible),
        unmoved=psnr(pair.left, pair.right, visible),
        codec=psnr(own, pair.right, visible),
    )


def sheet(pair: Pair, found: Comparison) -> Image.Image:
    """Right photograph and memory above, left photograph and what is not known below."""
    unknown = torch.where(found.visible[..., None], pair.right[0], torch.tensor([1.0, 0.2, 0.1]))
    rows = [(pair.right[0], found.picture), (pair.left[0], unknown)]
    pixels = torch.cat([torch.cat(row, dim=1) for row in rows])
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().numpy())


def main() -> None:
    """Parse the command line, measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=find_pair())
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "out")
    arguments = parser.parse_args()
    if arguments.folder is None:
        sys.stdout.write(json.dumps({"skipped": "the pair of photographs is not at hand"}) + "\n")
        return
    pair = load_pair(arguments.folder)
    found = compare(pair, DctCodec())
    arguments.out.mkdir(parents=True, exist_ok=True)
    sheet(pair, found).save(arguments.out / "aloe.png")
    report = {
        "size": list(pair.left.shape[1:3]),
        "visible_share": round(float(found.visible.float().mean()), 3),
        "psnr_db_on_visible_pixels": {
            "memory_at_the_right_camera": round(found.shown, 2),
            "unmoved_left_photograph": round(found.unmoved, 2),
            "codec_of_the_right_photograph": round(found.codec, 2),
        },
        "sheet": str(arguments.out / "aloe.png"),
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
