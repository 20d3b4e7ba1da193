"""Coloured points drawn as soft discs of one size: the pictures that Spatia's side branch is shown.

Spatia (CVPR 2026) draws its points with PyTorch3D: each point is a disc whose weight falls from
its middle to its rim, and the nearest few discs of a pixel are laid over each other. Discs do not
grow with nearness, and sums are not divided by the weights, so thin places darken towards black.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..constants import WHITE_8
from ..errors import ValueRangeError
from ..geometry.camera import project
from ..geometry.trajectory import Trajectory
from ..validate import expect_finite, expect_range, expect_shape

DISC_RADIUS: Final = 0.01
"""Radius in normalised coordinates, in which the shorter side of the picture spans 2."""

POINTS_PER_PIXEL: Final = 5
"""Discs of one pixel that count, the nearest ones."""

MAX_POINTS_PER_PIXEL: Final = 64

_PAIRS: Final = 1 << 22
"""Pairs of a point and a pixel near it that are looked at together; this bounds the memory."""

OnFrame = Callable[[int, int], None]
"""Called with (done, total) after every frame. May raise to cancel."""


@dataclass(frozen=True, eq=False)
class DiscFrames:
    """Points as F cameras see them.

    Attributes:
        frames: (F, H, W, 3) float32 colours in 0..1, black where there is no point.
        coverage: (F, H, W) float32 in 0..1: 0 no point, 1 fully covered.

    Raises:
        ShapeError: The tensors do not have these shapes.
    """

    frames: Tensor
    coverage: Tensor

    def __post_init__(self) -> None:
        sizes = expect_shape("The drawn frames", self.frames, "F H W 3")
        grid = {name: sizes[name] for name in "FHW"}
        expect_shape("Their coverage", self.coverage, "F H W", **grid)

    def in_8_bits(self) -> DiscFrames:
        """Both cut down to steps of 1 / 255, as the original stores them; cutting twice is once."""
        return DiscFrames(_cut(self.frames), _cut(self.coverage))


@dataclass(frozen=True, eq=False)
class _Cloud:
    """Points (N, 3) float64 and colours (N, 3) float32, in an order that is theirs alone."""

    points: Tensor
    colours: Tensor


@dataclass(frozen=True)
class _Picture:
    """Rows and columns, radius in pixels, and how many discs of a pixel count."""

    height: int
    width: int
    radius: float
    layers: int

    @property
    def reach(self) -> int:
        """Rows, and columns, that one disc can touch."""
        return math.floor(2 * self.radius) + 1


def render_discs(
    points: Tensor,
    colours: Tensor,
    cameras: Trajectory,
    *,
    radius: float = DISC_RADIUS,
    points_per_pixel: int = POINTS_PER_PIXEL,
    mirrored_principal_point: bool = False,
    on_frame: OnFrame | None = None,
    frames_on: torch.device | None = None,
) -> DiscFrames:
    """Draw points for every camera of a shot.

    A point in front of the camera, at d pixels from a pixel's centre, covers it with weight
    ``w = 1 - d^2 / r^2`` when d is at most r. Of the nearest k points of a pixel, from near to
    far: ``colour = sum_i w_i c_i prod_{j < i} (1 - w_j)``, ``coverage = 1 - prod_i (1 - w_i)``.

    Among equal depths the point comes first that is first by x, then y, z and colour in the
    world. So the result does not depend on the order of the points, to the bit.

    Args:
        points: (N, 3) in world coordinates; there may be none.
        colours: (N, 3) in 0..1.
        cameras: F cameras at picture size.
        radius: Of a disc, in halves of the picture's shorter side.
        points_per_pixel: The k above.
        mirrored_principal_point: Place points as Spatia's code does: an off-centre principal
            point acts to the wrong side, a centred one half a pixel to the left and up, and
            focal lengths are s / (s - 1) times theirs, s being the shorter side. Off, points
            land where all of Mirage projects them.
        on_frame: Called after every frame.
        frames_on: Where finished frames are kept; the device of ``points`` by default.

    Returns:
        The frames.

    Raises:
        ShapeError: The points or colours have another shape.
        GeometryError: A number is not finite.
        ValueRangeError: Colours lie outside 0..1, or radius or ``points_per_pixel`` is out of
            range.
    """
    _expect_cloud(points, colours)
    _expect_discs(radius, points_per_pixel)
    total, height, width = len(cameras), cameras.height, cameras.width
    picture = _Picture(height, width, radius * min(height, width) / 2, points_per_pixel)
    cloud = _in_own_order(points, colours)
    lens = mirrored_lens(cameras) if mirrored_principal_point else _lens(cameras)
    matrices = (lens @ cameras.world_to_camera[:, :3]).to(points.device)
    place = points.device if frames_on is None else frames_on
    frames = torch.zeros(total, height, width, 3, device=place)
    coverage = torch.zeros(total, height, width, device=place)
    for number, matrix in enumerate(matrices):
        drawn, covered = _draw(cloud, matrix, picture)
        frames[number] = drawn.view(height, width, 3)
        coverage[number] = covered.view(height, width)
        if on_frame is not None:
            on_frame(number + 1, total)
    return DiscFrames(frames, coverage)


def mirrored_lens(cameras: Trajectory) -> Tensor:
    """(F, 3, 3) float64 intrinsics of Spatia's renderer, pixel centres at whole numbers.

    ``u = (W - 1) / 2 + g (fx X / Z - (cx - (W - 1) / 2))`` with ``g = s / (s - 1)`` and s the
    shorter side; v likewise.
    """
    shorter = min(cameras.height, cameras.width)
    middle = torch.tensor([cameras.width - 1, cameras.height - 1], dtype=torch.float64) / 2
    growth = shorter / max(shorter - 1, 1)
    lens = cameras.intrinsics.clone()
    lens[:, :2, :2] *= growth
    lens[:, :2, 2] = middle - growth * (lens[:, :2, 2] - middle)
    return lens


def _lens(cameras: Trajectory) -> Tensor:
    """(F, 3, 3) float64 intrinsics with pixel centres at whole numbers."""
    lens = cameras.intrinsics.clone()
    lens[:, :2, 2] -= 0.5
    return lens


def _expect_cloud(points: Tensor, colours: Tensor) -> None:
    sizes = expect_shape("The points", points, "N 3")
    expect_shape("The points' colours", colours, "N 3", **sizes)
    expect_finite("The points", points)
    expect_finite("The points' colours", colours)
    if len(colours):
        expect_range("The least of the points' colours", float(colours.min()), 0, 1)
        expect_range("The greatest of the points' colours", float(colours.max()), 0, 1)


def _expect_discs(radius: float, points_per_pixel: int) -> None:
    expect_range("The points per pixel", points_per_pixel, 1, MAX_POINTS_PER_PIXEL)
    if not 0 < radius <= 1:
        raise ValueRangeError(
            "The radius of the discs is out of range",
            got=radius,
            expected=f"above 0, at most 1; Spatia's is {DISC_RADIUS:g}",
        )


def _in_own_order(points: Tensor, colours: Tensor) -> _Cloud:
    """The cloud sorted by x, y, z and colour, whatever order it came in."""
    points, colours = points.detach().double(), colours.detach().to(points.device).float()
    order = torch.arange(len(points), device=points.device)
    for column in (*colours.flip(1).unbind(1), *points.flip(1).unbind(1)):
        order = order[torch.argsort(column[order], stable=True)]
    return _Cloud(points[order], colours[order])


def _draw(cloud: _Cloud, matrix: Tensor, picture: _Picture) -> tuple[Tensor, Tensor]:
    """One frame: (H W, 3) colours and (H W,) coverage."""
    pixels, device = picture.height * picture.width, cloud.points.device
    x, y, depth = project(cloud.points, matrix)
    u, v = x / depth, y / depth
    seen = (depth > 0) & (u >= -picture.radius) & (u <= picture.width - 1 + picture.radius)
    seen &= (v >= -picture.radius) & (v <= picture.height - 1 + picture.radius)
    near_to_far = seen.nonzero()[:, 0]
    near_to_far = near_to_far[torch.argsort(depth[near_to_far], stable=True)]
    point = torch.zeros(picture.layers, pixels, dtype=torch.int64, device=device)
    weight = torch.zeros(picture.layers, pixels, device=device)
    filled = torch.zeros(pixels, dtype=torch.int64, device=device)
    for part in near_to_far.split(max(1, _PAIRS // picture.reach**2)):
        which, pixel, cover = _pairs(u[part], v[part], filled, picture)
        layer, order = _next_layers(pixel, filled, picture.layers)
        kept = pixel[order]
        point[layer, kept] = part[which[order]]
        weight[layer, kept] = cover[order]
        if bool((filled == picture.layers).all()):
            break
    return _composite(cloud.colours, point, weight)


def _pairs(
    u: Tensor, v: Tensor, filled: Tensor, picture: _Picture
) -> tuple[Tensor, Tensor, Tensor]:
    """Discs and the pixels that they cover and that have room left.

    Returns:
        (M,) number of the disc, ascending, (M,) pixel, (M,) float32 weight.
    """
    steps = torch.arange(picture.reach, device=u.device)
    column = (u - picture.radius).ceil().long()[:, None] + steps
    row = (v - picture.radius).ceil().long()[:, None] + steps
    across, down = ((column - u[:, None]).float() ** 2, (row - v[:, None]).float() ** 2)
    across[(column < 0) | (column >= picture.width)] = torch.inf
    down[(row < 0) | (row >= picture.height)] = torch.inf
    share = (down[:, :, None] + across[:, None, :]) / picture.radius**2
    disc, i, j = (share <= 1).nonzero(as_tuple=True)
    pixel = row[disc, i] * picture.width + column[disc, j]
    room = filled[pixel] < picture.layers
    disc, i, j = disc[room], i[room], j[room]
    return disc, pixel[room], 1 - share[disc, i, j]


def _next_layers(pixel: Tensor, filled: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """Layer of each pair that still has one, and those pairs; takes the places in ``filled``.

    Pairs come near to far, so the first of a pixel takes its next layer.
    """
    in_order, order = torch.sort(pixel, stable=True)
    touched, count = torch.unique_consecutive(in_order, return_counts=True)
    first = torch.repeat_interleave(count.cumsum(0) - count, count)
    layer = filled[in_order] + torch.arange(len(order), device=order.device) - first
    filled[touched] = (filled[touched] + count).clamp_max(layers)
    kept = layer < layers
    return layer[kept], order[kept]


def _composite(colours: Tensor, point: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    drawn = weight.new_zeros(weight.shape[1], 3)
    left = torch.ones_like(weight[0])
    for which, cover in zip(point, weight, strict=True) if len(colours) else ():
        drawn += (left * cover)[:, None] * colours[which]
        left = left * (1 - cover)
    return drawn, 1 - left


def _cut(levels: Tensor) -> Tensor:
    return (levels * WHITE_8).floor() / WHITE_8
