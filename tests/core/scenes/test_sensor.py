"""The depth camera of the benchmarks: every error has the size and the place that it states."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from mirage_core.errors import ValueRangeError
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.geometry.transform import invert_rigid
from mirage_core.scenes.scene import ProceduralScene

FILE = Path(__file__).resolve().parents[3] / "benchmarks" / "_sensor.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mirage_benchmark_sensor", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


sensor = load()
QUIET = sensor.Sensor(
    disparity=0, lateral=0, bleed=0, grazing=90, turn=0, shift=0, exposure=0, white=0, shutter=0
)


def flat(depth: float, height: int = 32, width: int = 160) -> Tensor:
    return torch.full((1, height, width), depth)


def lens(count: int = 1) -> Tensor:
    return sensor.sensor_lens().repeat(count, 1, 1)


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def measured(depth: Tensor, model, seed: int = 0) -> Tensor:
    return sensor.measured_depth(depth, lens(len(depth)), model, dice(seed))


@pytest.mark.parametrize("depth", [0.6, 1.0, 2.5, 4.9])
def test_depth_comes_in_steps_of_disparity(depth: float) -> None:
    found = float(measured(flat(depth), QUIET)[0, 5, 5])
    steps = sensor.STEPS / found
    assert steps == pytest.approx(round(steps), abs=1e-3)
    assert abs(found - depth) <= 0.51 * depth**2 / sensor.STEPS * 1.02


def test_a_step_is_7_cm_at_5_m() -> None:
    one, next_one = (sensor.STEPS / steps for steps in (70, 71))
    assert 100 * (one - next_one) == pytest.approx(2.85e-5 * 500**2, rel=0.03)


@pytest.mark.parametrize("depth", [1.0, 2.0, 4.0])
def test_noise_grows_with_the_square_of_the_depth(depth: float) -> None:
    model = dataclasses.replace(QUIET, disparity=1 / 6)
    spread = sensor.STEPS / torch.linspace(sensor.STEPS / depth - 2, sensor.STEPS / depth + 2, 4096)
    found = torch.cat([measured(spread.view(1, 64, 64), model, seed=seed) for seed in range(8)])
    error = (found - spread.view(1, 64, 64)).std()
    # Noise, and the even error of rounding.
    expected = math.sqrt(model.disparity**2 + 1 / 12) * depth**2 / sensor.STEPS
    assert float(error) == pytest.approx(expected, rel=0.08)


def test_nothing_is_measured_out_of_range() -> None:
    for depth, known in ((0.4, False), (0.55, True), (4.8, True), (5.3, False)):
        assert bool((measured(flat(depth), QUIET) > 0).all()) == known


def edge(near: float = 1.0, far: float = 2.0) -> Tensor:
    """A near thing in the columns 70 to 99, before a wall."""
    depth = flat(far)
    depth[..., 70:100] = near
    return depth


@pytest.mark.parametrize("pixels", [1, 3])
def test_what_is_in_front_bleeds_over_its_edges(pixels: int) -> None:
    model = dataclasses.replace(QUIET, bleed=pixels)
    columns = (sensor.bled(edge(), model)[0, 5] == 1).nonzero()[:, 0]
    assert columns.tolist() == list(range(70 - pixels, 100 + pixels))
    ramp = torch.linspace(1, 2, 160).expand(1, 32, 160)
    assert torch.equal(sensor.bled(ramp, model), ramp)
    assert torch.equal(sensor.bled(edge(), dataclasses.replace(model, bleed=0)), edge())


@pytest.mark.parametrize(("near", "far"), [(1.0, 2.0), (0.8, 3.0)])
def test_the_shadow_lies_left_of_what_casts_it(near: float, far: float) -> None:
    shift = sensor.STEPS / sensor.STEPS_PER_PIXEL * (1 / near - 1 / far)
    dark = sensor.shadowed(edge(near, far))[0, 5].nonzero()[:, 0]
    assert dark.max() == 69
    assert len(dark) == pytest.approx(shift, abs=1.5)
    assert not sensor.shadowed(torch.linspace(1, 3, 160).expand(1, 4, 160)).any()


@pytest.mark.parametrize(("angle", "lost"), [(40.0, False), (74.0, False), (82.0, True)])
def test_grazing_surfaces_are_not_measured(angle: float, lost: bool) -> None:
    """A plane through (0, 0, 2) that is turned about the vertical axis."""
    slope = math.tan(math.radians(angle))
    column = torch.arange(-4, 5) + 0.5
    ray = column / sensor.FOCAL
    depth = (2 / (1 + slope * ray)).expand(1, 9, 9)
    matrix = lens()
    matrix[:, :2, 2] = 4.0
    seen = sensor.grazed(depth, matrix, 78.0)[0, 1:-1, 1:-1]
    assert bool(seen.all()) == bool(seen.any()) == lost


def small(count: int) -> Trajectory:
    """A camera that pans to the right and moves there, with pictures a tenth as large."""
    turns = torch.zeros(count, 3, dtype=torch.float64)
    turns[:, 1] = 0.05 * torch.arange(count)
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, :3, :3] = torch.from_numpy(Rotation.from_rotvec(turns.numpy()).as_matrix())
    poses[:, 0, 3] = 0.02 * torch.arange(count)
    poses[:, 1, 3] = -1.5
    matrix = lens(count)
    matrix[:, :2] /= 10
    return Trajectory(invert_rigid(poses), matrix, 64, 48)


def test_poses_are_off_by_the_stated_amounts() -> None:
    path = small(2000)
    off = sensor.jittered(path, dataclasses.replace(QUIET, turn=0.3, shift=0.005), dice())
    moved = (off.positions - path.positions).square().sum(1).mean().sqrt()
    assert float(moved) == pytest.approx(0.005, rel=0.05)
    turned = path.camera_to_world[:, :3, :3].mT @ off.camera_to_world[:, :3, :3]
    angles = torch.from_numpy(Rotation.from_matrix(turned.numpy()).magnitude())
    assert math.degrees(angles.square().mean().sqrt()) == pytest.approx(0.3, rel=0.05)
    still = sensor.jittered(path, QUIET, dice())
    assert torch.allclose(still.world_to_camera, path.world_to_camera, atol=1e-12)


def test_exposure_and_white_balance_wander() -> None:
    model = dataclasses.replace(QUIET, exposure=0.08, white=0.03)
    gains = sensor.wandering_gains(6000, model, dice()).log()
    assert float(gains[:, 1].std()) == pytest.approx(0.08, rel=0.25)
    assert float((gains[:, 0] - gains[:, 1]).std()) == pytest.approx(0.03, rel=0.25)
    step = (gains[1:, 1] - gains[:-1, 1]).std() / gains[:, 1].std()
    assert float(step) == pytest.approx(math.sqrt(2 * (1 - model.memory)), rel=0.1)
    assert bool((sensor.wandering_gains(5, QUIET, dice()) == 1).all())


def test_the_shutter_is_open_around_the_frame() -> None:
    model = dataclasses.replace(QUIET, shutter=0.2, samples=3)
    poses = small(4).camera_to_world
    moments = sensor.shutter_poses(poses, model)
    assert moments.shape == (4, 3, 4, 4)
    assert torch.allclose(moments[:, 1], poses, atol=1e-12)
    # Thirds of the open time, on both sides of the middle.
    ahead = moments[1:3, 2, 0, 3] - poses[1:3, 0, 3]
    assert ahead.tolist() == pytest.approx([0.02 * 0.2 / 3] * 2)
    turned = moments[1, 0, :3, :3].mT @ moments[1, 2, :3, :3]
    angle = float(Rotation.from_matrix(turned.numpy()).magnitude())
    assert angle == pytest.approx(0.05 * 0.2 * 2 / 3, rel=1e-6)


@pytest.mark.rooms
def test_a_recording_is_the_room_with_errors() -> None:
    scene = ProceduralScene.from_seed(4, texture_size=64)
    path = small(5)
    exact, same = sensor.recorded(scene, path, QUIET, 1)
    alone = sensor.exact(scene, path)
    assert torch.equal(exact.pictures, alone.pictures)
    assert torch.equal(exact.depth, alone.depth)
    assert int((same.pictures.int() - exact.pictures.int()).abs().max()) <= 1
    known = same.depth > 0
    step = exact.depth**2 / sensor.STEPS
    assert bool(((same.depth - exact.depth).abs() <= 0.6 * step + 1e-3)[known].all())
    model = sensor.Sensor()
    one, other = (sensor.recorded(scene, path, model, 3)[1] for _ in range(2))
    assert torch.equal(one.pictures, other.pictures) and torch.equal(one.depth, other.depth)
    assert not torch.equal(one.pictures, exact.pictures)
    assert not torch.equal(one.depth, sensor.recorded(scene, path, model, 4)[1].depth)


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 2}, {"samples": 0}, {"bleed": -1}, {"farthest": 0.1}, {"edge": 0.0},
        {"grazing": 91.0}, {"turn": math.nan}, {"shift": -1.0}, {"memory": 1.5}, {"lateral": -0.1},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueRangeError):
        sensor.Sensor(**wrong)
