"""The files of `docs/examples` for clusters, with stand-ins for what only a cluster has."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"

SRUN = """#!/bin/bash
# As Slurm does: every process gets its numbers, and the worst status counts.
while [[ $1 == --* ]]; do shift; done
worst=0
for rank in 0 1; do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" || worst=$?
done
exit $worst
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then printf 'first\\nsecond\\n'; else echo "$@" >> "$LOG"; fi
"""
MIRAGE = """#!/bin/bash
echo "$RANK/$WORLD_SIZE local $LOCAL_RANK at $MASTER_ADDR: $*" >> "$LOG"
exit "$STATUS"
"""


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("status", [0, 2, 143])
def test_the_job_starts_every_process_and_goes_on_when_it_was_stopped(
    tmp_path: Path, status: int
) -> None:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("mirage", MIRAGE)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    done = subprocess.run(
        ["bash", str(EXAMPLES / "train.slurm"), "my run.toml"],
        env={
            **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log),
            "STATUS": str(status), "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1",
            "SLURM_JOB_NODELIST": "nodes", "SLURM_JOB_ID": "7",
        },
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    lines = log.read_text().splitlines()
    assert lines[:2] == [
        "0/2 local 0 at first: train --config my run.toml",
        "1/2 local 1 at first: train --config my run.toml",
    ]
    assert lines[2:] == (["requeue 7"] if status == 143 else [])


def test_accelerate_reads_its_file() -> None:
    """It starts processes and nothing else: the model is sharded by the trainer."""
    config = pytest.importorskip("accelerate.commands.config.config_args", reason="accelerate")
    found = config.load_config_from_file(str(EXAMPLES / "accelerate_two_machines.yaml"))
    assert (found.num_machines, found.num_processes) == (2, 16)
    assert found.distributed_type.value == "MULTI_GPU"
    assert not found.fsdp_config and not found.deepspeed_config
