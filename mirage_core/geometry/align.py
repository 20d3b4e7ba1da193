"""Bringing newly estimated depth to the scale of depth that is known already.

Estimators give every clip another scale, some another shift of inverse depth, and most a smooth
distortion of their own. All three are fitted to known depth in one robust pass over a clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ValueRangeError
from ..validate import expect_range, expect_shape
from .align_fit import RobustFit, weighted_median
from .depth import valid_depth

AlignMode = Literal["scale", "affine", "none"]
ALIGN_MODES: Final[tuple[str, ...]] = get_args(AlignMode)

EDGE_BEND: Final = 0.10
"""Change of the slope of inverse depth, as a share of inverse depth, that counts as an edge."""

MIN_CELLS: Final = 8
"""Fewest cells with known depth from which a frame is measured by itself."""

FIELD_CELLS: Final = 4
"""Latent cells along each side of a cell of the correction field."""

FIELD_PRIOR: Final = 2.0
"""Cells with known depth that weigh as much as the guess that nothing is distorted."""

FIELD_LIMIT: Final = 0.10
"""Largest local correction, as a natural logarithm of depth."""


@dataclass(frozen=True)
class AlignConfig:
    """How depth is aligned.

    Attributes:
        mode: ``scale`` for sources that are right up to a factor (metric ones included),
            ``affine`` for sources that are right up to scale and shift of inverse depth,
            ``none`` to trust depth as it is.
        step: Change of scale between successive frames, as a share, that is ordinary for the
            source; smaller values smooth more over time.
        local: Also correct smooth distortions within a frame.
        refuse_above: Relative depth error after the alignment beyond which a frame is wrong.

    Raises:
        ValueRangeError: A setting is out of range.
    """

    mode: AlignMode | str = "scale"
    step: float = 0.02
    local: bool = True
    refuse_above: float = 0.10

    def __post_init__(self) -> None:
        if self.mode not in ALIGN_MODES:
            raise ValueRangeError(
                "The depth alignment is unknown", got=self.mode, expected=", ".join(ALIGN_MODES)
            )
        expect_range("The change of scale between frames", self.step, 1e-4, 1.0)
        expect_range("The largest depth error", self.refuse_above, 0.001, 1.0)


@dataclass(frozen=True, eq=False)
class DepthPairs:
    """New and known depth of the same cells.

    Attributes:
        new: (T, h, w) float32 z-depth of the source; 0 where a cell does not count.
        known: (T, h, w) float32 z-depth on the scale to reach; 0 where a cell does not count.
        weight: (T, h, w) float32 reliability, 0 where a cell does not count.
    """

    new: Tensor
    known: Tensor
    weight: Tensor

    def __post_init__(self) -> None:
        sizes = expect_shape("The new depth", self.new, "T h w")
        expect_shape("The known depth", self.known, "T h w", **sizes)
        expect_shape("The depth's weight", self.weight, "T h w", **sizes)
        usable = valid_depth(self.new) & valid_depth(self.known)
        weight = torch.where(usable & (self.weight > 0), self.weight.float(), 0.0)
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "new", torch.where(weight > 0, self.new.float(), 0.0))
        object.__setattr__(self, "known", torch.where(weight > 0, self.known.float(), 0.0))

    @property
    def counted(self) -> Tensor:
        """(T, h, w) bool: cells that count."""
        return self.weight > 0


@dataclass(frozen=True, eq=False)
class Correction:
    """What turns the depth of T frames into aligned depth.

    ``1 / aligned = (1 / depth + shift) / scale / exp(local)``

    Attributes:
        scale: (T,) float64 factor of depth, on the CPU as the rest.
        shift: (T,) float64 shift of inverse depth, before scaling.
        local: (T, a, b) float32 smooth field, natural logarithm of a factor of depth.
    """

    scale: Tensor
    shift: Tensor
    local: Tensor

    @classmethod
    def identity(cls, frames: int) -> Correction:
        """Leaves the depth of so many frames as it is."""
        one = torch.ones(frames, dtype=torch.float64)
        return cls(one, torch.zeros_like(one), torch.zeros(frames, 1, 1))

    @property
    def is_identity(self) -> bool:
        """True when no depth changes."""
        ones = bool((self.scale == 1).all())
        return ones and not bool(self.shift.any()) and not bool(self.local.any())

    def apply(self, depth: Tensor) -> Tensor:
        """Aligned depth (T, H, W) float32; 0 where invalid, or where no depth is left."""
        expect_shape("The depth", depth, "T H W", T=len(self.scale))
        valid = valid_depth(depth)
        if self.is_identity:
            return torch.where(valid, depth, 0.0)
        size = (int(depth.shape[1]), int(depth.shape[2]))
        inverse = 1 / torch.where(valid, depth, 1.0)
        inverse = inverse + self.shift.float().to(depth.device)[:, None, None]
        factor = self.scale.float().to(depth.device)[:, None, None]
        field = _resize(self.local.to(depth.device), size).exp()
        left = valid & (inverse > 0)
        return torch.where(left, factor * field / torch.where(left, inverse, 1.0), 0.0)


@dataclass(frozen=True, eq=False)
class Alignment:
    """A correction, and how well it fits.

    Attributes:
        correction: What to apply.
        before: Median relative depth error of each frame before; NaN without known depth.
        fitted: The same with scale and shift applied. It tells wrong geometry.
        residual: The same with everything applied.
        overlap: Share of each frame's cells that could be compared.
    """

    correction: Correction
    before: tuple[float, ...]
    fitted: tuple[float, ...]
    residual: tuple[float, ...]
    overlap: tuple[float, ...]

    def trusted(self, refuse_above: float) -> tuple[bool, ...]:
        """Which frames may be written.

        A frame that cannot be measured follows its neighbours, and is trusted with them.
        """
        fine = [value <= refuse_above for value in self.fitted if value == value]  # noqa: PLR0124
        wrong = [value > refuse_above for value in self.fitted]
        return tuple(any(fine) and not bad for bad in wrong)


def depth_edges(depth: Tensor) -> Tensor:
    """Cells beside which the surface bends or breaks.

    Inverse depth is linear over a plane; its second difference vanishes there.

    Args:
        depth: (F, h, w) z-depth, 0 where invalid.

    Returns:
        (F, h, w) bool; False beside invalid cells and where depth is invalid.
    """
    expect_shape("The depth", depth, "F h w")
    inverse = torch.where(valid_depth(depth), 1 / depth, torch.nan)
    edges = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (1, 2):
        size = depth.shape[axis]
        if size < 3:  # noqa: PLR2004
            continue
        before, here, after = (inverse.narrow(axis, start, size - 2) for start in range(3))
        bend = (before - 2 * here + after).abs() > EDGE_BEND * here
        edges.narrow(axis, 1, size - 2).logical_or_(bend)
    return edges


def align_depth(pairs: DepthPairs, config: AlignConfig | None = None) -> Alignment:
    """Fit scale, shift and smooth distortion of T frames to known depth.

    Per frame ``1 / z' = (1 / z + b) / s``, with b = 0 in mode ``scale``; a robust fit of
    ``log z_known - log z'`` over all frames at once (least median, then least squares with
    Tukey's weights), with a random walk of (log s, b) over time as prior. A frame without known
    depth follows its neighbours by that prior.

    Args:
        pairs: Depth of cells that are visible, static and not at edges.
        config: Mode and limits.

    Returns:
        The correction and its errors; the identity where nothing at all is known.
    """
    config = config or AlignConfig()
    # Small, and in float64, which not every device has.
    pairs = DepthPairs(pairs.new.cpu(), pairs.known.cpu(), pairs.weight.cpu())
    frames = len(pairs.new)
    share = tuple(pairs.counted.flatten(1).double().mean(1).tolist())
    log_ratio = _log(pairs.known) - _log(pairs.new)
    before = _errors(log_ratio, pairs.counted)
    enough = pairs.counted.flatten(1).sum(1) >= MIN_CELLS
    if config.mode == "none" or not bool(enough.any()):
        return Alignment(Correction.identity(frames), before, before, before, share)
    weight = (pairs.weight * enough[:, None, None]).double()
    unit = float(weighted_median(pairs.new.double().flatten(), weight.flatten()))
    fit = RobustFit(
        inverse=unit / torch.where(pairs.counted, pairs.new.double(), unit),
        target=torch.where(pairs.counted, pairs.known.double() / unit, 1.0).log(),
        weight=weight / weight[weight > 0].mean(),
        step=config.step,
        shifts=config.mode == "affine",
    )
    parameters, robust = fit.solve()
    residual = fit.residual(parameters)
    field = torch.zeros(frames, 1, 1)
    if config.local:
        field = _smooth_field(residual.float(), (weight * robust).float())
    correction = Correction(parameters[:, 0].exp(), parameters[:, 1] / unit, field)
    left = residual - _resize(field, (pairs.new.shape[1], pairs.new.shape[2]))
    return Alignment(
        correction,
        before,
        _errors(residual, pairs.counted),
        _errors(left, pairs.counted),
        share,
    )


def _smooth_field(residual: Tensor, weight: Tensor) -> Tensor:
    """Low-resolution field (T, a, b) of what is left; unmeasured places follow neighbours.

    Means over time and place, with weights that fall with the fourth power of the distance in
    cells of the field: what is near decides, and what is far still counts where nothing is near.
    """
    weight = weight / weight.amax().clamp_min(1e-12)
    sums = torch.stack([weight * residual, weight], dim=1)
    over_time = F.pad(sums.permute(2, 3, 1, 0).flatten(0, 1), (1, 1), mode="replicate")
    kernel = sums.new_tensor([0.25, 0.5, 0.25]).expand(2, 1, 3)
    smooth = F.conv1d(over_time, kernel, groups=2)
    smooth = smooth.view(*residual.shape[1:], 2, len(residual)).permute(3, 2, 0, 1)
    coarse = _sum_pool(smooth, FIELD_CELLS)
    rows, cols = coarse.shape[2:]
    place = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).float()
    near = (1 / (1 + torch.cdist(place, place).square()).square())
    total, share = (coarse.flatten(2) @ near).unbind(1)
    field = (total / (share + FIELD_PRIOR)).view(-1, rows, cols)
    return field.clamp(-FIELD_LIMIT, FIELD_LIMIT)


def _sum_pool(sums: Tensor, factor: int) -> Tensor:
    rows, cols = sums.shape[2:]
    padded = F.pad(sums, (0, -cols % factor, 0, -rows % factor))
    return F.avg_pool2d(padded, factor) * factor**2


def _resize(field: Tensor, size: tuple[int, int]) -> Tensor:
    """(T, *size) bilinear."""
    return F.interpolate(field[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _log(depth: Tensor) -> Tensor:
    return torch.where(depth > 0, depth, 1.0).double().log()


def _errors(log_ratio: Tensor, counted: Tensor) -> tuple[float, ...]:
    """Median of ``|exp(r) - 1|`` of each frame; NaN where too few cells count."""
    return tuple(
        float(ratio[chosen].expm1().abs().median())
        if int(chosen.sum()) >= MIN_CELLS
        else float("nan")
        for ratio, chosen in zip(log_ratio, counted, strict=True)
    )
