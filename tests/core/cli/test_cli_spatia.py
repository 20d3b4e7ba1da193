"""``mirage rollout --way spatia`` on tiny files under Spatia's own names."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mirage_core.cache.io import load_cache
from mirage_core.checkpoints.branch import HEADS_KEY
from mirage_core.cli import models, rollout, ways
from mirage_core.cli.main import main, make_parser
from mirage_core.conditioning.condition import Condition
from mirage_core.conditioning.features import RENDER_AND_SCORE
from mirage_core.models.transformer import MirageTransformer3DModel
from mirage_core.rollout.denoisers import TransformerDenoisers
from mirage_core.rollout.plan import ChunkLengths
from mirage_core.rollout.progress import Progress
from mirage_core.rollout.settings import GenerationSettings
from mirage_core.tensor_files import read_tensors
from tiny_weights import (
    Backbone,
    backbone_tensors,
    branch_config,
    branch_tensors,
    metadata,
    noise,
    sentencepiece_model,
    text_shapes,
    vae_tensors,
    write,
)

pytest.importorskip("peft", reason="needs peft for the library's LoRAs")

FRAMES = 37
"""Three chunks: 21 frames, 8 and 8; the later ones share 9 frames with the one before."""

SIZE = Backbone()


@dataclasses.dataclass(frozen=True)
class Files:
    """Paths of everything that a shot needs."""

    folder: Path

    def command(self, **changes: str | None) -> list[str]:
        """The words of a run; None leaves an option out, True gives it without a value."""
        paths = {
            "image": "picture.png", "geometry": "shot.npz", "transformer": "wan.safetensors",
            "branch": "step-8500.safetensors", "text_encoder": "text.safetensors",
            "vae": "vae.safetensors", "later_lora": "lora_weights_10000.safetensors",
        }  # fmt: skip
        options: dict[str, Any] = {name: str(self.folder / file) for name, file in paths.items()}
        options |= {
            "way": "spatia", "move": "truck", "frames": str(FRAMES), "amount": "0.3",
            "steps": "2", "prompt": "a quiet room", "device": "cpu", "references": "2",
            "first_chunk_frames": "21", "chunk_frames": "17", "overlap_frames": "9",
        }  # fmt: skip
        for name, value in changes.items():
            here = name in paths and value is not None
            options[name] = str(self.folder / value) if here else value
        words = ["rollout"]
        for name, value in options.items():
            flag = f"--{name.replace('_', '-')}"
            words += [] if value is None else [flag] if value is True else [flag, value]
        return words


def lora(layer: str, into: int = SIZE.dim, scale: float = 1.0) -> dict[str, Tensor]:
    """A LoRA of one layer under Spatia's names."""
    sizes = {"A": (2, into), "B": (SIZE.dim, 2)}
    return {
        f"pipe.dit.{layer}.lora_{part}.default.weight": scale * noise({"x": size}, seed=5)["x"]
        for part, size in sizes.items()
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("spatia")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "picture.png")
    depth = (2 + 0.1 * rng.random((FRAMES, 16, 16))).astype(np.float32)
    np.savez(folder / "shot.npz", depths=depth)
    write(folder / "wan.safetensors", backbone_tensors(), metadata())
    config = branch_config(features=RENDER_AND_SCORE)
    heads = {HEADS_KEY: str(SIZE.heads)}
    write(folder / "step-8500.safetensors", branch_tensors(config), heads)
    other = branch_config()
    write(folder / "mirage_vace.safetensors", branch_tensors(other), other.metadata())
    loras = {
        "lora_weights_10000": lora("blocks.1.self_attn.q", scale=20.0),
        "stray": lora("text_encoder.q"),
        "wider": lora("blocks.1.self_attn.q", into=SIZE.dim + 2),
    }
    for name, tensors in loras.items():
        write(folder / f"{name}.safetensors", tensors)
    write(folder / "vae.safetensors", vae_tensors())
    spiece = torch.frombuffer(bytearray(sentencepiece_model()), dtype=torch.uint8)
    write(folder / "text.safetensors", noise(text_shapes(48)) | {"spiece_model": spiece})
    return Files(folder)


def latents(folder: Path) -> Tensor:
    paths = sorted(folder.glob("chunk_*.safetensors"))
    return torch.cat([read_tensors(path, ["latents"])["latents"] for path in paths], dim=1)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What a failed command printed: one message, and no traceback."""
    text = capsys.readouterr().err
    lines = [line for line in text.strip().splitlines() if line.startswith("mirage: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


@pytest.fixture(scope="module")
def whole(files: Files, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Condition]]:
    """The folder of an uninterrupted run, and what the model was told of each chunk."""
    out, told = tmp_path_factory.mktemp("whole") / "shot", []
    make = TransformerDenoisers.__call__

    def remember(self: TransformerDenoisers, condition: Condition) -> Any:
        told.append(condition)
        return make(self, condition)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransformerDenoisers, "__call__", remember)
        assert main([*files.command(), "--out", str(out)]) == 0
    return out, told


@pytest.mark.rollout
def test_a_shot_of_three_chunks(whole: tuple[Path, list[Condition]]) -> None:
    out, told = whole
    assert (out / "video.mp4").exists()
    assert latents(out).shape == (48, 10, 4, 4)
    memory = load_cache(out / "memory.safetensors")
    assert memory.codec == "rgb"
    assert len(memory) >= 64 * 64
    assert [c.clean for c in told] == [1, 3, 3]
    assert [c.references.shape[1] for c in told] == [0, 2, 2]
    assert all(c.render is not None and c.score is not None for c in told)


@pytest.mark.rollout
def test_the_later_lora_is_on_from_the_second_chunk_on(files: Files, whole, tmp_path: Path) -> None:
    out = tmp_path / "without"
    assert main([*files.command(later_lora=None), "--out", str(out)]) == 0
    found, without = latents(whole[0]), latents(out)
    assert torch.equal(found[:, :6], without[:, :6])
    assert (found[:, 6:] - without[:, 6:]).abs().max() > 1e-3


@pytest.mark.rollout
@pytest.mark.parametrize("chunk", [1, 2])
def test_a_resumed_shot_ends_with_the_same_bits(
    files: Files, whole, tmp_path: Path, monkeypatch, chunk: int
) -> None:
    out, show = tmp_path / "shot", rollout.Bar.__call__

    def interrupt(self: rollout.Bar, progress: Progress) -> None:
        show(self, progress)
        if (progress.chunk, progress.stage) == (chunk, "drawing"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rollout.Bar, "__call__", interrupt)
        assert main([*files.command(), "--out", str(out)]) == 130
    assert len(list(out.glob("chunk_*.mp4"))) == chunk
    assert main([*files.command(), "--out", str(out)]) == 0
    assert torch.equal(latents(out), latents(whole[0]))


def test_defaults_of_the_way_and_what_overrides_them(files: Files) -> None:
    bare = dict.fromkeys(
        ("steps", "references", "first_chunk_frames", "chunk_frames", "overlap_frames")
    )

    def parsed(**changes: str | None) -> Any:
        words = [*files.command(**{**bare, **changes}), "--out", "x"]
        return make_parser().parse_args(words)

    spatia = parsed()
    expected = GenerationSettings(
        steps=40, shift=5.0, method="unipc", references=7, preceding=0, integer_timesteps=True
    )
    assert rollout.settings_of(spatia) == expected
    assert ways.lengths_of(spatia) == ChunkLengths(121, 81, 9)
    assert ways.way_of(spatia).guidance == 3.5
    other = parsed(steps="8", shift="3", method="euler", chunk_frames="41")
    settings = rollout.settings_of(other)
    assert (settings.steps, settings.shift, settings.method) == (8, 3.0, "euler")
    assert ways.lengths_of(other) == ChunkLengths(121, 41, 9)
    mirage = parsed(way=None)
    assert rollout.settings_of(mirage) == GenerationSettings()
    assert ways.lengths_of(mirage).are_default
    assert ways.colours_of(mirage) is None
    step = ways.colours_of(parsed(colour_step="2"))
    assert step is not None and step.step == 2


def test_the_digest_of_a_shot_knows_way_and_lora(files: Files) -> None:
    def digest(**changes: str | None) -> str:
        arguments = make_parser().parse_args([*files.command(**changes), "--out", "x"])
        return models.describe_models(arguments, models.DeviceSetup.from_arguments(arguments))

    found = {digest(), digest(later_lora=None), digest(later_lora=None, way=None)}
    assert len(found) == 3


REFUSED = [
    ({"branch": "mirage_vace.safetensors"}, r"drawings only.*scene,white.*as spatia"),
    ({"branch": None}, r"drawings only.*no side branch"),
    ({"way": None}, r"colour render.*--way spatia"),
    ({"later_lora": "stray.safetensors"}, r"another model.*text_encoder"),
    ({"later_lora": "wider.safetensors"}, "another model.*instead of"),
    ({"later_lora": "none.safetensors"}, "later lora does not exist"),
    ({"branch": "none.safetensors"}, "branch does not exist"),
    ({"fps": "30"}, r"another frame rate.*30 frames per second.*--fps 24"),
    ({"preceding": "2"}, "--preceding cannot be used with --way spatia"),
    ({"min_overlap": "0.1"}, "--min-overlap cannot be used"),
    ({"released": True}, "--released cannot be used"),
    ({"colour_step": "3"}, "pixels along each side"),
    ({"way": "mirage", "colour_step": "1"}, "--colour-step cannot be used with --way mirage"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refusals_before_anything_is_sampled(
    files: Files, tmp_path: Path, capsys, monkeypatch, changes, message: str
) -> None:
    def sampled(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(MirageTransformer3DModel, "forward", sampled)
    assert main([*files.command(**changes), "--out", str(tmp_path / "shot")]) == 2
    text = said(capsys)
    assert re.search(message, text), text
    assert not list(tmp_path.glob("shot/chunk_*"))
