"""The shots with public models and files of another model: told what to do, nothing sampled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.comfy_client import ComfyClient, ComfyRunError, ComfyValidationError
from dev.comfy_server import ComfyServer
from tiny_install import install, sampling_server
from tiny_models import branch_config, lora, side_branch
from tiny_weights import Backbone, write
from workflows.files import INPAINT_MODEL, VACE_MODEL, VAE, VAE21, VIDEO_MODEL

from .prompts import Prompt
from .stopped_shots import HEIGHT, WIDTH, only, run, small

pytestmark = pytest.mark.server

LENGTHS = {"frames": 17, "first_chunk_frames": 13, "chunk_frames": 13, "overlap_frames": 9}
WIDE = Backbone(384, 3, 768, 5, 4096, 256)
"""Another width than the tiny video model's, as the 14B models have another one than the 5B."""

FOREIGN = "foreign.safetensors"
IDLE, WIDE_FEW = "idle_fastwan.safetensors", "wide_causvid.safetensors"


@pytest.fixture(scope="module")
def server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with the files of all shots, and with some for a wider model."""
    base = tmp_path_factory.mktemp("wrong_files")
    install(base, (WIDTH, HEIGHT))
    loras = base / "models" / "loras"
    write(loras / FOREIGN, lora(WIDE))
    write(loras / WIDE_FEW, lora(WIDE))
    write(loras / IDLE, {name.replace("self_attn", "mixer"): t for name, t in lora().items()})
    write(base / "models" / "model_patches" / FOREIGN, side_branch(branch_config(WIDE)))
    with sampling_server(base, comfyui_path) as running:
        yield running


def changed(prompt: Prompt, kind: str, **inputs: Any) -> Prompt:
    """The prompt with other values in every node of a class."""
    for part in prompt.values():
        if part["class_type"] == kind:
            part["inputs"] |= inputs
    return prompt


CASES = {
    "vace_with_the_vae_of_wan22": (
        "vace", "VAELoader", {"vae_name": VAE.name}, ("begun with another", VAE21.name),
    ),
    "vace_with_a_memory_of_tokens": (
        "vace", "MirageCacheInit", {"what": "tokens", "vae": ["wan22", 0]},
        ("Tokens of this memory", "what = colours"),
    ),
    "vace_with_tokens_of_its_own_vae": (
        "vace", "MirageCacheInit", {"what": "tokens"}, ("Wan2.1 VAE", "what = colours"),
    ),
    "vace_at_another_frame_rate": (
        "vace", "MirageTrajectory", {"fps": 24.0},
        ("another frame rate", "fps = 16 in Mirage Rollout Start"),
    ),
    "vace_with_plain_wan22": (
        "vace", "UNETLoader", {"unet_name": VIDEO_MODEL.name},
        ("would not see the memory at all", VACE_MODEL.name, "mirage_training_free"),
    ),
    "fun_inpaint_with_plain_wan22": (
        "fun_inpaint", "UNETLoader", {"unet_name": VIDEO_MODEL.name},
        ("would not see the memory at all", INPAINT_MODEL.name),
    ),
    "few_steps_of_an_unknown_kind": (
        "vace", "MirageFewSteps", {"few_steps": FOREIGN},
        ("how many steps this LoRA needs", "causvid"),
    ),
    "few_steps_with_a_lora_that_changes_nothing": (
        "vace", "MirageFewSteps", {"few_steps": IDLE},
        ("changes nothing of this model", "a LoRA for the video model that is loaded"),
    ),
    "few_steps_with_a_lora_of_a_wider_model": (
        "vace", "MirageFewSteps", {"few_steps": WIDE_FEW},
        ("LoRA was made for another model", "the video model that is loaded"),
    ),
    "few_steps_without_a_lora_that_fits": (
        "fun_inpaint", "MirageFewSteps", {"few_steps": "auto"},
        ("no LoRA for few steps that fits", "few_steps = off"),
    ),
    "spatia_with_the_vae_of_wan21": (
        "spatia", "VAELoader", {"vae_name": VAE21.name}, ("16 channels", VAE.name),
    ),
    "spatia_with_a_memory_of_tokens": (
        "spatia", "MirageCacheInit", {"what": "tokens"}, ("what = colours",),
    ),
    "spatia_with_a_model_of_wan21": (
        "spatia", "UNETLoader", {"unet_name": VACE_MODEL.name},
        ("WAN21_Vace", VIDEO_MODEL.name),
    ),
    "spatia_with_a_lora_of_a_wider_model": (
        "spatia", "MirageLaterLora", {"lora_name": FOREIGN},
        ("LoRA was made for another model", "load one that was trained for this model"),
    ),
    "spatia_with_a_patch_of_a_wider_model": (
        "spatia", "MirageLoadBranch", {"branch_name": FOREIGN}, ("width 384", "width 256"),
    ),
    "fun_inpaint_with_the_vae_of_wan21": (
        "fun_inpaint", "VAELoader", {"vae_name": VAE21.name}, ("Wan2.1 VAE", VAE.name),
    ),
    "fun_inpaint_with_a_memory_of_colours": (
        "fun_inpaint", "MirageCacheInit", {"what": "colours"}, ("tokens",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_files_of_another_model(
    server: ComfyServer, object_info: dict[str, Any], case: str
) -> None:
    name, kind, inputs, words = CASES[case]
    prompt = changed(small(name, object_info, LENGTHS), kind, **inputs)
    prompt["wan22"] = {"class_type": "VAELoader", "inputs": {"vae_name": VAE.name}}
    prompt[only(prompt, "MirageRolloutStart")]["inputs"]["name"] = case
    with pytest.raises(ComfyRunError) as caught:
        run(server, prompt)
    error = caught.value
    assert ".mirage_core.errors." in error.exception_type, error
    missing = [word for word in words if word not in error.exception_message]
    assert not missing, f"{missing} not in: {error.exception_message}"
    assert not list(server.output.glob(f"mirage/{case}/*/chunk_*"))


@pytest.mark.parametrize(
    ("name", "kind", "field"),
    [
        ("vace", "UNETLoader", "unet_name"),
        ("vace", "MirageFewSteps", "few_steps"),
        ("spatia", "MirageLoadBranch", "branch_name"),
        ("spatia", "MirageLaterLora", "lora_name"),
        ("fun_inpaint", "CLIPLoader", "clip_name"),
    ],
)
def test_missing_files_are_told_when_queued(
    server: ComfyServer, object_info: dict[str, Any], name: str, kind: str, field: str
) -> None:
    prompt = small(name, object_info, LENGTHS)
    for part in prompt.values():
        if part["class_type"] == kind and not isinstance(part["inputs"][field], list):
            part["inputs"][field] = "gone.safetensors"
    with pytest.raises(ComfyValidationError, match=r"gone\.safetensors"):
        ComfyClient(server.url).submit(prompt)


