"""Masks from files: every layout, and what is told before a shot begins."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_core.errors import CacheFormatError, ShapeError
from mirage_core.masks.folder import find_masks

FRAMES, HEIGHT, WIDTH = 5, 8, 12


def column(number: int) -> np.ndarray:
    """White in one column, that of the frame's number."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[:, number] = 255
    return mask


def save(folder: Path, pattern: str, first: int = 0, count: int = FRAMES, wide: int = 1) -> None:
    for number in range(count):
        path = folder / pattern.format(first + number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(column(number), np.ones((wide, wide), np.uint8))).save(path)


def expected(numbers: list[int]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(column(number)) > 0 for number in numbers])


@pytest.mark.parametrize(
    ("pattern", "first"),
    [
        ("{:04d}.png", 0), ("{:04d}.png", 1001), ("shot_{:05d}.png", 1), ("mask.{:04d}.png", 0),
        ("moving_{:03d}.tif", 0), ("dynamic/{:04d}.png", 7), ("Masks/a.{:04d}.png", 1),
    ],
)  # fmt: skip
def test_layouts_of_moving_things(tmp_path: Path, pattern: str, first: int) -> None:
    save(tmp_path, pattern, first)
    masks = find_masks(tmp_path)
    masks.expect_shot(FRAMES, 64 * WIDTH, 64 * HEIGHT)
    found = masks(torch.empty(0), [1, 2, 3])
    assert torch.equal(found.moving, expected([1, 2, 3]))
    assert found.sky is None and found.tracks is None


def test_frames_may_lie_beside_their_masks(tmp_path: Path) -> None:
    save(tmp_path, "frame_{:04d}.png", count=9)
    save(tmp_path, "moving_{:04d}.png")
    save(tmp_path, "sky/{:04d}.png", wide=1, first=3)
    masks = find_masks(tmp_path)
    found = masks(torch.empty(0), range(FRAMES))
    assert set(masks.layers) == {"moving", "sky"}
    assert torch.equal(found.sky, expected(list(range(FRAMES))))


def test_a_single_picture_is_for_all_frames(tmp_path: Path) -> None:
    save(tmp_path, "sky.png", count=1)
    masks = find_masks(tmp_path)
    masks.expect_shot(97, WIDTH, HEIGHT)
    found = masks(torch.empty(0), [40, 41])
    assert torch.equal(found.sky, expected([0, 0])) and not found.moving.any()


@pytest.mark.parametrize("mode", ["P", "L", "I;16"])
def test_tracks_are_numbers(tmp_path: Path, mode: str) -> None:
    """A dark red of a palette is a track as well as any other colour."""
    ids = np.zeros((HEIGHT, WIDTH), dtype=np.uint16)
    ids[:, 2], ids[:, 3] = 1, 300 if mode == "I;16" else 2
    (tmp_path / "tracks").mkdir()
    for number in range(FRAMES):
        picture = Image.fromarray(ids if mode == "I;16" else ids.astype(np.uint8))
        if mode == "P":
            picture.putpalette([0, 0, 0, 60, 0, 0, 0, 60, 0])
        picture.save(tmp_path / "tracks" / f"{number:05d}.png")
    (tmp_path / "names.json").write_text(json.dumps({"1": "person"}))
    found = find_masks(tmp_path)(torch.empty(0), [0, 4])
    tracks, last = found.tracks, int(ids.max())
    assert torch.equal(tracks.map, torch.from_numpy(ids.astype(np.int32)).expand(2, -1, -1))
    assert torch.equal(found.moving, tracks.moving)
    assert tracks.names == {1: "person", last: f"thing {last}"}
    assert tracks.lasting == {1, last}


def test_files_that_do_not_fit_the_shot_are_told_early(tmp_path: Path) -> None:
    save(tmp_path, "{:04d}.png")
    masks = find_masks(tmp_path)
    with pytest.raises(ShapeError, match="5 files of moving"):
        masks.expect_shot(FRAMES + 4, WIDTH, HEIGHT)
    with pytest.raises(ShapeError, match="12 x 8"):
        masks.expect_shot(FRAMES, WIDTH, WIDTH)


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    save(tmp_path, "{:04d}.png")
    (tmp_path / "0002.png").unlink()
    with pytest.raises(CacheFormatError, match=r"no 0002\.png"):
        find_masks(tmp_path)


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ((), "no pictures"),
        (("a_{:04d}.png", "b_{:04d}.png"), "a_####.png, b_####.png"),
        (("mask.{:04d}.png", "moving/{:04d}.png"), "several sets of masks for moving"),
    ],
)
def test_what_is_not_clear_is_asked(tmp_path: Path, patterns: tuple[str, ...], words: str) -> None:
    for pattern in patterns:
        save(tmp_path, pattern)
    with pytest.raises(CacheFormatError, match=words):
        find_masks(tmp_path)


def test_sizes_may_not_change(tmp_path: Path) -> None:
    save(tmp_path, "{:04d}.png")
    save(tmp_path, "{:04d}.png", first=3, count=1, wide=2)
    with pytest.raises(ShapeError, match=r"0003\.png differs from 0000\.png"):
        find_masks(tmp_path)(torch.empty(0), range(FRAMES))


@pytest.mark.parametrize(
    ("name", "content"),
    [("0003.png", b"no picture"), ("names.json", b"[1, 2]"), ("names.json", b"{" * 9)],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    save(tmp_path, "{:04d}.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CacheFormatError, match=name.split(".")[0]):
        find_masks(tmp_path)(torch.empty(0), range(FRAMES))


def test_a_map_of_colours_is_no_map_of_tracks(tmp_path: Path) -> None:
    (tmp_path / "tracks").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(tmp_path / "tracks" / "a.png")
    with pytest.raises(CacheFormatError, match="colours"):
        find_masks(tmp_path).expect_shot(1, WIDTH, HEIGHT)
