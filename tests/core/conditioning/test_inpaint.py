"""What a model that paints holes is told, against brute force over pixels."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from mirage_core.codecs.colours import ColourCodec
from mirage_core.conditioning.inpaint import (
    InpaintPlanes,
    expect_pictures,
    mask_doubt,
    unknown_cells,
    without_holes,
)
from mirage_core.errors import GeometryError, ModelMismatchError, PlanError, ShapeError
from mirage_core.readout.readout import Readout

FRAMES, ROWS, COLUMNS = 9, 2, 4
HEIGHT, WIDTH = 16 * ROWS, 16 * COLUMNS


def random_holes(seed: int = 0) -> Tensor:
    """A few single pixels in every frame, soft values among them."""
    rng = torch.Generator().manual_seed(seed)
    levels = torch.rand(FRAMES, HEIGHT, WIDTH, generator=rng)
    return torch.where(levels > 0.997, 0.4 + levels * 0.6, 0.5 * levels)


def brute_force(holes: Tensor) -> Tensor:
    latents = (FRAMES + 3) // 4
    planes = torch.zeros(4, latents, ROWS, COLUMNS)
    for latent in range(latents):
        for plane in range(4):
            frame = 0 if latent == 0 else 4 * latent - 3 + plane
            for row in range(HEIGHT):
                for column in range(WIDTH):
                    if holes[frame, row, column] > 0.5:
                        planes[plane, latent, row // 16, column // 16] = 1
    return planes


def test_planes_are_those_of_brute_force() -> None:
    holes = random_holes()
    found = unknown_cells(holes, 16)
    assert torch.equal(found, brute_force(holes))
    assert 0 < float(found.mean()) < 1


@pytest.mark.parametrize("frame", range(FRAMES))
def test_every_frame_has_its_plane(frame: int) -> None:
    holes = torch.zeros(FRAMES, HEIGHT, WIDTH)
    holes[frame, 17, 33] = 1
    marked = {tuple(place) for place in unknown_cells(holes, 16).nonzero().tolist()}
    if frame == 0:
        assert marked == {(plane, 0, 1, 2) for plane in range(4)}
    else:
        assert marked == {((frame - 1) % 4, (frame + 3) // 4, 1, 2)}


def test_only_what_is_unknown_becomes_grey(make) -> None:
    frames, holes = make.noise(FRAMES, HEIGHT, WIDTH, 4), random_holes()
    before = frames.clone()
    found = without_holes(frames, holes)
    assert torch.equal(frames, before)
    assert found.shape[-1] == 3
    marked = holes > 0.5
    assert (found[marked] == 0.5).all()
    assert torch.equal(found[~marked], frames[..., :3][~marked])


@pytest.fixture
def readout(make) -> Readout:
    cache = make.cache()
    shape = (3, ROWS, COLUMNS)
    visible = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    tokens = (make.noise(48, *shape) * visible).half()
    return Readout(tokens, visible, visible.float(), visible.long() - 1, cache, None)


def test_a_readout_s_tokens_are_given_where_they_are_seen(make, readout: Readout) -> None:
    planes = InpaintPlanes.of_readout(readout)
    assert planes.latent.dtype == planes.unknown.dtype == torch.float32
    assert torch.equal(planes.latent, readout.tokens.float())
    for plane in planes.unknown:
        assert torch.equal(plane == 0, readout.visible)
    blank = make.noise(48, 3, ROWS, COLUMNS)
    filled = InpaintPlanes.of_readout(readout, blank).latent
    seen = readout.visible
    assert torch.equal(filled[:, seen], readout.tokens.float()[:, seen])
    assert torch.equal(filled[:, ~seen], blank[:, ~seen])
    with pytest.raises(ShapeError, match="blank latent"):
        InpaintPlanes.of_readout(readout, blank[:, :2])


def test_colours_are_not_tokens(readout: Readout) -> None:
    cache = dataclasses.replace(readout.cache, blocks=(), codec=ColourCodec(1).name)
    with pytest.raises(ModelMismatchError, match="Mirage Render"):
        InpaintPlanes.of_readout(dataclasses.replace(readout, cache=cache))


def test_a_first_latent_is_given_as_a_whole(make, readout: Readout) -> None:
    planes = InpaintPlanes.of_readout(readout)
    before = planes.latent.clone(), planes.unknown.clone()
    first = make.noise(48, 1, ROWS, COLUMNS)
    begun = planes.begun_with(first)
    assert torch.equal(begun.latent[:, :1], first)
    assert not begun.unknown[:, 0].any()
    assert torch.equal(begun.latent[:, 1:], planes.latent[:, 1:])
    assert torch.equal(begun.unknown[:, 1:], planes.unknown[:, 1:])
    assert torch.equal(planes.latent, before[0]) and torch.equal(planes.unknown, before[1])
    with pytest.raises(ShapeError, match="first latent"):
        planes.begun_with(first[..., :1])


@pytest.mark.parametrize(
    ("frames", "holes", "kind", "words"),
    [
        ((9, 64, 96, 3), (1, 64, 96), ShapeError, "1 masks for 9 pictures"),
        ((9, 64, 96, 3), (3, 64, 96), ShapeError, "3 masks for 9 pictures"),
        ((9, 64, 96, 3), (10, 64, 96), ShapeError, "10 masks for 9 pictures"),
        ((9, 64, 96, 3), (9, 4, 6), ShapeError, "masks of 6 x 4"),
        ((8, 64, 96, 3), (8, 64, 96), PlanError, "4n"),
        ((9, 64, 80, 3), (9, 64, 80), ShapeError, "divisible by 32"),
        ((9, 64, 96, 1), (9, 64, 96), ShapeError, "1 channels"),
        ((9, 64, 96), (9, 64, 96), ShapeError, "pictures has the wrong shape"),
        ((9, 64, 96, 3), (9, 1, 64, 96), ShapeError, "wrong shape"),
    ],
)
def test_what_does_not_fit_is_refused(
    frames: tuple[int, ...], holes: tuple[int, ...], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        expect_pictures(torch.zeros(frames), torch.zeros(holes))


def test_masks_are_numbers() -> None:
    holes = torch.zeros(9, 64, 96)
    expect_pictures(torch.zeros(9, 64, 96, 3), holes)
    holes[4, 3, 2] = float("nan")
    with pytest.raises(GeometryError, match="not finite"):
        expect_pictures(torch.zeros(9, 64, 96, 3), holes)


def test_doubts(make) -> None:
    frames = make.noise(5, 64, 96, 3)
    holes = torch.zeros(5, 64, 96)
    holes[:, :, 48:] = 1
    assert mask_doubt(frames, holes) is None
    assert mask_doubt(frames, torch.zeros_like(holes)) is None
    assert "white" in mask_doubt(frames, torch.ones_like(holes))
    grey = torch.where(holes[..., None] > 0.5, 0.5, frames)
    assert mask_doubt(grey, holes) is None
    assert "inverted" in mask_doubt(grey, 1 - holes)
    # A blank wall beside holes of the same colour is not suspicious.
    assert mask_doubt(torch.full_like(frames, 0.5), holes) is None
    # White everywhere but for a pixel that the samples miss.
    holes[:] = 1
    holes[0, 1, 1] = 0
    assert mask_doubt(frames, holes) is None
