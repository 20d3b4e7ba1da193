"""What a training run leaves behind is loaded by the graph, and means there what it meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny_training
from tiny_models import video_model
from tiny_weights import write

from .sampling_kit import Kit
from .test_sampling_parity import by_graph, by_library

pytest.importorskip("peft", reason="needs peft for the LoRA")

pytestmark = pytest.mark.training

STEPS = 2


def trained(place: Path, features: str) -> tuple[Path, Path, Path]:
    """Model, side branch and LoRA of a short run on the command line."""
    from mirage_core.cli.main import main

    # Every second clip has no text; the others have it in another width than this model's.
    clips = tiny_training.write_clips(place / "clips", range(0, 12, 2), planes=True)
    model = write(place / "model.safetensors", video_model())
    settings = tiny_training.SETTINGS | {
        "stage": "single", "steps": STEPS, "side_blocks": 3, "side_features": features,
        "learning_rate": 0.02, "ema_decay": 0.0,
    }  # fmt: skip
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    run = ["train", "--device", "cpu", "--data", str(clips), "--transformer", str(model)]
    assert main([*run, "--out", str(place), *flags]) == 0
    end = f"step_{STEPS:07d}"
    branch = place / "vace" / f"{end}_vace.safetensors"
    return model, branch, place / "lora" / f"{end}_lora_comfyui.safetensors"


@pytest.mark.parametrize("features", ["scene,visible", "scene,visible,offset,depth_ratio"])
def test_branch_and_lora_of_a_run_in_the_graph(kit: Kit, tmp_path: Path, features: str) -> None:
    import comfy.utils

    files = trained(tmp_path, features)
    branch = kit.models.branch_from_file(files[1])
    tensors = comfy.utils.load_torch_file(str(files[2]))
    with torch.inference_mode():
        shown = kit.module("conditioning.condition").Condition.of_readout(kit.readout())
        bare, latent = kit.apply(branch=branch)
        model = kit.comfy.sd.load_lora_for_models(bare, None, tensors, 1.0, 0.0)[0]
        library = kit.module("models.load").load_transformer(
            files[0], branch=files[1], dtype=torch.float32
        )
        kit.module("models.lora").apply_lora(library, files[2])
        found = by_graph(kit, model, latent)
        expected = by_library(kit, shown, latent, library)
        assert float((found - expected).abs().max()) < 1e-4
        # Neither of the two is without effect.
        for other in (bare, kit.comfy.sd.load_lora_for_models(
            kit.guided(kit.condition())[0], None, tensors, 1.0, 0.0
        )[0]):  # fmt: skip
            assert float((by_graph(kit, other, latent) - found).abs().max()) > 1e-3
