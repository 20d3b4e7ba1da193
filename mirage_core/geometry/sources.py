"""Output of depth estimators, converted to the project's conventions: one adapter each.

Every estimator has its own convention for intrinsics, invalid pixels and units. Nothing else in
the project depends on them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import GeometryError, ShapeError
from ..log import logger
from ..validate import expect_range, expect_shape
from .depth import valid_depth
from .frame_geometry import FrameGeometry
from .trajectory import intrinsics_from_fov
from .transform import nearest_rotations

SKY_THRESHOLD: Final = 0.5
"""Probability from which a pixel counts as sky."""

PATCH: Final = 14
"""Pixels along each side of a patch of Depth Anything 3."""

MAX_VIEWS: Final = 16
"""Most photographs of one place that a memory is begun from."""


def geometry_from_moge(moge: Mapping[str, Any], *, metric: bool) -> FrameGeometry:
    """Depth and field of view of MoGe.

    MoGe's intrinsics are normalised: the focal length counts in picture widths (fx) and
    heights (fy), and the principal point is (0.5, 0.5). Masked pixels are infinite.

    Args:
        moge: ``depth`` (B, H, W), ``intrinsics`` (B, 3, 3), and ``mask`` (B, H, W) bool, True
            where valid.
        metric: True for MoGe 2, whose depth is in metres.

    Raises:
        GeometryError: The geometry is of a panorama, or no pixel is valid.
        ShapeError: Arrays do not fit together.
    """
    if "intrinsics" not in moge:
        raise GeometryError(
            "This MoGe geometry has no camera",
            got="a panorama",
            expected="a perspective picture",
            fix="Use Run MoGe Inference in place of Run MoGe Panorama Inference",
        )
    depth = moge["depth"].cpu().float()
    sizes = expect_shape("MoGe's depth", depth, "B H W")
    expect_shape("MoGe's intrinsics", moge["intrinsics"], "B 3 3", B=sizes["B"])
    to_pixels = torch.diag(torch.tensor([sizes["W"], sizes["H"], 1.0], dtype=torch.float64))
    intrinsics = to_pixels @ moge["intrinsics"].cpu().double()
    mask = moge.get("mask")
    exclude = None
    if mask is not None:
        expect_shape("MoGe's mask", mask, "B H W", **sizes)
        exclude = ~mask.cpu().bool()
        exclude = exclude if bool(exclude.any()) else None
    return FrameGeometry(depth, intrinsics, exclude=exclude, metric=metric)


def is_metric(moge: Mapping[str, Any]) -> bool:
    """Whether MoGe's depth is in metres: only MoGe 2, which is so, also estimates normals."""
    return "normal" in moge


def geometry_of_estimator(output: Mapping[str, Any], fov: float) -> FrameGeometry:
    """Geometry of whichever of ComfyUI's estimators made it, with the settings of its own node.

    Args:
        output: What `geometry_from_moge` or `geometry_from_da3` takes.
        fov: Horizontal field of view in degrees, for one view of Depth Anything alone.

    Raises:
        GeometryError: As for these.
        ShapeError: As for these.
    """
    # Depth Anything's always says how it was run.
    if "mode" in output:
        geometry = geometry_from_da3(output, fov=fov)
        name = "Depth Anything 3"
    else:
        geometry = geometry_from_moge(output, metric=is_metric(output))
        name = "MoGe"
    return dataclasses.replace(geometry, notes=(f"taken: depth and lens of {name}",))


def geometry_from_da3(
    da3: Mapping[str, Any],
    *,
    fov: float,
    metric: bool = False,
    least_confidence: float = 0.0,
    sky_threshold: float = SKY_THRESHOLD,
) -> FrameGeometry:
    """Depth, and with several views cameras, of Depth Anything 3.

    Its intrinsics are in pixels of the network's input, while its depth has the picture's own
    size: the principal point, which is about the middle of that input, says how to rescale them.

    Args:
        da3: ``depth`` (B, H, W); optional ``sky`` and ``confidence`` (B, H, W); with several
            views ``intrinsics`` (1, B, 3, 3) and ``extrinsics`` (1, B, 3, 4), world to camera.
        fov: Horizontal field of view in degrees, for one view alone, which has no intrinsics.
        metric: True for the metric model, whose depth is in metres.
        least_confidence: Share of pixels with the least confidence that is left out, 0..1.
        sky_threshold: Probability from which a pixel is sky, and is left out.

    Raises:
        GeometryError: All of a picture is sky, or the estimated cameras are malformed.
        ShapeError: Arrays do not fit together.
    """
    expect_range("The share of least confidence", least_confidence, 0.0, 0.99)
    depth = da3["depth"].cpu().float()
    sizes = expect_shape("Depth Anything's depth", depth, "B H W")
    count, height, width = sizes["B"], sizes["H"], sizes["W"]
    intrinsics, poses = _da3_cameras(da3, count, height, width, fov)
    exclude = torch.zeros(depth.shape, dtype=torch.bool)
    if "sky" in da3:
        expect_shape("Depth Anything's sky", da3["sky"], "B H W", **sizes)
        exclude |= da3["sky"].cpu() >= sky_threshold
    confidence = da3.get("confidence")
    if confidence is not None:
        expect_shape("Depth Anything's confidence", confidence, "B H W", **sizes)
        confidence = confidence.cpu().float()
        if least_confidence > 0:
            exclude |= confidence < _quantile(confidence, least_confidence)
    _expect_valid_pixels(depth, exclude)
    return FrameGeometry(
        depth,
        intrinsics,
        world_to_camera=poses,
        exclude=exclude if bool(exclude.any()) else None,
        confidence=confidence,
        metric=metric,
    )


def describe_geometry(geometry: FrameGeometry) -> str:
    """One line: size, field of view, units, typical depth, invalid shares, a reader's notes."""
    height, width = geometry.size
    fov = math.degrees(2 * math.atan(width / (2 * float(geometry.intrinsics[0, 0, 0]))))
    invalid = 1 - float(valid_depth(geometry.depth).float().mean())
    excluded = 0.0 if geometry.exclude is None else float(geometry.exclude.float().mean())
    units = "metric" if geometry.metric else "not metric"
    poses = "" if geometry.world_to_camera is None else ", with camera poses"
    frames = "1 frame" if len(geometry) == 1 else f"{len(geometry)} frames"
    return (
        f"{frames} of {width} x {height}, field of view {fov:.4g} degrees, {units}, "
        f"typical depth {geometry.typical_depth():.3g}, {invalid:.1%} invalid, "
        f"{excluded:.1%} left out{poses}" + "".join(f"; {note}" for note in geometry.notes)
    )


def views_to_begin(pictures: int, geometry: FrameGeometry) -> int:
    """How many pictures of a batch begin a memory: all of them where their poses are known.

    Raises:
        ShapeError: There are as many poses as no number of pictures explains, or too many.
    """
    if geometry.world_to_camera is None or 1 in (len(geometry), pictures):
        if pictures > 1:
            logger.warning(
                "The memory begins with the first of %d pictures: the geometry has camera poses "
                "for no more. Depth Anything 3 finds them with mode multiview.",
                pictures,
            )
        return 1
    if pictures == len(geometry) <= MAX_VIEWS:
        return pictures
    raise ShapeError(
        "The pictures and their geometry do not match",
        got=f"{pictures} pictures, geometry of {len(geometry)} views with camera poses",
        expected=f"as many pictures as views, at most {MAX_VIEWS}",
        fix="Estimate geometry on the same batch of pictures, with fewer of them if need be",
    )


def _da3_cameras(
    da3: Mapping[str, Any], count: int, height: int, width: int, fov: float
) -> tuple[Tensor, Tensor | None]:
    if "intrinsics" not in da3 or _is_placeholder(da3, count):
        return intrinsics_from_fov(width, height, fov).expand(count, 3, 3), None
    network, rigid = da3["intrinsics"], da3.get("extrinsics")
    if network.ndim != 4 or network.shape[0] != 1:  # noqa: PLR2004
        raise ShapeError(
            "Depth Anything's intrinsics have an unexpected layout",
            got=tuple(network.shape),
            expected=f"(1, {count}, 3, 3)",
        )
    intrinsics = network[0].cpu().double().clone()
    expect_shape("Depth Anything's intrinsics", intrinsics, "B 3 3", B=count)
    middle = intrinsics[:, :2, 2]
    if not bool((middle > 0).all() & torch.isfinite(middle).all()):
        raise GeometryError(
            "Depth Anything's cameras are malformed",
            got="a principal point outside of the picture",
            fix="Try the other pose_method in Run Depth Anything 3",
        )
    size = torch.tensor([width, height], dtype=torch.float64)
    intrinsics[:, :2] *= (size / _network_size(2 * middle))[:, None]
    if rigid is None:
        return intrinsics, None
    expect_shape("Depth Anything's camera poses", rigid, "1 B 3 4", B=count)
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, :3] = rigid[0].cpu().double()
    return intrinsics, _orthonormal(poses)


def _is_placeholder(da3: Mapping[str, Any], count: int) -> bool:
    """Whether one picture was run as several views: ComfyUI then gives identities as cameras."""
    identity = torch.eye(3).expand(1, 1, 3, 3)
    return count == 1 and torch.equal(da3["intrinsics"].cpu().float(), identity)


def _network_size(doubled: Tensor) -> Tensor:
    """(2,) width and height of the network's input, from twice the principal points (B, 2).

    The camera decoder puts them in the middle, in the network's precision. Cameras that are
    fitted to rays have them about there. The input's sides are whole patches.
    """
    return (doubled.median(dim=0).values / PATCH).round().clamp_min(1) * PATCH


def _orthonormal(poses: Tensor) -> Tensor:
    """Poses (F, 4, 4) with the nearest rotation: networks give them in low precision."""
    if not bool(torch.isfinite(poses).all()):
        raise GeometryError(
            "Depth Anything found no cameras for these pictures",
            got="poses that are not numbers",
            expected="pictures of one place that overlap",
            fix="Remove pictures that show something else, or try the other pose_method",
        )
    rotation = nearest_rotations(poses[:, :3, :3])
    flip = torch.linalg.det(rotation) < 0
    if bool(flip.any()):
        raise GeometryError(
            "Depth Anything's camera poses mirror the scene",
            fix="Try the other pose_method in Run Depth Anything 3",
        )
    result = poses.clone()
    result[:, :3, :3] = rotation
    return result


def _quantile(values: Tensor, share: float) -> Tensor:
    """(B, 1, 1) value below which ``share`` of each picture lies."""
    flat = values.flatten(1).sort(dim=1).values
    return flat[:, int(share * (flat.shape[1] - 1))][:, None, None]


def _expect_valid_pixels(depth: Tensor, exclude: Tensor) -> None:
    left = (valid_depth(depth) & ~exclude).flatten(1).any(dim=1)
    if not bool(left.all()):
        raise GeometryError(
            f"Nothing of picture {int((~left).nonzero()[0])} can be remembered",
            got="only sky, or depth without confidence",
            expected="some surface",
            fix="Choose another picture, or raise the sky threshold",
        )
