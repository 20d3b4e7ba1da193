"""Geometry estimators from packages of their own: MapAnything, UniDepth, or any other.

An estimator is any callable from frames, and their cameras where they are known, to a
`FrameGeometry`. The packages are not installed with Mirage, and no weights are downloaded: the
user installs the package and passes a folder of weights.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from ..checkpoints.weight_files import PICKLED
from ..constants import WHITE_8
from ..errors import GeometryError, ModelMismatchError
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.sources import SKY_THRESHOLD
from ..geometry.trajectory import Trajectory, intrinsics_from_fov
from ..geometry.transform import invert_rigid
from ..validate import expect_shape
from .depth_model import load_depth_model

MIN_BASELINE: Final = 1e-6
"""Baseline between cameras below which they do not define a scale, in their own units."""


class GeometryEstimator(Protocol):
    """Estimates depth, and the camera parameters that are not known."""

    def __call__(self, frames: Tensor, cameras: Trajectory | None = None) -> FrameGeometry:
        """Geometry of pictures.

        Args:
            frames: (F, H, W, 3) in 0..1.
            cameras: Their F cameras, where they are known; an estimator that cannot use
                them estimates its own intrinsics.

        Returns:
            Geometry of the same F frames, at any resolution of the same aspect ratio.
        """


@dataclasses.dataclass(frozen=True)
class UniDepthEstimator:
    """Metric depth and field of view of single pictures, by UniDepth V2.

    Attributes:
        network: ``unidepth.models.UniDepthV2``.
    """

    network: Any

    def __call__(self, frames: Tensor, cameras: Trajectory | None = None) -> FrameGeometry:
        """Geometry of each picture by itself; known intrinsics are used."""
        expect_shape("The frames", frames, "F H W 3")
        depth, intrinsics = [], []
        for number, frame in enumerate(frames):
            picture = (frame.clamp(0, 1) * WHITE_8).round().to(torch.uint8).permute(2, 0, 1)
            known = None if cameras is None else cameras.intrinsics[number].float()
            with torch.inference_mode():
                found = self.network.infer(picture, known)
            depth.append(found["depth"].float().cpu().clone().view(*picture.shape[1:]))
            estimate = found["intrinsics"].double().cpu().clone().view(3, 3)
            intrinsics.append(estimate if known is None else cameras.intrinsics[number])  # type: ignore[union-attr]
        poses = None if cameras is None else cameras.world_to_camera
        return FrameGeometry(
            torch.stack(depth), torch.stack(intrinsics), world_to_camera=poses, metric=True
        )


@dataclasses.dataclass(frozen=True)
class MapAnythingEstimator:
    """Metric depth and cameras of several views at once, by MapAnything.

    Attributes:
        network: ``mapanything.models.MapAnything``.
        prepare: ``mapanything.utils.image.preprocess_inputs``.
    """

    network: Any
    prepare: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]

    def __call__(self, frames: Tensor, cameras: Trajectory | None = None) -> FrameGeometry:
        """Geometry of all pictures together; known intrinsics and poses are used.

        Depth is in metres, or in the units of known cameras that stand apart.
        """
        expect_shape("The frames", frames, "F H W 3")
        views = [self._view(number, frames, cameras) for number in range(len(frames))]
        with torch.inference_mode():
            found = self.network.infer(
                self.prepare(views), apply_mask=True, mask_edges=True, use_amp=True
            )
        depth = torch.cat([view["depth_z"][..., 0].float().cpu().clone() for view in found])
        masks = [view["mask"].cpu().clone() for view in found if "mask" in view]
        exclude = ~torch.cat(masks)[..., 0].bool() if len(masks) == len(found) else None
        intrinsics = torch.cat([view["intrinsics"].double().cpu().clone() for view in found])
        poses = torch.cat([view["camera_poses"].double().cpu().clone() for view in found])
        scale = None if cameras is None else _path_scale(poses, cameras.camera_to_world)
        world_to_camera = invert_rigid(poses) if cameras is None else cameras.world_to_camera
        geometry = FrameGeometry(
            depth if scale is None else depth * scale,
            intrinsics,
            world_to_camera=world_to_camera,
            exclude=exclude,
            metric=scale is None,
        )
        return uncropped(geometry, int(frames.shape[2]), int(frames.shape[1]))

    @staticmethod
    def _view(number: int, frames: Tensor, cameras: Trajectory | None) -> dict[str, Any]:
        picture = (frames[number].clamp(0, 1) * WHITE_8).round().to(torch.uint8).cpu()
        view: dict[str, Any] = {"img": picture}
        if cameras is not None:
            view["intrinsics"] = cameras.intrinsics[number].float()
            view["camera_poses"] = cameras.camera_to_world[number].float()
            view["is_metric_scale"] = torch.tensor([False])
        return view


@dataclasses.dataclass(frozen=True)
class DepthAnything3Estimator:
    """Depth and cameras of several views at once, by Depth Anything 3.

    Attributes:
        network: ``depth_anything_3.api.DepthAnything3``.
    """

    network: Any

    def __call__(self, frames: Tensor, cameras: Trajectory | None = None) -> FrameGeometry:
        """Geometry of all pictures together; known intrinsics and poses are used.

        Depth is in the units of known cameras. Without them it has units of its own, which are
        metres for the nested models. What is sky to the network is left out.

        Raises:
            GeometryError: Cameras are not known, and this network estimates none.
        """
        expect_shape("The frames", frames, "F H W 3")
        pictures = (frames.clamp(0, 1) * WHITE_8).round().to(torch.uint8).cpu().numpy()
        known: dict[str, Any] = {}
        if cameras is not None:
            known = {
                "extrinsics": cameras.world_to_camera.float().cpu().numpy(),
                "intrinsics": cameras.intrinsics.float().cpu().numpy(),
            }
        found = self.network.inference([*pictures], **known)
        size = (int(frames.shape[1]), int(frames.shape[2]))
        depth = torch.as_tensor(found.depth).float()
        sky = None if found.sky is None else torch.as_tensor(found.sky) >= SKY_THRESHOLD
        if cameras is None:
            poses, intrinsics = _own_cameras(found, size)
        else:
            poses, intrinsics = cameras.world_to_camera, cameras.intrinsics
        return FrameGeometry(
            _at_size(depth, size),
            intrinsics,
            world_to_camera=poses,
            exclude=None if sky is None else _at_size(sky.float(), size) > 0,
            metric=cameras is None and bool(found.is_metric),
        )


def _own_cameras(found: Any, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Poses and intrinsics that Depth Anything 3 estimated, in pixels of (H, W)."""
    if found.extrinsics is None or found.intrinsics is None:
        raise GeometryError(
            "This model of Depth Anything 3 estimates no cameras",
            got="depth alone",
            expected="camera files, or a nested or any-view model",
            fix="Put cameras beside the footage, or use DA3-BASE or a larger any-view model",
        )
    given = torch.as_tensor(found.extrinsics).double()
    poses = torch.eye(4, dtype=torch.float64).repeat(len(given), 1, 1)
    poses[:, :3] = given[:, :3]
    rows, columns = found.depth.shape[1:]
    scale = torch.tensor([size[1] / columns, size[0] / rows, 1.0], dtype=torch.float64)
    return poses, torch.as_tensor(found.intrinsics).double() * scale[:, None]


def _at_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(F, h, w) maps at (H, W), which the network resized without cutting; no values are mixed."""
    return torch.nn.functional.interpolate(maps[:, None], size, mode="nearest-exact")[:, 0]


@dataclasses.dataclass(frozen=True)
class TransformersEstimator:
    """Depth of single pictures by any depth model of transformers, for known cameras.

    Attributes:
        estimate: `mirage_core.models.depth_model.DepthModel`.
        fov: Horizontal field of view in degrees where cameras are not known.
        metric: True when its depth is in metres.
    """

    estimate: Callable[[Tensor], Tensor]
    fov: float
    metric: bool

    def __call__(self, frames: Tensor, cameras: Trajectory | None = None) -> FrameGeometry:
        """Geometry of each picture by itself."""
        depth = self.estimate(frames)
        height, width = int(depth.shape[1]), int(depth.shape[2])
        if cameras is None:
            intrinsics = intrinsics_from_fov(width, height, self.fov).expand(len(depth), 3, 3)
            return FrameGeometry(depth, intrinsics, metric=self.metric)
        resized = cameras.resized(width, height)
        return FrameGeometry(
            depth, resized.intrinsics, world_to_camera=resized.world_to_camera, metric=self.metric
        )


def _path_scale(found: Tensor, known: Tensor) -> float | None:
    """Units of known cameras (F, 4, 4) to one of the found ones; None where they do not move."""
    lengths = [
        float((poses[:, :3, 3] - poses[:, :3, 3].mean(dim=0)).norm()) for poses in (found, known)
    ]
    return lengths[1] / lengths[0] if min(lengths) > MIN_BASELINE else None


def uncropped(geometry: FrameGeometry, width: int, height: int) -> FrameGeometry:
    """Geometry of a picture whose middle was cut out to fit a network's grid.

    What was cut off has no depth. Intrinsics keep their meaning: the principal point moves
    with the picture's corner.

    Args:
        geometry: Of the middle of the picture.
        width: Width of the whole picture.
        height: Height of the whole picture.
    """
    rows, columns = geometry.size
    whole_rows = max(rows, round(columns * height / width))
    whole_columns = max(columns, round(rows * width / height))
    top, left = (whole_rows - rows) // 2, (whole_columns - columns) // 2
    if (whole_rows, whole_columns) == (rows, columns):
        return geometry
    border = (left, whole_columns - columns - left, top, whole_rows - rows - top)
    intrinsics = geometry.intrinsics.clone()
    intrinsics[:, 0, 2] += left
    intrinsics[:, 1, 2] += top
    exclude = geometry.exclude
    return dataclasses.replace(
        geometry,
        depth=torch.nn.functional.pad(geometry.depth, border),
        intrinsics=intrinsics,
        exclude=None if exclude is None else torch.nn.functional.pad(exclude, border),
    )


MAP_ANYTHING, UNIDEPTH, TRANSFORMERS = "MapAnything", "UniDepth V2", "transformers"
ESTIMATORS: Final = (MAP_ANYTHING, UNIDEPTH, TRANSFORMERS)
"""Estimators of the graph, where Depth Anything 3 has nodes of ComfyUI's own."""

DEPTH_ANYTHING_3: Final = "Depth Anything 3"
ALL_ESTIMATORS: Final = (*ESTIMATORS, DEPTH_ANYTHING_3)
"""Names that `load_estimator` knows."""

_PACKAGES: Final = {
    MAP_ANYTHING: "mapanything", UNIDEPTH: "unidepth", DEPTH_ANYTHING_3: "depth_anything_3",
}  # fmt: skip


def load_estimator(
    name: str, folder: Path, *, device: torch.device | str = "cpu", fov: float = 60.0
) -> GeometryEstimator:
    """Load an estimator from a folder of weights on this machine.

    Args:
        name: One of `ALL_ESTIMATORS`.
        folder: Its weights, as its own package saved them (``config.json`` and safetensors).
            Pickled files in it are kept from the package.
        device: Where it computes.
        fov: Horizontal field of view in degrees, for models that do not estimate it.

    Raises:
        ModelMismatchError: The name is unknown, its package is not installed, or the folder
            does not hold such a model, or holds pickled weights only.
    """
    if name not in ALL_ESTIMATORS:
        raise ModelMismatchError(
            "The geometry estimator is unknown", got=name, expected=", ".join(ALL_ESTIMATORS)
        )
    if not (folder / "config.json").is_file():
        raise ModelMismatchError(
            f"The folder {folder.name} contains no model",
            got="no config.json",
            expected="a complete copy of the model's folder, with config.json and safetensors",
            fix=f"Put the model into {folder}",
        )
    if name == TRANSFORMERS:
        model = load_depth_model(folder, device=device)
        return TransformersEstimator(model, fov, model.metric)
    load = _LOADERS[name]
    try:
        with _without_pickles(folder) as plain:
            return load(str(plain), device)
    except ImportError as error:
        raise ModelMismatchError(
            f"{name} requires its own package",
            got=str(error),
            expected=f"an installed package named {_PACKAGES[name]}",
            fix="Install it as its authors describe, in the environment of ComfyUI",
        ) from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelMismatchError(
            f"{name} could not be loaded from {folder.name}",
            got=str(error).splitlines()[0][:300] if str(error) else type(error).__name__,
            fix="Copy the model's complete folder again",
        ) from error


@contextmanager
def _without_pickles(folder: Path) -> Iterator[Path]:
    """The folder, or one with links to its files where some of them are pickled.

    Whether a package prefers safetensors is its own affair, and a pickled file can run code.

    Raises:
        ModelMismatchError: Its weights are pickled only.
    """
    files = [path for path in folder.iterdir() if path.is_file()]
    pickled = [path for path in files if path.suffix.lower() in PICKLED]
    if not pickled:
        yield folder
        return
    if not any(path.suffix.lower() == ".safetensors" for path in files):
        raise ModelMismatchError(
            f"The weights in {folder.name} are pickled, and could run code when read",
            got=pickled[0].name,
            expected="weights as safetensors",
            fix="Download the model's safetensors file, or convert it where you trust it",
        )
    with tempfile.TemporaryDirectory() as place:
        for path in set(files) - set(pickled):
            try:
                (Path(place) / path.name).symlink_to(path.resolve())
            except OSError as error:
                raise ModelMismatchError(
                    f"The folder {folder.name} also contains pickled files",
                    got=f"{pickled[0].name}, and no links can be made to the others: {error}",
                    fix=f"Move {pickled[0].name} elsewhere: the safetensors file is enough",
                ) from error
        yield Path(place)


def _load_unidepth(folder: str, device: torch.device | str) -> GeometryEstimator:
    from unidepth.models import UniDepthV2  # type: ignore[import-not-found]

    return UniDepthEstimator(UniDepthV2.from_pretrained(folder).to(device).eval())


def _load_map_anything(folder: str, device: torch.device | str) -> GeometryEstimator:
    from mapanything.models import MapAnything  # type: ignore[import-not-found]
    from mapanything.utils.image import preprocess_inputs  # type: ignore[import-not-found]

    network = MapAnything.from_pretrained(folder).to(device).eval()
    return MapAnythingEstimator(network, preprocess_inputs)


def _load_depth_anything_3(folder: str, device: torch.device | str) -> GeometryEstimator:
    from depth_anything_3.api import DepthAnything3  # type: ignore[import-not-found]

    return DepthAnything3Estimator(DepthAnything3.from_pretrained(folder).to(device).eval())


_LOADERS: Final[dict[str, Callable[[str, torch.device | str], GeometryEstimator]]] = {
    MAP_ANYTHING: _load_map_anything,
    UNIDEPTH: _load_unidepth,
    DEPTH_ANYTHING_3: _load_depth_anything_3,
}
