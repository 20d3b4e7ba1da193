"""What a VACE model is shown of a chunk: kept, seen, to be made; and never changed in place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.conditioning.control_video import control_video
from mirage_core.errors import ShapeError


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@given(
    seed=st.integers(0, 10_000), frames=st.integers(1, 4), known=st.integers(0, 4),
    channels=st.sampled_from([3, 4]),
)  # fmt: skip
def test_pixel_by_pixel(seed: int, frames: int, known: int, channels: int) -> None:
    known = min(known, frames)
    images, kept = noise(frames, 2, 3, channels, seed=seed), noise(known, 2, 3, 3, seed=seed + 1)
    holes = noise(frames, 2, 3, seed=seed + 2).round()
    before = images.clone(), holes.clone(), kept.clone()
    made = control_video(images, holes, kept)
    for f in range(frames):
        for y in range(2):
            for x in range(3):
                colour, mask = images[f, y, x, :3], 0.0
                if f < known:
                    colour = kept[f, y, x]
                elif holes[f, y, x]:
                    colour, mask = torch.full((3,), 0.5), 1.0
                assert torch.equal(made.frames[f, y, x], colour)
                assert float(made.masks[f, y, x]) == mask
    for now, then in zip((images, holes, kept), before, strict=True):
        assert torch.equal(now, then)


def test_a_soft_mask_is_a_hole_wherever_it_is_not_black() -> None:
    holes = torch.tensor([0.0, 0.01, 0.5, 1.0])[None, None]
    made = control_video(noise(1, 1, 4, 3), holes)
    assert made.masks.tolist() == [[[0.0, 1.0, 1.0, 1.0]]]
    assert torch.equal(made.frames[0, 0, 1:], torch.full((3, 3), 0.5))


@pytest.mark.parametrize(
    ("images", "holes", "known"),
    [
        ((5, 2, 3, 3), (4, 2, 3), (1, 2, 3, 3)),
        ((5, 2, 3, 3), (5, 3, 2), (1, 2, 3, 3)),
        ((5, 2, 3, 3), (5, 2, 3), (1, 3, 2, 3)),
        ((5, 2, 3, 3), (5, 2, 3), (6, 2, 3, 3)),
        ((5, 2, 3), (5, 2, 3), (1, 2, 3, 3)),
    ],
)
def test_sizes_that_do_not_fit_are_refused(images, holes, known) -> None:
    with pytest.raises(ShapeError):
        control_video(noise(*images), noise(*holes), noise(*known))
