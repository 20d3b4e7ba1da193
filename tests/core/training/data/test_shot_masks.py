"""``mirage data make --masks``: what moves, and sky, is not in the memory of a training clip."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_core.cli.main import main
from mirage_core.errors import MirageError, ValueRangeError
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.geometry_io import save_geometry
from mirage_core.masks.sam3 import Sam3Masks
from mirage_core.masks.types import FrameMasks
from mirage_core.training.data.build_clip import ClipSettings
from mirage_core.training.data.dataset import ClipDataset
from mirage_core.training.data.fit import Fit
from mirage_core.training.data.manifest import read_skipped
from mirage_core.training.data.shot_masks import MaskFiles, MaskModel, ShotMasks
from tiny_clips import sliding_cameras
from tiny_tracker import write_tracker

FRAMES, SIDE, CELL = 65, 64, 16
"""Two chunks of a shot, whose grid has four cells along each side."""

GONE = 29
"""First of the frames that the last latent frame of the first chunk covers."""


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    """Pictures of a still camera, in folders ``a`` and ``b``, with depth and cameras."""
    rng = np.random.default_rng(0)
    cameras = sliding_cameras(FRAMES, way=0.0)
    depth = torch.full((FRAMES, SIDE, SIDE), 2.0)
    geometry = FrameGeometry(depth, cameras.intrinsics, world_to_camera=cameras.world_to_camera)
    root = tmp_path / "home"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        picture = Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
        for number in range(FRAMES):
            picture.save(root / name / f"{number:03d}.png")
        save_geometry(geometry, root / f"{name}.safetensors")
    return root


def write_masks(folder: Path, column: dict[int, int], kind: str = "") -> None:
    """White in one column of cells in some frames, which are numbers; black in all others."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FRAMES):
        mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
        if number in column:
            left = column[number] * CELL
            mask[:, left + 3 : left + CELL - 3] = 255
        Image.fromarray(mask).save(folder / f"{kind}{number:03d}.png")


def command(footage: Path, *words: str) -> list[str]:
    return [
        "data", "make", "--out", str(footage.parent / "clips"), "--size", f"{SIDE}x{SIDE}",
        "--footage", str(footage), "--embedded-codec", "--device", "cpu", "--no-planes", *words,
    ]  # fmt: skip


def shown(footage: Path) -> dict[str, torch.Tensor]:
    """(T, h, w) where the memory shows something, by the keys of the clips."""
    clips = ClipDataset(footage.parent / "clips")
    return {clip.key.removeprefix("home/"): clip.condition.visible for clip in clips}


def test_a_mover_and_the_sky_are_in_no_memory(footage: Path) -> None:
    """A mover that crosses the first chunk leaves its column to the frames in which it is gone;
    sky, which stays, is seen by no camera. The other video has one picture that is black."""
    masks = footage.parent / "masks"
    write_masks(masks / "a", {n: 0 for n in range(GONE)}, "moving.")
    write_masks(masks / "a", {n: 3 for n in range(FRAMES)}, "sky.")
    (masks / "b").mkdir()
    Image.new("L", (SIDE, SIDE)).save(masks / "b" / "none.png")
    assert main(command(footage, "--masks", "folder", str(masks))) == 0
    seen = shown(footage)
    first, second = seen["a/0#0"], seen["a/0#1"]
    assert not first[:, :, 0].any() and first[:, :, 1:3].all()
    # The first chunk ends without the mover, and what it shows in its place is remembered.
    assert second[:, :, :3].all()
    assert not first[:, :, 3].any() and not second[:, :, 3].any()
    assert seen["b/0#0"].all() and seen["b/0#1"].all()


def test_without_masks_all_is_remembered(footage: Path) -> None:
    assert main(command(footage)) == 0
    assert all(bool(visible.all()) for visible in shown(footage).values())


def test_the_same_command_goes_on_and_other_masks_are_refused(
    footage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Footage without masks is skipped with the reason, and made once they are there."""
    masks = footage.parent / "masks"
    write_masks(masks / "a", {0: 0})
    given = ("--masks", "folder", str(masks))
    assert main(command(footage, *given)) == 0
    assert "folder of masks does not exist" in read_skipped(footage.parent / "clips")["home/b"]
    write_masks(masks / "b", {0: 0})
    capsys.readouterr()
    assert main(command(footage, *given, "--retry")) == 0
    assert "2 clips made" in capsys.readouterr().out
    assert main(command(footage)) == 2
    assert main(command(footage, *given, "--grow-masks", "2")) == 2
    assert "made with other options" in capsys.readouterr().err


def test_masks_of_other_frames_are_told(footage: Path) -> None:
    masks = footage.parent / "masks"
    for name in ("a", "b"):
        write_masks(masks / name, {})
    (masks / "a" / "064.png").unlink()
    assert main(command(footage, "--masks", "folder", str(masks))) == 0
    reasons = read_skipped(footage.parent / "clips")
    assert list(reasons) == ["home/a"]
    assert "not one for every frame" in reasons["home/a"]


@pytest.mark.estimators
def test_sam3_looks_at_every_shot_in_its_training_size(
    footage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SAM3 is the real one; what it finds with random weights is replaced by a column."""
    tracker = write_tracker(footage.parent / "sam3")
    (tracker / "README.md").write_text("---\nlicense: other-of-sam\n---\n", encoding="utf-8")
    asked, found = [], Sam3Masks.__call__

    def left(self: Sam3Masks, frames: torch.Tensor, numbers: Sequence[int]) -> FrameMasks:
        asked.append((self.names, tuple(frames.shape), list(numbers)))
        moving = torch.zeros_like(found(self, frames[:1], numbers[:1]).moving)
        moving[..., :CELL] = True
        return FrameMasks(moving.expand(len(frames), -1, -1))

    monkeypatch.setattr(Sam3Masks, "__call__", left)
    given = ("--masks", "sam3", "--names", "dog", "--tracker-model", str(tracker))
    assert main(command(footage, "--shot-frames", "33", *given)) == 0
    names, shape = ("dog",), (33, SIDE, SIDE, 3)
    # Of 65 frames one shot of 33 is whole; 32 are too few for another.
    assert asked == [(names, shape, list(range(33)))] * 2
    assert "masks by sam3; its licence: other-of-sam" in capsys.readouterr().out
    for visible in shown(footage).values():
        assert not visible[:, :, 0].any() and visible[:, :, 1:].all()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--masks", "folder", "nowhere"), "folder of masks does not exist"),
        (("--masks", "sam3", "--names", "dog"), "no --tracker-model"),
        (("--masks", "sam3", "--tracker-model", "."), "Nothing tells SAM3 what moves"),
        (("--names", "dog"), "--names is for --masks sam3"),
        (("--masks", "folder", ".", "--grow-masks", "-1"), "growth of the masks"),
    ],
)
def test_bad_options_are_told_before_footage_is_read(
    footage: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert main(command(footage, *words)) == 2
    assert told in capsys.readouterr().err
    assert not (footage.parent / "clips").exists()


def test_rooms_have_no_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "make", "--out", str(tmp_path / "clips"), "--size", "64x64"]
    words += ["--procedural", "1", "--embedded-codec", "--masks", "folder", str(tmp_path)]
    assert main(words) == 2
    assert "--masks is for footage" in capsys.readouterr().err


def test_a_latent_frame_leaves_out_what_is_masked_in_any_of_its_pictures() -> None:
    """By hand: a pixel that is masked in picture n is left out in latent frame ceil(n / 4), and
    so are the pixels around it that the masks grow by."""
    moving = torch.zeros(9, 8, 8, dtype=torch.bool)
    places = {0: (1, 1), 1: (5, 5), 4: (2, 6), 6: (6, 2)}
    for number, (row, column) in places.items():
        moving[number, row, column] = True
    masks = ShotMasks(MaskModel(partial(int)), grow=1)
    found = masks.left_out(lambda *_: FrameMasks(moving), torch.zeros(9, 8, 8, 3), range(9))
    expected = torch.zeros(3, 8, 8, dtype=torch.bool)
    for number, (row, column) in places.items():
        expected[-(-number // 4), row - 1 : row + 2, column - 1 : column + 2] = True
    assert torch.equal(found, expected)
    with pytest.raises(ValueRangeError, match="growth of the masks"):
        dataclasses.replace(masks, grow=-1)


@pytest.mark.parametrize("size", [(32, 20), (128, 80), (256, 160)])
def test_masks_are_cut_as_the_footage_is(size: tuple[int, int]) -> None:
    """Footage of 128 x 80 becomes 64 x 64: scaled by 0.8, and 19 columns cut from each side. The
    left half of it is the left half of the middle, in masks of any resolution."""
    fit = Fit((128, 80), (64, 64))
    width, height = size
    marked = torch.zeros(1, height, width, dtype=torch.bool)
    marked[:, :, : width // 2] = True
    cut = fit.masks(marked)[0]
    assert cut.shape == (64, 64)
    assert cut[:, :32].all() and not cut[:, 34:].any()


def test_masks_go_to_workers_without_their_model(tmp_path: Path) -> None:
    made = MaskModel(partial(dict, one=1))
    assert made.of_item("a", 1, Fit((64, 64), (64, 64))) == {"one": 1}
    again = pickle.loads(pickle.dumps(ShotMasks(made)))
    assert "_provider" not in vars(again.source)
    with pytest.raises(MirageError, match="does not exist"):
        MaskFiles(tmp_path / "none").of_item("a.mp4", 33, Fit((64, 64), (64, 64)))


def test_settings_tell_what_the_masks_are_by() -> None:
    """A semicolon in a name does not look like another setting."""
    plain = ClipSettings().describe()
    told = ClipSettings(masks="sam3, dog;drawn").describe()
    assert told.startswith(plain) and "masks" not in plain
    assert "drawn" not in told.split(";")
