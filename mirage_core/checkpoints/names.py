"""Names of tensors: the released (Wan) ones and those of diffusers.

The released code, Wan's own repository and ComfyUI use one set of names, diffusers another.
Files keep the released names; the library's transformer has diffusers' ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeVar

from ..errors import ModelMismatchError

Value = TypeVar("Value")

_RULES: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
        (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
        (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
        (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
        (r"^time_projection\.1\.", "condition_embedder.time_proj."),
        (r"^head\.modulation$", "scale_shift_table"),
        (r"^head\.head\.", "proj_out."),
        (r"(blocks\.\d+)\.modulation$", r"\1.scale_shift_table"),
        (r"(blocks\.\d+)\.self_attn\.", r"\1.attn1."),
        (r"(blocks\.\d+)\.cross_attn\.", r"\1.attn2."),
        (r"\.(attn[12])\.([qkv])\.", r".\1.to_\2."),
        (r"\.(attn[12])\.o\.", r".\1.to_out.0."),
        (r"(blocks\.\d+)\.norm3\.", r"\1.norm2."),
        (r"(blocks\.\d+)\.ffn\.0\.", r"\1.ffn.net.0.proj."),
        (r"(blocks\.\d+)\.ffn\.2\.", r"\1.ffn.net.2."),
        (r"^(vace_blocks\.\d+)\.before_proj\.", r"\1.proj_in."),
        (r"^(vace_blocks\.\d+)\.after_proj\.", r"\1.proj_out."),
    )
)

_BACK: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
        (r"^condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
        (r"^condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
        (r"^condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
        (r"^condition_embedder\.time_proj\.", "time_projection.1."),
        (r"^scale_shift_table$", "head.modulation"),
        (r"^proj_out\.", "head.head."),
        (r"(blocks\.\d+)\.scale_shift_table$", r"\1.modulation"),
        (r"\.attn([12])\.to_([qkv])\.", r".attn\1.\2."),
        (r"\.attn([12])\.to_out\.0\.", r".attn\1.o."),
        (r"(blocks\.\d+)\.attn1\.", r"\1.self_attn."),
        (r"(blocks\.\d+)\.attn2\.", r"\1.cross_attn."),
        (r"(blocks\.\d+)\.norm2\.", r"\1.norm3."),
        (r"(blocks\.\d+)\.ffn\.net\.0\.proj\.", r"\1.ffn.0."),
        (r"(blocks\.\d+)\.ffn\.net\.2\.", r"\1.ffn.2."),
        (r"^(vace_blocks\.\d+)\.proj_in\.", r"\1.before_proj."),
        (r"^(vace_blocks\.\d+)\.proj_out\.", r"\1.after_proj."),
    )
)

_WRAPPERS: Final = re.compile(
    r"^(?:module\.|model\.|generator\.|base_model\.|diffusion_model\.|transformer\.|"
    r"pipe\.vace\.|pipe\.dit\.|vace\.|dit\.|_fsdp_wrapped_module\.)+"
)


def strip_wrappers(name: str) -> str:
    """A tensor's name without what training frameworks and merged files put before it."""
    return _WRAPPERS.sub("", name).replace("_fsdp_wrapped_module.", "")


def without_wrappers(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """All entries under their plain names.

    Raises:
        ModelMismatchError: Two names become one.
    """
    plain: dict[str, Value] = {}
    for name, value in tensors.items():
        short = strip_wrappers(name)
        if short in plain:
            raise ModelMismatchError(
                "The file contains a tensor twice", got=f"{short}, the second time as {name}"
            )
        plain[short] = value
    return plain


def to_diffusers(name: str) -> str:
    """A released name, without wrappers, as diffusers calls the tensor."""
    for pattern, replacement in _RULES:
        name = pattern.sub(replacement, name)
    return name


def to_released(name: str) -> str:
    """The inverse of `to_diffusers`."""
    for pattern, replacement in _BACK:
        name = pattern.sub(replacement, name)
    return name


def is_branch(name: str) -> bool:
    """True for a tensor of the side branch, under its plain released name."""
    return name.startswith(("vace_blocks.", "vace_patch_embedding.", "vace_mask_embedding."))
