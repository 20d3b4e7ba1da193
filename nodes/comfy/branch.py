"""The side branch, and the positions of clean frames, in one forward pass of ComfyUI's model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...mirage_core.checkpoints.branch import BranchConfig
from ...mirage_core.conditioning.segments import Segments
from ...mirage_core.constants import PATCH_SIZE
from .model import Backbone, MirageSideBranch, Patcher

_AXES = ("t", "y", "x")


@dataclass(frozen=True, eq=False)
class Side:
    """A side branch in use.

    Attributes:
        patcher: Its weights, managed by ComfyUI.
        config: What it is made for, layers final.
        planes: (channels, T + P, h, w) its input.
        strength: Factor of what it adds.
        start: Share of the noise schedule, 0..1, at which it begins.
        end: Share of the noise schedule at which it ends.
    """

    patcher: Patcher
    config: BranchConfig
    planes: Tensor
    strength: float
    start: float
    end: float


class SidePass:
    """The side branch in one forward pass of the video model.

    Each side block runs right after the layer that it belongs to, so that only one hint is held
    at a time.
    """

    def __init__(self, side: Side, segments: Segments, backbone: Backbone, planes: Tensor) -> None:
        self._side = side
        self._segments = segments
        self._backbone = backbone
        self._planes = planes
        self._start: Tensor | None = None
        self._tokens: Tensor | None = None

    @property
    def _module(self) -> MirageSideBranch:
        return self._side.patcher.model

    def replaces(self, present: Mapping[str, Any]) -> dict[str, Any]:
        """ComfyUI's table of replaced blocks with the branch in it; those present stay."""
        blocks = dict(present.get("dit", {}))
        numbers = {layer: number for number, layer in enumerate(self._side.config.layers)}
        for layer in {0, *numbers}:
            key = ("double_block", layer)
            blocks[key] = self._block(layer, numbers.get(layer), blocks.get(key))
        return {**present, "dit": blocks}

    def _block(
        self, layer: int, number: int | None, present: Callable[..., Any] | None
    ) -> Callable[..., dict[str, Any]]:
        def run(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            if layer == 0:
                self._begin(args["img"])
            original = extra["original_block"]
            out = original(args) if present is None else present(args, extra)
            return out if number is None else {**out, "img": self._add(out["img"], number, args)}

        return run

    def _skipped(self, tokens: Tensor) -> int:
        """Tokens of the reference frames, which the side branch neither sees nor changes."""
        return tokens.shape[1] // self._segments.total * self._segments.references

    def _begin(self, tokens: Tensor) -> None:
        self._start = tokens[:, self._skipped(tokens) :]
        embedded = self._module.embed(self._planes, self._backbone, tokens.dtype)
        self._tokens = embedded.expand(len(tokens), -1, -1)

    def _add(self, tokens: Tensor, number: int, args: Mapping[str, Any]) -> Tensor:
        skip = self._skipped(tokens)
        hint, self._tokens = self._module.vace_blocks[number](
            self._tokens,
            x=self._start,
            e=args["vec"][:, self._segments.references :],
            freqs=args["pe"][:, skip:],
            context=args["txt"],
            transformer_options=args["transformer_options"],
        )
        # Never in place: another node's replacement may hand back what it was given.
        changed = torch.add(tokens[:, skip:], hint, alpha=self._side.strength)
        return torch.cat([tokens[:, :skip], changed], dim=1) if skip else changed


def segment_positions(backbone: Backbone, segments: Segments) -> AbstractContextManager[None]:
    """Give reference and preceding frames their own rotary positions for one forward pass.

    The model that runs is not always the one that was patched: Dual Model Guider hands the
    options of its positive model to the negative one. So the positions are set where the pass
    begins, on the model that it runs on, and taken off at its end.

    Args:
        backbone: The model that runs.
        segments: The frames that it is given.
    """
    rope = _segment_rope(backbone.rope_encode, backbone, segments)
    return replaced(backbone, "rope_encode", rope)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of one object for a while; afterwards it has what it had."""
    own = vars(owner)
    before = {name: own[name]} if name in own else {}
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
        own.update(before)


def _segment_rope(
    original: Callable[..., Tensor], backbone: Backbone, segments: Segments
) -> Callable[..., Tensor]:
    def rope_encode(t: int, h: int, w: int, *args: Any, **options: Any) -> Tensor:
        if t != segments.total or options.get("source_id"):
            return original(t, h, w, *args, **options)
        rows, columns = -(-h // PATCH_SIZE), -(-w // PATCH_SIZE)
        positions = segments.positions(rows, columns, options.get("device")).float()
        changes = (options.get("transformer_options") or {}).get("rope_options") or {}
        scale = [changes.get(f"scale_{axis}", 1.0) for axis in _AXES]
        shift = [changes.get(f"shift_{axis}", 0.0) for axis in _AXES]
        positions = positions * positions.new_tensor(scale) + positions.new_tensor(shift)
        return backbone.rope_embedder(positions[None]).movedim(1, 2)

    return rope_encode
