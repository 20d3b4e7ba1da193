"""The library's models against ComfyUI's own, on the same files of tiny weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny_weights as tiny
from mirage_core.checkpoints.vae_format import LATENT_MEAN, LATENT_STD
from mirage_core.models.load import load_transformer
from mirage_core.models.text import MAX_TOKENS, SPIECE, load_text_encoder
from mirage_core.models.vae import load_vae

SIZE = tiny.Backbone()


@pytest.fixture(scope="module", autouse=True)
def comfy(comfyui_path: Path) -> Iterator[None]:
    """ComfyUI's modules, on the CPU."""
    # At the end: ComfyUI has top-level modules of common names.
    sys.path.append(str(comfyui_path))
    from comfy.cli_args import args

    args.cpu = True
    yield
    sys.path.remove(str(comfyui_path))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_vae(tmp_path: Path) -> None:
    from comfy.latent_formats import Wan22
    from comfy.ldm.wan.vae2_2 import WanVAE

    tensors = tiny.vae_tensors(base=4, decoder_base=8)
    theirs = WanVAE(
        dim=4, dec_dim=8, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
        temperal_downsample=[False, True, True],
    )  # fmt: skip
    theirs.load_state_dict(tensors, strict=True)
    ours = load_vae(tiny.write(tmp_path / "wan2.2_vae.safetensors", tensors))
    form = Wan22()
    assert torch.equal(form.latents_mean.flatten(), torch.tensor(LATENT_MEAN))
    assert torch.equal(form.latents_std.flatten(), torch.tensor(LATENT_STD))

    frames = noise(9, 64, 96, 3).mul(0.2).add(0.5).clamp(0, 1)
    with torch.no_grad():
        mu = theirs.encode(frames.permute(3, 0, 1, 2)[None] * 2 - 1)
        latents = form.process_in(mu)[0]
        decoded = theirs.decode(form.process_out(latents[None]))[0]
    pixels = decoded.add(1).div(2).clamp(0, 1).permute(1, 2, 3, 0)
    torch.testing.assert_close(ours.encode(frames), latents, atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(latents), pixels, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_backbone(tmp_path: Path, prefix: str) -> None:
    """The plain model, with a timestep of its own for each frame."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    tensors = tiny.backbone_tensors()
    theirs = WanModel(
        model_type="t2v", in_dim=48, out_dim=48, dim=SIZE.dim, ffn_dim=SIZE.ffn_dim,
        freq_dim=SIZE.freq_dim, text_dim=SIZE.text_dim, num_heads=SIZE.heads,
        num_layers=SIZE.layers, operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    theirs.load_state_dict(tensors, strict=True)
    path = tiny.write(tmp_path / "model.safetensors", tensors, tiny.metadata(), prefix)
    ours = load_transformer(path, dtype=torch.float32)
    latents, text = noise(1, 48, 4, 6, 8), noise(1, 5, SIZE.text_dim, seed=1)
    timestep = torch.tensor([[0.0, 200.0, 700.0, 999.0]])
    with torch.no_grad():
        wanted = theirs(latents, timestep, text)
        got = ours(latents, timestep, text).sample
    torch.testing.assert_close(got, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-5)


def test_text_encoder(tmp_path: Path) -> None:
    """ComfyUI fills up to 512 tokens, hides the filling and clears it."""
    import comfy.ops
    from comfy.text_encoders.spiece_tokenizer import SPieceTokenizer
    from comfy.text_encoders.t5 import T5

    model = torch.frombuffer(bytearray(tiny.sentencepiece_model()), dtype=torch.uint8)
    tokenizer = SPieceTokenizer(model)
    vocabulary = len(tokenizer.get_vocab())
    tensors = tiny.noise(tiny.text_shapes(vocabulary), seed=3, std=0.5)
    config = {
        "d_ff": 24, "d_kv": 8, "d_model": 16, "dense_act_fn": "gelu_pytorch_tanh",
        "is_gated_act": True, "model_type": "umt5", "num_heads": 2, "num_layers": 2,
        "vocab_size": vocabulary,
    }  # fmt: skip
    theirs = T5(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    theirs.load_state_dict(tensors, strict=True)
    path = tiny.write(tmp_path / "umt5_xxl_fp16.safetensors", {**tensors, SPIECE: model})
    ours = load_text_encoder(path, dtype=torch.float32)
    for prompt in ("", "the camera moves slowly past old houses"):
        ids = tokenizer(prompt)["input_ids"]
        padded = torch.tensor([ids + [0] * (MAX_TOKENS - len(ids))])
        mask = (torch.arange(MAX_TOKENS) < len(ids))[None]
        with torch.no_grad():
            wanted = theirs(padded, mask)[0] * mask[..., None]
        torch.testing.assert_close(ours.encode(prompt), wanted, atol=2e-5, rtol=1e-4)
