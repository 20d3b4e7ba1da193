"""Spatia's model through the library: its files under their names, and its own code's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny_weights as tiny
from mirage_core.checkpoints.branch import HEADS_KEY
from mirage_core.checkpoints.lora_format import read_lora, write_for_comfyui
from mirage_core.conditioning.condition import Condition
from mirage_core.conditioning.features import RENDER_AND_SCORE
from mirage_core.conditioning.segments import Segments
from mirage_core.errors import ModelMismatchError
from spatia_oracle import SpatiaOracle

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")

from mirage_core.models.denoiser import MirageDenoiser
from mirage_core.models.load import load_transformer
from mirage_core.models.lora import apply_lora
from mirage_core.models.rope import SegmentRope

ORACLE = SpatiaOracle()
DENOISER = ORACLE.settings["denoiser"]
CASES = {case["name"]: case for case in DENOISER["cases"]}
LOOP = ORACLE.settings["loop"]
RELATIVE = 1e-5
"""Largest difference, as a share of the largest number."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's files; heads are 24 wide, which they have to say, and they say nothing else."""
    folder = tmp_path_factory.mktemp("spatia")
    heads = {HEADS_KEY: str(DENOISER["config"]["num_heads"])}
    for name, prefix in (("wan", "backbone."), ("step-8500", "branch."), ("lora", "lora.")):
        tiny.write(folder / f"{name}.safetensors", ORACLE.group(prefix), heads)
    return folder


def load(files: Path, lora: bool = False) -> Any:
    model = load_transformer(
        files / "wan.safetensors", branch=files / "step-8500.safetensors", dtype=torch.float32
    )
    if lora:
        apply_lora(model, files / "lora.safetensors", fuse=True)
    return model


@pytest.fixture(scope="module")
def models(files: Path) -> dict[bool, Any]:
    """Without the LoRA and with it."""
    return {lora: load(files, lora) for lora in (False, True)}


@torch.no_grad()
def run(model: Any, name: str, **other: Any) -> Tensor:
    part = f"denoiser.{name}."
    return model(
        ORACLE.tensor(f"{part}latents"),
        ORACLE.tensor(f"{part}timestep")[None],
        ORACLE.tensor(DENOISER["text"]),
        ORACLE.tensor(f"{part}planes"),
        num_reference_frames=CASES[name]["references"],
        return_dict=False,
        **other,
    )[0]


def expect_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= RELATIVE * expected.abs().max()


def test_the_branch_is_what_the_original_loads(models) -> None:
    config = models[False].branch_config
    assert config.layers == tuple(DENOISER["vace_layers"])
    assert config.features == RENDER_AND_SCORE
    assert config.in_channels == DENOISER["vace_in_dim"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("kind", "scale"), [("out", 1.0), ("out_scale0.5", 0.5), ("out_nobranch", 0.0)]
)
def test_outputs_are_the_originals(models, name: str, kind: str, scale: float) -> None:
    """References, clean and noisy frames in one pass, the LoRA where the clip has one."""
    expected = ORACLE.tensor(f"denoiser.{name}.{kind}")
    found = run(models[CASES[name]["lora"]], name, side_scale=scale)
    expect_close(found, expected)


@pytest.mark.parametrize("name", CASES)
def test_hints_are_the_originals(models, name: str) -> None:
    expected = ORACLE.tensor(f"denoiser.{name}.hints")
    model, hints = models[CASES[name]["lora"]], []
    hooks = [
        block.register_forward_hook(lambda _block, _inputs, outputs: hints.append(outputs[0]))
        for block in model.vace_blocks
    ]
    run(model, name)
    for hook in hooks:
        hook.remove()
    expect_close(torch.stack([hint.flatten(1, 2) for hint in hints]), expected)


def test_rotary_angles_are_the_originals() -> None:
    case = CASES["later"]
    frames = case["frames"]
    cos, sin = SegmentRope(24)(
        Segments(frames, references=case["references"]), 2, 3, torch.device("cpu")
    )
    for found, name in ((cos, "rope_cos"), (sin, "rope_sin")):
        expected = ORACLE.tensor(f"denoiser.later.{name}")
        pairs = found.reshape(-1, 12, 2)
        assert torch.equal(pairs[..., 0], pairs[..., 1])
        assert torch.allclose(pairs[..., 0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("way", ["adapter", "fused", "converted"])
def test_the_lora_is_the_originals(files: Path, tmp_path: Path, way: str) -> None:
    """Under its own names, which ComfyUI's loader does not read, and under those it does."""
    model, path = load(files), files / "lora.safetensors"
    expect_close(run(model, "later_nolora"), ORACLE.tensor("denoiser.later_nolora.out"))
    without = run(model, "later")
    if way == "converted":
        path = write_for_comfyui(read_lora(path), tmp_path / "comfyui.safetensors")
    info = apply_lora(model, path, fuse=way != "adapter")
    assert info.ranks == (DENOISER["lora_rank"],)
    assert info.scales == (DENOISER["lora_alpha"],)
    expected = ORACLE.tensor("denoiser.later.out")
    expect_close(run(model, "later"), expected)
    assert (expected - without).abs().max() > 0.01 * expected.abs().max()


def test_a_lora_that_changes_nothing_is_refused(files: Path, tmp_path: Path) -> None:
    stray = {"pipe.text_encoder.blocks.0.q.lora_A.default.weight": torch.zeros(2, 3)}
    stray |= {"pipe.text_encoder.blocks.0.q.lora_B.default.weight": torch.zeros(3, 2)}
    with pytest.raises(ModelMismatchError, match="pipe.text_encoder.*does not have"):
        apply_lora(load(files), tiny.write(tmp_path / "stray.safetensors", stray))
    empty = tiny.write(tmp_path / "empty.safetensors", {})
    with pytest.raises(ModelMismatchError, match="no matrices.*Use a LoRA for"):
        read_lora(empty)


def test_the_first_clip_goes_through_the_denoiser(models) -> None:
    """One clean frame and no references: what the library's own loop gives the model."""
    planes, latents, timesteps, expected = (
        ORACLE.tensor(f"denoiser.first.{name}")[0] if name != "timestep"
        else ORACLE.tensor("denoiser.first.timestep")
        for name in ("planes", "latents", "timestep", "out")
    )  # fmt: skip
    render, score = planes.split(48)
    seen = torch.ones(render.shape[1:], dtype=torch.bool)
    none = render[:, :0]
    condition = Condition(
        render, seen, none, none, none, seen[:0], render=render, score=score
    )
    denoise = MirageDenoiser(models[False], condition, ORACLE.tensor(DENOISER["text"]))
    expect_close(denoise(latents, float(timesteps[-1])), expected)


@pytest.mark.parametrize("sign", ["positive", "negative"])
@pytest.mark.parametrize("number", [0, 1, 2])
@torch.no_grad()
def test_first_velocities_of_a_rollout_are_the_originals(models, number: int, sign: str) -> None:
    this, name = LOOP["rounds"][number], f"loop.round{number}"
    expected = ORACLE.tensor(f"{name}.velocity_{sign}")
    start, references = ORACLE.tensor(f"{name}.start"), this["references"]
    timesteps = torch.full((start.shape[1],), float(ORACLE.tensor(f"{name}.timestep").max()))
    timesteps[: references + max(1, this["ar_hist_latents_num"])] = 0
    (found,) = models[this["lora"]](
        start[None],
        timesteps[None],
        ORACLE.tensor(f"text.{sign}"),
        ORACLE.tensor(f"{name}.planes")[None],
        num_reference_frames=references,
        return_dict=False,
    )
    expect_close(found[0], expected)
