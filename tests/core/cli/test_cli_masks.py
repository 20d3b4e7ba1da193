"""``mirage rollout --masks``: moving things and sky stay out of a shot's memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_core.cache.io import load_cache
from mirage_core.cache.track import Behaviour
from mirage_core.cache.types import LatentCache
from mirage_core.cli.main import main
from mirage_core.geometry.camera import project_each, projection_matrices
from mirage_core.masks.sam3 import Sam3Masks
from mirage_core.masks.types import FrameMasks
from tiny_tracker import write_tracker
from tiny_weights import (
    backbone_tensors,
    branch_config,
    branch_tensors,
    metadata,
    noise,
    sentencepiece_model,
    text_shapes,
    write,
)

FRAMES, SIDE = 37, 64
"""Two chunks: 33 frames and 4."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli_masks")
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "picture.png")
    depth = (2 + 0.1 * rng.random((FRAMES, 16, 16))).astype(np.float32)
    np.savez(folder / "shot.npz", depths=depth)
    write(folder / "wan.safetensors", backbone_tensors(), metadata())
    config = branch_config()
    write(folder / "branch.safetensors", branch_tensors(config), config.metadata())
    spiece = torch.frombuffer(bytearray(sentencepiece_model()), dtype=torch.uint8)
    write(folder / "text.safetensors", noise(text_shapes(48)) | {"spiece_model": spiece})
    return folder


def command(files: Path, out: Path, *masks: str) -> list[str]:
    named = {
        "--image": "picture.png", "--geometry": "shot.npz", "--transformer": "wan.safetensors",
        "--branch": "branch.safetensors", "--text-encoder": "text.safetensors",
    }  # fmt: skip
    paths = [text for key, name in named.items() for text in (key, str(files / name))]
    return [
        "rollout", *paths, "--embedded-codec", "--move", "truck", "--frames", str(FRAMES),
        "--amount", "0.3", "--steps", "2", "--device", "cpu", "--policy", "append",
        "--out", str(out), *masks,
    ]  # fmt: skip


def half(folder: Path, pattern: str, count: int, first: int = 0) -> Path:
    """Masks that are white on the left half, from one frame on."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        mask[:, : SIDE // 2] = 255 if number >= first else 0
        Image.fromarray(mask).save(folder / pattern.format(number))
    return folder


def seen_at(cache: LatentCache) -> tuple[torch.Tensor, torch.Tensor]:
    """Where points were seen, from 0 at the left edge to 1, and in which frame of the shot."""
    places, frames = [], []
    for block in cache.blocks:
        camera = block.source.long()
        matrices = projection_matrices(block.world_to_camera, block.intrinsics)[camera]
        across, _, depth = project_each(block.points, matrices)
        places.append(across / depth / (2 * block.intrinsics[camera, 0, 2]))
        frames.append(block.frames[camera])
    return torch.cat(places), torch.cat(frames)


def run(files: Path, out: Path, *masks: str) -> tuple[torch.Tensor, torch.Tensor]:
    assert main(command(files, out, *masks)) == 0
    return seen_at(load_cache(out / "memory.safetensors"))


@pytest.mark.rollout
def test_files_keep_a_half_out_of_picture_and_chunks(files: Path, tmp_path: Path) -> None:
    plain, _ = run(files, tmp_path / "plain")
    assert (plain < 0.5).float().mean() > 0.3
    masks = half(tmp_path / "masks", "{:04d}.png", FRAMES)
    places, frames = run(files, tmp_path / "half", "--masks", "folder", str(masks))
    assert places.min() > 0.5 and set(frames.tolist()) >= {0, 4, 36}


@pytest.mark.rollout
def test_masks_belong_to_the_frames_of_their_numbers(files: Path, tmp_path: Path) -> None:
    """White from frame 21 on: what was seen before is remembered, the second chunk is not."""
    masks = half(tmp_path / "late", "sky.{:04d}.png", FRAMES, first=21)
    places, frames = run(files, tmp_path / "out", "--masks", "folder", str(masks))
    left = places < 0.5
    assert set(frames[left].tolist()) == {0, 4, 8, 12, 16, 20}
    assert set(frames[~left].tolist()) >= {24, 28, 32, 36}


@pytest.mark.rollout
def test_growing_masks_take_more(files: Path, tmp_path: Path) -> None:
    masks = half(tmp_path / "masks", "{:04d}.png", FRAMES)
    given = ("--masks", "folder", str(masks), "--grow-masks", "5")
    places, _ = run(files, tmp_path / "out", *given)
    assert places.min() > 0.75


def tracked(folder: Path) -> Path:
    """A dog that walks from left to right through all frames."""
    folder.mkdir()
    for number in range(FRAMES):
        ids = np.zeros((SIDE, SIDE), dtype=np.uint8)
        ids[16:48, 4 + number : 28 + number] = 3
        Image.fromarray(ids).save(folder / f"tracks.{number:04d}.png")
    (folder / "names.json").write_text('{"3": "dog"}')
    return folder


@pytest.mark.rollout
def test_what_a_folder_tells_apart_becomes_actors(
    files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One actor in both chunks, by its number; not a point of it is left in the set."""
    masks = tracked(tmp_path / "masks")
    given = ("--masks", "folder", str(masks), "--unseen", "go_on")
    with caplog.at_level("INFO"):
        places, frames = run(files, tmp_path / "out", *given)
    (dog,) = load_cache(tmp_path / "out" / "memory.safetensors").actors
    assert dog.name == "dog" and dog.ids == (3,) and dog.behaviour is Behaviour.GO_ON
    assert dog.track.frames.tolist() == list(range(4, FRAMES, 4))
    x = dog.track.positions[:, 0]
    assert float((x[1:] - x[:-1]).min()) > 0 and "new: dog" in caplog.text
    middle = (places > 0.5) & (places < 0.6)
    assert not (middle & (frames == 16)).any()


@pytest.mark.rollout
@pytest.mark.estimators
def test_sam3_looks_at_the_picture_and_at_every_chunk(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAM3 is the real one; what it finds with random weights is replaced by the left half."""
    tracker = write_tracker(tmp_path / "sam3")
    shapes, found = [], Sam3Masks.__call__

    def left(self: Sam3Masks, frames: torch.Tensor, numbers: Sequence[int]) -> FrameMasks:
        shapes.append((self.names, tuple(frames.shape)))
        masks = found(self, frames, numbers)
        moving = torch.zeros_like(masks.moving)
        moving[..., : SIDE // 2] = True
        return FrameMasks(moving)

    monkeypatch.setattr(Sam3Masks, "__call__", left)
    given = ("--masks", "sam3", "--names", "person, dog", "--tracker-model", str(tracker))
    places, _ = run(files, tmp_path / "out", *given)
    assert places.min() > 0.5
    names = ("person", "dog")
    assert shapes == [(names, (frames, SIDE, SIDE, 3)) for frames in (1, 33, 5)]


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (("--masks", "paint"), ("sam3, or folder",)),
        (("--masks", "folder"), ("--masks folder FOLDER",)),
        (("--masks", "sam3"), ("no --tracker-model",)),
        (("--names", "person"), ("--names is for --masks sam3",)),
        (("--masks", "folder", "nowhere"), ("folder of masks does not exist",)),
        (("--grow-masks", "-1"), ("growth of the masks",)),
    ],
)
def test_options_are_checked_before_a_model_is_read(
    files: Path, tmp_path: Path, masks: tuple[str, ...], words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(command(files, tmp_path / "out", *masks)) == 2
    text = capsys.readouterr().err
    assert all(word in text for word in words), text
    assert not (tmp_path / "out").exists()


def test_too_few_masks_are_told_before_a_model_is_read(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = half(tmp_path / "masks", "{:04d}.png", FRAMES - 1)
    given = command(files, tmp_path / "out", "--masks", "folder", str(masks))
    assert main(given) == 2
    assert "36 files of moving" in capsys.readouterr().err
