from __future__ import annotations

import contextlib
import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import (
    CacheFormatError,
    GeometryError,
    MirageError,
    PlanError,
    TrajectoryError,
    ValueRangeError,
)
from mirage_core.geometry.trajectory import intrinsics_from_fov
from mirage_core.geometry.transform import rigid, rotation_about
from mirage_core.trajectories.keyframes import (
    Keyframe,
    keyframe_trajectory,
    keyframes_from_json,
    keyframes_to_json,
)
from mirage_core.trajectories.presets import EASINGS

WIDTH, HEIGHT = 640, 384
LENS = intrinsics_from_fov(WIDTH, HEIGHT, 60)
IDENTITY = (0.0, 0.0, 0.0, 1.0)


def make(keys, frames=33, **options):
    return keyframe_trajectory(
        keys, frames, **({"intrinsics": LENS, "width": WIDTH, "height": HEIGHT} | options)
    )


def matrix_of(quaternion):
    """Textbook rotation matrix of a quaternion (x, y, z, w) of any length."""
    norm = math.hypot(*quaternion)
    x, y, z, w = (value / norm for value in quaternion)
    return torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )


def turned(degrees):
    half = math.radians(degrees) / 2
    return (0.0, math.sin(half), 0.0, math.cos(half))


def heading(path):
    forward = path.camera_to_world[:, :3, 2]
    return torch.rad2deg(torch.atan2(forward[:, 0], forward[:, 2]))


coordinate = st.floats(-100, 100)
part = st.floats(-1, 1)
quaternions = st.tuples(part, part, part, part).filter(lambda q: math.hypot(*q) > 0.1)


@st.composite
def key_lists(draw):
    frames = draw(st.lists(st.integers(0, 32), min_size=1, max_size=6, unique=True))
    return [
        Keyframe(
            frame,
            draw(st.tuples(coordinate, coordinate, coordinate)),
            draw(quaternions),
            draw(st.none() | st.floats(5, 150)),
            draw(st.sampled_from(EASINGS)),
        )
        for frame in frames
    ]


def test_the_farthest_positions_make_a_path_or_a_typed_error() -> None:
    far = 3.4e38
    keys = [
        Keyframe(frame, (far * way, 0, 0), IDENTITY, tangent=tangent)
        for frame, way, tangent in ((0, 1, "monotone"), (1, -1, "smooth"), (2, 1, "rest"))
    ]
    for chosen in (keys, [dataclasses.replace(key, tangent="monotone") for key in keys]):
        with contextlib.suppress(MirageError):
            assert make(chosen).world_to_camera.isfinite().all()


@given(key_lists())
@settings(max_examples=40, deadline=None)
def test_the_path_passes_through_every_keyframe_and_holds_outside(keys):
    path = make(keys)
    poses = path.camera_to_world
    for key in keys:
        pose = poses[key.frame]
        torch.testing.assert_close(pose[:3, :3], matrix_of(key.quaternion), atol=1e-9, rtol=0)
        expected = torch.tensor(key.position, dtype=torch.float64)
        torch.testing.assert_close(pose[:3, 3], expected, atol=1e-9, rtol=0)
        lens = LENS if key.fov_x is None else intrinsics_from_fov(WIDTH, HEIGHT, key.fov_x)
        torch.testing.assert_close(path.intrinsics[key.frame], lens, rtol=1e-9, atol=1e-9)
    first, last = min(k.frame for k in keys), max(k.frame for k in keys)
    for outside, key in ((poses[: first + 1], first), (poses[last:], last)):
        torch.testing.assert_close(outside, poses[key].expand_as(outside), atol=1e-12, rtol=0)


@given(key_lists())
@settings(max_examples=30, deadline=None)
def test_no_axis_goes_beyond_its_neighbouring_keyframes(keys):
    path = make(keys)
    ordered = sorted(keys, key=lambda key: key.frame)
    for key, following in zip(ordered, ordered[1:], strict=False):
        ends = torch.tensor([key.position, following.position], dtype=torch.float64)
        between = path.positions[key.frame : following.frame + 1]
        assert bool((between >= ends.amin(0) - 1e-9).all())
        assert bool((between <= ends.amax(0) + 1e-9).all())
        focal = path.intrinsics[key.frame : following.frame + 1, 0, 0]
        assert float(focal.min()) >= float(torch.minimum(focal[0], focal[-1])) - 1e-9
        assert float(focal.max()) <= float(torch.maximum(focal[0], focal[-1])) + 1e-9


def test_the_order_of_the_list_does_not_matter():
    keys = [Keyframe(f, (f, -f, f * f), turned(f), 30 + f) for f in (0, 7, 20, 32)]
    assert make(keys).fingerprint() == make(keys[::-1]).fingerprint()


def test_linear_time_on_two_keyframes_is_a_straight_line():
    keys = [
        Keyframe(0, (0, 0, 0), IDENTITY, 90, easing="linear"),
        Keyframe(32, (3, 0, 6), turned(64), 40),
    ]
    path = make(keys)
    share = torch.arange(33, dtype=torch.float64) / 32
    line = share[:, None] * torch.tensor([3.0, 0.0, 6.0], dtype=torch.float64)
    torch.testing.assert_close(path.positions, line, atol=1e-12, rtol=0)
    torch.testing.assert_close(heading(path), 64 * share, atol=1e-9, rtol=0)
    ratios = path.intrinsics[1:, 0, 0] / path.intrinsics[:-1, 0, 0]
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))


def test_rotation_takes_the_short_way_whatever_the_quaternion_s_sign():
    near = turned(20)
    for quaternion in (near, tuple(-value for value in near)):
        path = make([Keyframe(0, (0, 0, 0), turned(-10)), Keyframe(32, (0, 0, 0), quaternion)])
        angles = heading(path)
        assert bool((angles.diff() >= -1e-9).all())
        assert float(angles[-1]) == pytest.approx(20)


def test_easing_decides_whether_the_camera_rests_at_a_keyframe():
    def step_at_middle(easing):
        keys = [Keyframe(f, (f, 0, 0), turned(f), easing=easing) for f in (0, 100, 200)]
        path = make(keys, 201)
        return float(path.positions[100, 0] - path.positions[99, 0])

    assert step_at_middle("smooth") < 0.05
    assert step_at_middle("linear") == pytest.approx(1)
    keys = [Keyframe(0, (0, 0, 0), IDENTITY, easing="ease_in"), Keyframe(100, (1, 0, 0), IDENTITY)]
    x = make(keys, 101).positions[:, 0]
    torch.testing.assert_close(x, (torch.arange(101) / 100.0).double() ** 2, atol=1e-6, rtol=0)


def test_linear_paths_have_no_jump_of_speed_at_a_keyframe():
    keys = [
        Keyframe(f, p, IDENTITY, easing="linear")
        for f, p in ((0, (0, 0, 0)), (400, (1, 2, 1)), (800, (4, 3, 1)))
    ]
    steps = make(keys, 801).positions.diff(dim=0)
    jumps = steps.diff(dim=0).norm(dim=1)
    assert float(jumps[399]) < 3 * float(jumps[390:398].max()) + 1e-9


def test_focal_lengths_keep_their_ratio():
    lens = torch.tensor([[500.0, 0, 300], [0, 400.0, 200], [0, 0, 1]], dtype=torch.float64)
    path = make([Keyframe(0, (0, 0, 0), IDENTITY, 40)], 1, intrinsics=lens)
    focal = float(intrinsics_from_fov(WIDTH, HEIGHT, 40)[0, 0])
    expected = torch.tensor([[focal, 0, 300], [0, focal * 0.8, 200], [0, 0, 1]]).double()
    torch.testing.assert_close(path.intrinsics[0], expected, rtol=1e-6, atol=1e-6)


def test_quaternions_of_any_length():
    for scale in (1e-5, 1.0, 1e200):
        key = Keyframe(0, (0, 0, 0), tuple(scale * value for value in turned(30)))
        assert float(heading(make([key], 5))[-1]) == pytest.approx(30)


def test_bad_keyframes_are_refused():
    with pytest.raises(TrajectoryError, match="no keyframes"):
        make([])
    key = Keyframe(3, (0, 0, 0), IDENTITY)
    with pytest.raises(TrajectoryError, match="same frame"):
        make([key, dataclasses.replace(key, position=(1, 0, 0))])
    with pytest.raises(TrajectoryError, match="after the end"):
        make([Keyframe(33, (0, 0, 0), IDENTITY)])
    with pytest.raises(PlanError):
        make([key], 32)
    for frame in (-1, 1.5, True, 10**9):
        with pytest.raises(TrajectoryError, match="frame number"):
            Keyframe(frame, (0, 0, 0), IDENTITY)
    with pytest.raises(GeometryError, match="zero"):
        Keyframe(0, (0, 0, 0), (0, 0, 0, 0))
    # Three of 1e308 in turn have slopes beyond double precision.
    for bad in (math.nan, math.inf, 1e308, -1e39):
        with pytest.raises(GeometryError, match="position"):
            Keyframe(0, (0, bad, 0), IDENTITY)
    for bad in (math.nan, math.inf):
        with pytest.raises(GeometryError, match="quaternion"):
            Keyframe(0, (0, 0, 0), (0, 0, bad, 1))
    with pytest.raises(TrajectoryError, match="length"):
        Keyframe(0, (0, 0), IDENTITY)
    with pytest.raises(TrajectoryError, match="ease_out"):
        Keyframe(0, (0, 0, 0), IDENTITY, easing="fast")
    for fov in (0.5, 171, math.nan):
        with pytest.raises(ValueRangeError, match="field of view"):
            Keyframe(0, (0, 0, 0), IDENTITY, fov)


@given(key_lists())
@settings(max_examples=30, deadline=None)
def test_json_round_trip_is_exact(keys):
    assert keyframes_from_json(keyframes_to_json(keys)) == tuple(
        sorted(keys, key=lambda key: key.frame)
    )


def document(**changes):
    data = json.loads(keyframes_to_json([Keyframe(0, (0, 0, 0), IDENTITY)]))
    return json.dumps(data | changes)


def test_json_says_its_convention():
    data = json.loads(document())
    assert data["format"] == "mirage-keyframes"
    assert data["version"] == 1
    assert data["convention"] == {"axes": "opencv", "matrix": "camera_to_world"}
    minimal = document(keyframes=[{"frame": 4, "position": [1, 2, 3], "quaternion": [0, 0, 0, 1]}])
    assert keyframes_from_json(minimal) == (Keyframe(4, (1, 2, 3), IDENTITY),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "mirage-keyframes"),
        ({"version": 3}, "Update Mirage"),
        ({"version": "1"}, "version"),
        ({"convention": None}, '"axes": "opencv"'),
        ({"convention": {"axes": "opengl", "matrix": "camera_to_world"}}, "axes"),
        ({"convention": {"axes": "opencv", "matrix": "world_to_camera"}}, "matrix"),
        ({"keyframes": {}}, "list"),
        ({"keyframes": [3]}, "Keyframe 0"),
        ({"keyframes": [{}]}, "position"),
        ({"keyframes": [{"frame": 0, "position": ["NaN", 0, 0]}]}, "not a number"),
        ({"keyframes": [{"frame": 0, "position": [10**400, 0, 0]}]}, "not a number"),
        ({"keyframes": [{"position": [0, 0, 0], "quaternion": [0, 0, 0, 1]}]}, "frame number"),
        ({"keyframes": [{"frame": 0, "position": [0, 0, 0], "quaternion": [0, 0, 0, 0]}]}, "zero"),
        (
            {
                "keyframes": [
                    {"frame": 0, "position": [0, 0, 0], "quaternion": [0, 0, 0, 1], "easing": []}
                ]
            },
            "easing",
        ),
    ],
)
def test_malformed_documents_are_refused(changes, message):
    with pytest.raises(CacheFormatError, match=message):
        keyframes_from_json(document(**changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 100_000, '{"a": NaN}'])
def test_text_that_is_no_document(text):
    with pytest.raises(CacheFormatError):
        keyframes_from_json(text)


@given(cut=st.integers(0, 300), junk=st.text(max_size=3))
@settings(max_examples=40, deadline=None)
def test_damaged_text_never_raises_anything_untyped(cut, junk):
    text = document()
    try:
        keyframes_from_json(text[:cut] + junk + text[cut + len(junk) :])
    except MirageError:
        pass


def test_keyframes_relative_to_the_start_camera() -> None:
    """A path of this kind fits another picture: other depth, other first camera."""
    turn = rotation_about("y", torch.tensor(0.8, dtype=torch.float64))
    start = rigid(turn, torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    document = {
        "format": "mirage-keyframes",
        "version": 1,
        "convention": {"axes": "opencv", "matrix": "camera_to_world", "space": "start_camera"},
        "keyframes": [
            {"frame": 0, "position": [0, 0, 0], "quaternion": [0, 0, 0, 2]},
            {"frame": 4, "position": [0, 0, 0.5], "quaternion": [1, 0, 0, 1]},
        ],
    }
    first, second = keyframes_from_json(json.dumps(document), scene_depth=4.0, start=start)
    assert first.position == pytest.approx([1.0, -2.0, 3.0])
    assert second.position == pytest.approx((start[:3, 3] + 2.0 * turn[:, 2]).tolist())
    path = make([first, second], 5)
    assert torch.allclose(path.camera_to_world[0], start, atol=1e-12)
    up = rotation_about("x", torch.tensor(math.pi / 2, dtype=torch.float64))
    assert torch.allclose(path.camera_to_world[4, :3, :3], turn @ up, atol=1e-12)
    plain = keyframes_from_json(json.dumps(document))
    assert plain[1].position == pytest.approx([0, 0, 0.5])


@pytest.mark.parametrize("space", ["scene", 3, None, "World"])
def test_unknown_space_is_refused(space: object) -> None:
    document = {
        "format": "mirage-keyframes",
        "version": 1,
        "convention": {"axes": "opencv", "matrix": "camera_to_world", "space": space},
        "keyframes": [{"frame": 0, "position": [0, 0, 0], "quaternion": [0, 0, 0, 1]}],
    }
    with pytest.raises(CacheFormatError, match="space"):
        keyframes_from_json(json.dumps(document))
