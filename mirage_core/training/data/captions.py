"""Embeddings of captions."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from .manifest import write_empty_text


class CaptionEncoder(Protocol):
    """Turns captions into text tokens, such as `mirage_core.models.text.TextEncoder`."""

    def encode(self, prompt: str) -> Tensor:
        """(1, 512, D), zero after the prompt's length."""


class Captions:
    """Embeddings of captions, each made once; leaves that of the empty one in the folder."""

    def __init__(self, folder: Path, encoder: CaptionEncoder) -> None:
        self._encoder = encoder
        self._known: dict[str, Tensor] = {}
        write_empty_text(folder, self.encode(""))

    def encode(self, caption: str) -> Tensor:
        """(L, D) tokens of a caption, without padding."""
        if caption not in self._known:
            tokens = self._encoder.encode(caption)[0].float().cpu()
            used = (tokens != 0).any(dim=1).nonzero()
            self._known[caption] = tokens[: int(used.max()) + 1 if len(used) else 1].clone()
        return self._known[caption]
