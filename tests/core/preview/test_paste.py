"""Known pixels over a model's frames, against the distance of every pixel to every hole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mirage_core.errors import ShapeError, ValueRangeError
from mirage_core.preview.paste import paste_known

SIZE = (7, 9)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def plain_weight(unknown: Tensor, feather: int) -> Tensor:
    """Pixel by pixel."""
    weight = torch.zeros(SIZE)
    places = unknown.nonzero().tolist()
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            if unknown[y, x]:
                continue
            near = [((y - r) ** 2 + (x - c) ** 2) ** 0.5 for r, c in places]
            weight[y, x] = min([1.0, *(distance / (feather + 1) for distance in near)])
    return weight


@given(
    seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    feather=st.integers(0, 6), strength=st.sampled_from([0.0, 0.4, 1.0]),
)  # fmt: skip
def test_pixel_by_pixel(seed: int, share: float, feather: int, strength: float) -> None:
    frames, images = noise(2, *SIZE, 3, seed=seed), noise(2, *SIZE, 3, seed=seed + 1)
    holes = (noise(2, *SIZE, seed=seed + 2) < share).float()
    before = frames.clone(), images.clone(), holes.clone()
    found = paste_known(frames, images, holes, feather, strength)
    for number in range(2):
        weight = strength * plain_weight(holes[number] > 0, feather)[..., None]
        expected = frames[number] * (1 - weight) + images[number] * weight
        assert torch.allclose(found[number], expected, atol=1e-6)
    for now, then in zip((frames, images, holes), before, strict=True):
        assert torch.equal(now, then)


def test_holes_are_the_model_s_and_deep_inside_is_the_memory_s() -> None:
    frames, images, holes = noise(1, 40, 60, 3), noise(1, 40, 60, 4, seed=1), torch.zeros(1, 40, 60)
    holes[:, :, :20] = 1
    found = paste_known(frames, images, holes, feather=8)
    assert torch.equal(found[:, :, :20], frames[:, :, :20])
    assert torch.allclose(found[:, :, 28:], images[:, :, 28:, :3], atol=1e-6)
    between = found[:, :, 20:28]
    assert not torch.equal(between, frames[:, :, 20:28])
    assert not torch.allclose(between, images[:, :, 20:28, :3], atol=1e-2)


def test_every_frame_is_reported() -> None:
    seen: list[tuple[int, int]] = []
    paste_known(
        noise(3, 4, 4, 3), noise(3, 4, 4, 3), torch.zeros(3, 4, 4),
        on_frame=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("what", ["frames", "images", "holes"])
def test_sizes_that_do_not_fit_are_refused(what: str) -> None:
    given = {"frames": noise(3, 4, 4, 3), "images": noise(3, 4, 4, 3), "holes": noise(3, 4, 4)}
    with pytest.raises(ShapeError):
        paste_known(**given | {what: given[what][:2]})
    with pytest.raises(ValueRangeError, match="feather"):
        paste_known(**given, feather=-1)
    with pytest.raises(ValueRangeError, match="strength"):
        paste_known(**given, strength=1.5)
