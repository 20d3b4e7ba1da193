"""Completing the holes of a readout smoothly; nothing is invented."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..readout.readout import Readout
from ..validate import expect_shape

RELAXATION_STEPS: Final = 24
"""Averaging steps that take the blocks out of the pyramid's first guess."""

BACKGROUND_BIAS: Final = 3.0
"""Exponent of the depth with which known cells pull: what comes into view behind an edge is
background."""

ONE_SURFACE: Final = 0.10
"""A cell shows one surface when its depths differ by less than this share."""


OnStep = Callable[[int, int], None]
"""Called with (done, total) after each averaging step; may raise to cancel."""


def fill_holes(
    values: Tensor, known: Tensor, weight: Tensor | None = None, on_step: OnStep | None = None
) -> Tensor:
    """Complete maps smoothly where nothing is known; known values stay as they are.

    A pyramid of weighted means gives every hole a first guess from its surroundings at the
    finest level that knows anything; weighted averaging with the neighbours smooths it.

    Args:
        values: (C, T, h, w).
        known: (T, h, w) bool.
        weight: (T, h, w) positive pull of the known cells; equal by default.
        on_step: Called after each averaging step; may raise to cancel.

    Returns:
        (C, T, h, w) float32; 0 in frames where nothing at all is known.
    """
    sizes = expect_shape("The values", values, "C T h w")
    expect_shape("The known cells", known, "T h w", T=sizes["T"], h=sizes["h"], w=sizes["w"])
    pull = known.float() if weight is None else torch.where(known, weight.float(), 0.0)
    pull = pull / pull.amax(dim=(1, 2), keepdim=True).clamp_min(1e-20)
    clean = torch.where(known, values.float(), 0.0).transpose(0, 1)
    pair = torch.cat([clean * pull[:, None], pull[:, None]], dim=1)
    guess = _pyramid(pair)
    fixed = known[:, None]
    for step in range(RELAXATION_STEPS):
        guess = torch.where(fixed, pair, _mean3(guess))
        if on_step is not None:
            on_step(step + 1, RELAXATION_STEPS)
    mass = guess[:, -1:]
    smooth = torch.where(mass > 0, guess[:, :-1] / mass.clamp_min(1e-20), 0.0)
    return torch.where(fixed, clean, smooth).transpose(0, 1)


def _pyramid(pair: Tensor) -> Tensor:
    """Weighted sums with their weight (T, C + 1, h, w); empty cells take coarser means."""
    rows, cols = pair.shape[2:]
    if rows == 1 and cols == 1:
        return pair
    padded = F.pad(pair, (0, cols % 2, 0, rows % 2))
    coarse = _pyramid(F.avg_pool2d(padded, 2))
    finer = F.interpolate(coarse, scale_factor=2, mode="nearest")[:, :, :rows, :cols]
    return torch.where(pair[:, -1:] > 0, pair, finer)


def _mean3(maps: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def fill_readout(readout: Readout, on_step: OnStep | None = None) -> tuple[Tensor, Tensor]:
    """Complete tokens and depth of a readout.

    Args:
        readout: What the memory shows.
        on_step: Called after each averaging step; may raise to cancel.

    Returns:
        (C, T, h, w) float32 tokens and (T, h, w) float32 z-depth, without holes. A frame to
        which the memory shows nothing at all has tokens of 0, at the distance of the scene.
    """
    tokens, depth = fill_tokens_and_depth(
        readout.tokens, readout.depth, readout.visible, on_step
    )
    if bool((depth > 0).all()):
        return tokens, depth
    known = readout.depth[readout.visible]
    if len(known):
        distance = float(known.median())
    else:
        distance = _scene_distance(readout)
    return tokens, torch.where(depth > 0, depth, distance)


def complete_depth(depth: Tensor, filled: Tensor) -> Tensor:
    """Depth maps (T, H, W) with zeros replaced by coarser maps (T, h, w) without holes."""
    size = (int(depth.shape[1]), int(depth.shape[2]))
    coarse = F.interpolate(filled[:, None], size=size, mode="bilinear", align_corners=False)
    return torch.where(depth > 0, depth, coarse[:, 0])


def uncertain_pixels(
    depth: Tensor, stride: int, remembered: Tensor | None = None, moving: Tensor | None = None
) -> Tensor:
    """Pixels of drawn depth maps that do not show one known surface throughout their cell.

    A cell that is partly unknown, or holds the outline of something, carries colours that
    belong to no single depth; written back, it would hang in front of what lies behind.

    Args:
        depth: (T, H, W) z-depth, 0 where nothing was drawn; H and W are multiples of
            ``stride``.
        stride: Pixels along each side of a latent cell.
        remembered: (T, h, w) bool, cells that the memory shows by itself. They count as well:
            written back, a drawing of the memory would be a copy of less quality.
        moving: (T, H, W) bool, pixels of actors: a cell with any of them is no part of the set.

    Returns:
        (T, H, W) bool, the same for all pixels of a cell.
    """
    expect_shape("The depth", depth, "T H W")
    farthest = F.max_pool2d(depth[:, None], stride)[:, 0]
    nearest = -F.max_pool2d(-depth[:, None], stride)[:, 0]
    uncertain = (nearest <= 0) | (farthest > nearest * (1 + ONE_SURFACE))
    if remembered is not None:
        uncertain = uncertain | remembered.to(uncertain.device)
    if moving is not None:
        touched = F.max_pool2d(moving.float()[:, None], stride)[:, 0] > 0
        uncertain = uncertain | touched.to(uncertain.device)
    return uncertain.repeat_interleave(stride, 1).repeat_interleave(stride, 2)


def _scene_distance(readout: Readout) -> float:
    """Median distance from the first camera to the remembered points; 1 without any."""
    points = [block.points for block in readout.cache.blocks if len(block)]
    if not points:
        return 1.0
    camera = readout.trajectory.positions[0].float().to(points[0].device)
    return float((torch.cat(points) - camera).norm(dim=1).median())


def fill_tokens_and_depth(
    tokens: Tensor, depth: Tensor, visible: Tensor, on_step: OnStep | None = None
) -> tuple[Tensor, Tensor]:
    """Complete tokens (C, T, h, w) and depth (T, h, w); far cells pull harder than near ones.

    Depth is averaged as its logarithm, so that the fill does not depend on the unit. Where a
    frame shows nothing at all, both stay 0.
    """
    weight = torch.where(visible, depth, 0.0) ** BACKGROUND_BIAS
    log_depth = torch.where(visible, depth, 1.0).log()[None]
    filled = fill_holes(torch.cat([tokens.float(), log_depth]), visible, weight, on_step)
    anything = visible.flatten(1).any(dim=1)[:, None, None]
    return filled[:-1], torch.where(anything, filled[-1].exp(), 0.0)
