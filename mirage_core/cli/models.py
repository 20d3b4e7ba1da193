"""The models of a shot, from files, placed on the device."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.transformer_format import knows_text
from ..codecs.base import LatentCodec
from ..codecs.dct import DctCodec
from ..digests import tensors_digest
from ..errors import ModelMismatchError
from ..geometry.frame_geometry import FrameGeometry
from ..log import logger
from ..models.bundled import empty_text
from ..models.geometry_estimators import load_estimator
from ..models.load import load_transformer
from ..models.lora import apply_lora
from ..models.offload import OffloadPreset, apply_offload, find_preset
from ..models.text import load_text_encoder
from ..models.vae import WanCodec, load_vae
from ..rollout.denoisers import (
    LaterLora,
    TransformerDenoisers,
    projection_source,
    render_source,
)
from ..rollout.depth_source import DepthSource, EstimatedDepth, KnownDepth
from ..rollout.models import GenerationModels
from .ways import find_way

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
WEIGHTS = (".safetensors", ".gguf", ".json", ".model")
"""Files of a model folder that its results depend on."""


@dataclass(frozen=True)
class DeviceSetup:
    """Where models compute, and how they share the memory.

    Attributes:
        device: The device.
        dtype: Type of the transformer's parameters.
        preset: How weights are moved; None keeps all of them on the device.
    """

    device: torch.device
    dtype: torch.dtype
    preset: OffloadPreset | None

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> DeviceSetup:
        """The setup that the arguments ask for; ``auto`` is CUDA if there is one."""
        name = arguments.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise ModelMismatchError(
                "There is no such device", got=name, expected="auto, cpu, cuda or cuda:1"
            ) from error
        if device.type not in ("cpu", "cuda", "mps"):
            raise ModelMismatchError(
                "There is no such device", got=name, expected="auto, cpu, cuda or cuda:1"
            )
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ModelMismatchError(
                "There is no CUDA device that torch can use", got=name, fix="Use --device cpu"
            )
        fitting = "bfloat16" if device.type == "cuda" else "float32"
        dtype = DTYPES[arguments.dtype or fitting]
        preset = None if arguments.offload == "none" else find_preset(arguments.offload)
        return cls(device, dtype, preset)

    @property
    def load_device(self) -> torch.device:
        """Where weights are read to; presets move them afterwards."""
        return self.device if self.preset is None else torch.device("cpu")

    @property
    def stable_dtype(self) -> torch.dtype:
        """Type for the models that overflow in float16."""
        return torch.bfloat16 if self.dtype == torch.float16 else self.dtype

    def offload(self, **pieces: Any) -> None:
        """Place a model that was just read as the preset says; each step is logged."""
        if self.preset is not None:
            for sentence in apply_offload(self.preset, self.device, **pieces):
                logger.info(sentence)


def load_codec(arguments: argparse.Namespace, setup: DeviceSetup) -> WanCodec | DctCodec:
    """The codec that ``--vae`` or ``--embedded-codec`` names."""
    if arguments.embedded_codec:
        return DctCodec()
    codec = load_vae(arguments.vae, dtype=setup.stable_dtype, device=setup.load_device)
    setup.offload(codec=codec)
    return codec


def load_depth(
    arguments: argparse.Namespace, geometry: FrameGeometry, frames: int, setup: DeviceSetup
) -> DepthSource:
    """Where depth of new frames comes from: the geometry, if it has all frames, or a model."""
    if len(geometry) >= frames:
        return KnownDepth(geometry, scaled=arguments.depth_alignment in (None, "none"))
    if arguments.depth_model is None:
        raise ModelMismatchError(
            "There is no depth source for the generated frames",
            got=f"geometry of {len(geometry)} frames for a shot of {frames} frames",
            expected="a depth model, or geometry of the whole shot",
            fix="Set the folder of a depth model with --depth-model",
        )
    estimator = load_estimator(
        arguments.depth_kind, arguments.depth_model, device=setup.device, fov=arguments.fov
    )
    return EstimatedDepth(estimator)


def load_models(
    arguments: argparse.Namespace,
    codec: LatentCodec,
    depth: DepthSource,
    setup: DeviceSetup,
) -> GenerationModels:
    """Read text encoder and transformer, one after the other: both at once need not fit."""
    text, negative = encode_prompts(arguments, setup, arguments.prompt)
    return with_texts(arguments, codec, depth, setup, (text, negative))


def with_texts(
    arguments: argparse.Namespace,
    codec: LatentCodec,
    depth: DepthSource,
    setup: DeviceSetup,
    texts: tuple[Tensor, Tensor | None],
) -> GenerationModels:
    """Read the transformer, for prompts that are encoded: the text, and the negative one."""
    transformer = load_transformer(
        arguments.transformer,
        branch=arguments.branch,
        branch_format=arguments.branch_format,
        dtype=setup.dtype,
        device=setup.load_device,
    )
    for path in arguments.lora:
        apply_lora(transformer, path, arguments.lora_scale)
    prepare = _later_lora(arguments, transformer)
    setup.offload(transformer=transformer)
    denoisers = TransformerDenoisers(
        transformer.eval(),
        *texts,
        codec=codec,
        guidance=arguments.guidance,
        side_scale=arguments.side_scale,
    )
    parts = GenerationModels(codec, denoisers, depth, setup.device, prepare=prepare)
    if find_way(arguments.way).colours:
        return replace(parts, conditions=render_source(transformer, codec))
    return replace(parts, projection=projection_source(transformer, codec))


def _later_lora(arguments: argparse.Namespace, transformer: Any) -> LaterLora | None:
    """What switches ``--later-lora``, which is added to the model here."""
    if arguments.later_lora is None:
        return None
    info = apply_lora(transformer, arguments.later_lora, arguments.lora_scale)
    return LaterLora(transformer, info.name)


def describe_models(arguments: argparse.Namespace, setup: DeviceSetup) -> str:
    """Hex digest that changes with the files of the models and with their settings."""
    files = [arguments.transformer, arguments.branch, *arguments.lora, arguments.text_encoder]
    files += [arguments.vae, arguments.depth_model]
    parts: list[object] = [_stamp(path) for path in files]
    parts += [arguments.prompt, arguments.negative, arguments.guidance, arguments.side_scale]
    parts += [arguments.lora_scale, setup.dtype, arguments.depth_kind]
    # Shots that were begun before there was a choice go on under their old name.
    parts += [] if arguments.branch_format == "auto" else [arguments.branch_format]
    parts += [] if arguments.way == "mirage" else [arguments.way]
    parts += [] if arguments.later_lora is None else ["later", _stamp(arguments.later_lora)]
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()


def describe_depth(depth: DepthSource, fov: float) -> str:
    """Text that changes with where the depth of new frames comes from.

    Args:
        depth: From `load_depth`.
        fov: Field of view in degrees that estimators are told.
    """
    if not isinstance(depth, KnownDepth):
        return f"estimated at {fov}"
    parts = {name: part for name, part in vars(depth.geometry).items() if isinstance(part, Tensor)}
    on_cpu = {name: part.detach().cpu() for name, part in parts.items()}
    return f"known {tensors_digest(on_cpu)} {depth.scaled}"


def expect_text_encoder(arguments: argparse.Namespace) -> None:
    """Raise `ModelMismatchError` where a text encoder is missing, or a prompt would be ignored."""
    if arguments.text_encoder is not None:
        return
    if knows_text(arguments.transformer):
        raise ModelMismatchError(
            "The video model needs a text encoder",
            got=f"{arguments.transformer.name}, and no --text-encoder",
            expected="UMT5-xxl, or a model whose file says that it knows no text",
            fix="Set --text-encoder",
        )
    if arguments.prompt:
        raise ModelMismatchError(
            "The video model knows no text",
            got=f"the prompt {arguments.prompt[:60]!r}",
            fix="Leave --prompt out",
        )


def encode_prompts(
    arguments: argparse.Namespace, setup: DeviceSetup, prompt: str
) -> tuple[Tensor, Tensor | None]:
    """Read the text encoder, encode a prompt and the negative one, and let it go.

    Without an encoder both are the empty prompt of a model that knows no text.
    """
    if arguments.text_encoder is None:
        return empty_text(), None if arguments.guidance == 1 else empty_text()
    encoder = load_text_encoder(
        arguments.text_encoder, dtype=setup.stable_dtype, device=setup.load_device
    )
    setup.offload(text=encoder)
    text = encoder.encode(prompt)
    negative = None if arguments.guidance == 1 else encoder.encode(arguments.negative)
    encoder.release()
    return text, negative


def _stamp(path: Path | None) -> str:
    """Name, size and time of a model's files."""
    if path is None:
        return "none"
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in WEIGHTS)
    return ";".join(f"{p.name}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in files)
