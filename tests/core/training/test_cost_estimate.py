"""What a run is said to cost follows from the sums that its model makes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")

from mirage_core.training.cost_estimate import flops_of_step, hours_and_dollars
from mirage_core.training.memory_estimate import unloaded_model
from mirage_core.training.presets import preset_settings
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.stages import new_branch, prepare_model

PAGE = Path(__file__).parents[3] / "docs" / "training.md"


def wan(settings: TrainingSettings) -> Any:
    """Wan2.2-TI2V-5B with the branch of a run, without weights."""
    model = unloaded_model(settings)
    model.add_branch(new_branch(model, settings))
    return model


@pytest.mark.parametrize("stage", ["branch", "full"])
def test_it_is_what_torch_counts(stage: str) -> None:
    """There and back without checkpoints, up to embeddings, head, and keys of the text."""
    settings = TrainingSettings(
        stage=stage, batch=1, references=1, preceding=1, random_subsets=False, text_tokens=16,
        gradient_checkpointing=False, side_blocks=2, dtype="float32",
    )  # fmt: skip
    model = unloaded_model(
        settings, num_attention_heads=2, attention_head_dim=128, ffn_dim=512, num_layers=4,
        text_dim=16,
    )  # fmt: skip
    prepare_model(model, settings)
    planes = model.branch_config.in_channels
    with torch.device("meta"):
        given = torch.zeros(1, 48, 11, 4, 4), torch.zeros(1, 11), torch.zeros(1, 16, 16)
        side = torch.zeros(1, planes, 10, 4, 4)
    with FlopCounterMode(display=False) as counter:
        (found,) = model(*given, side, 1, 1, return_dict=False)
        found.sum().backward()
    counted = flops_of_step(model, settings, (64, 64))
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.12)


def test_forward_sums_of_the_real_model() -> None:
    """13,200 tokens in the backbone and 9,680 in the branch: 182 and 34 TFLOP a pass."""
    settings = TrainingSettings(batch=1, random_subsets=False, gradient_checkpointing=False)
    back, branch = 181.9, 33.7
    found = flops_of_step(wan(settings), settings) / 1e12
    assert 2 * back + 3 * branch < found < 3 * (back + branch)


@pytest.mark.parametrize("cards", [1, 8])
def test_the_page_says_what_the_preset_costs(cards: int) -> None:
    settings = preset_settings("from-spatia")
    flops = flops_of_step(wan(settings), settings)
    hours, dollars = hours_and_dollars(flops, settings.steps, cards)
    page = PAGE.read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| {cards} \|.*$", page, re.MULTILINE)
    said = [float(number.replace(",", "")) for number in re.findall(r"[\d,.]+", row)]
    assert said == [cards, settings.steps, *(pytest.approx(n, rel=0.02) for n in (hours, dollars))]
