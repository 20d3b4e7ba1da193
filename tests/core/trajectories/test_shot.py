"""Cameras with cuts, a held subject and a hand-held camera, from the document of the widget."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import CacheFormatError, TrajectoryError, ValueRangeError
from mirage_core.geometry.trajectory import intrinsics_from_fov
from mirage_core.trajectories.curves import progress
from mirage_core.trajectories.keyframes import Keyframe, keyframe_trajectory, keyframes_from_json
from mirage_core.trajectories.presets import EASINGS, ease
from mirage_core.trajectories.shake import Shake, noise, shaken
from mirage_core.trajectories.shot import Cut, Shot, shot_from_json, shot_trajectory

WIDTH, HEIGHT = 640, 352
INTRINSICS = intrinsics_from_fov(WIDTH, HEIGHT, 60)
LENS: dict[str, Any] = {"intrinsics": INTRINSICS, "width": WIDTH, "height": HEIGHT}
AHEAD = (0.0, 0.0, 0.0, 1.0)
HANDLES = {
    "linear": (1 / 3, 1 / 3, 2 / 3, 2 / 3),
    "smooth": (1 / 3, 0, 2 / 3, 1),
    "ease_in": (1 / 3, 0, 2 / 3, 1 / 3),
    "ease_out": (1 / 3, 2 / 3, 2 / 3, 1),
}
NOISE = [-0.4980884293922374, -0.39432263060364536, -0.29698768002924664]


def document(**more: Any) -> str:
    keys = [{"frame": 0, "position": [0, 0, 0], "quaternion": [0, 0, 0, 1]},
            {"frame": 32, "position": [0, 0, 0.5], "quaternion": [0, 0, 0, 1]}]  # fmt: skip
    space = {"axes": "opencv", "matrix": "camera_to_world", "space": "start_camera"}
    return json.dumps(
        {"format": "mirage-keyframes", "version": 2, "convention": space, "keyframes": keys} | more
    )


def push(*, frames: int = 33, to: float = 1.0, **key: Any) -> list[Keyframe]:
    return [Keyframe(0, (0, 0, 0), AHEAD, **key), Keyframe(frames - 1, (0, 0, to), AHEAD, **key)]


@pytest.mark.parametrize("easing", EASINGS)
def test_named_timings_are_speed_curves(easing: str) -> None:
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(progress(HANDLES[easing], t), ease(easing, t), atol=1e-12, rtol=0)


@given(st.tuples(*[st.floats(0, 1)] * 4))
@settings(max_examples=60, deadline=None)
def test_progress_never_goes_back_and_ends_where_it_should(speed: Any) -> None:
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    found = progress(speed, t)
    assert found[0] == 0 and found[-1] == 1
    assert bool((found.diff() >= -1e-12).all())


def test_a_speed_takes_the_place_of_the_easing() -> None:
    late = keyframe_trajectory(push(speed=(1, 0, 1, 0)), 33, **LENS).positions[:, 2]
    early = keyframe_trajectory(push(speed=(0, 1, 0, 1)), 33, **LENS).positions[:, 2]
    assert late[16] < 0.2 and early[16] > 0.8
    torch.testing.assert_close(late, 1 - early.flip(0), atol=1e-9, rtol=0)


def test_a_smooth_keyframe_has_one_direction_and_a_corner_two() -> None:
    keys = [
        Keyframe(0, (0, 0, 0), AHEAD, easing="linear", tangent="smooth"),
        Keyframe(16, (1, 0, 0), AHEAD, easing="linear", tangent="smooth"),
        Keyframe(32, (1, 0, 1), AHEAD, easing="linear", tangent="smooth"),
    ]
    step = keyframe_trajectory(keys, 33, **LENS).positions.diff(dim=0)
    assert (step[16] - step[15]).norm() < 0.02
    keys[1] = dataclasses.replace(keys[1], tangent="corner")
    step = keyframe_trajectory(keys, 33, **LENS).positions.diff(dim=0)
    assert (step[16] - step[15]).norm() > 0.05
    keys[1] = dataclasses.replace(keys[1], tangent="rest")
    step = keyframe_trajectory(keys, 33, **LENS).positions.diff(dim=0)
    assert step[15:17].norm(dim=1).max() < 0.02


def test_a_smooth_keyframe_turns_without_a_jerk() -> None:
    def turning(tangent: str) -> torch.Tensor:
        keys = [
            Keyframe(frame, (0, 0, 0), (0, y, 0, 1), easing="linear", tangent=tangent)
            for frame, y in ((0, 0.0), (16, 0.02), (32, 0.3))
        ]
        forward = keyframe_trajectory(keys, 33, **LENS).camera_to_world[:, :3, 2]
        return torch.atan2(forward[:, 0], forward[:, 2]).diff()

    jerk = {kind: float((turning(kind)[16] - turning(kind)[15]).abs())
            for kind in ("monotone", "smooth")}  # fmt: skip
    assert jerk["smooth"] < 0.2 * jerk["monotone"]


def test_the_shot_is_the_cameras_cut_together() -> None:
    text = document(
        cameras=[{"name": "B", "keyframes": [
            {"frame": 4, "position": [1, 0, 0], "quaternion": [0, 0, 0, 1], "fov_x": 40}]}],
        cuts=[{"frame": 24, "camera": "A"}, {"frame": 8, "camera": "B"}],
    )  # fmt: skip
    path = shot_trajectory(shot_from_json(text, scene_depth=2.0), 33, **LENS)
    main = keyframe_trajectory(keyframes_from_json(text, scene_depth=2.0), 33, **LENS)
    for frames in (slice(0, 8), slice(24, 33)):
        assert torch.equal(path.world_to_camera[frames], main.world_to_camera[frames])
    assert path.positions[8:24].unique(dim=0).tolist() == [[2, 0, 0]]
    assert float(path.intrinsics[8, 0, 0]) > float(path.intrinsics[7, 0, 0])


def test_a_document_without_more_is_its_keyframes() -> None:
    plain = shot_trajectory(shot_from_json(document(version=1)), 33, **LENS)
    keys = keyframe_trajectory(keyframes_from_json(document(version=1)), 33, **LENS)
    assert plain.fingerprint() == keys.fingerprint()


def test_a_held_subject_keeps_its_size() -> None:
    path = shot_trajectory(shot_from_json(document(subject=[0.2, 0, 1]), scene_depth=3), 33, **LENS)
    size = path.intrinsics[:, 0, 0] / (3 - path.positions[:, 2])
    torch.testing.assert_close(size, size[:1].expand_as(size))
    assert float(path.intrinsics[-1, 0, 0]) == pytest.approx(float(path.intrinsics[0, 0, 0]) / 2)


@pytest.mark.parametrize("subject", [[0, 0, -1], [0, 0, 0.5], [0, 0, 0.3]])
def test_a_subject_that_the_camera_passes_is_refused(subject: list[float]) -> None:
    with pytest.raises(TrajectoryError, match="cannot keep the size"):
        shot_trajectory(shot_from_json(document(subject=subject)), 33, **LENS)


def test_the_shake_is_the_same_again_and_another_with_another_seed() -> None:
    path = keyframe_trajectory(push(), 33, **LENS)
    first = shaken(path, Shake(seed=5, degrees=1, distance=0.01))
    assert first.fingerprint() == shaken(path, Shake(5, 1, 0.01)).fingerprint()
    assert first.fingerprint() != shaken(path, Shake(6, 1, 0.01)).fingerprint()
    assert torch.equal(first.world_to_camera[0], path.world_to_camera[0])


def test_known_values_of_the_noise() -> None:
    """They are part of saved shots: another value would be another path."""
    found = [noise(0, 0, 0.4), noise(1, 2, 7.25), noise(2**32 - 1, 5, 123.4)]
    assert found == pytest.approx(NOISE, abs=1e-12)
    assert [noise(3, channel, 0.0) for channel in range(6)] == [0] * 6


@given(st.integers(0, 2**32 - 1), st.floats(0, 45), st.floats(0, 2), st.floats(0.1, 12))
@settings(max_examples=25, deadline=None)
def test_the_shake_stays_within_its_amplitude(
    seed: int, degrees: float, distance: float, hz: float
) -> None:
    path = keyframe_trajectory(push(frames=97), 97, **LENS)
    found = shaken(path, Shake(seed, degrees, distance, hz))
    assert float((found.positions - path.positions).abs().max()) <= distance + 1e-9
    turned = path.camera_to_world[:, :3, 2] * found.camera_to_world[:, :3, 2]
    angle = torch.rad2deg(torch.acos(turned.sum(1).clamp(-1, 1)))
    assert float(angle.max()) <= degrees * 2**0.5 + 1e-5


def test_its_frequency_is_in_seconds() -> None:
    path = keyframe_trajectory(push(frames=97, to=0), 97, **LENS)
    twice = dataclasses.replace(path, fps=48.0)
    slow, fast = (shaken(p, Shake(1, 0, 1, 2)).positions for p in (path, twice))
    torch.testing.assert_close(slow[:48], fast[:96:2], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"cuts": [{"frame": 0, "camera": "A"}]}, "cut is malformed"),
        ({"cuts": [{"frame": 4, "camera": 1}]}, "cut is malformed"),
        ({"cuts": 3}, '"cuts" of'),
        ({"cameras": [{"name": "A", "keyframes": []}]}, "name of its own"),
        ({"cameras": [{"name": "", "keyframes": []}]}, "name of its own"),
        ({"cameras": [{"name": "B", "keyframes": {}}]}, "malformed"),
        ({"cameras": ["B"]}, '"cameras" of'),
        ({"subject": [0, 1]}, '"subject"'),
        ({"shake": 1}, '"shake"'),
        ({"shake": {"seed": 0.5, "degrees": 1, "distance": 0, "hz": 1}}, '"shake"'),
        ({"shake": {"seed": 0, "degrees": 1, "distance": 0}}, '"shake"'),
        ({"shake": {"seed": -1, "degrees": 1, "distance": 0, "hz": 1}}, "seed"),
        ({"shake": {"seed": 0, "degrees": 1, "distance": 0, "hz": 0}}, "frequency"),
        ({"takes": [1]}, '"takes"'),
    ],
)  # fmt: skip
def test_what_is_no_shot_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(CacheFormatError, match=message):
        shot_from_json(document(**more))


def test_cuts_to_nowhere_are_refused() -> None:
    with pytest.raises(TrajectoryError, match="camera that it has not"):
        shot_from_json(document(cuts=[{"frame": 4, "camera": "B"}]))
    with pytest.raises(TrajectoryError, match="Two cuts"):
        shot_from_json(document(cuts=[{"frame": 4, "camera": "A"}] * 2))
    late = Shot({"A": tuple(push())}, (Cut(33, "A"),))
    with pytest.raises(TrajectoryError, match="after the end"):
        shot_trajectory(late, 33, **LENS)


@pytest.mark.parametrize("speed", [(0, 0, 1.1, 1), (-0.1, 0, 1, 1)])
def test_time_may_not_go_back(speed: Any) -> None:
    with pytest.raises(ValueRangeError, match="handle"):
        Keyframe(0, (0, 0, 0), AHEAD, speed=speed)
