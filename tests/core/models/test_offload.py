"""Presets for small cards: what they do to the models, and that results stay what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny_weights as tiny
from mirage_core.errors import ValueRangeError
from mirage_core.models.load import load_transformer
from mirage_core.models.offload import (
    PRESETS,
    apply_offload,
    find_preset,
    store_float8,
    stream_weights,
)
from mirage_core.models.text import SPIECE, TextEncoder, load_text_encoder
from mirage_core.models.transformer import MirageTransformer3DModel
from mirage_core.models.vae import WanCodec, load_vae

CPU = torch.device("cpu")


@pytest.fixture
def transformer(tmp_path: Path) -> MirageTransformer3DModel:
    tensors = tiny.backbone_tensors() | tiny.branch_tensors(tiny.branch_config())
    path = tiny.write(tmp_path / "model.safetensors", tensors, tiny.metadata())
    return load_transformer(path, branch_format="mirage", dtype=torch.float32)


@pytest.fixture
def codec(tmp_path: Path) -> WanCodec:
    return load_vae(tiny.write(tmp_path / "vae.safetensors", tiny.vae_tensors()))


@pytest.fixture
def text(tmp_path: Path) -> TextEncoder:
    pytest.importorskip("sentencepiece", reason="requires the package sentencepiece")
    model = tiny.sentencepiece_model()
    tensors = tiny.noise(tiny.text_shapes(64))
    tensors[SPIECE] = torch.frombuffer(bytearray(model), dtype=torch.uint8)
    path = tiny.write(tmp_path / "text.safetensors", tensors)
    return load_text_encoder(path, dtype=torch.float32)


def run(model: MirageTransformer3DModel) -> Tensor:
    rng = torch.Generator().manual_seed(9)
    device = model.device
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(1, 48, 4, 4, 4, generator=rng).to(device),
            timestep=torch.tensor([[0.0, 0.0, 600.0, 600.0]], device=device),
            encoder_hidden_states=torch.randn(1, 5, 16, generator=rng).to(device),
            side_hidden_states=torch.randn(1, 96, 3, 4, 4, generator=rng).to(device),
            num_reference_frames=1,
        ).sample.cpu()


def test_presets_are_ordered_by_memory() -> None:
    """A smaller card never keeps more."""
    names = sorted(PRESETS, key=int)
    assert names == ["8", "16", "24", "80"]
    streamed = [
        [place == "streamed" for place in (p.transformer, p.text, p.codec)] + [p.float8]
        for p in map(find_preset, names)
    ]
    for small, large in zip(streamed, streamed[1:], strict=False):
        assert all(a >= b for a, b in zip(small, large, strict=True))
    assert all(PRESETS[name].memory == int(name) for name in names)
    with pytest.raises(ValueRangeError, match="8 or 16|80 or 24"):
        find_preset("12")


@pytest.mark.parametrize("name", PRESETS)
def test_without_cuda_nothing_moves_and_it_is_said(
    name: str, transformer: MirageTransformer3DModel, codec: WanCodec, text: TextEncoder
) -> None:
    before = run(transformer)
    said = apply_offload(
        PRESETS[name], "cpu", transformer=transformer, codec=codec, text=text
    )
    assert any("Nothing is offloaded: the device is cpu" in line for line in said)
    assert torch.equal(run(transformer), before)
    # Tiles are of use on any device.
    assert codec.tiling == PRESETS[name].tiling
    assert not any("Transformer:" in line for line in said)


def test_streamed_weights_give_the_same_results(
    transformer: MirageTransformer3DModel, codec: WanCodec, text: TextEncoder
) -> None:
    """From main memory to main memory, which takes the same hooks as to a card."""
    rng = torch.Generator().manual_seed(3)
    frames = torch.rand(5, 32, 32, 3, generator=rng)
    velocity, latents = run(transformer), codec.encode(frames)
    decoded, words = codec.decode(latents), text.encode("a quiet room")
    stream_weights(transformer, CPU, "block_level", stream=False)
    stream_weights(codec.vae, CPU, "block_level", stream=False)
    stream_weights(text.model, CPU, "leaf_level", stream=False)
    for _ in range(2):
        assert torch.equal(run(transformer), velocity)
        assert torch.equal(codec.encode(frames), latents)
        assert torch.equal(codec.decode(latents), decoded)
        assert torch.equal(text.encode("a quiet room"), words)


def test_narrow_matrices_cost_some_precision(transformer: MirageTransformer3DModel) -> None:
    before = run(transformer)
    assert store_float8(transformer) == "matrices in 8 bits"
    kinds = {
        name.rsplit(".", 2)[-2]: parameter.dtype
        for name, parameter in transformer.named_parameters()
        if name.endswith(".weight")
    }
    assert kinds["to_q"] == torch.float8_e4m3fn
    assert kinds["norm_q"] == kinds["patch_embedding"] == torch.float32
    error = (run(transformer) - before).norm() / before.norm()
    assert 0 < error < 0.2


@pytest.mark.gpu
@pytest.mark.parametrize("name", PRESETS)
def test_on_a_card(
    name: str, transformer: MirageTransformer3DModel, codec: WanCodec, text: TextEncoder
) -> None:
    frames = torch.rand(5, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    velocity, latents = run(transformer), codec.encode(frames)
    decoded, words = codec.decode(latents), text.encode("a quiet room")
    said = apply_offload(
        PRESETS[name], "cuda", transformer=transformer, codec=codec, text=text
    )
    assert not any("Nothing is offloaded" in line for line in said)
    for _ in range(2):
        error = (run(transformer) - velocity).norm() / velocity.norm()
        assert error < (0.2 if PRESETS[name].float8 else 1e-3)
        torch.testing.assert_close(codec.encode(frames), latents, atol=1e-2, rtol=1e-2)
        torch.testing.assert_close(codec.decode(latents), decoded, atol=1e-2, rtol=1e-2)
        torch.testing.assert_close(text.encode("a quiet room"), words, atol=1e-2, rtol=1e-2)
    if PRESETS[name].transformer == "streamed":
        assert {p.device.type for p in transformer.blocks.parameters()} == {"cpu"}
