"""The disc renderer against Spatia's own, a plain loop, and where Mirage projects points."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.errors import GeometryError, ShapeError, ValueRangeError
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.readout import discs
from mirage_core.readout.discs import DiscFrames, render_discs
from spatia_oracle import SpatiaOracle, cameras

ORACLE = SpatiaOracle()
CASES = ORACLE.settings["render"]["cases"]
WIDE = [case for case in CASES if case["radius_ndc"] > discs.DISC_RADIUS]


def one_camera(width: int = 9, height: int = 7, centre: tuple[float, float] | None = None):
    """A camera at the origin, one pixel for each unit at depth 8."""
    u, v = centre or (width / 2, height / 2)
    return cameras(torch.eye(4)[None], [8, 8, u, v], (height, width))


def by_hand(points: Tensor, colours: Tensor, camera: Trajectory, radius: float, layers: int):
    """One pixel after the other, one point after the other."""
    height, width = camera.height, camera.width
    reach = radius * min(height, width) / 2
    (k,), (e,) = camera.intrinsics, camera.world_to_camera
    seen = []
    for point, colour in zip(points.double(), colours.double(), strict=True):
        x, y, z = (e[:3, :3] @ point + e[:3, 3]).tolist()
        if z > 0:
            u = float(k[0, 0]) * x / z + float(k[0, 2]) - 0.5
            v = float(k[1, 1]) * y / z + float(k[1, 2]) - 0.5
            seen.append(((z, *point.tolist(), *colour.tolist()), u, v, colour))
    frame, coverage = torch.zeros(height, width, 3), torch.zeros(height, width)
    for row in range(height):
        for column in range(width):
            near = []
            for key, u, v, colour in seen:
                share = ((u - column) ** 2 + (v - row) ** 2) / reach**2
                if share <= 1:
                    near.append((key, 1 - share, colour))
            left = 1.0
            for _, weight, colour in sorted(near, key=lambda entry: entry[0])[:layers]:
                frame[row, column] += (left * weight * colour).float()
                left *= 1 - weight
            coverage[row, column] = 1 - left
    return frame, coverage


def drawn(case: dict) -> DiscFrames:
    """One of the oracle's pictures, as Spatia's code places points."""
    return render_discs(
        ORACLE.tensor(f"render.{case['cloud']}.points"),
        ORACLE.tensor(f"render.{case['cloud']}.colours"),
        cameras(
            ORACLE.tensor("render.w2c")[case["camera"]][None], case["pixel_intrinsics"],
            case["size"],
        ),
        radius=case["radius_ndc"],
        mirrored_principal_point=True,
    )  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case["prefix"] for case in CASES])
def test_levels_are_the_originals(case: dict) -> None:
    """Where a level is all but reached, the last bits of float32 decide on which side it falls."""
    levels = drawn(case).in_8_bits()
    for ours, name in ((levels.frames[0], "rgb_u8"), (levels.coverage[0, ..., None], "score_u8")):
        apart = ((ours * 255).round() - ORACLE.tensor(f"{case['prefix']}.{name}")).abs()
        assert apart.max() <= 1
        assert (apart > 0).float().mean() < 5e-4


@pytest.mark.parametrize("name", ["rgb", "score"])
@pytest.mark.parametrize("case", WIDE, ids=[case["prefix"] for case in WIDE])
def test_numbers_are_the_originals(case: dict, name: str) -> None:
    expected = ORACLE.tensor(f"{case['prefix']}.{name}")
    found = drawn(case)
    ours = found.frames[0] if name == "rgb" else found.coverage[0, ..., None]
    assert torch.allclose(ours, expected, atol=1e-4, rtol=0)


def test_default_radius_is_the_originals() -> None:
    assert discs.DISC_RADIUS == min(case["radius_ndc"] for case in CASES)
    assert ORACLE.settings["render"]["points_per_pixel"] == discs.POINTS_PER_PIXEL


@given(
    count=st.integers(0, 12),
    seed=st.integers(0, 1000),
    radius=st.sampled_from([0.05, 0.3, 0.9]),
    layers=st.integers(1, 6),
)
def test_a_plain_loop_draws_the_same(make, count, seed, radius, layers) -> None:
    points = make.noise(count, 3, seed=seed) * torch.tensor([3.0, 3.0, 2.0])
    points[:, 2] = (points[:, 2] * 2).round() / 2 + 4  # equal depths, and some behind the camera
    colours = make.uniform(count, 3, seed=seed + 1)
    camera = one_camera()
    found = render_discs(points, colours, camera, radius=radius, points_per_pixel=layers)
    frame, coverage = by_hand(points, colours, camera, radius, layers)
    assert torch.allclose(found.frames[0], frame, atol=1e-5)
    assert torch.allclose(found.coverage[0], coverage, atol=1e-5)


@given(seed=st.integers(0, 1000))
def test_the_order_of_points_does_not_matter(make, seed: int) -> None:
    points = (4 * make.noise(60, 3, seed=seed)).round() / 4 + torch.tensor([0.0, 0.0, 4.0])
    colours = (make.uniform(60, 3, seed=seed) * 3).round() / 3
    mixed = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    camera = one_camera(33, 32)
    one = render_discs(points, colours, camera, radius=0.2)
    other = render_discs(points[mixed], colours[mixed], camera, radius=0.2)
    assert torch.equal(one.frames, other.frames)
    assert torch.equal(one.coverage, other.coverage)


def test_work_in_small_parts_is_the_same(make, monkeypatch) -> None:
    points = make.noise(300, 3) * 0.4 + torch.tensor([0.0, 0.0, 4.0])
    colours = make.uniform(300, 3)
    whole = render_discs(points, colours, one_camera(33, 32), radius=0.2)
    monkeypatch.setattr(discs, "_PAIRS", 200)
    parts = render_discs(points, colours, one_camera(33, 32), radius=0.2)
    assert torch.equal(whole.frames, parts.frames)
    assert torch.equal(whole.coverage, parts.coverage)


@given(
    u=st.floats(0.6, 31.4), v=st.floats(0.6, 23.4),
    centre=st.tuples(st.floats(2, 30), st.floats(2, 22)),
)  # fmt: skip
def test_a_point_lands_where_mirage_projects_it(u: float, v: float, centre) -> None:
    """With the principal point anywhere, the pixel that holds the point is covered most."""
    camera = one_camera(32, 24, centre)
    point = torch.tensor([[(u - centre[0]) / 4, (v - centre[1]) / 4, 2.0]], dtype=torch.float64)
    found = render_discs(point, torch.ones(1, 3), camera, radius=0.3)
    row, column = divmod(int(found.coverage[0].argmax()), 32)
    assert abs(column + 0.5 - u) <= 0.5 + 1e-6
    assert abs(row + 0.5 - v) <= 0.5 + 1e-6
    distance = math.hypot(column + 0.5 - u, row + 0.5 - v)
    assert float(found.coverage.max()) == pytest.approx(1 - (distance / 3.6) ** 2, abs=1e-5)


def test_the_mirrored_principal_point_acts_the_other_way() -> None:
    point, white = torch.tensor([[0.0, 0.0, 2.0]]), torch.ones(1, 3)
    camera = one_camera(32, 24, (20.0, 12.0))
    for mirrored, expected in ((False, 19.5), (True, 15.5 - 24 / 23 * 4.5)):
        found = render_discs(
            point, white, camera, radius=0.3, mirrored_principal_point=mirrored
        ).coverage[0]
        middle = (found.sum(0) * torch.arange(32.0)).sum() / found.sum()
        assert float(middle) == pytest.approx(expected, abs=0.1)


def test_no_points_are_black_and_uncovered() -> None:
    found = render_discs(torch.zeros(0, 3), torch.zeros(0, 3), one_camera())
    assert not found.frames.any()
    assert not found.coverage.any()
    assert found.frames.shape == (1, 7, 9, 3)


def test_every_level_survives_a_second_cut() -> None:
    levels = (torch.arange(256.0) / 255).view(1, 16, 16)
    once = DiscFrames(levels[..., None].repeat(1, 1, 1, 3), levels).in_8_bits()
    assert torch.equal(once.coverage, levels)


def test_a_callback_sees_every_frame_and_may_cancel(make) -> None:
    shot = make.trajectory(3, 32, 32)
    calls: list[tuple[int, int]] = []
    render_discs(
        torch.zeros(0, 3), torch.zeros(0, 3), shot, on_frame=lambda *call: calls.append(call)
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]

    def cancel(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_discs(torch.zeros(0, 3), torch.zeros(0, 3), shot, on_frame=cancel)


@pytest.mark.parametrize(
    ("points", "colours", "options", "error"),
    [
        (torch.zeros(2, 2), torch.zeros(2, 3), {}, ShapeError),
        (torch.zeros(2, 3), torch.zeros(3, 3), {}, ShapeError),
        (torch.full((1, 3), torch.nan), torch.zeros(1, 3), {}, GeometryError),
        (torch.zeros(1, 3), torch.full((1, 3), torch.inf), {}, GeometryError),
        (torch.zeros(1, 3), torch.full((1, 3), 1.5), {}, ValueRangeError),
        (torch.zeros(1, 3), torch.full((1, 3), -0.1), {}, ValueRangeError),
        (torch.zeros(1, 3), torch.zeros(1, 3), {"radius": 0.0}, ValueRangeError),
        (torch.zeros(1, 3), torch.zeros(1, 3), {"radius": -1.0}, ValueRangeError),
        (torch.zeros(1, 3), torch.zeros(1, 3), {"radius": math.nan}, ValueRangeError),
        (torch.zeros(1, 3), torch.zeros(1, 3), {"points_per_pixel": 0}, ValueRangeError),
    ],
)
def test_bad_input_is_refused(points, colours, options, error) -> None:
    with pytest.raises(error):
        render_discs(points, colours, one_camera(), **options)
