"""What a data set looks like: a sheet of clips with their memory, cameras and what was skipped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from mirage_core.cli.main import main
from mirage_core.codecs.dct import DctCodec
from mirage_core.training.data.build_clip import ClipSettings, build_clips
from mirage_core.training.data.clip import TrainingClip
from mirage_core.training.data.dataset import ClipDataset, ClipWriter
from mirage_core.training.data.pipeline import make_data
from mirage_core.training.data.sheet import FRAMES, GAP, LINE, PATH, TILE, UNKNOWN, data_sheet
from tiny_clips import WallSource, random_clip, wall_job, wall_shot


def written(folder: Path, *clips: TrainingClip) -> ClipDataset:
    with ClipWriter(folder) as writer:
        writer.add(*clips)
    return ClipDataset(folder)


def wall() -> TrainingClip:
    return build_clips(wall_shot("wall/0"), DctCodec(), ClipSettings())[0]


def half_known(clip: TrainingClip) -> TrainingClip:
    visible = torch.ones_like(clip.condition.visible)
    visible[:, :, : visible.shape[2] // 2] = False
    told = dataclasses.replace(clip.condition, visible=visible)
    return dataclasses.replace(clip, condition=told)


def tile(sheet: Image.Image, place: int, *, memory: bool) -> Image.Image:
    left, top = place * (TILE + GAP), 2 * LINE + (TILE + GAP if memory else 0)
    return sheet.crop((left, top, left + TILE, top + TILE))


def test_frames_are_the_clips_and_red_is_what_the_memory_lacks(tmp_path: Path) -> None:
    clip = half_known(wall())
    sheet = data_sheet(written(tmp_path, clip), DctCodec(), {})
    frames = DctCodec().decode(clip.target)
    for place, frame in ((0, 0), (FRAMES - 1, 32)):
        found = tile(sheet, place, memory=False).resize((1, 1), Image.Resampling.BOX)
        mean = torch.tensor(found.getpixel((0, 0))) / 255
        assert torch.allclose(mean, frames[frame].clamp(0, 1).mean(dim=(0, 1)), atol=0.02)
    shown = tile(sheet, 1, memory=True)
    assert shown.getpixel((10, TILE // 2)) == UNKNOWN
    assert shown.getpixel((TILE - 10, TILE // 2)) != UNKNOWN


def test_cameras_come_back_and_are_drawn(tmp_path: Path) -> None:
    """The wall's cameras slide to the right, and look ahead."""
    clip = wall()
    dataset = written(tmp_path, clip)
    path = dataset[0].path
    assert torch.allclose(path, clip.path, atol=1e-3)
    assert torch.equal(path[:, 3:], torch.tensor([0.0, 0, 1]).expand(9, 3))
    sheet = data_sheet(dataset, DctCodec(), {})
    area = sheet.crop((FRAMES * (TILE + GAP), 2 * LINE, sheet.width, sheet.height))
    blue = [
        (x, y) for x in range(area.width) for y in range(area.height)
        if area.getpixel((x, y)) == PATH
    ]  # fmt: skip
    across = max(x for x, _ in blue) - min(x for x, _ in blue)
    assert across > 0.8 * area.width
    assert {abs(y - area.height // 2) <= 2 * GAP for _, y in blue} == {True}


def test_clips_without_cameras_or_codec_are_drawn_too(tmp_path: Path) -> None:
    dataset = written(tmp_path, random_clip("a", target=1), random_clip("b"))
    assert dataset[0].path is None
    sheet = data_sheet(dataset, None, {f"item {n}": "too \u2192 dark" for n in range(20)})
    assert sheet.height > 12 * LINE


def test_the_command_line_draws_and_says_why(tmp_path: Path, capsys) -> None:
    make_data(tmp_path / "data", wall_job(WallSource(2, tmp_path / "log", bad=(1,))))
    picture = tmp_path / "sheet.png"
    assert main(["data", "info", str(tmp_path / "data"), "--pictures", str(picture)]) == 0
    assert "skipped: wall-1: wall-1 is bad" in capsys.readouterr().out
    with Image.open(picture) as sheet:
        assert sheet.size[0] > FRAMES * TILE
    for words in (["--pictures", str(tmp_path / "sheet.tga")], ["--vae", "none"]):
        assert main(["data", "info", str(tmp_path / "data"), *words]) == 2


@pytest.mark.parametrize("line", ["`target`", "`projection`", "`references`", "`text`", "`path`"])
def test_the_page_states_the_sample(line: str) -> None:
    page = (Path(__file__).parents[4] / "docs" / "data.md").read_text(encoding="utf-8")
    assert f"| {line} |" in page
