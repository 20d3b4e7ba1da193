"""Weight files of the released formats, small enough to make in a test.

Everything is random from a seed. Names and layouts are those of the full-size files, so what
reads these reads those.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mirage_core.checkpoints.branch import HEADS_KEY, BranchConfig
from mirage_core.checkpoints.branch_file import expected_shapes
from mirage_core.conditioning.features import SCENE_AND_WHITE

CHANNELS = 48
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Backbone:
    """Sizes of a tiny video model; heads are 128 wide in full-size ones."""

    dim: int = 24
    heads: int = 2
    ffn_dim: int = 32
    layers: int = 3
    text_dim: int = 16
    freq_dim: int = 8
    channels: int = CHANNELS


def noise(
    shapes: Mapping[str, tuple[int, ...]], seed: int = 0, std: float = 0.2
) -> dict[str, Tensor]:
    """Random tensors; norms are near one."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        tensor = std * torch.randn(shape, generator=rng)
        tensors[name] = tensor + ("norm" in name and name.endswith("weight"))
    return tensors


def backbone_shapes(size: Backbone = Backbone()) -> Shapes:
    """The 825 tensors of the released model, at another size; names as released."""
    dim = size.dim
    shapes: Shapes = {}

    def affine(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, weight[:1]

    affine("patch_embedding", dim, size.channels, 1, 2, 2)
    affine("text_embedding.0", dim, size.text_dim)
    affine("text_embedding.2", dim, dim)
    affine("time_embedding.0", dim, size.freq_dim)
    affine("time_embedding.2", dim, dim)
    affine("time_projection.1", 6 * dim, dim)
    for number in range(size.layers):
        block = f"blocks.{number}"
        shapes[f"{block}.modulation"] = (1, 6, dim)
        for attention in ("self_attn", "cross_attn"):
            for part in "qkvo":
                affine(f"{block}.{attention}.{part}", dim, dim)
            for part in "qk":
                shapes[f"{block}.{attention}.norm_{part}.weight"] = (dim,)
        affine(f"{block}.norm3", dim)
        affine(f"{block}.ffn.0", size.ffn_dim, dim)
        affine(f"{block}.ffn.2", dim, size.ffn_dim)
    shapes["head.modulation"] = (1, 2, dim)
    affine("head.head", 4 * size.channels, dim)
    return shapes


def backbone_tensors(size: Backbone = Backbone(), seed: int = 0) -> dict[str, Tensor]:
    """A video model under released names."""
    return noise(backbone_shapes(size), seed)


def metadata(size: Backbone = Backbone()) -> dict[str, str]:
    """What a file has to say when its heads are not 128 wide."""
    return {HEADS_KEY: str(size.heads)}


def branch_config(size: Backbone = Backbone(), **changes: object) -> BranchConfig:
    """A side branch for every second layer of the tiny model."""
    known = {
        "layers": tuple(range(0, size.layers, 2)),
        "features": SCENE_AND_WHITE,
        "shared_embedding": False,
        "dim": size.dim,
        "ffn_dim": size.ffn_dim,
        "heads": size.heads,
    }
    return BranchConfig(**{**known, **changes})


def branch_tensors(config: BranchConfig, seed: int = 1) -> dict[str, Tensor]:
    """A side branch under released names."""
    return noise(expected_shapes(config), seed)


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, str] | None = None,
    prefix: str = "",
) -> Path:
    """A safetensors file, every name with a prefix."""
    named = {f"{prefix}{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, str(path), metadata={"format": "pt", **(meta or {})})
    return path


def write_gguf(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> Path:
    """A GGUF file as converters write it: matrices of the blocks in Q8_0, all else in float32."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "wan")
    for key, value in meta.items():
        writer.add_string(key, value)
    for name, tensor in tensors.items():
        array = tensor.float().numpy()
        if tensor.ndim == 2 and "blocks." in name:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def truncate(path: Path, keep: float = 0.6) -> Path:
    """Cut a file short, as a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    return path


class _Vae:
    """Collects the tensors of the Wan2.2 autoencoder, part by part."""

    def __init__(self) -> None:
        self.shapes: Shapes = {}

    def conv(self, name: str, out: int, into: int, *kernel: int) -> None:
        self.shapes[f"{name}.weight"], self.shapes[f"{name}.bias"] = (out, into, *kernel), (out,)

    def norm(self, name: str, dim: int, axes: int = 3) -> None:
        self.shapes[f"{name}.gamma"] = (dim, *[1] * axes)

    def residual(self, name: str, into: int, out: int) -> None:
        self.norm(f"{name}.residual.0", into)
        self.conv(f"{name}.residual.2", out, into, 3, 3, 3)
        self.norm(f"{name}.residual.3", out)
        self.conv(f"{name}.residual.6", out, out, 3, 3, 3)
        if into != out:
            self.conv(f"{name}.shortcut", out, into, 1, 1, 1)

    def middle(self, name: str, dim: int) -> None:
        self.residual(f"{name}.0", dim, dim)
        self.norm(f"{name}.1.norm", dim, axes=2)
        self.conv(f"{name}.1.to_qkv", 3 * dim, dim, 1, 1)
        self.conv(f"{name}.1.proj", dim, dim, 1, 1)
        self.residual(f"{name}.2", dim, dim)

    def level(self, name: str, into: int, out: int, count: int, time: int | None) -> None:
        """One level; ``time`` is what its time convolution widens by, None: no resampling."""
        for number in range(count):
            self.residual(f"{name}.{number}", out if number else into, out)
        if time is not None:
            self.conv(f"{name}.{count}.resample.1", out, out, 3, 3)
        if time:
            self.conv(f"{name}.{count}.time_conv", time * out, out, 3, 1, 1)

    def flat_level(
        self, name: str, first: int, into: int, out: int, count: int, time: int | None,
        halved: int = 1,
    ) -> int:  # fmt: skip
        """One level of a list that holds all levels, from entry ``first``; returns the next.

        ``time`` as in `level`; resampling makes ``halved`` times fewer channels.
        """
        for number in range(count):
            self.residual(f"{name}.{first + number}", out if number else into, out)
        if time is None:
            return first + count
        self.conv(f"{name}.{first + count}.resample.1", out // halved, out, 3, 3)
        if time:
            self.conv(f"{name}.{first + count}.time_conv", time * out, out, 3, 1, 1)
        return first + count + 1

    def head(self, name: str, dim: int, out: int) -> None:
        self.norm(f"{name}.0", dim)
        self.conv(f"{name}.2", out, dim, 3, 3, 3)


def vae_shapes(base: int = 4, decoder_base: int = 4, latent: int = CHANNELS) -> Shapes:
    """The 196 tensors of the Wan2.2 autoencoder at another width; names as released."""
    vae = _Vae()
    wide = [base * factor for factor in (1, 1, 2, 4, 4)]
    vae.conv("encoder.conv1", base, 12, 3, 3, 3)
    for number, time in enumerate((0, 1, 1, None)):
        name = f"encoder.downsamples.{number}.downsamples"
        vae.level(name, *wide[number : number + 2], 2, time)
    vae.middle("encoder.middle", wide[-1])
    vae.head("encoder.head", wide[-1], 2 * latent)
    vae.conv("conv1", 2 * latent, 2 * latent, 1, 1, 1)
    vae.conv("conv2", latent, latent, 1, 1, 1)
    wide = [decoder_base * factor for factor in (4, 4, 4, 2, 1)]
    vae.conv("decoder.conv1", wide[0], latent, 3, 3, 3)
    vae.middle("decoder.middle", wide[0])
    for number, time in enumerate((2, 2, 0, None)):
        vae.level(f"decoder.upsamples.{number}.upsamples", *wide[number : number + 2], 3, time)
    vae.head("decoder.head", wide[-1], 12)
    return vae.shapes


def vae21_shapes(base: int = 4, latent: int = 16) -> Shapes:
    """The 194 tensors of the Wan2.1 autoencoder at another width; names as released."""
    vae = _Vae()
    wide = [base * factor for factor in (1, 1, 2, 4, 4)]
    vae.conv("encoder.conv1", base, 3, 3, 3, 3)
    number = 0
    for into, out, time in zip(wide, wide[1:], (0, 1, 1, None), strict=False):
        number = vae.flat_level("encoder.downsamples", number, into, out, 2, time)
    vae.middle("encoder.middle", wide[-1])
    vae.head("encoder.head", wide[-1], 2 * latent)
    vae.conv("conv1", 2 * latent, 2 * latent, 1, 1, 1)
    vae.conv("conv2", latent, latent, 1, 1, 1)
    vae.conv("decoder.conv1", wide[-1], latent, 3, 3, 3)
    vae.middle("decoder.middle", wide[-1])
    number = 0
    # Upsampling halves the channels, so every level but the first starts from half.
    for into, out, time in ((4, 4, 2), (2, 4, 2), (2, 2, 0), (1, 1, None)):
        number = vae.flat_level("decoder.upsamples", number, base * into, base * out, 3, time, 2)
    vae.head("decoder.head", base, 3)
    return vae.shapes


def vae21_tensors(base: int = 4, seed: int = 2) -> dict[str, Tensor]:
    """A Wan2.1 autoencoder under released names; its pictures are neither flat nor clipped."""
    tensors = noise(vae21_shapes(base), seed, std=0.12)
    return {
        name: tensor + 1 if name.endswith("gamma") else tensor for name, tensor in tensors.items()
    }


def vae_tensors(base: int = 4, decoder_base: int = 4, seed: int = 2) -> dict[str, Tensor]:
    """A Wan2.2 autoencoder under released names; its pictures are neither flat nor clipped."""
    tensors = noise(vae_shapes(base, decoder_base), seed, std=0.12)
    return {
        name: tensor + 1 if name.endswith("gamma") else tensor for name, tensor in tensors.items()
    }


def text_shapes(
    vocabulary: int, width: int = 16, heads: int = 2, layers: int = 2, ffn: int = 24
) -> Shapes:
    """The tensors of a UMT5 encoder, as ComfyUI's single file and transformers name them."""
    shapes: Shapes = {"shared.weight": (vocabulary, width)}
    inner = heads * 8
    for number in range(layers):
        block = f"encoder.block.{number}"
        attention = f"{block}.layer.0.SelfAttention"
        for part in "qkv":
            shapes[f"{attention}.{part}.weight"] = (inner, width)
        shapes[f"{attention}.o.weight"] = (width, inner)
        shapes[f"{attention}.relative_attention_bias.weight"] = (32, heads)
        shapes[f"{block}.layer.0.layer_norm.weight"] = (width,)
        for part in ("wi_0", "wi_1"):
            shapes[f"{block}.layer.1.DenseReluDense.{part}.weight"] = (ffn, width)
        shapes[f"{block}.layer.1.DenseReluDense.wo.weight"] = (width, ffn)
        shapes[f"{block}.layer.1.layer_norm.weight"] = (width,)
    shapes["encoder.final_layer_norm.weight"] = (width,)
    return shapes


def sentencepiece_model(vocabulary: int = 48) -> bytes:
    """A small sentencepiece model with UMT5's special ids: pad 0, end 1, unknown 2."""
    import sentencepiece

    words = (
        "a quiet street in the rain, the camera moves slowly forward past old houses and trees "
        "light falls through windows on the floor of a room with one table"
    ).split()
    rng = random.Random(0)
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(rng.choices(words, k=8)) for _ in range(300)]),
        model_writer=written,
        vocab_size=vocabulary,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return written.getvalue()


def fp8_scaled(tensors: Mapping[str, Tensor], *, newer: bool = False) -> dict[str, Tensor]:
    """Matrices in 8 bits with a factor each, as ComfyUI stores them, in the older or newer way."""
    stored = {} if newer else {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, tensor in tensors.items():
        embedding = name == "shared.weight" or "relative_attention_bias" in name
        if tensor.ndim != 2 or not name.endswith(".weight") or embedding:  # noqa: PLR2004
            stored[name] = tensor
            continue
        layer = name.removesuffix(".weight")
        scale = tensor.abs().max() / 448
        stored[name] = (tensor / scale).to(torch.float8_e4m3fn)
        stored[f"{layer}.{'weight_scale' if newer else 'scale_weight'}"] = scale
        stored[f"{layer}.{'input_scale' if newer else 'scale_input'}"] = torch.ones(())
        if newer:
            kind = json.dumps({"format": "float8_e4m3fn"}).encode()
            stored[f"{layer}.comfy_quant"] = torch.tensor(list(kind), dtype=torch.uint8)
    return stored


def write_folder(folder: Path, tensors: Mapping[str, Tensor], config: Mapping, parts: int) -> Path:
    """A model folder in diffusers' layout, its weights in so many parts."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    stem = "diffusion_pytorch_model"
    if parts == 1:
        write(folder / f"{stem}.safetensors", tensors)
        return folder
    names = sorted(tensors)
    where = {}
    for number in range(parts):
        file = f"{stem}-{number + 1:05}-of-{parts:05}.safetensors"
        own = names[number::parts]
        write(folder / file, {name: tensors[name] for name in own})
        where |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return folder
