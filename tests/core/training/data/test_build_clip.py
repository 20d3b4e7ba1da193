"""Clips hold what a rollout would show to the model, had it made these very frames."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from mirage_core.codecs.dct import DctCodec
from mirage_core.errors import PlanError, ShapeError, ValueRangeError
from mirage_core.geometry.camera import PixelConvention
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.transform import invert_rigid
from mirage_core.ops.best_view import BestView
from mirage_core.readout.readout import grid_intrinsics, read
from mirage_core.rollout.begin import begin
from mirage_core.rollout.context import chunk_condition
from mirage_core.rollout.memory import write_chunk
from mirage_core.rollout.run_folder import commit, open_folder
from mirage_core.rollout.settings import GenerationSettings
from mirage_core.scenes.scene import BODY_RADIUS, ProceduralScene
from mirage_core.training.data.build_clip import ClipSettings, DepthNoise, Shot, build_clips
from mirage_core.training.data.procedural import ProceduralSource
from mirage_core.writing.policy import WriteRules
from tiny_clips import sliding_cameras, wall_shot

QUIET = DepthNoise(0, 0)
PLANES = ("offset", "log_depth", "preceding_offset", "preceding_log_depth")


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "loop",
    [
        GenerationSettings(preceding=3),
        GenerationSettings(preceding=3).remembering(view=BestView()),
        GenerationSettings.released(),
    ],
    ids=["own", "best view", "released"],
)
def test_clips_are_what_a_rollout_of_these_frames_sees(tmp_path, loop, exact) -> None:
    """The same shot goes through the rollout's own state, files and all."""
    shot, codec = wall_shot("wall", 97, exact=exact), DctCodec()
    if not exact:
        wrong = shot.geometry.depth * torch.linspace(1, 2, 97)[:, None, None]
        shot = dataclasses.replace(
            shot, geometry=dataclasses.replace(shot.geometry, depth=wrong)
        )
    clips = build_clips(shot, codec, ClipSettings(loop, QUIET))
    latents = codec.encode(shot.frames)
    state = open_folder(begin(
        shot.frames[0], shot.geometry, shot.cameras, codec, settings=loop, folder=tmp_path / "shot"
    ))  # fmt: skip
    for number, clip in enumerate(clips):
        chunk = state.chunk
        readout = read(state.cache, state.frame_cameras, loop.memory.view)
        condition = chunk_condition(
            state, readout, references=loop.references, preceding=loop.preceding,
            threshold=loop.threshold, exclude_seen=loop.exclude_seen,
        )
        for name, expected in vars(condition).items():
            found = getattr(clip.condition, name)
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
        taken = latents[:, number * 8 : number * 8 + 9]
        assert torch.equal(clip.target, taken)
        assert clip.key == f"wall#{number}"
        offset, ratio = readout.planes
        assert torch.equal(clip.condition.offset, offset)
        assert torch.equal(clip.condition.log_depth, ratio)
        span = range(chunk.first_frame, chunk.output_end)
        frames, geometry = shot.frames[span], shot.geometry.select(list(span)[::4])
        cache = write_chunk(
            state, taken, frames, geometry, loop.memory,
            encode=codec.encode_images, scaled=exact,
        ).cache  # fmt: skip
        state = commit(state, latents=taken, frames=frames, readout=readout, cache=cache)
    assert len(clips) == len(state.plan) == 3
    assert clips[2].condition.references.shape[1] > 0
    assert clips[2].condition.preceding.shape[1] == loop.preceding


def test_preceding_frames_keep_the_planes_of_their_time() -> None:
    clips = build_clips(wall_shot("w"), DctCodec(), ClipSettings(noise=QUIET))
    first, second = (clip.condition for clip in clips)
    assert torch.equal(second.preceding_projection, first.projection[:, 6:8])
    assert torch.equal(second.preceding_visible, first.visible[6:8])
    # A rollout keeps them in half precision, and so does what is trained on.
    assert torch.equal(second.preceding_offset, first.offset[:, 6:8].half().float())
    assert torch.equal(second.preceding_log_depth, first.log_depth[6:8].half().float())
    assert first.preceding.shape[1] == 0
    bare = build_clips(wall_shot("w"), DctCodec(), ClipSettings(planes=False))
    assert all(getattr(clip.condition, name) is None for clip in bare for name in PLANES)


@pytest.mark.parametrize("convention", list(PixelConvention))
def test_planes_by_hand(convention) -> None:
    """Every winning point, projected one by one."""
    loop = GenerationSettings().remembering(convention=convention)
    shot = wall_shot("w", 33)
    geometry = FrameGeometry(
        shot.geometry.depth[:1], shot.geometry.intrinsics[:1], shot.geometry.world_to_camera[:1]
    )
    cameras = dataclasses.replace(
        sliding_cameras(33), intrinsics=sliding_cameras(33).intrinsics * torch.tensor(
            [[1.3], [1.2], [1.0]], dtype=torch.float64)
    )  # fmt: skip
    cameras.world_to_camera[1:, 2, 3] = 0.4
    state = begin(shot.frames[0], geometry, cameras, DctCodec(), settings=loop)
    readout = read(state.cache, cameras)
    offset, ratio = readout.planes
    latent, block = readout.latent_cameras, state.cache.blocks[0]
    lens = grid_intrinsics(latent, (4, 4))
    checked = 0
    for t, i, j in readout.visible.nonzero().tolist():
        point = torch.ones(4, dtype=torch.float64)
        point[:3] = block.points[readout.winner[t, i, j]].double()
        x, y, z = (latent.world_to_camera[t] @ point)[:3].tolist()
        seen = (block.world_to_camera[0] @ point)[2].item()
        u = lens[t, 0, 0].item() * x / z + lens[t, 0, 2].item() - j - convention.centre
        v = lens[t, 1, 1].item() * y / z + lens[t, 1, 2].item() - i - convention.centre
        assert offset[:, t, i, j].tolist() == pytest.approx([u, v], abs=1e-5)
        assert ratio[t, i, j].item() == pytest.approx(math.log(z / seen), abs=1e-5)
        checked += 1
    assert checked > 30
    assert not offset[:, ~readout.visible].any()
    assert not ratio[~readout.visible].any()
    assert float(offset.abs().max()) <= 0.5


def test_planes_know_the_camera_of_each_block() -> None:
    """In a memory of many frames, the depth ratio is that of the camera that saw the point."""
    loop = GenerationSettings().remembering(rules=WriteRules("append"))
    clips = build_clips(wall_shot("w", 97), DctCodec(), ClipSettings(loop, QUIET))
    # The camera slides along the picture plane: depth never changes, whoever saw the point.
    for clip in clips:
        assert float(clip.condition.log_depth.abs().max()) < 1e-5


def test_depth_noise_is_as_large_as_asked_and_drawn_from_the_seed() -> None:
    depth = torch.full((400, 64, 64), 3.0)
    noise = DepthNoise(0.04, 0.02)
    spreads = [float((noise.apply(depth, (4, 4), seed) / 3).log().std()) for seed in range(30)]
    assert 0 < min(spreads) < 0.02 < max(spreads) < math.hypot(0.04, 0.02) * 1.1
    one = noise.apply(depth, (4, 4), 3)
    assert torch.equal(one, noise.apply(depth, (4, 4), 3))
    assert not torch.equal(one, noise.apply(depth, (4, 4), 4))
    cells = one.view(400, 4, 16, 4, 16)
    assert torch.equal(cells, cells[:, :, :1, :, :1].expand_as(cells))
    assert torch.equal(QUIET.apply(depth, (4, 4), 3), depth)


def test_noise_reaches_the_memory() -> None:
    quiet, noisy = (
        build_clips(wall_shot("w"), DctCodec(), ClipSettings(noise=noise))
        for noise in (QUIET, DepthNoise(0.3, 0.3))
    )
    assert torch.equal(quiet[1].target, noisy[1].target)
    assert not torch.equal(quiet[1].condition.projection, noisy[1].condition.projection)


def test_frames_after_the_last_whole_chunk_are_left_out() -> None:
    clips = build_clips(wall_shot("w", 77), DctCodec(), ClipSettings())
    assert [clip.target.shape[1] for clip in clips] == [9, 9]


@pytest.mark.parametrize("exact", [True, False])
def test_what_a_mask_leaves_out_is_never_remembered(exact) -> None:
    """A camera that slides to the right, and a mask over the left half of all of its pictures."""
    shot = wall_shot("a", exact=exact)
    mask = torch.zeros(len(shot.frames), 64, 64, dtype=torch.bool)
    mask[:, :, :32] = True
    masked = dataclasses.replace(shot.geometry, exclude=mask)
    settings = ClipSettings(noise=DepthNoise(0, 0), planes=False)
    plain, left_out = (
        build_clips(dataclasses.replace(shot, geometry=geometry), DctCodec(), settings)
        for geometry in (shot.geometry, masked)
    )
    assert plain[0].condition.visible[0].all()
    assert left_out[0].condition.visible[0].float().mean(dim=0).tolist() == [0, 0, 1, 1]
    for before, after in zip(plain, left_out, strict=True):
        assert torch.equal(before.target, after.target)
        assert int(after.condition.visible.sum()) < int(before.condition.visible.sum())


def test_depth_of_every_fourth_frame_is_enough() -> None:
    shot = wall_shot("w")
    thin = dataclasses.replace(shot, geometry=shot.geometry.select(list(range(0, 65, 4))))
    for one, other in zip(*(build_clips(s, DctCodec(), ClipSettings()) for s in (shot, thin)),
                          strict=True):  # fmt: skip
        assert torch.equal(one.condition.projection, other.condition.projection)


def test_bad_shots_are_refused() -> None:
    shot = wall_shot("w")
    for change in (
        {"frames": shot.frames[:61]},
        {"cameras": sliding_cameras(61)},
        {"cameras": sliding_cameras(65, 96)},
        {"geometry": shot.geometry.select(list(range(64)))},
    ):
        with pytest.raises(ShapeError):
            dataclasses.replace(shot, **change)
    with pytest.raises(ShapeError, match="shorter than one chunk"):
        wall_shot("w", 29)
    with pytest.raises(ValueRangeError):
        DepthNoise(smooth=-0.1)


SOURCE = ProceduralSource(range(5, 6), 96, 64, shots=3)


@pytest.fixture(scope="module")
def room_shots() -> list[Shot]:
    return list(SOURCE.load("room-5"))


@pytest.mark.rooms
def test_rooms_are_the_same_every_time(room_shots) -> None:
    (again, *_) = SOURCE.load("room-5")
    assert torch.equal(again.frames, room_shots[0].frames)
    assert again.cameras.fingerprint() == room_shots[0].cameras.fingerprint()
    assert len({shot.cameras.fingerprint() for shot in room_shots}) == 6


@pytest.mark.rooms
def test_shots_show_the_room_from_their_cameras(room_shots) -> None:
    scene = ProceduralScene.from_seed(5, texture_size=256)
    for shot in room_shots:
        assert bool(scene.free(shot.cameras.positions, BODY_RADIUS).all())
        some = [0, 31, 64]
        frames, depth = scene.render(shot.cameras.select(some))
        assert torch.equal(depth, shot.geometry.depth[some])
        assert torch.equal(frames, shot.frames[some])


@pytest.mark.rooms
def test_the_way_back_is_the_way_there_reversed(room_shots) -> None:
    there, back = room_shots[:2]
    assert (there.key, back.key) == ("room-5/0", "room-5/0b")
    assert torch.equal(there.frames.flip(0), back.frames)
    assert torch.equal(there.cameras.world_to_camera.flip(0), back.cameras.world_to_camera)
    assert torch.equal(there.geometry.depth.flip(0), back.geometry.depth)


@pytest.mark.rooms
def test_some_shots_come_back_and_no_move_is_a_jump() -> None:
    tiny = ProceduralSource(range(3), 32, 32, shots=6, both_ways=False)
    shots = [shot for item in tiny.items() for shot in tiny.load(item)]
    poses = [invert_rigid(shot.cameras.world_to_camera) for shot in shots]
    returning = [len(torch.unique(pose.flatten(1), dim=0)) < 65 for pose in poses]
    assert 0.2 < sum(returning) / len(shots) < 0.95
    for pose in poses:
        assert float(pose[:, :3, 3].diff(dim=0).norm(dim=1).max()) < 0.3


def test_a_source_is_checked_before_anything_is_rendered() -> None:
    for change, error in (
        ({"width": 100}, ShapeError),
        ({"frames": 66}, PlanError),
        ({"frames": 29}, ValueRangeError),
        ({"shots": 0}, ValueRangeError),
        ({"rooms": range(0)}, ValueRangeError),
    ):
        with pytest.raises(error):
            dataclasses.replace(SOURCE, **change)
