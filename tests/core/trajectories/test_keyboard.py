from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import GeometryError, ShapeError, TrajectoryError, ValueRangeError
from mirage_core.geometry.trajectory import intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about
from mirage_core.trajectories.keyboard import (
    DEFAULT_STEP,
    DEFAULT_TURN,
    MAX_STEPS,
    keyboard_frames,
    keyboard_trajectory,
)

WIDTH, HEIGHT, DEPTH = 640, 384, 5.0
LENS = intrinsics_from_fov(WIDTH, HEIGHT, 60)
OPPOSITE = str.maketrans("wsadjlik", "swdaljki")

key_sets = st.lists(st.sampled_from("wsadjl."), min_size=1, max_size=4, unique=True).map("".join)
token_lists = st.lists(st.tuples(key_sets, st.integers(1, 30)), min_size=1, max_size=8)


def make(text, **options):
    settings_ = {"intrinsics": LENS, "width": WIDTH, "height": HEIGHT, "scene_depth": DEPTH}
    return keyboard_trajectory(text, **(settings_ | options))


def text_of(tokens):
    return " ".join(f"{keys}*{count}" for keys, count in tokens)


def walk(tokens, step, turn):
    """The same language, one step at a time, with nothing but sines and cosines."""
    x = z = yaw = pitch = 0.0
    states = [(x, z, yaw, pitch)]
    for keys, count in tokens:
        for _ in range(count):
            turned = ("l" in keys) - ("j" in keys)
            ahead, aside = ("w" in keys) - ("s" in keys), ("d" in keys) - ("a" in keys)
            angle = math.radians((yaw + turned / 2) * turn)
            x += step * (ahead * math.sin(angle) + aside * math.cos(angle))
            z += step * (ahead * math.cos(angle) - aside * math.sin(angle))
            yaw += turned
            pitch += ("i" in keys) - ("k" in keys)
            states.append((x, z, yaw, pitch))
    return states


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from("wsadjlik."), min_size=1, max_size=5, unique=True).map(
                "".join
            ),
            st.integers(1, 9),
        ),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=40, deadline=None)
def test_against_a_walk_of_single_steps(tokens):
    path = make(text_of(tokens))
    states = walk(tokens, DEFAULT_STEP * DEPTH, DEFAULT_TURN)
    frames = -(-(len(states) - 1) // 4) * 4 + 1
    assert len(path) == keyboard_frames(text_of(tokens)) == frames
    states += [states[-1]] * (frames - len(states))
    table = torch.tensor(states, dtype=torch.float64)
    expected = torch.zeros(frames, 3, dtype=torch.float64)
    expected[:, [0, 2]] = table[:, :2]
    torch.testing.assert_close(path.positions, expected, atol=1e-10, rtol=0)
    yaw, pitch = torch.deg2rad(table[:, 2]), torch.deg2rad(table[:, 3])
    forward = torch.stack([yaw.sin() * pitch.cos(), -pitch.sin(), yaw.cos() * pitch.cos()], dim=-1)
    torch.testing.assert_close(path.camera_to_world[:, :3, 2], forward, atol=1e-10, rtol=0)
    # Upright: the camera's right stays level.
    assert float(path.camera_to_world[:, 1, 0].abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("key", "axis", "sign"), [("w", 2, 1), ("s", 2, -1), ("d", 0, 1), ("a", 0, -1)]
)
def test_walking(key, axis, sign):
    expected = torch.zeros(5, 3, dtype=torch.float64)
    expected[:, axis] = torch.arange(5) * sign * 0.1 * DEPTH
    path = make(f"{key}*4", step=0.1)
    torch.testing.assert_close(path.positions, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("key", "axis", "sign"), [("l", 0, 1), ("j", 0, -1), ("i", 1, -1), ("k", 1, 1)]
)
def test_turning_and_looking(key, axis, sign):
    path = make(f"{key}*4", turn_degrees=10)
    assert float(path.positions.abs().max()) == 0
    assert float(path.camera_to_world[-1, axis, 2]) == pytest.approx(
        sign * math.sin(math.radians(40))
    )


def test_walking_stays_level_while_looking_up():
    level, looking = make("i*0012 w*8").positions, make("i*12,wi*4\nw*4").positions
    assert float(level[:, 1].abs().max()) < 1e-12
    torch.testing.assert_close(level[12:], looking[12:], atol=1e-12, rtol=0)


@given(token_lists)
@settings(max_examples=40, deadline=None)
def test_the_opposite_keys_backwards_lead_home(tokens):
    there = text_of(tokens)
    back = text_of([(keys.translate(OPPOSITE), count) for keys, count in reversed(tokens)])
    path = make(f"{there} {back}")
    torch.testing.assert_close(
        path.camera_to_world[-1], path.camera_to_world[0], atol=1e-10, rtol=0
    )


@given(token_lists)
@settings(max_examples=25, deadline=None)
def test_case_separators_and_order_of_keys_do_not_matter(tokens):
    plain = make(text_of(tokens)).fingerprint()
    other = ",\n\t ".join(f"{keys[::-1].upper()}*00{count}" for keys, count in tokens)
    assert make(f" ,{other},, ").fingerprint() == plain
    spelled = " ".join(" ".join([keys] * count) for keys, count in tokens)
    assert make(spelled).fingerprint() == plain


def test_contradicting_keys_cancel():
    assert make("wsadjlik.*8").fingerprint() == make(".*8").fingerprint()
    assert make("wsl*8").fingerprint() == make("l*8").fingerprint()


@pytest.mark.parametrize(("steps", "frames"), [(1, 5), (3, 5), (4, 5), (5, 9), (96, 97), (97, 101)])
def test_the_end_is_held_until_the_frames_fit(steps, frames):
    path = make(f"w*{steps}")
    assert len(path) == keyboard_frames(f"w*{steps}") == frames
    assert float(path.positions[steps, 2]) == pytest.approx(steps * DEFAULT_STEP * DEPTH)
    held = path.world_to_camera[steps:]
    assert torch.equal(held, held[:1].expand_as(held))


def test_turning_there_and_back_is_exact():
    path = make("l*77 w j*77", turn_degrees=0.1)
    assert torch.equal(path.world_to_camera[-1, :3, :3], torch.eye(3, dtype=torch.float64))


def test_the_start_camera_and_its_axes():
    turn = rotation_about("x", torch.tensor(0.4).double()) @ rotation_about(
        "z", torch.tensor(1.0).double()
    )
    start = rigid(turn, torch.tensor([1.0, 2.0, 3.0]).double())
    path = make("w*4 dl*9 k*3", start=start)
    assert torch.equal(path.world_to_camera[0], invert_rigid(start))
    expected = start @ make("w*4 dl*9 k*3").camera_to_world
    torch.testing.assert_close(path.camera_to_world, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("text", "token", "place"),
    [
        ("w*3 x*4", r"'x\*4'", 5),
        ("w*3, w**4", r"'w\*\*4'", 6),
        ("w3", "'w3'", 1),
        ("*3", r"'\*3'", 1),
        ("w*-3", r"'w\*-3'", 1),
        ("w*1.5", r"'w\*1.5'", 1),
        ("w*", r"'w\*'", 1),
        ("d w*٣", r"'w\*٣'", 3),
        ("a ww", "'ww'", 3),
        ("a wW*2", "'wW", 3),
        ("w*0", r"'w\*0'", 1),
        (f"w*10 l*{MAX_STEPS}", "'l", 6),
        ("w*" + "9" * 10_000, "'w", 1),
        ("w*4 i*50 w ik i*41", r"'i\*41'", 15),
    ],
)
def test_errors_point_at_the_token(text, token, place):
    with pytest.raises(TrajectoryError, match=token) as caught:
        make(text)
    message = str(caught.value)
    assert f"character {place}." in message
    assert "w/s forward/back" in message
    assert len(message) < 500


@pytest.mark.parametrize("text", ["", "  ,\n"])
def test_no_keys(text):
    with pytest.raises(TrajectoryError, match="no keys"):
        keyboard_frames(text)


def test_limits():
    assert keyboard_frames(f"w*{MAX_STEPS}") == MAX_STEPS + 1
    with pytest.raises(TrajectoryError, match="longer"):
        keyboard_frames(f"w*{MAX_STEPS} w")
    assert float(make("i*90").camera_to_world[90, 1, 2]) == pytest.approx(-1)
    with pytest.raises(TrajectoryError, match="straight"):
        make("k*91")
    with pytest.raises(GeometryError, match="scene depth"):
        make("w", scene_depth=math.nan)
    for options in ({"step": math.nan}, {"step": -1}, {"turn_degrees": 91}):
        with pytest.raises(ValueRangeError):
            make("w", **options)
    with pytest.raises(ShapeError):
        make("w", intrinsics=LENS[:2])


def test_a_walk_that_goes_on_keeps_its_cameras() -> None:
    """To the last bit, whatever comes after: by them its chunks are taken over."""
    tokens = ["w*8", "wl*8", "il*8", "d*8", "skj*8"] * 10
    whole = make(" ".join(tokens))
    for count in range(1, len(tokens)):
        part = make(" ".join(tokens[:count]))
        begun = whole.select(slice(0, len(part)))
        assert torch.equal(part.world_to_camera, begun.world_to_camera), count
        assert part.fingerprint() == begun.fingerprint(), count
