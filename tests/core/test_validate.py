"""Checks at the boundary: what passes, what is refused, and what the message says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.errors import (
    GeometryError,
    MirageError,
    ModelMismatchError,
    PlanError,
    ShapeError,
    ValueRangeError,
)
from mirage_core.validate import (
    expect_finite,
    expect_frame_count,
    expect_frame_size,
    expect_range,
    expect_rigid,
    expect_shape,
    expect_token_channels,
)


def test_messages_have_all_four_parts() -> None:
    error = MirageError("It is wrong.", got=3, expected="4", fix="Do this")
    assert str(error) == "It is wrong. Got: 3. Expected: 4. Do this."
    assert (error.what, error.got, error.expected, error.fix) == ("It is wrong.", 3, "4", "Do this")
    assert str(MirageError("It is wrong")) == "It is wrong."
    assert "Got: 0." in str(MirageError("x", got=0))


def test_shapes_bind_names() -> None:
    assert expect_shape("x", torch.zeros(2, 3, 3), "F 3 3") == {"F": 2}
    assert expect_shape("x", torch.zeros(2, 5), "A B", A=2) == {"A": 2, "B": 5}
    assert expect_shape("x", torch.zeros(4, 4), "N N") == {"N": 4}
    assert expect_shape("x", torch.zeros(0, 3), "N 3") == {"N": 0}


@pytest.mark.parametrize(
    ("shape", "pattern", "sizes"),
    [
        ((2, 3), "F 3 3", {}),
        ((2, 3, 4), "F 3 3", {}),
        ((2, 3, 3, 1), "F 3 3", {}),
        ((2, 3), "F 3", {"F": 4}),
        ((4, 5), "N N", {}),
        ((), "N", {}),
    ],
)
def test_shapes_that_do_not_fit(shape, pattern: str, sizes) -> None:
    with pytest.raises(ShapeError) as caught:
        expect_shape("The thing", torch.zeros(shape), pattern, **sizes)
    assert "The thing has the wrong shape" in str(caught.value)
    assert str(tuple(shape)) in str(caught.value)
    assert pattern.replace(" ", ", ") in str(caught.value)


def test_finite() -> None:
    expect_finite("x", torch.tensor([1e38, -1e-45, 0]))
    with pytest.raises(GeometryError, match="2 of 3"):
        expect_finite("x", torch.tensor([torch.nan, torch.inf, 0]))


def test_poses(make) -> None:
    poses = make.poses(5)
    expect_rigid("x", poses)
    expect_rigid("x", poses.float())
    expect_rigid("x", poses[:0])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda p: p[:, :3], ShapeError, "wrong shape"),
        (lambda p: p * torch.nan, GeometryError, "not finite"),
        (lambda p: 2 * p, GeometryError, "frame 1 is not a rotation|frame 0 is not a rotation"),
        (
            lambda p: p @ torch.diag(torch.tensor([1, 1, -1, 1.0])).double(),
            GeometryError,
            "mirrors",
        ),
        (lambda p: p.mT, GeometryError, "last row"),
        (lambda p: 1e200 * p, GeometryError, "not a rotation"),
        (lambda p: 0 * p, GeometryError, "not a rotation"),
    ],
    ids=["3x4", "nan", "scaled", "mirrored", "transposed", "huge", "zero"],
)
def test_poses_that_are_none(make, change, error, words: str) -> None:
    with pytest.raises(error, match=words):
        expect_rigid("The pose", change(make.poses(3)))


def test_the_worst_frame_is_named(make) -> None:
    poses = make.poses(4)
    poses[2, 0, 0] += 0.01
    with pytest.raises(GeometryError, match="of frame 2 is not a rotation"):
        expect_rigid("The pose", poses)


@given(width=st.integers(-100, 5000), height=st.integers(-100, 5000))
def test_frame_sizes(width: int, height: int) -> None:
    fits = width > 0 and height > 0 and width % 32 == 0 and height % 32 == 0
    if fits:
        expect_frame_size(width, height)
        return
    with pytest.raises(ShapeError) as caught:
        expect_frame_size(width, height)
    words = str(caught.value.fix).split()
    expect_frame_size(int(words[-3]), int(words[-1]))


@pytest.mark.parametrize("frames", [1, 5, 33, 97, 4001])
def test_frame_counts(frames: int) -> None:
    expect_frame_count(frames)


@pytest.mark.parametrize("frames", [0, -3, 2, 3, 4, 32, 34])
def test_frame_counts_that_do_not_fit(frames: int) -> None:
    with pytest.raises(PlanError):
        expect_frame_count(frames)


def test_channels() -> None:
    expect_token_channels("x", 48)
    with pytest.raises(ModelMismatchError, match="Wan2.1 VAE.*Load VAE"):
        expect_token_channels("The latent", 16)
    with pytest.raises(ModelMismatchError) as caught:
        expect_token_channels("The latent", 4)
    assert "Wan2.1" not in str(caught.value)


def test_ranges() -> None:
    expect_range("x", 1, 1, 2)
    expect_range("x", 2, 1, 2)
    for value in (0.999, 2.001, float("nan"), float("inf")):
        with pytest.raises(ValueRangeError, match="1 to 2. Turn it"):
            expect_range("x", value, 1, 2, fix="Turn it")
