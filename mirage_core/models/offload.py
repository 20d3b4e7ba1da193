"""Fitting the models on a card: what stays there, what comes when it is needed.

Sizes are computed from parameter counts, not measured: backbone 5.00 billion, side branch with
15 blocks 2.61, text encoder 5.68, autoencoder 0.70. The columns say how many GiB of weights are
on the card at once; what the computation itself takes comes on top.

| preset | transformer and branch | GiB | text encoder | GiB | autoencoder | GiB |
|---|---|---|---|---|---|---|
| 80 | resident, bf16 | 14.2 | resident until released | 10.6 | resident, whole pictures | 1.3 |
| 24 | resident, bf16 | 14.2 | resident until released | 10.6 | resident, tiles | 1.3 |
| 16 | blocks come one by one, bf16 | 0.8 | resident until released | 10.6 | by parts, tiles | 1.0 |
| 8 | blocks come one by one, 8 bits | 0.5 | layer by layer | 2.0 | by parts, small tiles | 1.0 |

Where blocks come one by one, the next one is copied while one computes, so two are on the card,
and what belongs to no block: embeddings and the last projection. 8 bits are float8_e4m3fn
without factors: matrices lose precision, all else stays. The text encoder comes first and is
released before the transformer comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import nn

from ..errors import ValueRangeError
from .text import TextEncoder
from .vae import Tiling, WanCodec

Placement = Literal["resident", "streamed"]
"""``streamed`` weights wait in main memory and come when they are needed."""


@dataclass(frozen=True)
class OffloadPreset:
    """How the models share a card.

    Attributes:
        memory: GiB of the card that it is made for.
        transformer: Where the transformer with its side branch is.
        float8: True to store the transformer's matrices in 8 bits.
        text: Where the text encoder is until it is released.
        codec: Where the autoencoder is.
        tiling: Tiles of the autoencoder; None for whole pictures.
    """

    memory: int
    transformer: Placement
    float8: bool
    text: Placement
    codec: Placement
    tiling: Tiling | None


PRESETS: Final[dict[str, OffloadPreset]] = {
    "80": OffloadPreset(80, "resident", False, "resident", "resident", None),
    "24": OffloadPreset(24, "resident", False, "resident", "resident", Tiling(512, 384)),
    "16": OffloadPreset(16, "streamed", False, "resident", "streamed", Tiling(512, 384)),
    "8": OffloadPreset(8, "streamed", True, "streamed", "streamed", Tiling(256, 192)),
}
"""Presets by the card's memory in GiB."""


def find_preset(name: str) -> OffloadPreset:
    """A preset by its name.

    Raises:
        ValueRangeError: There is none of this name.
    """
    if name not in PRESETS:
        raise ValueRangeError(
            "There is no such offload preset", got=name, expected=" or ".join(PRESETS)
        )
    return PRESETS[name]


def apply_offload(
    preset: OffloadPreset,
    device: torch.device | str,
    *,
    transformer: Any = None,
    codec: WanCodec | None = None,
    text: TextEncoder | None = None,
) -> tuple[str, ...]:
    """Put what is loaded where a preset wants it, and set tiles of the autoencoder.

    To be called for each piece when it is loaded, LoRA and branch included: hooks that move
    weights miss layers that are added later. Inputs go to ``device`` in any case.

    Args:
        preset: What to do.
        device: The card. On anything but CUDA weights stay where they are.
        transformer: A `MirageTransformer3DModel`.
        codec: The autoencoder.
        text: The text encoder.

    Returns:
        What was done, a sentence for each piece.
    """
    device = torch.device(device)
    done: list[str] = []
    if codec is not None:
        codec.tiling = preset.tiling
        done.append(f"Autoencoder: {_tiles(preset.tiling)}.")
    if device.type != "cuda":
        return (
            *done,
            f"Nothing is offloaded: the device is {device.type}, not CUDA. All weights stay in "
            "main memory.",
        )
    if text is not None:
        text.device = device
        where = _place(text.model, preset.text, device, "leaf_level")
        done.append(f"Text encoder: {where}.")
    if transformer is not None:
        done.append(f"Transformer: {_place_transformer(transformer, preset, device)}.")
    if codec is not None:
        codec.device = device
        where = _place(codec.vae, preset.codec, device, "block_level")
        done.append(f"Autoencoder: {where}.")
    return tuple(done)


def stream_weights(
    model: nn.Module,
    device: torch.device,
    level: Literal["block_level", "leaf_level"],
    *,
    stream: bool,
) -> None:
    """Keep a model's weights in main memory, and copy each group when it is needed.

    Args:
        model: Any network.
        device: Where it computes.
        level: Groups are blocks of the network, or single layers.
        stream: True to copy the next group while one computes, from pinned memory; CUDA only.
    """
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(
        model,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type=level,
        num_blocks_per_group=1 if level == "block_level" else None,
        use_stream=stream,
    )


def store_float8(transformer: Any) -> str:
    """Store matrices of a transformer in float8_e4m3fn and widen each when it computes.

    Returns:
        What was done; quantised models stay as they are.
    """
    if getattr(transformer, "is_quantized", False):
        return "as quantised as its file"
    transformer.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=transformer.dtype
    )
    return "matrices in 8 bits"


def _place_transformer(transformer: Any, preset: OffloadPreset, device: torch.device) -> str:
    stored = f"{store_float8(transformer)}, " if preset.float8 else ""
    # Only the transformer runs often, and in the same order every time, as streams want it.
    return stored + _place(transformer, preset.transformer, device, "block_level", stream=True)


def _place(
    model: nn.Module,
    placement: Placement,
    device: torch.device,
    level: Literal["block_level", "leaf_level"],
    *,
    stream: bool = False,
) -> str:
    if placement == "resident":
        model.to(device)
        return f"resident on {device}"
    stream_weights(model, device, level, stream=stream)
    part = "block by block" if level == "block_level" else "layer by layer"
    return f"in main memory, copied to {device} {part}"


def _tiles(tiling: Tiling | None) -> str:
    if tiling is None:
        return "full pictures"
    return f"tiles of {tiling.size} pixels every {tiling.stride}"
