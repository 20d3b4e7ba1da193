"""Checks at the boundary: each raises a typed error that tells the user what to do."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .constants import LATENT_CHANNELS, SIZE_MULTIPLE, TEMPORAL_STRIDE, WAN21_CHANNELS
from .errors import (
    GeometryError,
    ModelMismatchError,
    PlanError,
    ShapeError,
    ValueRangeError,
)

ROTATION_TOLERANCE = 1e-4
"""Largest deviation of R^T R from the identity that still counts as a rotation."""

LAST_ROW_TOLERANCE = 1e-5
"""Largest deviation of the last row of a matrix from that of the identity."""


def expect_shape(name: str, tensor: Tensor, pattern: str, **sizes: int) -> dict[str, int]:
    """Check a tensor against a pattern such as ``"F 3 3"`` and return the named sizes.

    Args:
        name: How the error message calls the tensor.
        tensor: The tensor to check.
        pattern: One word per axis: a number, or a name that is bound at its first use.
        **sizes: Names that are bound already.

    Raises:
        ShapeError: The number of axes or one of the sizes differs.
    """
    words = pattern.split()
    bound = dict(sizes)
    ok = tensor.ndim == len(words)
    for word, size in zip(words, tensor.shape, strict=False):
        wanted = int(word) if word.isdigit() else bound.setdefault(word, size)
        ok = ok and wanted == size
    if not ok:
        known = ", ".join(f"{key}={value}" for key, value in sizes.items())
        raise ShapeError(
            f"{name} has the wrong shape",
            got=tuple(tensor.shape),
            expected=f"({', '.join(words)})" + (f" with {known}" if known else ""),
        )
    return bound


def expect_finite(name: str, tensor: Tensor) -> None:
    """Raise `GeometryError` unless every entry of ``tensor`` is finite."""
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        bad = int((~finite).sum())
        raise GeometryError(
            f"{name} contains values that are not finite",
            got=f"{bad} of {tensor.numel()} entries are NaN or infinite",
            expected="finite numbers",
            fix="Check the file or the estimator that produced it",
        )


def expect_rigid(name: str, poses: Tensor) -> None:
    """Raise `GeometryError` unless ``poses`` (F, 4, 4) are rotations with a translation."""
    expect_shape(name, poses, "F 4 4")
    expect_finite(name, poses)
    # A few small matrices: every operation of torch on them takes as long as all of these.
    matrices = poses.detach().cpu().double().numpy()
    rotation = matrices[:, :3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = np.abs(rotation.transpose(0, 2, 1) @ rotation - np.eye(3)).max((1, 2))
    worst = int(deviation.argmax()) if len(deviation) else 0
    # NaN, which huge entries give, fails this comparison as well.
    if len(deviation) and not deviation[worst] <= ROTATION_TOLERANCE:
        raise GeometryError(
            f"{name} of frame {worst} is not a rotation",
            got=f"R^T R differs from the identity by {float(deviation[worst]):.2g}",
            expected=f"at most {ROTATION_TOLERANCE:g}",
            fix="Remove scale and shear from the matrices before loading them",
        )
    mirrored = np.flatnonzero(np.linalg.det(rotation) < 0)
    if len(mirrored):
        raise GeometryError(
            f"{name} of frame {mirrored[0]} mirrors the scene",
            got="a determinant of -1",
            expected="a determinant of +1",
            fix="State the axis convention of the file: one axis is flipped",
        )
    if (np.abs(matrices[:, 3] - (0, 0, 0, 1)) > LAST_ROW_TOLERANCE).any():
        raise GeometryError(
            f"{name} has a last row that is not (0, 0, 0, 1)",
            fix="Use 4x4 matrices with the translation in the last column",
        )


def nearest_side(size: float) -> int:
    """The multiple of 32 nearest to a side of a picture in pixels; 32 at least."""
    return max(SIZE_MULTIPLE, round(size / SIZE_MULTIPLE) * SIZE_MULTIPLE)


def expect_frame_size(width: int, height: int) -> None:
    """Raise `ShapeError` unless both sizes are positive multiples of 32."""
    if width > 0 and height > 0 and width % SIZE_MULTIPLE == 0 and height % SIZE_MULTIPLE == 0:
        return

    raise ShapeError(
        "The picture size does not fit the video model's grid",
        got=f"{width} x {height}",
        expected=f"width and height divisible by {SIZE_MULTIPLE}",
        fix=f"Resize or crop the picture to {nearest_side(width)} x {nearest_side(height)}",
    )


def expect_frame_count(frames: int, name: str = "The number of frames") -> None:
    """Raise `PlanError` unless ``frames`` is 4n + 1 with n >= 0."""
    if frames >= 1 and frames % TEMPORAL_STRIDE == 1:
        return
    below = max(1, (frames - 1) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1)
    raise PlanError(
        f"{name} does not fit the video model's time grid",
        got=frames,
        expected=f"{TEMPORAL_STRIDE}n + 1 frames",
        fix=f"Use {below} or {below + TEMPORAL_STRIDE} frames",
    )


def expect_token_channels(name: str, channels: int) -> None:
    """Raise `ModelMismatchError` unless ``channels`` is 48."""
    if channels == LATENT_CHANNELS:
        return
    wan21 = channels == WAN21_CHANNELS
    hint = " (this is what the Wan2.1 VAE makes)" if wan21 else ""
    colours = "; for VACE, set what = colours in Mirage Cache Init" if wan21 else ""
    raise ModelMismatchError(
        f"{name} does not come from the Wan2.2 VAE",
        got=f"{channels} channels{hint}",
        expected=f"{LATENT_CHANNELS} channels",
        fix=f"Load wan2.2_vae.safetensors in Load VAE, or use Mirage Embedded Codec{colours}",
    )


def expect_range(
    name: str, value: float, low: float, high: float, fix: str | None = None
) -> None:
    """Raise `ValueRangeError` unless ``low <= value <= high``; NaN is outside."""
    if not low <= value <= high:
        raise ValueRangeError(
            f"{name} is out of range", got=value, expected=f"{low} to {high}", fix=fix
        )
