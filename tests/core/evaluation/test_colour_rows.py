"""Rows of an ablation that differ in how many colours are remembered, and in errors of depth."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from einops import reduce

from mirage_core.cli.evaluate_tasks import shots_of
from mirage_core.cli.main import make_parser
from mirage_core.codecs.dct import CODEC_NAME, DctCodec
from mirage_core.errors import ModelMismatchError, ValueRangeError
from mirage_core.evaluation.rgbd import Views
from mirage_core.evaluation.rooms import Rooms
from mirage_core.evaluation.shown import Drawn
from mirage_core.evaluation.variations import Variation
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.preview.drawn import drawn_latents, drawn_tokens
from mirage_core.readout.readout import read
from mirage_core.rollout.memory import begin_memory
from mirage_core.rollout.settings import MemorySettings
from mirage_core.training.data.build_clip import DepthNoise
from tiny_evaluation import wall_views

CODEC = DctCodec()


@pytest.fixture
def views() -> Views:
    pictures, depths, cameras = wall_views(5)
    geometry = FrameGeometry(
        torch.from_numpy(depths).float(), cameras.intrinsics, cameras.world_to_camera, metric=True
    )
    return Views(torch.from_numpy(pictures).float() / 255, geometry, cameras)


def begun(views: Views, step: int) -> Drawn:
    row = Variation("c", memory="colours", step=step)
    return Drawn.begun(
        row, CODEC, MemorySettings(), views.frames[0], views.geometry, views.cameras
    )


def shown(drawn: Drawn, views: Views) -> torch.Tensor:
    return drawn_tokens(drawn.cache, views.cameras, drawn.colours, CODEC)


def test_a_colour_for_every_pixel_shows_a_still_camera_the_picture(views) -> None:
    still = views.select([0] * 5)
    tokens = shown(begun(still, 1), still)
    expected = CODEC.encode_images(still.frames[:1])
    away = CODEC.encode_images(reduce(still.frames[:1], "f h w c -> f 1 1 c", "mean").expand(
        still.frames[:1].shape
    ))  # fmt: skip
    error = (tokens[:, 0] - expected[:, 0]).square().mean()
    assert error < 0.02 * (away - expected).square().mean()


@pytest.mark.parametrize("step", [4, 16])
def test_coarse_colours_are_the_means_of_their_squares(views, step: int) -> None:
    drawn = begun(views, step)
    height, width = views.frames.shape[1:3]
    assert len(drawn.cache) == (height // step) * (width // step)
    means = reduce(views.frames[0], "(h a) (w b) c -> (h w) c", "mean", a=step, b=step)
    held = drawn.cache.blocks[0].tokens.float() / 255
    ordered = held[drawn.cache.blocks[0].points[:, :2].double().matmul(
        torch.tensor([1.0, 1e4], dtype=torch.float64)
    ).argsort()]  # fmt: skip
    assert torch.allclose(ordered, means, atol=0.5 / 255 + 1e-6)


def test_one_colour_for_a_cell_has_as_many_points_as_tokens_have(views) -> None:
    first = dataclasses.replace(views.geometry.select([0]), world_to_camera=None)
    tokens = begin_memory(
        CODEC.encode_images(views.frames[:1]), first, CODEC_NAME, MemorySettings(),
        world_to_camera=views.cameras.world_to_camera[:1],
    )  # fmt: skip
    colours = begun(views, 16).cache
    assert torch.equal(colours.blocks[0].points, tokens.blocks[0].points)
    # Their drawings are the same but for what a flat square cannot hold.
    flat = shown(begun(views, 16), views)
    full = drawn_latents(read(tokens, views.cameras), CODEC)
    assert flat.shape == full.shape
    assert torch.corrcoef(torch.stack([flat[0].flatten(), full[0].flatten()]))[0, 1] > 0.9


def test_a_chunk_is_learned_but_for_its_first_frame(views) -> None:
    drawn = begun(views, 4)
    before = len(drawn.cache)
    ends = [0, 4]
    drawn.learn(
        views.frames[ends], views.geometry.select(ends), views.cameras.select(ends), ends
    )
    frames = torch.cat([block.frames for block in drawn.cache.blocks])
    assert set(frames.tolist()) <= {0, 4} and len(drawn.cache) >= before


def test_rows_that_mean_nothing_are_refused(views) -> None:
    with pytest.raises(ValueRangeError, match="no colours"):
        Variation("x", step=4)
    with pytest.raises(ValueRangeError, match="1, 2, 4, 16"):
        Variation("x", memory="colours", step=3)

    class Wan(DctCodec):
        drawable = False
        name = "wan2.2"

    with pytest.raises(ModelMismatchError, match="takes drawings"):
        Drawn.begun(
            Variation("x", memory="colours", step=4), Wan(), MemorySettings(),
            views.frames[0], views.geometry, views.cameras,
        )  # fmt: skip


@pytest.mark.rooms
def test_depth_noise_of_rooms() -> None:
    item = Rooms(1, 5, 96, 64).items()[0]
    exact = Rooms(1, 5, 96, 64, noise=DepthNoise(0, 0)).views(item).geometry.depth
    wrong = Rooms(1, 5, 96, 64, noise=DepthNoise(0.2, 0.1)).views(item).geometry.depth
    usual = Rooms(1, 5, 96, 64).views(item).geometry.depth
    errors = [float((depth / exact).log().std()) for depth in (usual, wrong)]
    assert 0 < errors[0] < 0.03
    assert errors[1] == pytest.approx(10 * errors[0], rel=1e-3)


def test_depth_noise_of_the_command_line() -> None:
    parse = make_parser().parse_args
    given = ["evaluate", "ablation", "--tiny", "--out", "x"]
    rooms = shots_of(parse([*given, "--depth-noise", "0.1", "0.05"]))
    assert rooms.settings()["depth noise"] == [0.1, 0.05]
    assert shots_of(parse(given)).settings()["depth noise"] == [0.02, 0.01]
