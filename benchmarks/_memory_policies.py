"""The write policies that `memory.py` measures, and the ways in which it looks at a memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mirage_core.ops.best_view import BestView
from mirage_core.writing.novelty import NoveltyRule
from mirage_core.writing.policy import WriteRules

APPEND, FIRST, DEFAULT = "append", "novelty, first views", "novelty"
VIEWS: dict[str, BestView | None] = {"nearest": None, "best_view": BestView()}


@dataclass(frozen=True)
class Policy:
    """A write policy to measure."""

    rules: WriteRules
    drop_flying: bool = True
    last_frame_only: bool = False
    storage: torch.dtype = torch.float16
    cap: float = 0.0
    """Most points as a share of those that the default policy holds at the end."""


PLAIN = NoveltyRule(central=False, carve=0, upgrade=0, view_score=0)
ONLY_ADD = NoveltyRule(carve=0, upgrade=0, view_score=0)
POLICIES = {
    APPEND: Policy(WriteRules("append"), drop_flying=False),
    "append, flying dropped": Policy(WriteRules("append")),
    "append, 1 frame per chunk": Policy(WriteRules("append"), last_frame_only=True),
    "novelty, whole cells": Policy(WriteRules(novelty=PLAIN)),
    "novelty, no removal": Policy(WriteRules(novelty=ONLY_ADD)),
    FIRST: Policy(WriteRules(novelty=NoveltyRule(view_score=0))),
    DEFAULT: Policy(WriteRules()),
    "novelty, int8": Policy(WriteRules(), storage=torch.int8),
    "novelty, half the points": Policy(WriteRules(), cap=0.5),
}
WITH_CODEC = (APPEND, "append, flying dropped", "novelty, whole cells", FIRST, DEFAULT)
