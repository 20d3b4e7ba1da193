"""Depth in agreement with the memory, as nodes: the library's numbers, reports, bad input."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.rooms

FRAMES, CHUNK, LATENT = 65, 33, 9
WIDTH, HEIGHT = 128, 96


class Shot:
    """A room, the memory of its picture, and the first chunk of a move, all made by nodes."""

    def __init__(self, pack: ModuleType, folder: Path) -> None:
        self.pack = pack
        self.vae = self.module("nodes.comfy.vae").DctVAE()
        scene_node = self.module("nodes.embedded").MirageEmbeddedScene
        image, geometry = scene_node.execute(16, WIDTH, HEIGHT, 70.0).result
        cache, first = self.module("nodes.memory").MirageCacheInit.execute(
            image, geometry, self.vae, "bilinear", True, "paper"
        ).result
        path = self.module("mirage_core.trajectories.presets").preset_trajectory(
            "truck", FRAMES, intrinsics=geometry.intrinsics[0], width=WIDTH, height=HEIGHT,
            scene_depth=geometry.typical_depth(), amount=0.2,
        )  # fmt: skip
        tokens = self.module("nodes.comfy.vae").latent_tokens(first, "first")
        states = self.module("mirage_core.rollout.state")
        state = states.RolloutState(path, cache, tokens, 0, "a" * 64, folder)
        self.state = self.module("mirage_core.rollout.run_folder").open_folder(state)
        reading = self.module("nodes.readout")
        self.readout = reading.MirageReadout.execute(cache, self.state.frame_cameras).result[0]
        self.images, depth = self.render(self.state.frame_cameras)
        self.latent = {"samples": self.vae.encode(self.images)}
        cameras = self.state.latent_cameras
        self.geometry = self.module("mirage_core.geometry.frame_geometry").FrameGeometry(
            depth[::4], cameras.intrinsics, world_to_camera=cameras.world_to_camera
        )
        self.saved = set(folder.iterdir())

    def render(self, cameras: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures and exact depth of the room, for cameras of the shot."""
        room = self.module("mirage_core.scenes.scene").ProceduralScene.from_seed(16)
        start = self.module("mirage_core.geometry.transform").invert_rigid(
            room.start_camera_to_world.double()
        )
        placed = dataclasses.replace(cameras, world_to_camera=cameras.world_to_camera @ start)
        return room.render(placed, device=torch.device("cpu"))

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.pack.__name__}.{name}")

    def placed(self, module: str, name: str) -> Any:
        """A node as ComfyUI runs it: a copy of the class that knows where it stands."""
        node = getattr(self.module(module), name)
        return type("Placed", (node,), {"hidden": SimpleNamespace(unique_id="1")})

    def of(self, **changes: Any) -> Any:
        """The chunk's exact depth, with parts changed."""
        return dataclasses.replace(self.geometry, **changes)

    def align(self, geometry: Any = None, mode: str = "scale", **masks: Any) -> tuple[Any, str]:
        strict = masks.pop("strict", False)
        node = self.placed("nodes.chunk_geometry", "MirageAlignGeometry")
        geometry = self.geometry if geometry is None else geometry
        return node.execute(self.state, geometry, mode, 0.1, 0, 0, strict, **masks).result

    def update(self, geometry: Any, folder: Path | None = None, **changes: Any) -> Any:
        state = self.state if folder is None else dataclasses.replace(self.state, folder=folder)
        state = self.module("mirage_core.rollout.run_folder").open_folder(state)
        given = {"policy": "append", "tokens": "reencode", **changes}
        return self.placed("nodes.memory", "MirageCacheUpdate").execute(
            state, self.readout, self.latent, self.images, geometry, self.vae,
            given.pop("policy"), given.pop("tokens"), "bilinear", True, **given,
        ).result  # fmt: skip


@pytest.fixture(scope="module")
def shot(pack: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Shot:
    return Shot(pack, tmp_path_factory.mktemp("shot") / "rollout")


@pytest.fixture
def errors(shot: Shot) -> ModuleType:
    return shot.module("mirage_core.errors")


def test_scaled_depth_comes_back_to_the_memory(shot: Shot) -> None:
    exact, _ = shot.align()
    found, report = shot.align(shot.of(depth=1.2 * shot.geometry.depth))
    torch.testing.assert_close(found.depth, exact.depth, rtol=2e-3, atol=0)
    assert report.startswith("chunk 1 of 2\nframe 0: ")
    assert report.count("compared") == LATENT
    assert "refused frames: none" in report


def test_without_alignment_depth_stays_as_it_is(shot: Shot) -> None:
    found, report = shot.align(shot.of(depth=1.2 * shot.geometry.depth), mode="none")
    torch.testing.assert_close(found.depth, 1.2 * shot.geometry.depth)
    assert "x 1.000" in report


def test_masks_reach_the_memory_through_the_geometry(shot: Shot, tmp_path: Path) -> None:
    mask = torch.zeros(CHUNK, HEIGHT, WIDTH)
    mask[6, 40, 40] = 1  # within latent frame 2, cell (2, 2)
    geometry, _ = shot.align(dynamic=mask)
    free, _ = shot.align()
    written, _ = shot.update(geometry, tmp_path / "masked")
    plain, _ = shot.update(free, tmp_path / "free")
    assert len(plain.cache) - len(written.cache) == 1
    assert geometry.exclude[2, 40, 40] and not geometry.exclude[1, 40, 40]


def test_refused_frames_stay_out_and_are_named(shot: Shot, tmp_path: Path) -> None:
    depth = shot.geometry.depth.clone()
    rng = torch.Generator().manual_seed(0)
    coarse = 0.3 + 6 * torch.rand(1, 1, 4, 4, generator=rng)
    depth[4] = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH))[0, 0]
    geometry, report = shot.align(shot.of(depth=depth))
    assert "refused frames: 16" in report
    assert geometry.exclude[4].all() and not geometry.exclude[3].all()
    after, _ = shot.update(geometry, tmp_path / "out")
    block = after.cache.blocks[-1]
    assert 16 not in set(block.frames[block.source.long()].tolist())


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize("policy", ["append", "novelty"])
def test_nodes_and_library_write_the_same_memory(
    shot: Shot, tmp_path: Path, policy: str, hold: bool
) -> None:
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 20:30, 20:40] = 1
    scaled = shot.of(depth=0.9 * shot.geometry.depth)
    geometry, _ = shot.align(scaled, dynamic=mask)
    after, report = shot.update(geometry, tmp_path / "nodes", policy=policy, hold_back=hold)
    geometry_ = shot.module("mirage_core.rollout.chunk_geometry")
    rules = shot.module("mirage_core.writing.policy")
    border = shot.module("nodes.comfy.vae")
    check = shot.module("mirage_core.writing.consistency").ConsistencyConfig()
    settings = shot.module("mirage_core.rollout.settings").MemorySettings(
        rules=rules.WriteRules(policy), consistency=check if hold else None
    )
    expected = shot.module("mirage_core.rollout.memory").write_chunk(
        shot.state, border.latent_tokens(shot.latent, "latent"), shot.images, scaled, settings,
        encode=border.VaeCodec(shot.vae).encode_images, masks={geometry_.DYNAMIC: mask},
    )  # fmt: skip
    assert after.cache.fingerprint() == expected.cache.fingerprint()
    assert ("held back" in report) and ("%" in report)


def test_a_thing_that_left_is_forgotten_on_request(shot: Shot, tmp_path: Path) -> None:
    """New frames that see far past what is remembered."""
    far = shot.of(depth=2 * shot.geometry.depth)
    kept, _ = shot.update(far, tmp_path / "kept")
    freed, report = shot.update(far, tmp_path / "freed", hold_back=True)
    assert len(freed.cache) < len(kept.cache)
    assert " 0 remembered points" not in report
    again = shot.module("mirage_core.rollout.run_folder").open_folder(
        dataclasses.replace(shot.state, folder=tmp_path / "freed")
    )
    assert again.cache.fingerprint() == freed.cache.fingerprint()


def test_what_changes_its_looks_is_held_back_on_request(shot: Shot, tmp_path: Path) -> None:
    """A place that flickers at the same depth: depth alone does not see it, tokens do."""
    images = shot.images.clone()
    images[::8, 32:64, 32:80] = 1 - images[::8, 32:64, 32:80]
    flicker = copy.copy(shot)
    flicker.images, flicker.latent = images, {"samples": shot.vae.encode(images)}
    counts = [
        len(flicker.update(shot.geometry, tmp_path / str(change), hold_back=True,
                           token_change=change)[0].cache)
        for change in (0.0, 0.8)
    ]  # fmt: skip
    assert counts[1] < counts[0]


def test_masks_of_everything_do_not_stop_the_shot(shot: Shot, tmp_path: Path) -> None:
    """They are told, and nothing is remembered of the chunk."""
    white = torch.ones(1, HEIGHT, WIDTH)
    aligned, told = shot.align(sky=white)
    assert "The sky mask covers all of every frame" in told and "inverted" in told
    for number, given in enumerate(({"geometry": aligned}, {"exclude": white})):
        after, report = shot.update(
            given.pop("geometry", shot.geometry), tmp_path / str(number), **given
        )
        assert len(after.cache) == len(shot.state.cache)
        assert "covers all of every frame" in report


def test_tracks_of_mirage_look_go_to_actors(shot: Shot, tmp_path: Path) -> None:
    """As Mirage Look gives them: a thing that walks through the chunk's frames."""
    frames = len(shot.images)
    mask = torch.zeros(frames, HEIGHT, WIDTH)
    for number in range(frames):
        mask[number, HEIGHT // 3 : -HEIGHT // 4, 10 + number // 2 : 42 + number // 2] = 1
    look = shot.module("nodes.comfy.scene_models")
    tracks = look.tracks_of(shot.images, [mask], ["dog"])
    after, report = shot.update(shot.geometry, tmp_path / "dog", tracks=tracks)
    assert [one.name for one in after.cache.actors] == ["dog"]
    assert "new: dog" in report
    plain, _ = shot.update(shot.geometry, tmp_path / "plain")
    assert len(after.cache) < len(plain.cache) and not plain.cache.actors


class TestBadInput:
    """Typed errors with a remedy, and nothing committed."""

    @pytest.fixture(autouse=True)
    def untouched(self, shot: Shot) -> Iterator[None]:
        before = shot.state.cache.fingerprint()
        yield
        assert shot.state.cache.fingerprint() == before
        assert set(shot.state.folder.iterdir()) == shot.saved

    @pytest.mark.parametrize("count", [1, 8, 10, 32])
    def test_depth_of_other_frames(self, shot: Shot, errors: ModuleType, count: int) -> None:
        geometry = shot.geometry.select([0] * count)
        for act in (shot.align, shot.update):
            with pytest.raises(errors.ShapeError, match="does not belong to this chunk.*Estimate"):
                act(geometry)

    @pytest.mark.parametrize("shape", [(1, 48, 80), (9, 96, 256), (5, 96, 128)])
    def test_masks_of_another_size(
        self, shot: Shot, errors: ModuleType, shape: tuple[int, ...]
    ) -> None:
        for name in ("dynamic", "sky"):
            with pytest.raises(errors.ShapeError, match="mask.*different"):
                shot.align(**{name: torch.zeros(shape)})
        with pytest.raises(errors.ShapeError, match="exclusion mask.*different"):
            shot.update(shot.geometry, exclude=torch.zeros(shape))

    def test_another_lens(self, shot: Shot, errors: ModuleType) -> None:
        lens = shot.geometry.intrinsics.clone()
        lens[:, :2, :2] *= 2
        for act in (shot.align, shot.update):
            with pytest.raises(errors.GeometryError, match="intrinsics differ.*field of view"):
                act(shot.of(intrinsics=lens))

    def test_frames_that_do_not_follow_the_trajectory(
        self, shot: Shot, errors: ModuleType
    ) -> None:
        poses = shot.geometry.world_to_camera.clone()
        poses[:, 1, 3] += torch.linspace(0, 5, LATENT)
        for act in (shot.align, shot.update):
            with pytest.raises(errors.GeometryError, match="do not follow the trajectory.*order"):
                act(shot.of(world_to_camera=poses))

    @pytest.mark.parametrize("value", [torch.inf, torch.nan, 0.0, -1.0])
    def test_an_estimator_without_numbers(
        self, shot: Shot, errors: ModuleType, value: float
    ) -> None:
        """As MoGe and Depth Anything 3 hand them over."""
        sources = shot.module("nodes.geometry")
        depth = torch.full((LATENT, 64, 64), 2.0)
        depth[3] = value
        lens = torch.tensor([[0.7, 0, 0.5], [0, 0.7, 0.5], [0, 0, 1]]).repeat(LATENT, 1, 1)
        with pytest.raises(errors.GeometryError, match="frame 3 has no valid pixel"):
            sources.MirageGeometryMoGe.execute({"depth": depth, "intrinsics": lens})
        with pytest.raises(errors.GeometryError, match="picture 3 can be remembered"):
            sources.MirageGeometryDA3.execute(
                {"depth": depth, "mode": "mono"}, 70.0, False, 0.5, 0.0
            )

    def test_strictness_refuses_what_agrees_nowhere(self, shot: Shot, errors: ModuleType) -> None:
        rng = torch.Generator().manual_seed(1)
        coarse = 0.3 + 6 * torch.rand(LATENT, 1, 4, 4, generator=rng)
        depth = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH))[:, 0]
        with pytest.raises(errors.GeometryError, match="No frame's depth agrees.*again"):
            shot.align(shot.of(depth=depth, exclude=None), strict=True)


def test_single_infinite_pixels_are_no_error(shot: Shot, tmp_path: Path) -> None:
    depth = shot.geometry.depth.clone()
    depth[:, :16, :16] = torch.inf
    geometry, _ = shot.align(shot.of(depth=depth))
    after, _ = shot.update(geometry, tmp_path / "out")
    assert all(torch.isfinite(block.points).all() for block in after.cache.blocks)


def test_frames_with_transparency_are_written_without_it(shot: Shot, tmp_path: Path) -> None:
    """Mirage Render gives such pictures; a shot must not end at them after sampling."""
    alpha = torch.cat([shot.images, torch.rand(*shot.images.shape[:3], 1)], dim=-1)
    plain, _ = shot.update(shot.geometry, tmp_path / "opaque")
    opaque = shot.images
    try:
        shot.images = alpha
        written, _ = shot.update(shot.geometry, tmp_path / "alpha")
    finally:
        shot.images = opaque
    for one, two in zip(plain.cache.blocks, written.cache.blocks, strict=True):
        assert torch.equal(one.points, two.points)
        assert torch.equal(one.tokens, two.tokens)


def with_actor(shot: Shot) -> Any:
    """The shot, with a figure in its memory that stands close to the camera."""
    actors = shot.module("mirage_core.cache.actor")
    track = shot.module("mirage_core.cache.track")
    types = shot.module("mirage_core.cache.types")
    cache = shot.state.cache
    block = cache.blocks[0]
    y, x = torch.meshgrid(
        torch.linspace(-0.6, 0, 90), torch.linspace(-0.2, 0.2, 60), indexing="ij"
    )
    points = torch.stack([x, y, torch.zeros_like(x)], dim=-1).reshape(-1, 3)
    rows = torch.zeros(len(points), dtype=torch.long)
    own = dataclasses.replace(block.take(rows), points=points, bounds=torch.empty(0))
    place = track.Track(
        torch.tensor([0]), torch.tensor([[-0.35, 0.35, 0.8]], dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
    )  # fmt: skip
    figure = actors.Actor(
        "figure", types.LatentCache((own,), cache.convention, cache.codec, cache.channels), place
    )
    return dataclasses.replace(shot.state, cache=cache.with_actors([figure]))


def test_where_the_memory_has_an_actor_depth_is_not_compared_with_the_set(shot: Shot) -> None:
    """A directed actor is in the chunk's pictures, and no mask says so."""
    state = with_actor(shot)
    node = shot.module("nodes.readout").MirageReadout
    readout = node.execute(state.cache, state.frame_cameras).result[0]
    seen = readout.actor >= 0
    assert float(seen.float().mean()) > 0.1
    depth = shot.geometry.depth.clone()
    front = seen.float().repeat_interleave(16, 1).repeat_interleave(16, 2) > 0
    depth[front] = 0.8
    align = shot.placed("nodes.chunk_geometry", "MirageAlignGeometry").execute
    exact, _ = shot.align()
    for grown in (0, 1):
        found, report = align(
            state, shot.of(depth=1.2 * depth), "scale", 0.1, 0, grown, True
        ).result
        assert "refused frames: none" in report
        torch.testing.assert_close(found.depth[~front], exact.depth[~front], rtol=2e-3, atol=0)
        assert found.exclude is not None
        assert bool(found.exclude[front].all())
