"""UMT5 on tiny weights: files, tokenizers, and what becomes of a prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

import tiny_weights as tiny
from mirage_core.errors import MirageError, ModelMismatchError
from mirage_core.models.text import (
    MAX_TOKENS,
    SPIECE,
    TextEncoder,
    infer_sizes,
    load_text_encoder,
)

sentencepiece = pytest.importorskip("sentencepiece", reason="requires the package sentencepiece")

PROMPTS = (
    "",
    "the camera moves slowly forward",
    "  A  quiet &amp;\n street, with &lt;unknown&gt; words  ",
    "light falls through windows " * 200,
)


@pytest.fixture(scope="module")
def spiece() -> bytes:
    return tiny.sentencepiece_model()


@pytest.fixture(scope="module")
def weights(spiece: bytes) -> dict[str, Tensor]:
    vocabulary = sentencepiece.SentencePieceProcessor(model_proto=spiece).get_piece_size()
    # Wide enough that the last layer norm does not hide what the layers do.
    return tiny.noise(tiny.text_shapes(vocabulary), seed=3, std=0.5)


@pytest.fixture(scope="module")
def single(tmp_path_factory, spiece: bytes, weights: dict[str, Tensor]) -> Path:
    """A file as ComfyUI has it."""
    model = torch.frombuffer(bytearray(spiece), dtype=torch.uint8)
    path = tmp_path_factory.mktemp("text") / "umt5_xxl_fp16.safetensors"
    return tiny.write(path, {**weights, SPIECE: model})


def config_of(weights: dict[str, Tensor]) -> UMT5Config:
    sizes = infer_sizes({name: tuple(tensor.shape) for name, tensor in weights.items()})
    return UMT5Config(**sizes, feed_forward_proj="gated-gelu", is_encoder_decoder=False)


def write_folder(folder: Path, spiece: bytes, weights: dict[str, Tensor], form: str) -> Path:
    """A model folder as diffusers has it, with a tokenizer in one of two forms."""
    config = config_of(weights).to_dict()
    tiny.write_folder(folder / "text_encoder", weights, config, parts=2)
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir()
    if form == "spiece.model":
        (tokenizer / form).write_bytes(spiece)
    else:
        known = sentencepiece.SentencePieceProcessor(model_proto=spiece)
        count = known.get_piece_size()
        pieces = [(known.id_to_piece(number), known.get_score(number)) for number in range(count)]
        T5Tokenizer(vocab=pieces, extra_ids=0).save_pretrained(tokenizer)
    return folder


@pytest.fixture
def encoder(single: Path) -> TextEncoder:
    return load_text_encoder(single, dtype=torch.float32)


@pytest.mark.parametrize("prompt", PROMPTS, ids=["empty", "plain", "messy", "long"])
def test_as_the_stock_pipeline_encodes(
    encoder: TextEncoder, spiece: bytes, weights: dict[str, Tensor], prompt: str
) -> None:
    """All 512 tokens through transformers' own encoder with a mask, zeros after the real ones."""
    stock = UMT5EncoderModel(config_of(weights)).eval()
    embedding = {"encoder.embed_tokens.weight": weights["shared.weight"]}
    stock.load_state_dict({**weights, **embedding}, strict=True)
    ids = sentencepiece.SentencePieceProcessor(model_proto=spiece).encode(prompt_clean(prompt))
    ids = [*ids[: MAX_TOKENS - 1], 1]
    padded = torch.tensor([ids + [0] * (MAX_TOKENS - len(ids))])
    mask = (torch.arange(MAX_TOKENS) < len(ids)).long()[None]
    with torch.no_grad():
        wanted = stock(padded, mask).last_hidden_state * mask[..., None]
    got = encoder.encode(prompt)
    assert got.shape == (1, MAX_TOKENS, weights["shared.weight"].shape[1])
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    assert got[0, : len(ids)].any(dim=1).all()
    assert not got[0, len(ids) :].any()


@pytest.mark.parametrize("form", ["tokenizer.json", "spiece.model"])
@pytest.mark.parametrize("inner", ["", "text_encoder"])
def test_folders_give_the_same(
    tmp_path: Path, encoder: TextEncoder, spiece: bytes, weights, form: str, inner: str
) -> None:
    folder = write_folder(tmp_path / "model", spiece, weights, form)
    other = load_text_encoder(folder / inner, dtype=torch.float32)
    for prompt in PROMPTS:
        torch.testing.assert_close(other.encode(prompt), encoder.encode(prompt))


@pytest.mark.parametrize("newer", [False, True])
def test_8_bit_files(tmp_path: Path, weights, spiece, newer: bool) -> None:
    stored = tiny.fp8_scaled(weights, newer=newer)
    stored[SPIECE] = torch.frombuffer(bytearray(spiece), dtype=torch.uint8)
    path = tiny.write(tmp_path / "umt5_xxl_fp8_e4m3fn_scaled.safetensors", stored)
    read = load_text_encoder(path, dtype=torch.float32).model.state_dict()
    narrow = 0
    for name, tensor in weights.items():
        # Four mantissa bits, the leading one not stored.
        bound = tensor.abs() / 16 + tensor.abs().max() / 448 * 2**-9
        assert ((read[name] - tensor).abs() <= bound).all(), name
        narrow += not torch.equal(read[name], tensor)
    # Seven matrices in each of two layers.
    assert narrow == 14


def test_types(single: Path) -> None:
    assert load_text_encoder(single).encode("a room").dtype == torch.bfloat16
    half = load_text_encoder(single, dtype=torch.float16)
    kinds = {
        name.split(".")[-2] == "wo": parameter.dtype
        for name, parameter in half.model.named_parameters()
    }
    assert kinds == {True: torch.float32, False: torch.float16}
    assert half.encode("a room").isfinite().all()


def test_release_gives_the_network_back(encoder: TextEncoder) -> None:
    import weakref

    network = weakref.ref(encoder.model)
    encoder.release()
    assert network() is None
    with pytest.raises(MirageError, match="was released"):
        encoder.encode("a room")


def test_full_size_shapes() -> None:
    shapes = tiny.text_shapes(256_384, width=4096, heads=64, layers=24, ffn=10_240)
    for number in range(24):
        attention = f"encoder.block.{number}.layer.0.SelfAttention"
        for part in "qkv":
            shapes[f"{attention}.{part}.weight"] = (4096, 4096)
        shapes[f"{attention}.o.weight"] = (4096, 4096)
    assert infer_sizes(shapes) == {
        "vocab_size": 256_384,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10_240,
        "num_layers": 24,
        "num_heads": 64,
        "relative_attention_num_buckets": 32,
    }


def test_files_without_or_with_a_damaged_tokenizer(tmp_path: Path, weights, spiece) -> None:
    path = tiny.write(tmp_path / "umt5.safetensors", weights)
    with pytest.raises(ModelMismatchError, match="not contain a tokenizer"):
        load_text_encoder(path)
    broken = torch.arange(40, dtype=torch.uint8)
    path = tiny.write(tmp_path / "umt5.safetensors", {**weights, SPIECE: broken})
    with pytest.raises(ModelMismatchError, match="is damaged"):
        load_text_encoder(path)
    folder = write_folder(tmp_path / "model", spiece, weights, "spiece.model")
    (folder / "tokenizer" / "spiece.model").unlink()
    with pytest.raises(ModelMismatchError, match="tokenizer .*cannot be read"):
        load_text_encoder(folder)


def test_other_encoders(tmp_path: Path, weights, spiece) -> None:
    model = torch.frombuffer(bytearray(spiece), dtype=torch.uint8)
    # T5 has its position bias in the first layer alone.
    t5 = {name: t for name, t in weights.items() if "block.1.layer.0.SelfAttention.rel" not in name}
    clip = {"text_model.encoder.layers.0.self_attn.k_proj.weight": torch.zeros(2, 2)}
    for other, said in ((t5, "1 position biases in 2 layers"), (clip, "no shared.weight")):
        path = tiny.write(tmp_path / "other.safetensors", {**other, SPIECE: model})
        with pytest.raises(ModelMismatchError, match=f"not the text encoder.*{said}"):
            load_text_encoder(path)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_a_wrong_tensor_is_named(tmp_path: Path, weights, spiece, change: str) -> None:
    tensors, name = dict(weights), "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    if change == "missing":
        del tensors[name]
    elif change == "shape":
        tensors[name] = torch.zeros(3, 3)
    else:
        name = "decoder.block.0.layer.0.SelfAttention.q.weight"
        tensors[name] = torch.zeros(2, 2)
    tensors[SPIECE] = torch.frombuffer(bytearray(spiece), dtype=torch.uint8)
    with pytest.raises(ModelMismatchError) as caught:
        load_text_encoder(tiny.write(tmp_path / "umt5.safetensors", tensors))
    assert name in str(caught.value)


def test_damaged_folders(tmp_path: Path, weights, spiece, single: Path) -> None:
    folder = write_folder(tmp_path / "model", spiece, weights, "spiece.model")
    (folder / "text_encoder" / "config.json").write_text(json.dumps([]))
    with pytest.raises(ModelMismatchError, match="is not a JSON object"):
        load_text_encoder(folder)
    copy = tmp_path / "cut.safetensors"
    copy.write_bytes(single.read_bytes())
    with pytest.raises(ModelMismatchError, match="cut short"):
        load_text_encoder(tiny.truncate(copy))
