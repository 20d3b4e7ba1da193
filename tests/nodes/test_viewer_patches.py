"""What viewers get to see of a memory's points beside their positions."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

HEIGHT, WIDTH = 64, 96


def module(pack: ModuleType, name: str) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.{name}")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that browsers read."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    return tmp_path / "mirage"


def picture() -> torch.Tensor:
    """Smooth waves of every colour."""
    y, x = torch.meshgrid(torch.linspace(0, 3, HEIGHT), torch.linspace(0, 4, WIDTH), indexing="ij")
    waves = torch.stack([torch.sin(x), torch.cos(y), torch.sin(x + y)], dim=-1)
    return (0.5 + 0.4 * waves)[None]


def flat_geometry(pack: ModuleType) -> Any:
    lens = module(pack, "mirage_core.geometry.trajectory").intrinsics_from_fov(WIDTH, HEIGHT, 60.0)
    geometry = module(pack, "mirage_core.geometry.frame_geometry").FrameGeometry
    return geometry(torch.full((1, HEIGHT, WIDTH), 2.0), lens[None])


def memory(pack: ModuleType, codec: Any) -> Any:
    begin = module(pack, "mirage_core.rollout.memory").begin_memory
    settings = module(pack, "mirage_core.rollout.settings").MemorySettings(
        token_dtype=torch.float32
    )
    tokens = codec.encode_images(picture())
    return begin(tokens, flat_geometry(pack), codec.name, settings)


def path(pack: ModuleType) -> Any:
    moves = module(pack, "mirage_core.trajectories.presets")
    lens = module(pack, "mirage_core.geometry.trajectory").intrinsics_from_fov(WIDTH, HEIGHT, 60.0)
    return moves.preset_trajectory(
        "orbit", 17, scene_depth=2.0, intrinsics=lens, width=WIDTH, height=HEIGHT
    )


def atlas(served: Path, view: dict[str, Any]) -> np.ndarray:
    (block,) = view["blocks"]
    assert block["patches"]["side"] == 16
    assert block["patches"]["columns"] == WIDTH // 16
    file = Image.open(served / block["patches"]["filename"])
    return np.asarray(file.convert("RGB")) / 255


def test_tokens_that_can_be_drawn_are(pack: ModuleType, served: Path) -> None:
    codec = module(pack, "mirage_core.codecs.dct").DctCodec()
    cache = memory(pack, codec)
    view = module(pack, "nodes.comfy.viewer").memory_view(cache)
    wanted = codec.decode_images(codec.encode_images(picture()))[0].numpy()
    np.testing.assert_allclose(atlas(served, view), wanted, atol=0.1)
    assert np.abs(atlas(served, view) - wanted).mean() < 0.01


def test_a_picture_without_a_memory_shows_itself(pack: ModuleType, served: Path) -> None:
    viewer = module(pack, "nodes.comfy.viewer")
    view = viewer.trajectory_view(path(pack), picture(), flat_geometry(pack), None, None)
    assert np.abs(atlas(served, view) - picture()[0].numpy()).mean() < 0.01


class Opaque:
    """Tokens that mean nothing one by one, as those of Wan's autoencoder."""

    name = "wan2.2"

    def encode_images(self, frames: torch.Tensor) -> torch.Tensor:
        rng = torch.Generator().manual_seed(0)
        return torch.randn(48, len(frames), HEIGHT // 16, WIDTH // 16, generator=rng)


def test_other_tokens_are_seen_by_the_picture_they_come_from(
    pack: ModuleType, served: Path
) -> None:
    viewer = module(pack, "nodes.comfy.viewer")
    cache = memory(pack, Opaque())
    assert "patches" not in viewer.memory_view(cache)["blocks"][0]
    view = viewer.trajectory_view(path(pack), picture(), flat_geometry(pack), None, cache)
    assert np.abs(atlas(served, view) - picture()[0].numpy()).mean() < 0.01
    elsewhere = torch.eye(4).double()
    elsewhere[0, 3] = 1.0
    moved = viewer.trajectory_view(path(pack), picture(), flat_geometry(pack), elsewhere, cache)
    assert "patches" not in moved["blocks"][0]


def test_other_tokens_show_the_pictures_that_were_written(
    pack: ModuleType, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of the points: thinned, and in memories of another type."""
    shelf, patches = module(pack, "nodes.comfy.patch_shelf"), module(pack, "nodes.comfy.patches")
    mine = shelf.PatchShelf(20)
    monkeypatch.setattr(shelf, "SHELF", mine)
    monkeypatch.setattr(patches, "SHELF", mine)
    cache = memory(pack, Opaque())
    frames, poses = torch.zeros(1, dtype=torch.int64), torch.eye(4)[None]
    elsewhere = poses + torch.eye(4)[3] * 0.5
    assert shelf.keep_pictures(cache, picture(), elsewhere, frames) is cache
    memory_view = module(pack, "nodes.comfy.viewer").memory_view
    assert "patches" not in memory_view(cache)["blocks"][0], "another camera took the picture"
    shelf.keep_pictures(cache, picture(), poses, frames)
    # Of 24 cells there is room for 20.
    known, _ = mine.get(cache.blocks[0])
    assert int(known.sum()) == 20
    mine = shelf.PatchShelf()
    monkeypatch.setattr(shelf, "SHELF", mine)
    monkeypatch.setattr(patches, "SHELF", mine)
    shelf.keep_pictures(cache, picture(), poses, frames)
    assert np.abs(atlas(served, memory_view(cache)) - picture()[0].numpy()).mean() < 0.01
    rows = torch.tensor([5, 17, 2])
    known, squares = mine.get(cache.blocks[0].take(rows))
    assert bool(known.all())
    wanted = shelf.cell_squares(picture()[0]).flatten(0, 1)[rows]
    assert float((squares - wanted).abs().max()) <= 0.5 / 255 + 1e-6


def finished_shot(pack: ModuleType, folder: Path) -> tuple[Any, torch.Tensor]:
    """A shot of one chunk that is saved, and its frames; nothing was put on a shelf."""
    rollout = "mirage_core.rollout"
    cache, latents = memory(pack, Opaque()), torch.randn(48, 5, HEIGHT // 16, WIDTH // 16)
    first = Opaque().encode_images(picture())
    state = module(pack, f"{rollout}.state").RolloutState(path(pack), cache, first, 0, "a", folder)
    state = module(pack, f"{rollout}.run_folder").open_folder(state)
    frames = torch.cat([picture().roll(-4 * shift, dims=2) for shift in range(17)])
    readout = module(pack, "mirage_core.readout.readout").read(cache, state.frame_cameras)
    lenses = readout.latent_cameras.resized(WIDTH // 16, HEIGHT // 16).intrinsics
    depth = torch.full((5, HEIGHT // 16, WIDTH // 16), 2.0)
    geometry = module(pack, "mirage_core.geometry.frame_geometry").FrameGeometry(depth, lenses)
    settings = module(pack, f"{rollout}.settings").MemorySettings(
        rules=module(pack, "mirage_core.writing.policy").WriteRules("append"), align=None
    )
    written = module(pack, f"{rollout}.memory").write_chunk(
        state, latents, frames, geometry, settings,
        encode=lambda pictures: torch.randn(48, len(pictures), HEIGHT // 16, WIDTH // 16),
    ).cache  # fmt: skip
    after = module(pack, f"{rollout}.run_folder").commit(
        state, latents=latents, frames=frames, readout=readout, cache=written
    )
    return after, frames


def test_a_shot_that_is_taken_up_shows_what_its_clips_show(
    pack: ModuleType, served: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a server that did not make the chunks: its shelf is empty."""
    shelf, patches = module(pack, "nodes.comfy.patch_shelf"), module(pack, "nodes.comfy.patches")
    mine = shelf.PatchShelf()
    monkeypatch.setattr(shelf, "SHELF", mine)
    monkeypatch.setattr(patches, "SHELF", mine)
    state, frames = finished_shot(pack, tmp_path / "shot")
    memory_view = module(pack, "nodes.comfy.viewer").memory_view
    assert not any("patches" in block for block in memory_view(state.cache)["blocks"])
    assert shelf.keep_saved_pictures(state) is state
    assert all("patches" in block for block in memory_view(state.cache)["blocks"])

    block = state.cache.blocks[-1]
    known, squares = mine.get(block)
    assert bool(known.all())
    cells = module(pack, "mirage_core.cache.view").source_cells(block, state.cache.convention)
    numbers = block.frames[block.source.long()]
    assert set(numbers.tolist()) == {0, 4, 8, 12, 16}
    shown = torch.stack([shelf.cell_squares(frame) for frame in frames])
    wanted = shown[numbers, cells[:, 1], cells[:, 0]]
    assert float((squares - wanted).abs().mean()) < 0.02, "as the video holds them"

    def unasked(*_: Any) -> None:
        raise AssertionError("the clips are read though everything is known")

    monkeypatch.setattr(shelf, "saved_frames", unasked)
    shelf.keep_saved_pictures(state)


def test_colours_have_no_squares(pack: ModuleType, served: Path) -> None:
    codec = module(pack, "mirage_core.codecs.colours").ColourCodec(2)
    view = module(pack, "nodes.comfy.viewer").memory_view(memory(pack, codec))
    assert "patches" not in view["blocks"][0]
    assert not list(served.glob("*.webp"))


def test_files_are_written_once(pack: ModuleType, served: Path) -> None:
    codec = module(pack, "mirage_core.codecs.dct").DctCodec()
    viewer = module(pack, "nodes.comfy.viewer")
    viewer.memory_view(memory(pack, codec))
    before = {file: file.stat().st_mtime_ns for file in served.iterdir()}
    viewer.memory_view(memory(pack, codec))
    assert {file: file.stat().st_mtime_ns for file in served.iterdir()} == before
    assert len(before) == 2
