"""From an estimator's depth to what may be written, and the figures that follow from it."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import GeometryError, ShapeError
from mirage_core.geometry.align import AlignConfig
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.masks import MaskGrowth
from mirage_core.readout.readout import read
from mirage_core.rollout.align_chunk import AlignedGeometry
from mirage_core.rollout.chunk_geometry import DYNAMIC, SKY
from mirage_core.rollout.prepare import PreparedObservation, prepare_observation
from mirage_core.rollout.settings import MemorySettings
from mirage_core.writing.consistency import ConsistencyConfig

CHUNK = 33
LATENT = 9


class Scene:
    """The first chunk of the small rollout, with depth that its memory agrees with."""

    def __init__(self, shot) -> None:
        self.state = shot.begin()
        self.codec = shot.CODEC
        parts = shot.parts(self.state)
        self.latents, self.frames = parts["latents"], parts["frames"]
        readout = read(self.state.cache, self.state.frame_cameras)
        depth = torch.where(readout.visible, readout.depth, 2.5)
        self.depth = torch.nn.functional.interpolate(depth[:, None], size=(64, 64))[:, 0]

    def geometry(self, depth: torch.Tensor | None = None, **parts) -> FrameGeometry:
        depth = self.depth if depth is None else depth
        lens = self.state.latent_cameras.intrinsics
        lens = lens[:1].repeat(len(depth), 1, 1)
        return FrameGeometry(depth, parts.pop("intrinsics", lens), **parts)

    def prepare(self, geometry: FrameGeometry | None = None, **changes) -> PreparedObservation:
        encode = changes.pop("encode", self.codec.encode_images)
        masks = {DYNAMIC: changes.pop("dynamic", None), SKY: changes.pop("sky", None)}
        scaled = changes.pop("scaled", False)
        changes.setdefault("consistency", ConsistencyConfig())
        return prepare_observation(
            self.state, self.latents, self.frames, geometry or self.geometry(),
            MemorySettings(**changes), encode=encode, masks=masks, scaled=scaled,
        )  # fmt: skip


@pytest.fixture(scope="module")
def scene(shot) -> Scene:
    return Scene(shot)


def aligned(ready: PreparedObservation) -> AlignedGeometry:
    """How the depth was aligned."""
    assert ready.report.alignment is not None
    return ready.report.alignment


def test_depth_of_another_scale_is_brought_to_the_memory(scene) -> None:
    plain = aligned(scene.prepare(consistency=None))
    found = aligned(scene.prepare(scene.geometry(1.3 * scene.depth), consistency=None))
    ratio = plain.alignment.correction.scale / found.alignment.correction.scale
    assert ratio.tolist() == pytest.approx([1.3] * LATENT, rel=1e-3)
    residual = found.alignment.residual
    assert residual == pytest.approx(plain.alignment.residual, abs=1e-3)
    assert found.alignment.before[0] > 0.2 > 0.05 > residual[0]
    assert not found.refused


def test_with_everything_off_it_is_the_plain_observation(scene) -> None:
    plain = scene.prepare(align=None, consistency=None).observation
    same = scene.prepare(align=AlignConfig("none"), consistency=None).observation
    for name in ("tokens", "depth", "world_to_camera", "intrinsics", "frames"):
        assert torch.equal(getattr(same, name), getattr(plain, name))


def test_depth_of_the_whole_shot_is_cut_to_the_chunk(scene) -> None:
    whole = scene.depth.repeat_interleave(4, 0)[3:].repeat(3, 1, 1)[: len(scene.state.trajectory)]
    every = scene.geometry(whole, exclude=torch.zeros_like(whole, dtype=torch.bool))
    depth = scene.prepare(every).observation.depth
    assert torch.equal(depth, scene.prepare().observation.depth)


def test_the_overlapping_frame_is_taken_when_asked(scene) -> None:
    both = scene.prepare(first_twice=True)
    assert both.observation.frames.tolist() == list(range(0, CHUNK, 4))
    assert len(both.rejected) == len(both.excluded) == LATENT


@settings(max_examples=25)
@given(seed=st.integers(0, 200), count=st.sampled_from([1, LATENT, CHUNK]))
def test_masked_cells_are_never_written(scene, make, seed, count) -> None:
    mask = make.uniform(count, 64, 64, seed=seed) < 0.002
    ready = scene.prepare(
        dynamic=mask, consistency=None, growth=MaskGrowth(2, 0), reencode=False
    )
    assert not (ready.observation.depth > 0)[ready.excluded].any()
    pixels = mask[4::4] if count == CHUNK else mask.expand(LATENT, -1, -1)[1:]
    touched = torch.nn.functional.max_pool2d(pixels.float(), 16) > 0
    assert ready.excluded[touched].all()
    assert ready.report.masked == pytest.approx(float(ready.excluded.float().mean()))


def test_masks_of_the_geometry_count_too(scene) -> None:
    exclude = torch.zeros(LATENT, 64, 64, dtype=torch.bool)
    exclude[:, 1, 1] = True
    ready = scene.prepare(scene.geometry(exclude=exclude))
    assert ready.excluded[:, 0, 0].all() and int(ready.excluded.sum()) == LATENT - 1
    assert not ready.observation.depth[:, 0, 0].any()


def test_sky_and_moving_things_are_both_left_out(scene) -> None:
    sky, moving = torch.zeros(1, 64, 64), torch.zeros(CHUNK, 64, 64)
    sky[:, :16] = 1
    moving[6, 40, 40] = 1
    excluded = scene.prepare(sky=sky, dynamic=moving).excluded
    assert excluded[:, 0].all()
    assert excluded[1, 2, 2] and not excluded[0, 2, 2]


def test_frames_with_wrong_geometry_are_refused_by_name(scene, make) -> None:
    depth = scene.depth.clone()
    depth[4] = torch.nn.functional.interpolate(0.5 + 5 * make.uniform(1, 1, 4, 4), size=(64, 64))
    plain = scene.prepare(scene.geometry(depth), consistency=None)
    assert aligned(plain).refused == (16,)
    ready = scene.prepare(scene.geometry(depth))
    assert not ready.observation.depth[3].any()
    assert ready.observation.depth[2].any() and ready.observation.depth[4].any()
    assert "frames 16" in plain.report.describe()


def noise_depth(make) -> torch.Tensor:
    coarse = 0.3 + 6 * make.uniform(LATENT, 1, 4, 4)
    return torch.nn.functional.interpolate(coarse, size=(64, 64))[:, 0]


def test_when_nothing_agrees_nothing_is_written(scene, make) -> None:
    geometry = scene.geometry(noise_depth(make))
    before = scene.state.cache.fingerprint()
    ready = scene.prepare(geometry)
    assert not ready.observation.depth.any()
    assert len(aligned(ready).refused) == LATENT
    assert scene.state.cache.fingerprint() == before


def test_strictness_raises_before_frames_are_encoded(scene, make) -> None:
    encoded = []
    with pytest.raises(GeometryError, match="No frame's depth agrees.*10%"):
        scene.prepare(scene.geometry(noise_depth(make)), strict=True, encode=encoded.append)
    assert not encoded


def test_an_empty_memory_takes_everything(scene) -> None:
    empty = dataclasses.replace(
        scene.state, cache=dataclasses.replace(scene.state.cache, blocks=())
    )
    ready = prepare_observation(
        empty, scene.latents, scene.frames, scene.geometry(), MemorySettings(reencode=False),
        encode=scene.codec.encode_images,
    )  # fmt: skip
    assert not aligned(ready).refused
    assert ready.report.written > 0.5
    assert "nothing to compare" in ready.report.describe()


def test_the_report_is_complete(scene) -> None:
    ready = scene.prepare()
    report, found = ready.report, aligned(ready)
    assert found.frames == tuple(range(0, CHUNK, 4))
    assert len(found.alignment.correction.scale) == len(found.alignment.correction.shift) == LATENT
    for name in ("before", "fitted", "residual", "overlap"):
        assert len(getattr(found.alignment, name)) == LATENT
    assert report.masked + report.rejected + report.written <= 1 + 1e-6
    assert "%" in report.describe()
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.masked = 1.0


class TestBadInput:
    """Typed errors, and the memory untouched."""

    @pytest.fixture(autouse=True)
    def untouched(self, scene) -> Iterator[None]:
        before = scene.state.cache.fingerprint()
        yield
        assert scene.state.cache.fingerprint() == before

    @pytest.mark.parametrize("count", [1, 8, 10, 32])
    def test_depth_of_other_frames(self, scene, count) -> None:
        depth = scene.depth[:1].repeat(count, 1, 1)
        with pytest.raises(ShapeError, match="does not belong to this chunk"):
            scene.prepare(scene.geometry(depth))

    @pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan, 0.0])
    def test_a_frame_without_numbers(self, scene, value) -> None:
        depth = scene.depth.clone()
        depth[3] = value
        with pytest.raises(GeometryError, match="frame 3 has no valid pixel"):
            scene.geometry(depth)

    def test_single_bad_pixels_are_left_out(self, scene) -> None:
        depth = scene.depth.clone()
        depth[:, :16, :16] = torch.inf
        depth[:, 20:30, 20:30] = torch.nan
        ready = scene.prepare(scene.geometry(depth))
        assert torch.isfinite(ready.observation.depth).all()
        assert not ready.observation.depth[:, 0, 0].any()
        assert ready.observation.depth[:, 3].any()

    def test_all_sky(self, scene) -> None:
        """A close-up of what is masked does not stop the shot: nothing is written, and told."""
        ready = scene.prepare(sky=torch.ones(1, 64, 64))
        assert not ready.observation.depth.any() and ready.report.written == 0
        assert "The sky mask covers all of every frame" in ready.report.describe()
        assert "refused" not in ready.report.describe()

    def test_masks_that_leave_nothing_together(self, scene) -> None:
        upper = torch.zeros(1, 64, 64)
        upper[:, :32] = 1
        ready = scene.prepare(sky=upper, dynamic=1 - upper)
        assert not ready.observation.depth.any()
        assert "What is left out covers all of every frame" in ready.report.describe()

    @pytest.mark.parametrize("shape", [(1, 32, 64), (9, 64, 128), (5, 64, 64), (34, 64, 64)])
    def test_masks_of_another_size_or_length(self, scene, shape) -> None:
        with pytest.raises(ShapeError, match="The mask of moving things"):
            scene.prepare(dynamic=torch.zeros(shape))

    def test_another_lens(self, scene) -> None:
        lens = scene.state.latent_cameras.intrinsics.clone()
        lens[:, 0, 0] *= 2
        with pytest.raises(GeometryError, match="intrinsics differ"):
            scene.prepare(scene.geometry(intrinsics=lens))
        assert scene.prepare(scene.geometry(intrinsics=lens), scaled=True)

    def test_frames_that_do_not_follow_the_trajectory(self, scene) -> None:
        poses = scene.state.latent_cameras.world_to_camera.flip(0)
        with pytest.raises(GeometryError, match="do not follow the trajectory"):
            scene.prepare(scene.geometry(world_to_camera=poses))


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    """The program that prints the figures of the documentation."""
    path = Path(__file__).resolve().parents[3] / "benchmarks" / "geometry.py"
    spec = importlib.util.spec_from_file_location("geometry_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(path.parent))
        del sys.modules[spec.name]


@pytest.mark.rollout
def test_a_revisited_view_stays_where_it_was(study) -> None:
    """Four chunks, a turn of 70 degrees and back, 10 % scale error, 2 % noise."""
    found = study.study_drift(3, study.Size(192, 128, 4, 64), 70.0, ("append",))
    plain, aligned = (found[f"append, {name}"][2] for name in ("without", "aligned"))
    for name in ("first_view_remembered", "first_view_written_again"):
        assert abs(aligned[name]) < 0.01
    assert aligned["worst_chunk"] < 0.02 < 0.05 < plain["worst_chunk"]
    assert found["append, aligned, contradiction"][2]["held_back"] < 0.005


@pytest.mark.rollout
def test_moving_things_stay_out_of_the_memory(study) -> None:
    """Two chunks with two things that move."""
    filters = ("no filter", "masks", "contradiction")
    found = study.study_movers(2, study.Size(320, 192, 2, 64), movers=2, filters=filters)
    share = {name: numbers["share_on_movers"] for name, (_, _, numbers) in found.items()}
    assert share["no filter"] > 0.02
    assert share["masks"] < 0.005
    assert share["contradiction"] < min(0.03, 0.5 * share["no filter"])
    holes = {name: numbers["hole_rate_still_cells"] for name, (_, _, numbers) in found.items()}
    assert holes["contradiction"] - holes["no filter"] < 0.03
