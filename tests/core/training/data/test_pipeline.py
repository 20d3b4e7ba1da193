"""Making data sets: resumed after a kill, nothing twice, the bad reported and left out."""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from mirage_core.cli.data import job_of
from mirage_core.cli.main import main, make_parser
from mirage_core.codecs.dct import CODEC_NAME, DctCodec
from mirage_core.errors import (
    CacheFormatError,
    ModelMismatchError,
    ResumeError,
    StorageError,
    ValueRangeError,
)
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.geometry_io import save_geometry
from mirage_core.geometry.trajectory import intrinsics_from_fov
from mirage_core.rollout.video import write_clip
from mirage_core.training.data.build_clip import ClipSettings, DepthNoise
from mirage_core.training.data.dataset import ClipDataset
from mirage_core.training.data.manifest import (
    MANIFEST,
    read_empty_text,
    read_manifest,
    read_skipped,
)
from mirage_core.training.data.pipeline import (
    ABANDONED_SECONDS,
    DataJob,
    DataProgress,
    LocalPool,
    make_data,
)
from mirage_core.training.data.procedural import ProceduralSource
from mirage_core.training.data.ray_pool import RayPool
from mirage_core.training.data.stored import finished_items
from tiny_clips import WallSource, wall_job

ROOT = Path(__file__).resolve().parents[4]


def begun(source: WallSource) -> collections.Counter[str]:
    """How often each item was begun."""
    return collections.Counter(source.log.read_text().split())


def contents(folder: Path) -> dict[str, torch.Tensor]:
    return {clip.key: clip.condition.projection for clip in ClipDataset(folder)}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_data_set_is_made_and_goes_on_where_it_was(tmp_path) -> None:
    source = WallSource(3, tmp_path / "log")
    job = wall_job(source)
    seen: list[DataProgress] = []
    done = make_data(tmp_path / "data", job, on_progress=seen.append)
    assert (done.done, done.total, done.clips) == (3, 3, 6)
    assert [progress.done for progress in seen] == [1, 2, 3]
    assert seen[0].seconds_left > 0
    assert seen[-1].seconds_left == 0
    store = ClipDataset(tmp_path / "data")
    assert store.keys() == tuple(f"wall-{n}/0#{chunk}" for n in range(3) for chunk in range(2))
    again = make_data(tmp_path / "data", job)
    assert (again.done, again.clips) == (3, 0)
    more = make_data(tmp_path / "data", wall_job(WallSource(5, tmp_path / "log")))
    assert (more.done, more.clips) == (5, 4)
    assert store.refresh() == 4
    assert set(begun(source).values()) == {1}


def test_the_bad_is_reported_skipped_and_tried_again_on_request(tmp_path, caplog) -> None:
    source = WallSource(3, tmp_path / "log", bad=(1,))
    folder = tmp_path / "data"
    done = make_data(folder, wall_job(source))
    assert (done.done, done.total, done.clips, done.skipped) == (3, 3, 4, 3)
    assert read_skipped(folder) == {
        "wall-0/1": "too dark",
        "wall-1": "wall-1 is bad.",
        "wall-2/1": "too dark",
    }
    assert "wall-1 is bad" in caplog.text
    make_data(folder, wall_job(source))
    assert begun(source)["wall-1"] == 1
    cured = make_data(folder, wall_job(WallSource(3, tmp_path / "log")), retry=True)
    assert (cured.done, cured.clips) == (3, 2)
    assert begun(source) == {"wall-0": 1, "wall-1": 2, "wall-2": 1}
    assert list(read_skipped(folder)) == ["wall-1/1"]


class Crooked(WallSource):
    """A source with a fault in its own code."""

    fault: ClassVar[type[Exception]]

    def load(self, item: str):
        if item == "wall-1":
            raise self.fault("a fault")
        return super().load(item)


@pytest.mark.parametrize("fault", [ZeroDivisionError, AttributeError, MemoryError, zlib.error])
def test_unforeseen_trouble_does_not_end_the_run(tmp_path, caplog, monkeypatch, fault) -> None:
    monkeypatch.setattr(Crooked, "fault", fault, raising=False)
    done = make_data(tmp_path / "data", wall_job(Crooked(3, tmp_path / "log")))
    assert done.clips == 4
    assert read_skipped(tmp_path / "data")["wall-1"] == f"{fault.__name__}: a fault"
    assert "Traceback" in caplog.text


def test_other_clips_do_not_go_into_the_folder(tmp_path) -> None:
    source, folder = WallSource(1, tmp_path / "log"), tmp_path / "data"
    make_data(folder, wall_job(source))
    louder = ClipSettings(noise=DepthNoise(0.1, 0))
    for other in (
        DataJob(source, DctCodec, CODEC_NAME, louder),
        DataJob(source, DctCodec, "another codec"),
        wall_job(WallSource(1, tmp_path / "log", width=96)),
    ):
        with pytest.raises(ResumeError, match="made with other options"):
            make_data(folder, other)
    assert read_manifest(folder) == wall_job(source).manifest
    (folder / MANIFEST).write_text("[]")
    with pytest.raises(CacheFormatError):
        make_data(folder, wall_job(source))


def test_clips_of_a_damaged_shard_are_made_again(tmp_path) -> None:
    source, folder = WallSource(2, tmp_path / "log"), tmp_path / "data"
    make_data(folder, wall_job(source, flush_seconds=0))
    before = contents(folder)
    shard = min(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert make_data(folder, wall_job(source)).clips == 2
    assert_same(contents(folder), before)


def test_a_full_disk_stops_the_run_and_the_next_goes_on(tmp_path, file_size_limit) -> None:
    source, folder = WallSource(3, tmp_path / "log"), tmp_path / "data"
    make_data(folder, wall_job(WallSource(1, tmp_path / "log")))
    with file_size_limit(2000), pytest.raises(StorageError, match="could not be written"):
        make_data(folder, wall_job(source, flush_seconds=0))
    assert len(ClipDataset(folder)) == 2
    assert make_data(folder, wall_job(source)).done == 3
    assert len(ClipDataset(folder)) == 6


def test_a_stop_keeps_what_was_made(tmp_path) -> None:
    def stop(progress: DataProgress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    source, folder = WallSource(4, tmp_path / "log"), tmp_path / "data"
    with pytest.raises(KeyboardInterrupt):
        make_data(folder, wall_job(source), on_progress=stop)
    assert len(ClipDataset(folder)) == 4
    make_data(folder, wall_job(source))
    assert set(begun(source).values()) == {1}


def test_what_killed_workers_left_half_written_is_removed(tmp_path) -> None:
    """But not what another one may be writing now."""
    source, folder = WallSource(1, tmp_path / "log"), tmp_path / "data"
    folder.mkdir()
    old, new = folder / ".mirage-1.safetensors", folder / ".mirage-2.safetensors"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - 2 * ABANDONED_SECONDS))
    make_data(folder, wall_job(source))
    assert not old.exists()
    assert new.exists()


KILLED = """
import signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tiny_clips import WallSource, wall_job
from mirage_core.training.data.pipeline import make_data
folder = Path(sys.argv[2])
source = WallSource(int(sys.argv[3]), folder / "log")
def wind(progress):
    # Nothing handles this alarm: it ends the process wherever it is.
    if signal.getitimer(signal.ITIMER_REAL)[0] == 0:
        signal.setitimer(signal.ITIMER_REAL, float(sys.argv[4]))
make_data(folder / "data", wall_job(source, flush_seconds=0.0), on_progress=wind)
"""


@pytest.mark.processes
def test_killed_at_random_moments_and_resumed(tmp_path) -> None:
    """What was stored is never made again, and the end is the same as without kills."""
    count, rng = 30, random.Random(5)
    source, folder = WallSource(count, tmp_path / "log"), tmp_path / "data"
    support = str(ROOT / "tests" / "support")
    command = [sys.executable, "-c", KILLED, support, str(tmp_path), str(count)]
    kills = 0
    for _ in range(3):
        delay = f"{rng.uniform(0.005, 0.2):.4f}"
        ended = subprocess.run(
            [*command, delay], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
        kills += ended.returncode == -signal.SIGALRM
        stored = {key.split("/")[0] for key in ClipDataset(folder).keys()}
        # At most the item at work is lost with each kill.
        assert sum(begun(source).values()) - len(stored) <= kills
    assert kills
    make_data(folder, wall_job(source))
    assert sum(begun(source).values()) <= count + kills
    make_data(tmp_path / "whole", wall_job(WallSource(count, tmp_path / "other")))
    assert_same(contents(folder), contents(tmp_path / "whole"))


class Spelling:
    """A text encoder that spells."""

    def encode(self, prompt: str) -> torch.Tensor:
        """(1, 16, 4): a row of ones for every letter."""
        tokens = torch.zeros(1, 16, 4)
        tokens[:, : len(prompt)] = 1
        return tokens


def test_captions_are_embedded_without_their_filling(tmp_path) -> None:
    job = wall_job(WallSource(1, tmp_path / "log"))
    folder = tmp_path / "data"
    make_data(folder, DataJob(job.source, job.codec, job.codec_name, text=Spelling, text_name="s"))
    store = ClipDataset(folder)
    assert store[0].caption == "a wall"
    assert torch.equal(store[0].text, torch.ones(6, 4))
    assert torch.equal(read_empty_text(folder), torch.zeros(1, 4))
    with pytest.raises(ResumeError):
        make_data(folder, job)


@pytest.mark.processes
def test_ray_workers_die_and_nothing_is_lost(tmp_path, monkeypatch) -> None:
    """Two workers, one item that kills whoever takes it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "support"))
    source, folder = WallSource(6, tmp_path / "log", deadly=(2,)), tmp_path / "data"
    done = make_data(folder, wall_job(source), partial(RayPool, workers=2))
    assert (done.done, done.total, done.clips) == (6, 6, 10)
    assert "workers died while making it" in read_skipped(folder)["wall-2"]
    make_data(tmp_path / "plain", wall_job(WallSource(6, tmp_path / "other", bad=(2,))))
    assert_same(contents(folder), contents(tmp_path / "plain"))
    assert begun(source)["wall-2"] == 2
    assert not ray.is_initialized()


@pytest.mark.processes
@pytest.mark.timeout(150)
def test_ctrl_c_does_not_wait_for_what_workers_are_at(tmp_path, monkeypatch) -> None:
    """One item never ends; what was waiting in its worker is stored all the same."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests" / "support"))
    source, folder = WallSource(2, tmp_path / "log", stuck=(1,)), tmp_path / "data"

    def press() -> None:
        while not (source.log.exists() and begun(source)["wall-1"]):
            threading.Event().wait(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    # Programs that are started in the background ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=press, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            make_data(folder, wall_job(source), partial(RayPool, workers=1))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not ray.is_initialized()
    assert finished_items(folder) == {"wall-0"}


def test_more_gpus_than_there_are_are_not_waited_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueRangeError, match="4 workers with 0.5 GPUs each.*at most 1"):
        RayPool(tmp_path, wall_job(WallSource(1, tmp_path / "log")), workers=4, gpus=0.5)


def test_without_ray_the_fix_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModelMismatchError, match="--workers 0"):
        RayPool(tmp_path, wall_job(WallSource(1, tmp_path / "log")))


@pytest.mark.processes
def test_importing_the_pipeline_needs_no_ray() -> None:
    code = "import sys, mirage_core.cli.main; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


MAKE = ["data", "make", "--size", "64x64", "--embedded-codec", "--procedural"]


def test_the_command_line_makes_and_describes(tmp_path, capsys) -> None:
    folder = tmp_path / "data"
    more = ["--shots", "1", "--out", str(folder), "--first-room", "3", "--device", "cpu"]
    assert main([*MAKE, "1", *more]) == 0
    assert "4 clips made" in capsys.readouterr().out
    assert main([*MAKE, "1", *more]) == 0
    assert "0 clips made" in capsys.readouterr().out
    assert main(["data", "info", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "4 clips of 64 x 64" in text
    assert CODEC_NAME in text
    assert ClipDataset(folder).keys()[0] == "room-3/0#0"
    direct = next(iter(ProceduralSource(range(3, 4), 64, 64, 1).load("room-3")))
    latents = DctCodec().encode(direct.frames)[:, :9]
    assert torch.equal(ClipDataset(folder)[0].target, latents.half().float())
    assert main([*MAKE, "1", *more, "--policy", "append"]) == 2
    assert "made with other options" in capsys.readouterr().err


FOOTAGE = ["data", "make", "--size", "64x64", "--embedded-codec", "--shot-frames", "65"]


def test_footage_of_which_nothing_can_be_used_is_no_success(tmp_path, capsys) -> None:
    """And when it is mended the next run says how to take it."""
    home, out = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    write_clip(home / "a.mp4", torch.rand(97, 64, 64, 3), 24)
    words = [*FOOTAGE, "--footage", str(home), "--out", str(out)]
    assert main(words) == 2
    told = capsys.readouterr().err
    assert "No clip was made" in told and "--retry" in told
    assert main(["data", "info", str(out)]) == 0
    assert "home/a.mp4/0: home/a.mp4/0 has no cameras" in capsys.readouterr().out
    still = torch.eye(4, dtype=torch.float64).repeat(97, 1, 1)
    lens = intrinsics_from_fov(64, 64, 60).expand(97, 3, 3)
    depth = torch.full((97, 64, 64), 2.0)
    save_geometry(FrameGeometry(depth, lens, still, metric=True), home / "a.safetensors")
    assert main(words) == 2
    assert "--retry" in capsys.readouterr().err
    assert main([*words, "--retry"]) == 0
    told = capsys.readouterr().out
    assert "32 frames at the ends of items are not used" in told and "--shot-frames 65" in told


def test_captions_that_are_not_embedded_are_told(tmp_path, capsys, caplog) -> None:
    nothing = tmp_path / "nothing.safetensors"
    nothing.write_bytes(b"")
    words = ["data", "make", "--size", "64x64", "--procedural", "1", "--out", str(tmp_path / "x")]
    assert main([*words, "--vae", str(nothing)]) == 2
    assert "Captions are not embedded" in caplog.text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["data", "info", "nowhere"], "cannot be read"),
        ([*MAKE, "0", "--out", "x"], "number of rooms"),
        ([*MAKE, "2000000000", "--out", "x"], "number of rooms"),
        ([*MAKE, str(10**30), "--out", "x"], "number of rooms"),
        ([*MAKE, "1", "--out", "x", "--address", "auto"], "requires workers"),
        ([*MAKE, "1", "--out", "x", "--workers", "2", "--device", "cuda"], "--gpus-per-worker 0.5"),
        (["data", "make", "--size", "64x64", "--embedded-codec", "--footage", "nowhere",
          "--out", "x"], "does not exist"),
        (["data", "make", "--size", "60x64", "--embedded-codec", "--procedural", "1",
          "--out", "x"], "divisible by 32"),
    ],
)  # fmt: skip
def test_the_command_line_says_what_is_wrong(tmp_path, monkeypatch, capsys, words, text) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "there", "device"),
    [
        ([], True, "cuda"),
        ([], False, "cpu"),
        (["--workers", "2"], True, "cpu"),
        (["--workers", "2", "--gpus-per-worker", "0.5"], False, "cuda"),
        (["--workers", "2", "--gpus-per-worker", "1", "--device", "cpu"], True, "cpu"),
    ],
)
def test_workers_use_the_gpus_that_they_are_given(monkeypatch, words, there, device) -> None:
    """The machine that hands out the work may have a GPU or none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    arguments = make_parser().parse_args([*MAKE, "1", "--out", "x", *words])
    assert job_of(arguments).source.device == device


def test_a_damaged_manifest_is_named(tmp_path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"format": "mirage-data", "version": 9}))
    with pytest.raises(CacheFormatError, match=MANIFEST):
        read_manifest(tmp_path)


def test_the_local_pool_stores_at_its_end(tmp_path) -> None:
    pool = LocalPool(tmp_path / "data", wall_job(WallSource(2, tmp_path / "log")))
    results = list(pool.run(iter(["wall-0", "wall-1"])))
    assert [result.clips for result in results] == [2, 2]
    assert not any(result.stored for result in results)
    assert pool.close() == ("wall-0", "wall-1")
