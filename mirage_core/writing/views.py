"""Views of the scene at other times, against which new observations are held."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..cache.types import LatentCache
from ..constants import MAX_CHUNK_FRAMES
from ..errors import ShapeError
from ..geometry.depth import valid_depth
from ..ops.best_view import BestView
from ..readout.readout import read_winners
from ..validate import expect_shape

MAX_SOURCE_VIEWS: Final = 8
"""Earlier cameras of the memory that are asked."""

MIN_KNOWN: Final = 3
"""Of the four places around a point, so many must be known for a view to say anything."""

DETAIL: Final = 4
"""Places along each side of a latent cell at which whole depth maps are looked at."""


@dataclass(frozen=True, eq=False)
class SourceViews:
    """What S cameras saw, each at its own time.

    Attributes:
        nearest: (S, a, b) float32 least z-depth within each place of a grid that may be finer
            than the latent grid; 0 where nothing is known.
        farthest: (S, a, b) float32 greatest z-depth within each place; 0 where unknown.
        tokens: (C, S, h, w) model-space tokens; (a, b) is a multiple of (h, w).
        known: (S, h, w) bool, where the tokens mean anything.
        world_to_camera: (S, 4, 4).
        intrinsics: (S, 3, 3) of the latent grid.
    """

    nearest: Tensor
    farthest: Tensor
    tokens: Tensor
    known: Tensor
    world_to_camera: Tensor
    intrinsics: Tensor

    def __post_init__(self) -> None:
        sizes = expect_shape("The views' depth", self.nearest, "S a b")
        count = sizes["S"]
        expect_shape("The views' depth", self.farthest, "S a b", **sizes)
        grid = expect_shape("The views' tokens", self.tokens, "C S h w", S=count)
        grid = {name: grid[name] for name in "hw"}
        expect_shape("The views' known cells", self.known, "S h w", S=count, **grid)
        expect_shape("The views' poses", self.world_to_camera, "S 4 4", S=count)
        expect_shape("The views' intrinsics", self.intrinsics, "S 3 3", S=count)
        if sizes["a"] % grid["h"] or sizes["b"] % grid["w"]:
            raise ShapeError(
                "The views' depth and tokens do not fit together",
                got=f"{sizes['b']} x {sizes['a']} places, {grid['w']} x {grid['h']} cells",
                expected="a whole number of places in each cell",
            )

    def __len__(self) -> int:
        return len(self.nearest)

    @property
    def detail(self) -> int:
        """Places along each side of a latent cell."""
        return int(self.nearest.shape[1]) // int(self.tokens.shape[2])

    @cached_property
    def around(self) -> tuple[Tensor, Tensor]:
        """(S, a + 1, b + 1) least and greatest depth of the four places around each corner.

        0 and 0 where too few of them are known. Outlines and slanted surfaces that lie a little
        beside where they are expected stay within this range.
        """
        known = self.nearest > 0
        count = F.avg_pool2d(known.float()[:, None], 2, 1, 1, divisor_override=1)[:, 0]
        far = _max_of_four(self.farthest)
        near = 1 / _max_of_four(torch.where(known, 1 / self.nearest, 0.0)).clamp_min(1e-20)
        enough = count >= MIN_KNOWN
        return torch.where(enough, near, 0.0), torch.where(enough, far, 0.0)

    @cached_property
    def smooth_tokens(self) -> Tensor:
        """(C, S, h, w) float32 means of the known tokens among the nine around each cell."""
        return mean_tokens(self.tokens, self.known)


def mean_tokens(tokens: Tensor, known: Tensor) -> Tensor:
    """Means (C, F, h, w) of the known tokens among the nine around each cell.

    A token describes a cell's pixels where they lie; the mean of several depends less on where
    the grid happens to cut the picture.
    """
    total = F.avg_pool2d((tokens.float() * known).transpose(0, 1), 3, 1, 1)
    share = F.avg_pool2d(known.float()[:, None], 3, 1, 1).clamp_min(1e-6)
    return (total / share).transpose(0, 1)


def cell_range(depth: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Least and greatest valid depth of the pixels of every cell of a grid.

    Args:
        depth: (F, H, W) z-depth at any resolution.
        size: (h, w) of the grid.

    Returns:
        Two (F, h, w) float32; 0 where a cell has no valid pixel.
    """
    expect_shape("The depth", depth, "F H W")
    valid = valid_depth(depth)
    inverse = torch.where(valid, 1 / depth.float(), 0.0)
    largest = F.adaptive_max_pool2d(inverse[:, None], size)[:, 0]
    far = F.adaptive_max_pool2d(torch.where(valid, depth.float(), 0.0)[:, None], size)[:, 0]
    return torch.where(largest > 0, 1 / largest.clamp_min(1e-20), 0.0), far


def memory_source_views(
    cache: LatentCache,
    world_to_camera: Tensor,
    frames: Tensor,
    size: tuple[int, int],
    limit: int = MAX_SOURCE_VIEWS,
    view: BestView | None = None,
) -> SourceViews:
    """What the memory shows to the cameras that filled it.

    Chosen are cameras near the new ones, at least half a chunk from them and from each other
    in time, so that things which move slowly are seen elsewhere.

    Args:
        cache: The memory.
        world_to_camera: (T, 4, 4) the new cameras.
        frames: (T,) their pixel frames.
        size: (h, w) of the latent grid.
        limit: Most cameras to ask.
        view: How the memory is looked at; the nearest points when None.
    """
    blocks = cache.blocks
    poses = torch.cat([b.world_to_camera for b in blocks] or [torch.zeros(0, 4, 4).double()])
    lenses = torch.cat([b.intrinsics for b in blocks] or [torch.zeros(0, 3, 3).double()])
    times = torch.cat([b.frames for b in blocks] or [torch.zeros(0, dtype=torch.int64)])
    chosen = _near_and_apart(poses, times, world_to_camera, frames, limit)
    winner, depth = read_winners(cache, poses[chosen], lenses[chosen], size, view=view)
    tokens = cache.gather(winner, [block.tokens for block in blocks])
    return SourceViews(
        depth,
        depth,
        rearrange(tokens, "s h w c -> c s h w"),
        winner >= 0,
        poses[chosen],
        lenses[chosen],
    )


def _near_and_apart(
    poses: Tensor, times: Tensor, targets: Tensor, taken: Tensor, limit: int
) -> list[int]:
    """Indices of the nearest poses whose times are half a chunk from ``taken`` and each other."""
    if len(poses) == 0:
        return []
    # How far points one unit in front of the camera move in the picture, about.
    theirs, ours = (p.cpu().double()[:, :3].flatten(1) for p in (poses, targets))
    nearest = torch.cdist(theirs, ours).amin(dim=1).argsort(stable=True)
    spacing = (MAX_CHUNK_FRAMES - 1) // 2
    used = taken.tolist()
    chosen: list[int] = []
    for index in nearest.tolist():
        time = int(times[index])
        if len(chosen) < limit and all(abs(time - other) >= spacing for other in used):
            chosen.append(index)
            used.append(time)
    return chosen


def _max_of_four(maps: Tensor) -> Tensor:
    return F.max_pool2d(maps[:, None], 2, stride=1, padding=1)[:, 0]
