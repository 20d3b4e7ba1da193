"""Sampling with the memory through a real server: stock loaders, samplers and guiders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dev.comfy_client import ComfyClient, ComfyRunError, Progress
from dev.comfy_server import ComfyServer
from tiny_models import (
    BRANCH,
    LORA,
    TEXT_ENCODER,
    VAE,
    VIDEO_MODEL,
    add_sizes,
    side_branch,
    video_model,
    write_models,
)
from tiny_weights import truncate, write

from .prompts import Prompt, folders, loop, memory, move, node, scene

pytestmark = pytest.mark.server

FRAMES = 9


@pytest.fixture(scope="module")
def server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server whose models folder holds tiny files of the real formats."""
    base = tmp_path_factory.mktemp("sampling")
    models = write_models(base / "models")
    write(models / "diffusion_models" / "merged.safetensors", video_model() | side_branch())
    truncate(write(models / "model_patches" / "cut.safetensors", side_branch()))
    truncate(write(models / "diffusion_models" / "cut.safetensors", video_model()))
    add_sizes(base / "custom_nodes")
    arguments = ("--preview-method", "latent2rgb")
    with ComfyServer(
        base, comfyui=comfyui_path, env={"OMP_NUM_THREADS": "1"}, extra_args=arguments
    ) as running:
        yield running


@pytest.fixture
def client(server: ComfyServer) -> ComfyClient:
    return ComfyClient(server.url)


def models(weight_dtype: str = "default", name: str = VIDEO_MODEL, branch: str = BRANCH) -> Prompt:
    """Stock loaders of everything, and two prompts."""
    return {
        "unet": node("UNETLoader", unet_name=name, weight_dtype=weight_dtype),
        "clip": node("CLIPLoader", clip_name=TEXT_ENCODER, type="wan"),
        "positive": node("CLIPTextEncode", text="a quiet street in the rain", clip=["clip", 0]),
        "negative": node("CLIPTextEncode", text="", clip=["clip", 0]),
        "branch": node("MirageLoadBranch", branch_name=branch),
    }


def readout() -> Prompt:
    """A memory of a procedural room, read along a short move."""
    return (
        scene()
        | move(FRAMES)
        | memory()
        | {"read": node("MirageReadout", cache=["init", 0], trajectory=["move", 0])}
    )


def applied(**changes: Any) -> Prompt:
    inputs = {
        "model": ["unet", 0],
        "readout": ["read", 0],
        "first_latent": ["init", 1],
        "strength": 1.0,
        "references": 4,
        "preceding": 2,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "branch": ["branch", 0],
        "vae": ["codec", 0],
    }
    return {"apply": node("MirageApply", **inputs | changes)}


def sampled(name: str = "euler", **changes: Any) -> Prompt:
    """KSampler on the model of `applied`, its latent saved."""
    inputs = {
        "model": ["apply", 0],
        "seed": 3,
        "steps": 3,
        "cfg": 1.0,
        "sampler_name": name,
        "scheduler": "simple",
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["apply", 1],
        "denoise": 1.0,
    }
    return {"sample": node("KSampler", **inputs | changes), "save": saved(["sample", 0])}


def saved(source: list) -> dict[str, Any]:
    return node("SaveLatent", samples=source, filename_prefix="latents/chunk")


GIVEN = saved(["apply", 1])


def custom(guider: Prompt, sampler: Prompt, sampler_link: list, sigmas_link: list) -> Prompt:
    """SamplerCustomAdvanced on a guider called ``guider``."""
    return {
        **guider,
        **sampler,
        "noise": node("RandomNoise", noise_seed=3),
        "sample": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=sampler_link,
            sigmas=sigmas_link,
            latent_image=["apply", 1],
        ),
        "save": saved(["sample", 0]),
    }


def latent_of(client: ComfyClient, server: ComfyServer, prompt: Prompt, **watch: Any) -> Tensor:
    """The samples that a prompt saves."""
    before = set((server.output / "latents").glob("*"))
    client.run(prompt, timeout=240, **watch)
    (path,) = set((server.output / "latents").glob("*")) - before
    return load_file(path)["latent_tensor"]


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def basic() -> Prompt:
    return {"guider": node("BasicGuider", model=["apply", 0], conditioning=["positive", 0])}


def guided() -> Prompt:
    return {
        "guider": node(
            "CFGGuider",
            model=["apply", 0],
            positive=["positive", 0],
            negative=["negative", 0],
            cfg=2.5,
        )
    }


def two_prompts() -> Prompt:
    prompts = {"cond1": ["positive", 0], "cond2": ["negative", 0], "negative": ["negative", 0]}
    numbers = {"cfg_conds": 2.5, "cfg_cond2_negative": 1.5, "style": "nested"}
    return {"guider": node("DualCFGGuider", model=["apply", 0], **prompts, **numbers)}


def two_models(**negative: list) -> Prompt:
    """The plain model makes the pass of the negative."""
    inputs = {"model": ["apply", 0], "positive": ["positive", 0], "cfg": 2.5}
    return {"guider": node("DualModelGuider", model_negative=["unet", 0], **inputs, **negative)}


def stock_sampler() -> Prompt:
    return {
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node(
            "BasicScheduler", model=["apply", 0], scheduler="simple", steps=3, denoise=1.0
        ),
    }


def own_sampler() -> Prompt:
    return {"own": node("MirageUniPC", steps=3, shift=5.0)}


WAYS: dict[str, Prompt] = {
    "euler": sampled(),
    "uni_pc, guidance": sampled("uni_pc", cfg=3.0),
    "distilled": sampled("lcm", steps=4),
    "basic guider": custom(basic(), stock_sampler(), ["sampler", 0], ["sigmas", 0]),
    "cfg guider": custom(guided(), stock_sampler(), ["sampler", 0], ["sigmas", 0]),
    "two prompts": custom(two_prompts(), stock_sampler(), ["sampler", 0], ["sigmas", 0]),
    "two models": custom(
        two_models(negative=["negative", 0]), stock_sampler(), ["sampler", 0], ["sigmas", 0]
    ),
    "released sampler": custom(guided(), own_sampler(), ["own", 0], ["own", 1]),
}


@pytest.mark.parametrize("way", WAYS)
def test_stock_samplers(client: ComfyClient, server: ComfyServer, way: str) -> None:
    prompt = models() | readout() | WAYS[way]
    found = latent_of(client, server, prompt | applied())
    plain = latent_of(client, server, prompt | applied(strength=0.0))
    assert found.shape == (1, 48, 3, 4, 4)
    assert bool(found.isfinite().all())
    assert far(found, plain) > 1e-2
    given = latent_of(client, server, models() | readout() | applied() | {"save": GIVEN})
    assert torch.equal(found[:, :, :1], given[:, :, :1]), "the clean first frame changed"


def test_strength_0_is_the_graph_without_the_node(
    client: ComfyClient, server: ComfyServer
) -> None:
    common = models() | readout()
    bypassed = sampled(model=["unet", 0], latent_image=["apply", 1])
    expected = latent_of(client, server, common | applied(strength=0.0) | bypassed)
    patched = latent_of(client, server, common | applied() | sampled())
    again = latent_of(client, server, common | applied(strength=0.0) | sampled())
    assert torch.equal(again, expected)
    assert far(patched, expected) > 1e-2


@pytest.mark.parametrize(
    "between",
    [
        {
            "lora": node(
                "LoraLoaderModelOnly", model=["unet", 0], lora_name=LORA, strength_model=1.0
            )
        },
        {"shift": node("ModelSamplingSD3", model=["unet", 0], shift=3.0)},
    ],
    ids=["lora", "shift"],
)
def test_model_nodes_before_and_after(
    client: ComfyClient, server: ComfyServer, between: Prompt
) -> None:
    (name,) = between
    common = models() | readout()
    plain = latent_of(client, server, common | applied() | sampled())
    before = latent_of(client, server, common | between | applied(model=[name, 0]) | sampled())
    behind = {name: node(between[name]["class_type"], **between[name]["inputs"])}
    behind[name]["inputs"]["model"] = ["apply", 0]
    after = latent_of(client, server, common | applied() | behind | sampled(model=[name, 0]))
    assert torch.equal(before, after)
    assert far(before, plain) > 1e-3


@pytest.mark.parametrize("dtype", ["fp8_e4m3fn", "fp8_e5m2"])
def test_weights_in_8_bits(client: ComfyClient, server: ComfyServer, dtype: str) -> None:
    full = latent_of(client, server, models() | readout() | applied() | sampled())
    narrow = latent_of(client, server, models(dtype) | readout() | applied() | sampled())
    plain = latent_of(client, server, models() | readout() | applied(strength=0.0) | sampled())
    assert 0 < far(narrow, full) < far(full, plain)


def test_noise_mask(client: ComfyClient, server: ComfyServer) -> None:
    """A mask of another node joins the one for the first frame."""
    masked = {
        "mask": node("SolidMask", value=0.0, width=64, height=64),
        "set": node("SetLatentNoiseMask", samples=["apply", 1], mask=["mask", 0]),
    }
    prompt = models() | readout() | applied() | masked | sampled(latent_image=["set", 0])
    kept = latent_of(client, server, prompt)
    given = latent_of(client, server, models() | readout() | applied() | {"save": GIVEN})
    assert torch.equal(kept, given), "cells outside of the mask changed"


def test_previews_and_interrupt(client: ComfyClient, server: ComfyServer) -> None:
    prompt = models() | readout() | applied() | sampled(steps=60)
    reached: list[float] = []

    def stop(progress: Progress) -> None:
        if progress.display_node == "sample":
            reached.append(progress.value)
            if progress.value == 2:
                client.interrupt()

    result = client.run(prompt, stop, timeout=240)
    assert result.status == "interrupted"
    assert result.previews > 0
    assert max(reached) < 30, "it went on long after the interrupt"
    after = latent_of(client, server, models() | readout() | applied() | sampled(seed=12))
    assert bool(after.isfinite().all())


def test_training_free(client: ComfyClient, server: ComfyServer) -> None:
    free = {
        "apply": node(
            "MirageTrainingFree",
            model=["unet", 0],
            readout=["read", 0],
            first_latent=["init", 1],
            until=1.0,
            softness=0.0,
        )
    }
    common = {key: value for key, value in models().items() if key != "branch"}
    found = latent_of(client, server, common | readout() | free | sampled(cfg=2.0))
    shown = latent_of(client, server, scene() | readout() | {"save": saved(["read", 1])})
    difference = (found - shown)[:, :, 1:].abs().amax(1)
    assert float((difference < 1e-2).float().mean()) > 0.5, "visible cells are not the readout"


def test_whole_rollout_with_sampling(client: ComfyClient, server: ComfyServer) -> None:
    """Two chunks; the second has clean frames of the first, and is decoded behind them."""
    shot = scene() | move(41) | memory() | loop(name="sampled") | models()
    shot |= applied(first_latent=["open", 4], state=["open", 1]) | sampled("uni_pc", steps=2)
    shot["sample"]["inputs"]["seed"] = ["open", 5]
    del shot["save"]
    shot["decode"] = node(
        "MirageChunkDecode",
        latent=["sample", 0],
        vae=["codec", 0],
        state=["open", 1],
        carried=2,
    )
    shot["update"]["inputs"]["latent"] = ["sample", 0]
    result = client.run(shot, timeout=500)
    assert result.displayed.count("sample") == 2 and result.displayed.count("apply") == 2
    (report,) = result.outputs["result"]["text"]
    assert "41 frames" in report
    (folder,) = folders(server.output, "sampled")
    assert (folder / "video.mp4").stat().st_size > 0


def test_real_vae_format(client: ComfyClient, server: ComfyServer) -> None:
    """A memory in latents of a Wan2.2 VAE file, whose white video the branch takes."""
    prompt = models() | readout() | applied() | sampled(steps=1)
    prompt["codec"] = node("VAELoader", vae_name=VAE)
    prompt["look"] = node("VAEDecode", samples=["sample", 0], vae=["codec", 0])
    prompt["picture"] = node("SaveImage", images=["look", 0], filename_prefix="real")
    found = latent_of(client, server, prompt)
    assert found.shape == (1, 48, 3, 4, 4) and bool(found.isfinite().all())
    assert len(list(server.output.glob("real_*.png"))) == FRAMES


# --- bad input ------------------------------------------------------------------------------------


def refused(client: ComfyClient, prompt: Prompt, kind: str, *words: str) -> ComfyRunError:
    with pytest.raises(ComfyRunError) as caught:
        client.run(prompt, timeout=240)
    error = caught.value
    assert error.exception_type.endswith(f".mirage_core.errors.{kind}"), error
    assert [word for word in words if word not in error.exception_message] == []
    return error


def test_truncated_branch(client: ComfyClient) -> None:
    prompt = models(branch="cut.safetensors") | readout() | applied() | sampled()
    error = refused(client, prompt, "ModelMismatchError", "cut.safetensors", "Fetch the file anew")
    assert error.node_type == "MirageLoadBranch"
    assert "sample" not in error.result.displayed


def test_truncated_video_model(client: ComfyClient) -> None:
    """A stock loader reads it: its own message, before sampling; the documentation explains it."""
    prompt = models(name="cut.safetensors") | readout() | applied() | sampled()
    with pytest.raises(ComfyRunError) as caught:
        client.run(prompt, timeout=240)
    error = caught.value
    assert error.node_type == "UNETLoader"
    assert "incomplete metadata, file not fully covered" in error.exception_message
    assert "sample" not in error.result.displayed


def test_merged_model_is_refused_and_split(client: ComfyClient, server: ComfyServer) -> None:
    common = readout() | applied() | sampled()
    prompt = models(name="merged.safetensors") | common
    error = refused(client, prompt, "ModelMismatchError", "Mirage Split Checkpoint")
    assert error.node_type == "MirageApply"
    split = node("MirageSplitCheckpoint", model_name="merged.safetensors", format="mirage")
    client.run({"split": split})
    parts = {"name": "merged_model.safetensors", "branch": "merged_vace.safetensors"}
    found = latent_of(client, server, models(**parts) | common)
    assert torch.equal(found, latent_of(client, server, models() | common))


def test_negative_left_unconnected(client: ComfyClient) -> None:
    guider = custom(two_models(), stock_sampler(), ["sampler", 0], ["sigmas", 0])
    words = ("no negative conditioning", "cfg 2.5", "Connect a CLIP Text Encode")
    error = refused(client, models() | readout() | applied() | guider, "ModelMismatchError", *words)
    assert error.node_type == "SamplerCustomAdvanced"


def test_latent_of_another_length(client: ComfyClient) -> None:
    other = {
        "other": node("Wan22ImageToVideoLatent", vae=["codec", 0], width=64, height=64, length=13,
                      batch_size=1)
    }  # fmt: skip
    prompt = models() | readout() | applied() | other | sampled(latent_image=["other", 0])
    words = ("have different sizes", "(1, 48, 4, 4, 4)", "latent output of the Mirage")
    error = refused(client, prompt, "ShapeError", *words)
    assert error.node_type == "KSampler"


def test_latent_without_a_mask_or_a_first_frame(client: ComfyClient, server: ComfyServer) -> None:
    """An empty latent of the right size does as well: the clean frame is put in."""
    empty = {
        "empty": node("Wan22ImageToVideoLatent", vae=["codec", 0], width=64, height=64,
                      length=FRAMES, batch_size=1)
    }  # fmt: skip
    common = models() | readout() | applied()
    found = latent_of(client, server, common | empty | sampled(latent_image=["empty", 0]))
    assert torch.equal(found, latent_of(client, server, common | sampled()))
