"""What makes a run fit a card."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")

import tiny_training
from mirage_core.cli.main import main
from mirage_core.cli.train_card import RESERVED
from mirage_core.training.memory_estimate import plan_memory, unloaded_model
from mirage_core.training.settings import TrainingSettings

SIZES = "width=512,heads=4,ffn=2048,layers=8,text=64"


def planned(capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    tiny = ["--side-blocks", "4", "--text-tokens", "4", "--plan-size", "1280x704"]
    assert main(["train", "--new-transformer", SIZES, *tiny, *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_options_are_added_until_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line is what the plan with these options says, and the last one fits."""
    lines = planned(capsys, "--card", "2.4", "--no-gradient-checkpointing")
    start = next(n for n, line in enumerate(lines) if line.startswith("a card of 2.4 GiB"))
    row = re.compile(r"  (.*?) +([\d.]+)  (fits|too large)")
    rows = [row.fullmatch(line) for line in lines[start + 1 :]]
    options = [found[1] for found in rows]
    assert options == [
        "as it is", "and --gradient-checkpointing", "and --frozen-dtype float8",
        "and --optimiser adamw8bit",
    ]  # fmt: skip
    totals = [float(found[2]) for found in rows]
    assert totals == sorted(totals, reverse=True)
    assert [found[3] for found in rows] == ["too large"] * 3 + ["fits"]
    assert totals[-1] <= 2.4 - RESERVED < totals[-2]
    # The same, asked for itself.
    flags = " ".join(option.removeprefix("and ") for option in options[1:]).split()
    (own,) = [line for line in planned(capsys, "--plan", "1", *flags) if " total " in line]
    assert float(own.split()[1]) == totals[-1]


def test_what_nothing_makes_fit(capsys: pytest.CaptureFixture[str]) -> None:
    last = planned(capsys, "--plan", "2", "--card", "1.6", "--stage", "full")[-1]
    assert "nothing makes it fit" in last and "--plan 3" in last


def test_moments_in_eight_bits_are_planned() -> None:
    """Needs no torchao: a plan is made on any machine."""
    settings = {**tiny_training.SETTINGS, "text_tokens": 4}
    sizes = {"num_attention_heads": 2, "attention_head_dim": 64, "ffn_dim": 256, "num_layers": 4,
             "text_dim": 16, "freq_dim": 256}  # fmt: skip
    plain, narrow = (
        plan_memory(
            unloaded_model(TrainingSettings(**settings | {"optimiser": name}), **sizes),
            TrainingSettings(**settings | {"optimiser": name}), 1, (96, 64),
        )
        for name in ("adamw", "adamw8bit")
    )  # fmt: skip
    assert plain.moments == 8 * sum(unit.trained for unit in plain.units)
    assert 0.25 < narrow.moments / plain.moments < 0.3
    assert narrow.weights == plain.weights


def test_a_card_is_a_number_of_gibibytes(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--card", "big"])
    assert "--card" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "-24", "nan", "inf"])
def test_cards_that_there_are_none_of(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", f"--card={size}", "--new-transformer", SIZES]) == 2
    said = capsys.readouterr()
    assert "memory of a card in GiB is out of range" in said.err
    assert not said.out


@pytest.mark.parametrize("cards", ["1", "8"])
def test_a_plan_costs_what_the_page_says(cards: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The work of a new branch counts, which the model gets when it is planned."""
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    hours, dollars = re.findall(rf"\n\| {cards} \| 3,000 \| ([\d.]+) \| (\d+) \|", page)[0]
    assert main(["train", "--plan", cards, "--preset", "from-spatia"]) == 0
    said = f"3,000 steps take some {float(hours):,.0f} hours and {dollars} dollars"
    assert said in capsys.readouterr().out


def test_a_plan_is_of_the_given_branch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny one has 2 blocks for a model of 3 layers, which has no 8 evenly spaced ones."""
    model = tiny_training.write_model(tmp_path)
    branch = tiny_training.write_branch(tmp_path)
    files = ["--transformer", str(model), "--branch", str(branch)]
    command = ["train", "--plan-size", "64x64", "--text-tokens", "4", "--card", "1.5", *files]
    for stage, planes in (("joint", []), ("branch", []), ("branch", ["--new-planes"])):
        assert main([*command, "--stage", stage, *planes]) == 0
        said = capsys.readouterr().out
        assert len(re.findall(r"^vace_blocks\.\d+ ", said, re.MULTILINE)) == 2
        assert "and --side-blocks" not in said
