"""Videos, pictures and depth: small valid files, and what reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import av
import numpy as np
import OpenEXR
import torch
from PIL import Image

from mirage_core.cli.inputs import NEAR_WHITE, load_depth_picture, load_picture
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.geometry_io import load_geometry, save_geometry
from mirage_core.geometry.trajectory import intrinsics_from_fov
from mirage_core.rollout.video import join_clips, read_frames, write_clip
from mirage_core.training.data.footage_files import Footage
from reliability.kinds import HEIGHT, WIDTH, Format, each, pictures, random_numbers


def _clips(folder: Path) -> list[Path]:
    paths = [folder / "a.mp4", folder / "b.mkv"]
    write_clip(paths[0], pictures(3), 24)
    with av.open(str(paths[1]), "w") as output:
        stream = output.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for picture in (pictures(3) * 255).byte().numpy():
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return paths


def _read_clip(path: Path) -> None:
    uses: list[Callable[[], object]] = [
        lambda: sum(1 for _ in read_frames(path)),
        Footage(path).measure,
        lambda: sum(1 for _ in Footage(path).frames()),
    ]
    if path.suffix == ".mp4":
        # Clips of a shot are joined, footage never is.
        uses.append(lambda: join_clips(path.with_name("joined.mp4"), [path], 24))
    each(*uses)


def _geometry(frames: int = 2) -> FrameGeometry:
    depth = 2 + torch.rand(frames, 8, 12, generator=random_numbers())
    lens = intrinsics_from_fov(12, 8, 60).repeat(frames, 1, 1)
    poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    return FrameGeometry(depth, lens, poses, exclude=depth > 2.9, confidence=depth / 3)


def _own_geometry(folder: Path) -> list[Path]:
    return [save_geometry(_geometry(), folder / "a")]


def _npz(folder: Path) -> list[Path]:
    own = _geometry()
    arrays = {
        "depths": own.depth.numpy(), "intrinsics": own.intrinsics.numpy(),
        "poses_c2w": own.world_to_camera.numpy(), "masks": ~own.exclude.numpy(),
    }  # fmt: skip
    np.savez(folder / "a.npz", **arrays)
    np.savez_compressed(folder / "b.npz", depth=own.depth[0].numpy())
    return [folder / "a.npz", folder / "b.npz"]


def _exr(folder: Path) -> list[Path]:
    depth = _geometry().depth[0].numpy()
    paths = [folder / f"{name}.exr" for name in "abc"]
    grey = np.stack([depth] * 3, -1)
    for path, compression, channels in (
        (paths[0], OpenEXR.ZIP_COMPRESSION, {"Z": depth}),
        (paths[1], OpenEXR.NO_COMPRESSION, {"Z": depth}),
        (paths[2], OpenEXR.PIZ_COMPRESSION, {"RGB": grey}),
    ):
        header = {"compression": compression, "type": OpenEXR.scanlineimage}
        OpenEXR.File(header, channels).write(str(path))
    return paths


def _picture_files(folder: Path) -> list[Path]:
    pixels = (pictures(1)[0] * 255).byte().numpy()
    paths = []
    for suffix in ("png", "jpg", "webp", "tif", "gif", "bmp"):
        Image.fromarray(pixels).save(folder / f"a.{suffix}")
        paths.append(folder / f"a.{suffix}")
    deep = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    for suffix in ("png", "tif"):
        deep.save(folder / f"deep.{suffix}")
        paths.append(folder / f"deep.{suffix}")
    return paths


def _read_picture(path: Path) -> None:
    each(
        lambda: load_picture(path, (WIDTH, HEIGHT)),
        lambda: load_depth_picture(path, NEAR_WHITE, 1, 10, 60),
    )


def _footage_pictures(folder: Path) -> list[Path]:
    inner = folder / "frames"
    inner.mkdir()
    return [path for path in _picture_files(inner) if path.suffix in (".png", ".jpg", ".webp")]


def _read_footage(path: Path) -> None:
    footage = Footage(path.parent)
    each(footage.measure, lambda: sum(1 for _ in footage.frames()))


VISUAL_FILES: Final[dict[str, Format]] = {
    "clip": Format(_clips, _read_clip),
    "npz": Format(_npz, lambda path: load_geometry(path, 60)),
    "exr": Format(_exr, lambda path: load_geometry(path, 60)),
    "geometry": Format(_own_geometry, lambda path: load_geometry(path, 60)),
    "picture": Format(_picture_files, _read_picture),
    "footage": Format(_footage_pictures, _read_footage),
}
