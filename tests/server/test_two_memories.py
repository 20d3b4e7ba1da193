"""Tokens beside colours for the same model in the graph: Table 3, row 2 of the paper."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dev.comfy_client import ComfyClient, ComfyRunError
from dev.comfy_server import ComfyServer
from mirage_core.metrics import psnr
from mirage_core.rollout.video import read_frames
from mirage_core.tensor_files import read_tensors

from .prompts import Prompt, folders, loop, memory, move, node, scene

pytestmark = [pytest.mark.server, pytest.mark.rooms]

FRAMES, CHUNKS = 65, 2


def shot(name: str, what: str) -> Prompt:
    """A shot of the bundled model; only what its memory holds differs."""
    sampled = {
        "model": node("MirageEmbeddedModel"),
        "apply": node(
            "MirageApply",
            model=["model", 0], readout=["read", 0], first_latent=["open", 4], strength=1.0,
            references=2, preceding=2, start_percent=0.0, end_percent=1.0,
            branch=["model", 3], state=["open", 1], vae=["codec", 0],
        ),
        "sample": node(
            "KSampler",
            model=["apply", 0], seed=["open", 5], steps=4, cfg=1.0, sampler_name="euler",
            scheduler="simple", positive=["model", 2], negative=["model", 2],
            latent_image=["apply", 1], denoise=1.0,
        ),
    }  # fmt: skip
    held = memory(what=what, colour_step=1)
    prompt = scene(96, 64) | move(FRAMES) | held | loop(name=name) | sampled
    prompt["decode"]["inputs"]["samples"] = ["sample", 0]
    prompt["update"]["inputs"]["latent"] = ["sample", 0]
    return prompt


def made(server: ComfyServer, name: str) -> tuple[Tensor, Tensor]:
    """All frames of a shot, and the latents of its last chunk."""
    (folder,) = folders(server.output, name)
    chunks = sorted(folder.glob("chunk_*.safetensors"))
    assert len(chunks) == CHUNKS
    frames = torch.stack(list(read_frames(folder / "video.mp4")))
    return frames, read_tensors(chunks[-1])["latents"]


def test_one_model_is_shown_tokens_and_colours(
    comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    for what in ("tokens", "colours"):
        comfy_client.run(shot(f"row_{what}", what), timeout=300)
    tokens, last = made(comfy_server, "row_tokens")
    colours, other = made(comfy_server, "row_colours")
    assert tokens.shape == colours.shape and len(tokens) == FRAMES
    assert not torch.equal(last, other)
    # Both see one room: what is drawn of it differs by far less than rooms do.
    assert psnr(tokens / 255, colours / 255) > 24


def test_drawings_of_colours_need_the_model_s_own_codec(comfy_client: ComfyClient) -> None:
    prompt = shot("row_without", "colours")
    del prompt["apply"]["inputs"]["vae"]
    with pytest.raises(ComfyRunError, match="the VAE of Mirage Embedded Model"):
        comfy_client.run(prompt, timeout=120)
