"""Mirage Render and memories of colours, node by node."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from .room_kit import PictureKit
from .sampling_kit import Kit

WIDTH, HEIGHT, FRAMES = 96, 64, 5

pytestmark = pytest.mark.usefixtures("inference")


class Room(PictureKit):
    """A procedural picture with the memories that can be made of it, and a move."""

    def render(self, **inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        return self.module("nodes.render").MirageRender.execute(**inputs).args[:3]

    def read(self, cache: Any, **changes: Any) -> tuple[Any, ...]:
        return self.module("nodes.readout").MirageReadout.execute(cache, self.path, **changes).args

    @property
    def mismatch(self) -> type[Exception]:
        return self.module("mirage_core.errors").ModelMismatchError


@pytest.fixture(scope="module")
def room(pack: ModuleType) -> Room:
    with torch.inference_mode():
        return Room(pack, WIDTH, HEIGHT, FRAMES, step=0.1)


@pytest.mark.parametrize("step", [1, 2])
def test_colours_are_drawn_at_every_frame(room: Room, step: int) -> None:
    cache = room.memory(what="colours", colour_step=step)
    images, holes, depth = room.render(holes="smooth", cache=cache, trajectory=room.path)
    assert images.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert holes.shape == (FRAMES, HEIGHT, WIDTH)
    assert depth.shape == images.shape
    known = holes[0] == 0
    error = (images[0] - room.image[0]).abs()[known]
    assert float(error.mean()) < (0.01 if step == 1 else 0.05)
    assert set(holes.unique().tolist()) == {0.0, 1.0}
    assert float(holes[4].mean()) > float(holes[0].mean())
    assert not depth[holes > 0].any()
    assert bool((depth[holes == 0] > 0).all())


@pytest.mark.parametrize(("holes", "level"), [("grey", 0.5), ("black", 0.0)])
def test_what_stands_in_holes(room: Room, holes: str, level: float) -> None:
    cache = room.memory(what="colours")
    images, mask, _ = room.render(holes=holes, cache=cache, trajectory=room.path)
    assert torch.allclose(images[mask > 0], torch.tensor(level), atol=1e-6)
    smooth, _, _ = room.render(holes="smooth", cache=cache, trajectory=room.path)
    assert torch.equal(images[mask == 0], smooth[mask == 0])


def test_transparent_holes(room: Room) -> None:
    cache = room.memory(what="colours")
    images, mask, _ = room.render(holes="transparent", cache=cache, trajectory=room.path)
    assert images.shape == (FRAMES, HEIGHT, WIDTH, 4)
    assert torch.equal(images[..., 3], 1 - mask)


def test_a_readout_is_drawn_as_its_memory(room: Room) -> None:
    cache = room.memory(what="colours")
    readout = room.read(cache)[0]
    found = room.render(holes="black", readout=readout)
    wanted = room.render(holes="black", cache=cache, trajectory=room.path)
    assert all(torch.equal(one, two) for one, two in zip(found, wanted, strict=True))
    other = room.path.select([4])
    moved = room.render(holes="black", readout=readout, trajectory=other)
    assert torch.equal(moved[0][0], wanted[0][4])


def test_tokens_of_the_embedded_codec_are_drawn_as_the_preview_draws_them(room: Room) -> None:
    cache = room.memory()
    images, _, _ = room.render(holes="smooth", cache=cache, trajectory=room.path)
    preview = room.module("nodes.readout").MiragePreviewFill.execute(
        room.read(cache)[0], room.vae
    )
    assert torch.equal(images, preview.args[2])


def test_nothing_to_draw(room: Room) -> None:
    error = room.module("mirage_core.errors").PlanError
    with pytest.raises(error, match=r"no memory.*readout"):
        room.render(holes="grey", trajectory=room.path)
    with pytest.raises(error, match="no trajectory"):
        room.render(holes="grey", cache=room.memory())


def test_tokens_that_mean_nothing_alone_are_refused(room: Room) -> None:
    cache = room.module("mirage_core.cache.types").LatentCache()
    with pytest.raises(room.mismatch, match="what = colours"):
        room.render(holes="grey", cache=cache, trajectory=room.path)


def test_views(room: Room) -> None:
    cache = room.memory(what="colours")
    drawn = {
        view: room.render(holes="black", cache=cache, trajectory=room.path, view=view)[0]
        for view in ("auto", "best_view", "nearest")
    }
    assert torch.equal(drawn["auto"], drawn["best_view"])
    assert not torch.equal(drawn["auto"], drawn["nearest"])


def test_views_of_a_readout(room: Room) -> None:
    """Tokens are read as before unless it is asked for."""
    read = room.module("mirage_core.readout.readout").read
    tokens, colours = room.memory(), room.memory(what="colours")
    rule = room.module("mirage_core.ops.best_view").BestView()
    for cache, view, wanted in (
        (tokens, "auto", None),
        (tokens, "best_view", rule),
        (colours, "auto", rule),
        (colours, "nearest", None),
    ):
        found = room.read(cache, view=view)[0]
        assert torch.equal(found.winner, read(cache, room.path, wanted).winner)


def test_colours_have_no_latent(room: Room) -> None:
    readout, latent, visible, depth, _ = room.read(room.memory(what="colours"))
    assert type(latent).__name__ == "ExecutionBlocker"
    assert "Mirage Render" in latent.message
    assert visible.shape == (2, HEIGHT, WIDTH)
    assert depth.shape == (2, HEIGHT, WIDTH, 3)
    assert readout.visible.any()


@pytest.mark.samplers
def test_nodes_that_need_tokens_say_so(room: Room, kit: Kit) -> None:
    """The checks that stand before anything is sampled."""
    colours = room.memory(what="colours")
    base = room.module("mirage_core.codecs.base")
    codec = room.module("nodes.comfy.vae").VaeCodec(room.vae)
    with pytest.raises(room.mismatch, match="a memory of colours"):
        base.expect_same_codec(colours.codec, codec)
    parts = room.module("nodes.branch").expect_parts
    latent = room.module("nodes.comfy.vae").make_latent(codec.encode_images(room.image))
    with pytest.raises(room.mismatch, match="a memory of colours"):
        parts(kit.model, room.read(colours)[0], latent)


def test_a_preview_of_colours_takes_any_vae(room: Room) -> None:
    readout = room.read(room.memory(what="colours"))[0]
    fill = room.module("nodes.readout").MiragePreviewFill
    latent, geometry, images = fill.execute(readout, room.vae).args
    assert images.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert latent["samples"].shape[1:] == (48, 2, HEIGHT // 16, WIDTH // 16)
    assert len(geometry) == 2
    wanted = room.render(holes="smooth", readout=readout)[0]
    assert torch.equal(images, wanted)


def test_information_names_the_kind(room: Room) -> None:
    info = room.module("nodes.memory_files").MirageCacheInfo
    report, cloud = info.execute(room.memory(what="colours")).args
    assert "colours of rgb" in report
    assert cloud is not None
