from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import (
    GeometryError,
    PlanError,
    ShapeError,
    TrajectoryError,
    ValueRangeError,
)
from mirage_core.geometry.trajectory import intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about
from mirage_core.trajectories.presets import EASINGS, MAGNITUDES, PRESETS, ease, preset_trajectory

WIDTH, HEIGHT = 640, 384
LENS = intrinsics_from_fov(WIDTH, HEIGHT, 60)
DEPTH = 4.0


def make(preset, frames=17, **options):
    settings_ = {"scene_depth": DEPTH, "intrinsics": LENS, "width": WIDTH, "height": HEIGHT}
    return preset_trajectory(preset, frames, **(settings_ | options))


def project(trajectory, point):
    world = torch.tensor([*point, 1.0], dtype=torch.float64)
    camera = (trajectory.world_to_camera @ world)[:, :3]
    image = (trajectory.intrinsics @ camera[:, :, None])[:, :, 0]
    return image[:, :2] / image[:, 2:], camera[:, 2]


def some_pose(seed=0):
    angles = torch.tensor([0.3, -1.1, 2.0], dtype=torch.float64) + seed
    turn = rotation_about("x", angles[0]) @ rotation_about("y", angles[1])
    return rigid(
        turn @ rotation_about("z", angles[2]), torch.tensor([1.0, -2.0, 0.5]).double() * (1 + seed)
    )


def test_the_names():
    assert PRESETS == (
        "static", "dolly", "truck", "pedestal", "pan", "tilt", "roll", "orbit", "arc", "crane",
        "spiral", "lemniscate", "zoom", "dolly_zoom",
    )  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_the_first_frame_is_the_start_camera(preset):
    start = some_pose()
    assert torch.equal(make(preset, start=start).world_to_camera[0], invert_rigid(start))
    assert torch.equal(make(preset).world_to_camera[0], torch.eye(4, dtype=torch.float64))
    assert torch.equal(make(preset, amount=-7).intrinsics[0], LENS)


@given(
    preset=st.sampled_from(PRESETS),
    n=st.integers(0, 12),
    amount=st.floats(-10, 10),
    easing=st.sampled_from(EASINGS),
    back=st.booleans(),
)
@settings(max_examples=70, deadline=None)
def test_every_combination_is_a_camera_path(preset, n, amount, easing, back):
    path = make(preset, 4 * n + 1, amount=amount, easing=easing, there_and_back=back)
    assert len(path) == 4 * n + 1
    rotation = path.world_to_camera[:, :3, :3]
    eye = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    torch.testing.assert_close(rotation @ rotation.mT, eye, atol=1e-12, rtol=0)
    assert torch.equal(path.world_to_camera[0], torch.eye(4, dtype=torch.float64))
    if preset in {"dolly", "dolly_zoom", "spiral"}:
        assert bool((path.positions[:, 2] < DEPTH).all())
    if back:
        assert torch.equal(path.world_to_camera, path.world_to_camera.flip(0))
        assert torch.equal(path.intrinsics, path.intrinsics.flip(0))


@given(preset=st.sampled_from(PRESETS), scale=st.floats(1e-4, 1e4), amount=st.floats(-5, 5))
@settings(max_examples=40, deadline=None)
def test_a_preset_looks_alike_at_every_scale(preset, scale, amount):
    small = make(preset, amount=amount)
    large = make(preset, amount=amount, scene_depth=DEPTH * scale)
    torch.testing.assert_close(large.positions / scale, small.positions, rtol=1e-9, atol=1e-12)
    assert torch.equal(large.world_to_camera[:, :3, :3], small.world_to_camera[:, :3, :3])
    assert torch.equal(large.intrinsics, small.intrinsics)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_move_happens_in_the_start_camera_s_axes(preset):
    start = some_pose(1)
    expected = start @ make(preset).camera_to_world
    torch.testing.assert_close(
        make(preset, start=start).camera_to_world, expected, atol=1e-12, rtol=0
    )


@pytest.mark.parametrize(
    ("preset", "axis", "distance"),
    [
        ("truck", 0, MAGNITUDES["truck"]),
        ("pedestal", 1, -MAGNITUDES["pedestal"]),
        ("dolly", 2, MAGNITUDES["dolly"]),
        ("dolly_zoom", 2, MAGNITUDES["dolly_zoom"]),
        ("crane", 1, -MAGNITUDES["crane"]),
    ],
)
def test_directions_of_straight_moves(preset, axis, distance):
    expected = torch.zeros(3, dtype=torch.float64)
    expected[axis] = distance * DEPTH
    torch.testing.assert_close(make(preset).positions[-1], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("preset", "point", "axis", "sign"),
    [
        # Where a thing goes in the picture when the camera moves: the opposite way.
        ("truck", (0, 0, DEPTH), 0, -1),
        ("pedestal", (0, 0, DEPTH), 1, 1),
        ("pan", (0, 0, DEPTH), 0, -1),
        ("tilt", (0, 0, DEPTH), 1, 1),
        ("roll", (1, 0, DEPTH), 1, -1),
        ("orbit", (0, 0, 2 * DEPTH), 0, 1),
        ("crane", (0, 0, 2 * DEPTH), 1, -1),
        ("arc", (0, 0, 2 * DEPTH), 0, 1),
        ("dolly", (1, 0, DEPTH), 0, 1),
        ("zoom", (1, 0, DEPTH), 0, 1),
        ("dolly_zoom", (1, 0, 2 * DEPTH), 0, -1),
    ],
)
def test_directions_in_the_picture(preset, point, axis, sign):
    for amount in (1.0, -1.0):
        pixels, _ = project(make(preset, easing="linear", amount=amount), point)
        steps = pixels.diff(dim=0)[:, axis] * sign * amount
        assert bool((steps > 0).all()), steps


@pytest.mark.parametrize(
    ("preset", "axis"), [("pan", (0, 2)), ("tilt", (1, 2)), ("roll", (1, 0)), ("orbit", (0, 2))]
)
def test_angles(preset, axis):
    rotation = make(preset, amount=2).camera_to_world[-1, :3, :3]
    column = 0 if preset == "roll" else 2
    angle = math.degrees(
        math.atan2(float(rotation[axis[0], column]), float(rotation[axis[1], column]))
    )
    if preset == "roll":
        assert angle == pytest.approx(2 * MAGNITUDES["roll"])
    else:
        sign = {"pan": 1, "tilt": -1, "orbit": -1}[preset]
        assert angle == pytest.approx(2 * sign * MAGNITUDES[preset])


@pytest.mark.parametrize(
    "preset", ["orbit", "arc", "crane", "spiral", "lemniscate", "dolly", "zoom"]
)
@pytest.mark.parametrize("amount", [1.0, -3.0])
def test_the_target_stays_in_the_middle(preset, amount):
    pixels, depth = project(make(preset, amount=amount), (0, 0, DEPTH))
    middle = torch.tensor([WIDTH / 2, HEIGHT / 2], dtype=torch.float64).expand_as(pixels)
    torch.testing.assert_close(pixels, middle, atol=1e-8, rtol=0)
    assert bool((depth > 0).all())
    if preset in {"orbit", "arc"}:
        torch.testing.assert_close(depth, torch.full_like(depth, DEPTH))


@pytest.mark.parametrize("preset", ["orbit", "arc", "crane", "spiral", "lemniscate"])
def test_cameras_that_face_the_target_stay_upright(preset):
    right = make(preset, amount=3).camera_to_world[:, 1, 0]
    assert float(right.abs().max()) < 1e-12


def test_dolly_zoom_keeps_the_size_of_the_target():
    for amount in (1.5, -10.0, 10.0):
        path = make("dolly_zoom", amount=amount)
        pixels, _ = project(path, (0.5, 0.3, DEPTH))
        torch.testing.assert_close(pixels, pixels[:1].expand_as(pixels), atol=1e-7, rtol=0)
        assert float(path.intrinsics[:, 0, 0].diff().abs().min()) > 0


def test_zoom_multiplies_both_focal_lengths_and_nothing_else():
    lens = torch.tensor([[500.0, 0, 300.0], [0, 510.0, 200.0], [0, 0, 1]], dtype=torch.float64)
    last = make("zoom", intrinsics=lens, amount=2).intrinsics[-1]
    factor = MAGNITUDES["zoom"] ** 2
    expected = torch.tensor([[500 * factor, 0, 300], [0, 510 * factor, 200], [0, 0, 1.0]]).double()
    torch.testing.assert_close(last, expected)


def test_the_lemniscate_is_closed_and_crosses_its_middle():
    path = make("lemniscate", 33, easing="linear").positions
    assert torch.equal(path[0], path[-1])
    torch.testing.assert_close(path[16], path[0], atol=1e-12, rtol=0)
    assert float(path[4, 0]) > 0 > float(path[4, 1])
    assert float(path[:, 0].max()) == pytest.approx(MAGNITUDES["lemniscate"] * DEPTH)
    assert float(path[:, 0].min()) == pytest.approx(-MAGNITUDES["lemniscate"] * DEPTH)
    backwards = make("lemniscate", 33, easing="linear", amount=-1).positions
    torch.testing.assert_close(backwards, path.flip(0), atol=1e-12, rtol=0)


def test_the_spiral_grows_and_turns_round_with_the_sign():
    def winding(amount):
        x, y = make("spiral", 81, easing="linear", amount=amount).positions[1:, :2].unbind(1)
        radius = torch.hypot(x, y)
        assert bool((radius.diff() > 0).all())
        # In picture axes, y down, a positive cross product is clockwise.
        return x[:-1] * y[1:] - y[:-1] * x[1:]

    assert bool((winding(1.0) > 0).all())
    assert bool((winding(-1.0) < 0).all())


def test_there_and_back_turns_round_in_the_middle():
    path = make("truck", 17, there_and_back=True)
    one_way = make("truck", 9)
    assert torch.equal(path.world_to_camera[:9], one_way.world_to_camera)
    assert float(path.positions[8, 0]) == pytest.approx(MAGNITUDES["truck"] * DEPTH)
    # More frames than a vector register holds, where rounding could differ by place.
    for preset in PRESETS:
        long = make(preset, 1001, there_and_back=True, amount=3, start=some_pose())
        assert torch.equal(long.world_to_camera, long.world_to_camera.flip(0))
        assert torch.equal(long.intrinsics, long.intrinsics.flip(0))


@pytest.mark.parametrize("easing", EASINGS)
def test_easings(easing):
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    progress = ease(easing, t)
    assert float(progress[0]) == 0
    assert float(progress[-1]) == 1
    assert bool((progress.diff() > 0).all())
    speed = progress.diff() / t.diff()
    rests = {"linear": (0, 0), "smooth": (1, 1), "ease_in": (1, 0), "ease_out": (0, 1)}[easing]
    assert (float(speed[0]) < 0.01, float(speed[-1]) < 0.01) == tuple(map(bool, rests))


def test_bad_input_is_refused_with_the_right_type():
    with pytest.raises(TrajectoryError, match="dolly_zoom"):
        make("fly")
    with pytest.raises(TrajectoryError, match="ease_out"):
        make("pan", easing="bouncy")
    for frames in (0, -3, 2, 16):
        with pytest.raises(PlanError):
            make("pan", frames)
    for depth in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(GeometryError, match="scene depth"):
            make("pan", scene_depth=depth)
    for amount in (math.nan, math.inf, 10.5, -11):
        with pytest.raises(ValueRangeError, match="amount"):
            make("pan", amount=amount)
    with pytest.raises(ShapeError):
        make("pan", intrinsics=LENS[None])
    with pytest.raises(GeometryError):
        make("pan", intrinsics=-LENS)
    with pytest.raises(ShapeError):
        make("pan", start=torch.eye(3))
    with pytest.raises(GeometryError, match="start camera"):
        make("pan", start=2 * torch.eye(4))


def test_inputs_are_not_changed():
    start, lens = some_pose(), LENS.clone()
    before = start.clone()
    make("zoom", start=start, intrinsics=lens)
    assert torch.equal(start, before)
    assert torch.equal(lens, LENS)
