"""The frame of evaluations: resumed item by item, one way in a folder, pages and comparisons."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_core.cli.evaluate_tasks import MAKERS
from mirage_core.cli.main import make_parser
from mirage_core.errors import CacheFormatError, ResumeError, StorageError, ValueRangeError
from mirage_core.evaluation.compare import compare
from mirage_core.evaluation.report import PAGE, RESULTS, page, read_report, write_page
from mirage_core.evaluation.results import MANIFEST, claim_run, item_path, picture_path, store_item
from mirage_core.evaluation.statistics import estimate
from mirage_core.evaluation.task import Outcome, Task
from mirage_core.evaluation.work import EvaluationWorker, evaluate
from mirage_core.training.data.pipeline import DataProgress
from mirage_core.training.data.ray_pool import RayPool
from tiny_evaluation import KILL, Counting

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("a/1", "a/2", "a/4")


@pytest.fixture
def task(tmp_path) -> Counting:
    return Counting(NAMES, tmp_path / "log")


def test_every_item_is_measured_once_with_the_time_that_is_left(task, tmp_path) -> None:
    seen: list[DataProgress] = []
    report = evaluate(tmp_path / "run", task, on_progress=seen.append)
    assert [p.done for p in seen] == [1, 2, 3]
    assert seen[0].seconds_left > 0
    assert seen[-1].seconds_left == 0
    assert report.values("double", "value") == {"a/1": 2.0, "a/2": 4.0, "a/4": 8.0}
    assert task.log.read_text().split() == ["prepared", *NAMES]


def test_a_stopped_run_goes_on_and_a_damaged_result_is_made_again(task, tmp_path) -> None:
    def stop(progress: DataProgress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder, task, on_progress=stop)
    path = item_path(folder, "a/1")
    path.write_text(path.read_text().replace("1.0", "9.0"))
    report = evaluate(folder, task)
    assert task.log.read_text().split() == ["prepared", "a/1", "a/2", "prepared", "a/1", "a/4"]
    assert report.values("plain", "value") == {"a/1": 1.0, "a/2": 2.0, "a/4": 4.0}
    evaluate(folder, task)
    assert task.log.read_text().split().count("prepared") == 2


def test_another_model_in_the_same_folder_is_an_error(task, tmp_path) -> None:
    evaluate(tmp_path / "run", task)
    with pytest.raises(ResumeError, match="model 'one'.*model 'two'"):
        evaluate(tmp_path / "run", Counting(NAMES, task.log, model="two"))
    (tmp_path / "run" / MANIFEST).write_text("{")
    with pytest.raises(CacheFormatError, match=MANIFEST):
        evaluate(tmp_path / "run", task)


def test_what_cannot_be_measured_is_named_and_left_out(tmp_path) -> None:
    task = Counting(("bad/1", "a/2"), tmp_path / "log")
    report = evaluate(tmp_path / "run", task)
    assert list(report.items) == ["a/2"]
    assert "There is nothing" in report.skipped["bad/1"]
    assert "There is nothing" in (tmp_path / "run" / PAGE).read_text()
    evaluate(tmp_path / "run", task)
    evaluate(tmp_path / "run", task, retry=True)
    assert task.log.read_text().split().count("bad/1") == 2


def test_a_full_disk_ends_the_run(task, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise StorageError("The disk is full")

    monkeypatch.setattr("mirage_core.evaluation.work.store_item", full)
    with pytest.raises(StorageError, match="full"):
        evaluate(tmp_path / "run", task)


@pytest.mark.processes
def test_a_worker_that_dies_is_replaced(tmp_path, monkeypatch) -> None:
    pytest.importorskip("ray")
    paths = [str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    task = Counting((*NAMES, f"{KILL}/{KILL}8"), tmp_path / "log")

    pool = partial(RayPool, make_worker=EvaluationWorker, workers=2)
    report = evaluate(tmp_path / "run", task, pool)
    assert sorted(report.values("plain", "value").values()) == [1.0, 2.0, 4.0, 8.0]
    assert report.skipped == {}


def test_the_page_has_means_differences_items_protocol_and_pictures(task, tmp_path) -> None:
    folder = tmp_path / "run"
    evaluate(folder, task, command="mirage evaluate counting")
    written = (folder / PAGE).read_text()
    assert f"| plain | {7 / 3:.1f} [" in written
    assert f"| double | +{7 / 3:.1f} [" in written
    assert "| a/4 | double | 8.0 | 64.0 | – |" in written
    assert "| what | a\\|b | here |" in written
    assert "absent is not measured: there is none" in written
    assert "mirage evaluate counting" in written
    picture = picture_path(folder, "a/1")
    assert picture.relative_to(folder).as_posix() in written
    assert np.asarray(Image.open(picture)).shape == (8, 16, 3)
    document = json.loads((folder / RESULTS).read_text())
    assert document["summary"]["double"]["square"]["mean"] == pytest.approx((4 + 16 + 64) / 3)
    assert read_report(folder).summary()["plain"]["value"].count == 3


def test_items_of_like_names_do_not_share_a_file(tmp_path) -> None:
    assert item_path(tmp_path, "a/b") != item_path(tmp_path, "a_b")
    assert len(item_path(tmp_path, "x" * 300).name) < 120


def test_two_runs_are_compared_item_by_item(task, tmp_path) -> None:
    one = evaluate(tmp_path / "one", task)
    names = ("a/1", "a/2", "a/4", "a/100")
    other = evaluate(tmp_path / "other", Counting(names, task.log, "two", shift=0.5))
    found = compare(one, other)
    assert found.items == 3
    assert found.pairs["plain", "plain"]["value"].mean == pytest.approx(0.5)
    assert found.pairs["double", "double"]["value"].mean == pytest.approx(1.0)
    squares = [(v + 0.5) ** 2 - v**2 for v in (1, 2, 4)]
    assert found.pairs["plain", "plain"]["square"].mean == pytest.approx(sum(squares) / 3)
    assert "absent" not in found.pairs["plain", "plain"]
    assert any("'one' and 'two'" in note for note in found.notes)
    within = compare(one, one, "plain", "double")
    assert within.pairs["plain", "double"]["value"].mean == pytest.approx(7 / 3)
    assert "plain to double" in within.page("a", "a")
    with pytest.raises(ValueRangeError, match="no such way"):
        compare(one, other, "triple")
    with pytest.raises(ValueRangeError, match="no item"):
        compare(one, evaluate(tmp_path / "third", Counting(("a/9",), task.log)))


def test_columns_of_fewer_items_say_so(task, tmp_path) -> None:
    report = evaluate(tmp_path / "run", task)
    items = {item: {way: dict(found) for way, found in ways.items()} for item, ways in
             report.items.items()}  # fmt: skip
    items["a/2"]["plain"]["square"] = None
    fewer = dataclasses.replace(report, items=items)
    (row,) = (x for x in page(fewer).splitlines() if x.startswith("| plain |"))
    assert row.count("(2 of 3)") == 1
    found = compare(report, fewer).page("one", "other").splitlines()
    assert [x.count("(2 of 3)") for x in found if x.startswith("| plain |")] == [1]
    assert not any("of 3)" in x for x in found if x.startswith("| double |"))


def test_intervals_against_a_plain_bootstrap() -> None:
    rng = random.Random(1)
    values = [rng.gauss(0, 1) for _ in range(60)]
    means = sorted(sum(rng.choices(values, k=60)) / 60 for _ in range(20_000))
    found = estimate(values)
    assert found.mean == pytest.approx(sum(values) / 60)
    assert found.low == pytest.approx(means[500], abs=0.05)
    assert found.high == pytest.approx(means[19_500], abs=0.05)
    assert estimate([3.0]).low is None
    assert estimate([2.0, 2.0]).high == 2.0
    assert all(math.isfinite(x) for x in (estimate([0, 1]).low, estimate([0.0, 0, 1]).high))


def test_a_result_that_is_no_number_is_absent(tmp_path) -> None:
    from mirage_core.evaluation.results import read_items, store_item
    from mirage_core.evaluation.task import Outcome

    store_item(tmp_path, "a", Outcome({"x": {"v": math.nan, "w": 1.0}}, {"p": torch.rand(4, 4, 3)}))
    assert read_items(tmp_path)["a"][0] == {"x": {"v": None, "w": 1.0}}


def test_a_page_of_its_own_has_its_pictures_beside_it(task, tmp_path) -> None:
    report = evaluate(tmp_path / "run", task)
    store_item(
        tmp_path / "run", NAMES[0],
        Outcome(report.items[NAMES[0]], {"truth": torch.ones(8, 16, 3)}),
    )  # fmt: skip
    report = evaluate(tmp_path / "run", task)
    write_page(tmp_path / "docs" / "one.md", report, tmp_path / "run")
    text = (tmp_path / "docs" / "one.md").read_text()
    assert f"{NAMES[0]}, from top to bottom: truth.\n\n![{NAMES[0]}](one.jpg)" in text
    with Image.open(tmp_path / "docs" / "one.jpg") as picture:
        assert picture.size == (16, 8)


@pytest.mark.parametrize("task", ["holes", "captures", "worldscore"])
@pytest.mark.parametrize("change", ["copy", "longer", "renamed", "hidden"])
def test_a_run_knows_its_data_by_content(tmp_path, task: str, change: str) -> None:
    """Other footage in a folder of the same name may not go on with the same results."""
    one, other = tmp_path / "one" / "data", tmp_path / "other" / "data"
    (tmp_path / "model").mkdir()
    (one / "shot").mkdir(parents=True)
    (one / "shot" / "0.png").write_bytes(b"12")
    shutil.copytree(one, other)
    if change == "longer":
        (other / "shot" / "0.png").write_bytes(b"123")
    elif change == "renamed":
        (other / "shot" / "0.png").rename(other / "shot" / "1.png")
    elif change == "hidden":
        (other / ".thumbnails").mkdir()
        (other / ".thumbnails" / "0.png").write_bytes(b"1")

    def made(data: Path) -> Task:
        words = ["evaluate", task, "--data", str(data), "--out", str(tmp_path / "run")]
        if task == "worldscore":
            words += ["--depth-model", str(tmp_path / "model"), "--model", "preview"]
        return MAKERS[task](make_parser().parse_args(words))

    claim_run(tmp_path / "run", made(one))
    if change in ("copy", "hidden"):
        claim_run(tmp_path / "run", made(other))
    else:
        with pytest.raises(ResumeError, match="data"):
            claim_run(tmp_path / "run", made(other))
