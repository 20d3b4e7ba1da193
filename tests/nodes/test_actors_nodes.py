"""Actors in the graph: made from a picture and a mask, placed, drawn, read and updated."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from .room_kit import PictureKit

WIDTH, HEIGHT, FRAMES = 160, 96, 9


class Studio(PictureKit):
    """A procedural picture with its memory, a standing camera, and a thing in the picture."""

    @property
    def nodes(self) -> Any:
        return self.module("nodes.actors")

    @property
    def errors(self) -> Any:
        return self.module("mirage_core.errors")

    def photograph(self) -> tuple[Tensor, Any, Tensor]:
        """A red figure before a far wall, with depth and mask, from another picture."""
        picture = torch.full((1, HEIGHT, WIDTH, 3), 0.5)
        mask = torch.zeros(1, HEIGHT, WIDTH)
        mask[:, 24:80, 64:96] = 1
        picture[mask > 0] = torch.tensor([0.9, 0.1, 0.1])
        depth = torch.where(mask > 0, 2.0, 6.0)
        frame = self.module("mirage_core.geometry.frame_geometry").FrameGeometry
        return picture, frame(depth, self.path.intrinsics[:1]), mask

    def actor(self, cache: Any, name: str = "figure", **changes: Any) -> Any:
        picture, geometry, mask = self.photograph()
        return self.nodes.MirageActor.execute(
            picture, geometry, changes.pop("mask", mask), self.vae, cache, name, **changes
        ).args

    def placed(self, cache: Any, path: str, behaviour: str = "path", height: float = 1.1) -> Any:
        actor, _ = self.actor(cache)
        return self.nodes.MiragePlaceActor.execute(
            cache, actor, behaviour, height, path, 24.0
        ).args


@pytest.fixture(scope="module")
def studio(pack: ModuleType) -> Studio:
    with torch.inference_mode():
        return Studio(pack, WIDTH, HEIGHT, FRAMES)


# On the room's floor, which lies below the picture where the camera stands.
WAY = json.dumps([{"frame": 0, "place": [-0.9, 2.6]}, {"frame": 8, "place": [0.9, 2.6]}])


@pytest.mark.parametrize("what", ["tokens", "colours"])
def test_an_actor_is_directed_along_a_path(studio: Studio, what: str) -> None:
    """A photograph of a figure walks through the room from left to right."""
    cache, report = studio.placed(studio.memory(what=what), WAY)
    assert "1.10 high" in report
    render = studio.module("nodes.render").MirageRender
    images, holes, _, actors = render.execute(
        holes="smooth", cache=cache, trajectory=studio.path
    ).args
    middles = [float(actors[f].nonzero()[:, 1].double().mean()) for f in (0, 4, 8)]
    assert middles[0] < WIDTH / 2 - 15 < middles[1] < WIDTH / 2 + 15 < middles[2]
    red = images[4][actors[4] > 0]
    assert float((red[:, 0] - red[:, 1]).median()) > 0.5
    assert not bool(holes[actors > 0].any())


def test_the_mask_of_holes_weighs_actors(studio: Studio) -> None:
    cache, _ = studio.placed(studio.memory(what="colours"), WAY)
    render = studio.module("nodes.render").MirageRender
    _, holes, _, actors = render.execute(
        holes="grey", cache=cache, trajectory=studio.path, actor_strength=0.25
    ).args
    assert bool((holes[actors > 0] == 0.75).all())


def test_a_readout_marks_actors(studio: Studio) -> None:
    memory = studio.memory()
    cache, _ = studio.placed(memory, WAY)
    node = studio.module("nodes.readout").MirageReadout
    readout, _, visible, _, actors = node.execute(cache, studio.path).args
    assert actors.shape == visible.shape == (3, HEIGHT, WIDTH)
    assert bool(actors.any())
    assert not bool((actors * visible).any())
    weak = node.execute(cache, studio.path, actor_strength=0.5).args[0]
    assert float(weak.weights[weak.actor >= 0].unique()) == 0.5
    plain = node.execute(memory, studio.path).args
    assert not bool(plain[4].any())
    assert readout.cache is cache


def test_what_is_filled_does_not_write_actors_to_the_set(studio: Studio) -> None:
    cache, _ = studio.placed(studio.memory(), WAY)
    readout = studio.module("nodes.readout").MirageReadout.execute(cache, studio.path).args[0]
    fill = studio.module("nodes.readout").MiragePreviewFill
    _, geometry, images = fill.execute(readout, studio.vae).args
    cells = geometry.exclude[:, ::16, ::16]
    assert bool(cells[readout.actor >= 0].all())
    assert images.shape == (FRAMES, HEIGHT, WIDTH, 3)


def test_the_report_of_a_memory_names_its_actors(studio: Studio) -> None:
    cache, _ = studio.placed(studio.memory(), WAY)
    info = studio.module("nodes.memory_files").MirageCacheInfo
    result = info.execute(cache)
    assert "actor figure:" in result.args[0]
    view = result.ui["mirage_memory"][0]
    assert view["actors"][0]["actor"] == "figure"
    assert view["points"] == len(cache)
    assert "actors" not in info.execute(studio.memory()).ui["mirage_memory"][0]


def test_the_page_is_told_where_actors_are(studio: Studio) -> None:
    """Each frame's place and heading, at most a few hundred of them, and where the points are."""
    cache, _ = studio.placed(studio.memory(what="colours"), WAY)
    viewer = studio.module("nodes.comfy.viewer")
    actor = cache.actors[0]
    for frames, step in ((9, 1), (1601, 5)):
        (told,) = viewer.cast_view(cache, frames)["cast"]
        assert told["frames"] == list(range(0, frames, step)) and len(told["frames"]) <= 400
        for frame, place in zip(told["frames"][:9], told["places"], strict=False):
            pose = actor.pose(frame)
            torch.testing.assert_close(torch.tensor(place[:3]).double(), pose[:3, 3])
            front = torch.tensor([math.sin(place[3]), math.cos(place[3])]).double()
            # The floor that was found leans a little, and so does what stands on it.
            torch.testing.assert_close(front, pose[[0, 2], 2], atol=5e-3, rtol=0)
    view = viewer.cast_view(cache, 9)
    assert view["ground"]["up"][1] == pytest.approx(-1, abs=5e-3)
    assert told["name"] == "figure" and told["size"] == pytest.approx(list(actor.size))
    assert told["facing"] == float(actor.track.headings[-1]), "it was seen from one side"
    stands = actor.pose(int(actor.track.frames[-1]))
    assert told["stands"][:3] == pytest.approx(stands[:3, 3].tolist())
    json.dumps(view, allow_nan=False)
    (later,) = viewer.cast_view(cache, 9, 6)["cast"]
    assert later["stands"][:3] == pytest.approx(actor.pose(6)[:3, 3].tolist())
    forgotten, _ = studio.placed(studio.memory(what="colours"), WAY, behaviour="forget")
    (told,) = viewer.cast_view(forgotten, 9)["cast"]
    assert told["places"][0] is not None and told["places"][8] is None
    assert viewer.cast_view(studio.memory(), 9) == viewer.cast_view(None, 9) == {}


def test_tracks_are_chained(studio: Studio) -> None:
    mask = torch.zeros(9, HEIGHT, WIDTH)
    mask[:, :20] = 1
    one = studio.nodes.MirageTracks.execute(mask, "dog").args[0]
    both = studio.nodes.MirageTracks.execute(mask.flip(1), "cat", one, lasting=True).args[0]
    assert dict(both.names) == {1: "dog", 2: "cat"}
    assert not one.lasting and both.lasting == {2}
    three = studio.nodes.MirageTracks.execute(mask.flip(2), "cow", both, lasting=False).args[0]
    assert three.lasting == {2}
    with pytest.raises(studio.errors.ValueRangeError):
        studio.nodes.MirageTracks.execute(mask, " ")


def test_what_cannot_be_an_actor(studio: Studio) -> None:
    cache = studio.memory()
    with pytest.raises(studio.errors.GeometryError, match="in none of the frames"):
        studio.actor(cache, mask=torch.zeros(1, HEIGHT, WIDTH))
    with pytest.raises(studio.errors.GeometryError, match="more than half"):
        studio.actor(cache, mask=torch.ones(1, HEIGHT, WIDTH))
    with pytest.raises(studio.errors.ValueRangeError, match="needs a name"):
        studio.actor(cache, name="")
    picture, geometry, mask = studio.photograph()
    clip = picture.expand(5, -1, -1, -1)
    node = studio.nodes.MirageActor
    with pytest.raises(studio.errors.ShapeError, match="different numbers of frames"):
        node.execute(clip[:3], geometry.select([0, 0]), mask, studio.vae, cache, "x")
    with pytest.raises(studio.errors.GeometryError, match="cameras of the actor's frames"):
        node.execute(clip, geometry.select([0] * 5), mask, studio.vae, cache, "x")
    with pytest.raises(studio.errors.ShapeError, match="trajectory"):
        node.execute(
            clip, geometry.select([0] * 5), mask, studio.vae, cache, "x", trajectory=studio.path
        )
    with pytest.raises(studio.errors.TrajectoryError, match="path cannot be read"):
        studio.placed(cache, "[")
    other = studio.memory(what="colours")
    actor, _ = studio.actor(other)
    with pytest.raises(studio.errors.ModelMismatchError, match="does not fit the memory"):
        studio.nodes.MiragePlaceActor.execute(cache, actor, "stay", 0.0, "", 24.0)


def test_a_clip_of_every_fourth_frame(studio: Studio) -> None:
    """Nine pictures with three depth maps and one camera each."""
    cache = studio.memory()
    picture, geometry, mask = studio.photograph()
    frames = picture.expand(FRAMES, -1, -1, -1)
    actor, report = studio.nodes.MirageActor.execute(
        frames, geometry.select([0] * 3), mask.expand(FRAMES, -1, -1), studio.vae, cache, "figure",
        trajectory=studio.path, start_frame=16,
    ).args  # fmt: skip
    assert actor.track.frames.tolist() == [16, 20, 24]
    assert "seen in 3 frames, 16 to 24" in report


@pytest.mark.parametrize(("fps", "told"), [(0.0, False), (24.0, False), (16.0, True)])
def test_a_shot_at_another_rate_tells_of_paths_in_frames(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: float, told: bool
) -> None:
    """The camera is as fast as before, and what walks by the number of the frame is not."""
    node = studio.module("nodes.loop").MirageRolloutStart
    paths = studio.module("nodes.comfy.files").folder_paths
    monkeypatch.setattr(paths, "output_directory", str(tmp_path))
    start = type("Placed", (node,), {"hidden": SimpleNamespace(unique_id="1")})
    cache, _ = studio.placed(studio.memory(), WAY)
    latent = {"samples": torch.zeros(1, 48, 1, HEIGHT // 16, WIDTH // 16)}
    shot = start.execute(cache, studio.path, latent, 0, "shot", True, fps=fps)
    assert ("16 per second now, no more 24" in shot.ui["text"][0]) == told
    still = start.execute(studio.memory(), studio.path, latent, 0, "shot", True, fps=fps)
    assert "actors" not in still.ui["text"][0]


def test_movers_come_with_depth_masks_and_the_room_alone(studio: Studio) -> None:
    """What the mask leaves out is the room to the bit; the actor is where the mask shows it."""
    node = studio.module("nodes.embedded").MirageEmbeddedMovers
    given = (9, WIDTH, HEIGHT, 70.0, FRAMES, 2, 1, 24.0)
    images, geometry, mask, tracks, plate, still = node.execute(*given).args
    assert images.shape == (FRAMES, HEIGHT, WIDTH, 3) and plate.shape == (1, HEIGHT, WIDTH, 3)
    assert torch.equal(images, node.execute(*given).args[0])
    assert torch.equal(mask > 0, tracks.of(1)) and 1 in tracks.lasting
    assert set(tracks.names) == {1, 2} and set(tracks.numbers) <= {1, 2}
    rest = ~tracks.moving
    assert torch.equal(images[rest], plate.expand_as(images)[rest])
    assert torch.equal(geometry.depth[rest], still.depth.expand_as(geometry.depth)[rest])
    assert bool((geometry.depth < still.depth)[tracks.moving].all())
    cache = studio.memory(what="colours")
    actor, _ = studio.nodes.MirageActor.execute(
        images, geometry, mask, studio.vae, cache, "box", turns=False
    ).args
    left, right = (float(mask[f].nonzero()[:, 1].double().mean()) for f in (0, -1))
    places = actor.track.positions
    assert (right - left) * float(places[-1, 0] - places[0, 0]) > 0


def test_a_mover_that_is_not_there_is_told(studio: Studio) -> None:
    node = studio.module("nodes.embedded").MirageEmbeddedMovers
    with pytest.raises(studio.errors.ValueRangeError, match="number of the mover"):
        node.execute(9, WIDTH, HEIGHT, 70.0, FRAMES, 1, 2, 24.0)
