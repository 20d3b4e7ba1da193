"""A node pack without nodes that lets ComfyUI load the tiny UMT5 encoder and Wan2.2 VAE of tests.

ComfyUI fixes the sizes of both; `tiny_models` writes files of the same names and layouts at other
sizes. Here the sizes come from the files. Full-size files load as they always do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import comfy.ldm.wan.vae2_2
import comfy.sd
import comfy.text_encoders.wan

NODE_CLASS_MAPPINGS: dict[str, Any] = {}

_UP = "encoder.block.23.layer.1.DenseReluDense.wi_1.weight"
_KEY = "encoder.block.0.layer.0.SelfAttention.k.weight"
_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_FULL_FFN = 10240

_text: dict[str, int] = {}
_detect = comfy.sd.detect_te_model


def _detect_tiny(sd: dict[str, Any]) -> Any:
    _text.clear()
    if _UP in sd and _KEY in sd and sd[_UP].shape[0] < _FULL_FFN:
        heads = sd[_BIAS].shape[1]
        _text.update(
            d_ff=sd[_UP].shape[0],
            num_heads=heads,
            d_kv=sd[_KEY].shape[0] // heads,
            vocab_size=sd["shared.weight"].shape[0],
        )
        return comfy.sd.TEModel.T5_XXL
    return _detect(sd)


class _TinyUMT5(comfy.text_encoders.wan.UMT5XXlModel):
    def __init__(self, *args: Any, model_options: dict[str, Any] | None = None, **kw: Any) -> None:
        options = {**(model_options or {}), "model_name": "umt5", "umt5_model_config": dict(_text)}
        super().__init__(*args, model_options=options, **kw)


comfy.sd.detect_te_model = _detect_tiny
comfy.text_encoders.wan.UMT5XXlModel = _TinyUMT5

_load_vae = comfy.sd.VAE.__init__
_full_vae = comfy.ldm.wan.vae2_2.WanVAE


@contextlib.contextmanager
def _vae_sizes(sd: dict[str, Any] | None) -> Iterator[None]:
    encoder = (sd or {}).get("encoder.conv1.weight")
    head = (sd or {}).get("decoder.head.0.gamma")

    def make(**sizes: Any) -> Any:
        return _full_vae(**sizes | {"dim": encoder.shape[0], "dec_dim": head.shape[0]})

    if encoder is not None and head is not None:
        comfy.ldm.wan.vae2_2.WanVAE = make
    try:
        yield
    finally:
        comfy.ldm.wan.vae2_2.WanVAE = _full_vae


def _init(self: Any, sd: dict[str, Any] | None = None, *args: Any, **kw: Any) -> None:
    with _vae_sizes(sd):
        _load_vae(self, sd, *args, **kw)


comfy.sd.VAE.__init__ = _init
