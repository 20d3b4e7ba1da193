"""``worldscore``: videos for WorldScore's own evaluator, in the folders and names that it takes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import torch
from torch import Tensor

from ..constants import TEMPORAL_STRIDE, WHITE_8
from ..errors import CacheFormatError, ModelMismatchError
from ..files import atomic_write
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.picture_files import read_picture
from ..geometry.trajectory import Trajectory
from ..geometry.transform import invert_rigid
from ..rollout.depth_source import DepthSource, EstimatedDepth
from ..rollout.video import write_clip
from ..training.data.fit import Fit
from ..trajectories.rotations import nearest_rigid
from .estimators import described_data
from .novel_views import strip
from .results import save_picture
from .rooms import CAPTION, Rooms
from .shots import ShotDepth, depth_by
from .systems import Request, System
from .task import Choice, Column, Outcome

IMAGE_DATA: Final = "image_data.json"
CAMERA_DATA: Final = "camera_data.json"
MOST_FRAMES: Final = 10_000
"""Of a world whose camera stands still; WorldScore asks for some hundred."""

INPUT: Final = "input_image.png"
FOCAL: Final = 500.0
"""Focal length in pixels of the input picture where a file states none: WorldScore's own."""

FPS: Final = 10.0
"""Frame rate of its videos; only people look at them."""

LAYOUT: Final = (
    f"folders with {INPUT}, {IMAGE_DATA} and for static worlds {CAMERA_DATA}, as WorldScore's "
    "helpers prepare them (https://github.com/haoyi-duan/WorldScore): "
    "static/STYLE/SCENE/CATEGORY/000, dynamic/STYLE/MOTION/000"
)


@dataclass(frozen=True, eq=False)
class Instance:
    """One world to make.

    Attributes:
        picture: (H, W, 3) in 0..1.
        cameras: Of the N frames that are wanted.
        geometry: Depth of the picture.
        depth: Where the depth of made frames comes from.
        prompt: What it shows.
        image_data: Its description, which goes with the frames.
        camera_data: Its cameras as WorldScore has them; None for a camera that stays.
    """

    picture: Tensor
    cameras: Trajectory
    geometry: FrameGeometry
    depth: DepthSource
    prompt: str
    image_data: dict[str, Any]
    camera_data: dict[str, Any] | None


class Instances(Protocol):
    """Worlds to make; is sent to the workers."""

    def settings(self) -> dict[str, Any]:
        """What results depend on."""

    def items(self) -> Sequence[str]:
        """Their folders, as they are below the results."""

    def prepare(self) -> None:
        """Load what estimates depth."""

    def load(self, item: str) -> Instance:
        """One of them."""


def to_blender(world_to_camera: Tensor) -> list[list[list[float]]]:
    """Camera-to-world matrices of cameras that look along -z with y up, as WorldScore has them."""
    flip = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    found: list[list[list[float]]] = (invert_rigid(world_to_camera) * flip).tolist()
    return found


def from_blender(matrices: Tensor) -> Tensor:
    """(F, 4, 4) world to camera of the project, the inverse of `to_blender`."""
    flip = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    rigid, _ = nearest_rigid("WorldScore: the camera", matrices.double() * flip)
    return invert_rigid(rigid)


@dataclass(frozen=True)
class PreparedFolder:
    """Worlds that WorldScore's helpers have prepared.

    Attributes:
        root: Its ``worldscore_output``, or a part of it.
        width: Picture width in pixels, a multiple of 32.
        height: Picture height.
        estimate: Loads what estimates depth.
    """

    root: Path
    width: int
    height: int
    estimate: Callable[[], Any]

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        size = {"data": described_data(self.root), "size": [self.width, self.height]}
        return {**size, **depth_by(self.estimate)}

    def items(self) -> tuple[str, ...]:
        """Folders of the worlds.

        Raises:
            CacheFormatError: There is none.
        """
        found = sorted(path.parent for path in self.root.rglob(IMAGE_DATA))
        if not found:
            raise CacheFormatError(
                "The folder contains no world of WorldScore", got=self.root, expected=LAYOUT
            )
        return tuple(path.relative_to(self.root).as_posix() for path in found)

    @cached_property
    def _estimator(self) -> Any:
        return self.estimate()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_estimator"}

    def prepare(self) -> None:
        """Load what estimates depth."""
        _ = self._estimator

    def load(self, item: str) -> Instance:
        """Read one world, and estimate the depth of its picture.

        Raises:
            CacheFormatError: A file is missing or damaged.
            GeometryError: Its cameras are none.
        """
        folder = self.root / item
        image_data = _read(folder / IMAGE_DATA)
        values = torch.from_numpy(read_picture(folder / INPUT))
        picture = values if values.dtype == torch.uint8 else (values * WHITE_8).round().byte()
        camera_data = _read(folder / CAMERA_DATA) if (folder / CAMERA_DATA).is_file() else None
        try:
            poses, focal = _poses(image_data, camera_data)
            prompt = " ".join(image_data.get("prompt_list") or [image_data.get("prompt", "")])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _damaged(folder, f"{type(error).__name__}: {error}") from error
        rows, columns = int(picture.shape[0]), int(picture.shape[1])
        lens = torch.tensor(
            [[focal, 0, columns / 2], [0, focal, rows / 2], [0, 0, 1]], dtype=torch.float64
        )
        fit = Fit((columns, rows), (self.width, self.height))
        own = Trajectory(poses, lens.repeat(len(poses), 1, 1), columns, rows, FPS)
        cameras, shown = fit.cameras(own), fit.picture(picture).float() / WHITE_8
        first = self._estimator(shown[None], cameras.select([0]))
        return Instance(
            shown, cameras, dataclasses.replace(first, world_to_camera=None),
            EstimatedDepth(self._estimator), prompt, image_data, camera_data,
        )  # fmt: skip


def _poses(
    image_data: dict[str, Any], camera_data: dict[str, Any] | None
) -> tuple[Tensor, float]:
    """Cameras of all frames, and the focal length in pixels of the input picture."""
    if camera_data is None:
        count = int(image_data["total_frames"])
        if not 1 <= count <= MOST_FRAMES:
            raise ValueError(f"total_frames {count}")
        return torch.eye(4, dtype=torch.float64).repeat(count, 1, 1), FOCAL
    matrices = torch.tensor(camera_data["cameras_interp"], dtype=torch.float64)
    if matrices.ndim != 3 or matrices.shape[1:] != (4, 4):  # noqa: PLR2004
        raise ValueError(f"cameras of shape {tuple(matrices.shape)}")
    return from_blender(matrices), float(camera_data.get("focal_length", FOCAL))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(found, dict):
        raise _damaged(path, f"a {type(found).__name__}")
    return found


def _damaged(path: Path, why: str) -> CacheFormatError:
    return CacheFormatError(
        f"{path.name} of WorldScore cannot be read", got=why[:200], expected=LAYOUT
    )


@dataclass(frozen=True)
class RoomInstances:
    """Rooms as static worlds, with exact depth of every frame."""

    rooms: Rooms

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        return self.rooms.settings()

    def items(self) -> tuple[str, ...]:
        """Folders of the rooms."""
        return tuple(f"static/rendered/indoor/rooms/{item}" for item in self.rooms.items())

    def prepare(self) -> None:
        """There is nothing to load."""

    def load(self, item: str) -> Instance:
        """One room; the last frame's camera stays until the shot is whole."""
        views = self.rooms.views(item.rpartition("/")[2])
        count = len(views)
        order = [min(n, count - 1) for n in range(count + TEMPORAL_STRIDE)]
        depth = ShotDepth(views.geometry, tuple(order), scaled=True)
        poses = to_blender(views.cameras.world_to_camera)
        image_data = {
            "visual_movement": "static", "visual_style": "rendered", "scene_type": "indoor",
            "category": "rooms", "camera_path": ["fixed"], "prompt_list": [CAPTION],
            "num_scenes": 1, "total_frames": count, "anchor_frame_idx": [0],
        }  # fmt: skip
        camera_data = {
            "focal_length": float(views.cameras.intrinsics[0, 0, 0]), "scale": 1,
            "cameras": [poses[0], poses[-1]], "cameras_interp": poses,
        }  # fmt: skip
        first = dataclasses.replace(views.geometry.select([0]), world_to_camera=None)
        return Instance(
            views.frames[0], views.cameras, first, depth, CAPTION, image_data, camera_data
        )


@dataclass(frozen=True)
class WorldScore:
    """Videos of worlds, for WorldScore's evaluator.

    Attributes:
        instances: The worlds.
        system: What makes them.
        videos: Where they go: the evaluator's ``worldscore_output``.
    """

    instances: Instances
    system: System
    videos: Path = field(hash=False)

    name: ClassVar[str] = "worldscore"
    title: ClassVar[str] = "Videos for WorldScore"
    about: ClassVar[str] = (
        "The worlds are made and laid out as WorldScore's evaluator takes them; its scores, Table "
        "1 of the paper, come from that evaluator and are not measured here."
    )
    columns: ClassVar[tuple[Column, ...]] = (
        Column("frames", "frames", 0, ""),
        Column("seconds", "seconds", 1, "lower"),
        Column("known", "shown by the memory", 3, ""),
        Column("points", "points", 0, ""),
    )

    @property
    def protocol(self) -> tuple[Choice, ...]:
        """How it is made."""
        theirs, ours = "WorldScore's helpers", "our choice"
        return (
            Choice("picture", f"{INPUT}, scaled to cover the size, the middle cut out", ours),
            Choice(
                "cameras", f"cameras_interp of {CAMERA_DATA}, whose focal length counts in pixels "
                f"of {INPUT}; without that file the camera stays", theirs,
            ),
            Choice(
                "frames", "one for each camera; the last camera is repeated to 4n + 1 frames, and "
                "what is too much is cut off", "the video model's frame count",
            ),
            Choice(
                "prompt", "all of prompt_list, one after the other, for the whole shot", ours
            ),
            Choice(
                "depth", "estimated from the picture and from made frames; of rooms that of the "
                "true frames", "the paper estimates it",
            ),
            Choice(
                "files", f"frames/000.png and on, videos/output.mp4, {IMAGE_DATA}, {CAMERA_DATA}, "
                f"{INPUT}", "WorldScore's page",
            ),
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        return {**self.instances.settings(), **self.system.settings()}

    def items(self) -> Sequence[str]:
        """Folders of the worlds."""
        return self.instances.items()

    def prepare(self) -> None:
        """Load the model, and what estimates depth."""
        self.system.prepare()
        self.instances.prepare()

    def run(self, item: str) -> Outcome:
        """Make one world.

        Raises:
            MirageError: It cannot be read, or the shot cannot be made.
            StorageError: The folder cannot be written.
        """
        world = self.instances.load(item)
        count = len(world.cameras)
        if count < 2:  # noqa: PLR2004
            raise ModelMismatchError(f"{item} has no camera move", got=f"{count} cameras")
        whole = -(-(count - 1) // TEMPORAL_STRIDE) * TEMPORAL_STRIDE + 1
        cameras = world.cameras.select([min(n, count - 1) for n in range(whole)])
        request = Request(
            world.picture, world.geometry, cameras, world.depth, prompt=world.prompt
        )
        made = self.system.shoot(request)
        frames = made.frames[:count]
        write_world(self.videos / item, frames, world)
        values = {
            "frames": float(count),
            "seconds": sum(made.seconds.values()),
            **made.remembered(),
        }
        return Outcome({self.system.name: values}, {"made": strip(frames)})


def write_world(folder: Path, frames: Tensor, world: Instance) -> None:
    """Write a world as WorldScore's evaluator takes it.

    Args:
        folder: Of the world.
        frames: (N, H, W, 3) in 0..1.
        world: What it was made from.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    save_picture(folder / INPUT, world.picture)
    for number, frame in enumerate(frames):
        save_picture(folder / "frames" / f"{number:03}.png", frame)
    write_clip(folder / "videos" / "output.mp4", frames, FPS)
    # Its evaluator looks for these, so they come last.
    for name, document in ((CAMERA_DATA, world.camera_data), (IMAGE_DATA, world.image_data)):
        if document is not None:
            with atomic_write(folder / name, "w") as file:
                json.dump(document, file, indent=4)
