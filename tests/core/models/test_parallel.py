"""A forward pass shared by two processes is the forward pass of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

WORKER = Path(__file__).with_name("context_parallel_worker.py")
RANKS = 2


@pytest.mark.processes
@pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="needs torch with gloo",
)
def test_two_processes_share_every_frame(released, tmp_path) -> None:
    """With references, which the branch does not see, and with preceding frames."""
    model = released.model()
    model.save_pretrained(tmp_path / "model")
    inputs = {k: v for k, v in released.inputs(0).items() if isinstance(v, torch.Tensor)}
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "inputs")
    files = [str(tmp_path / name) for name in ("meeting", "model", "inputs", "result")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if sys.platform == "linux":
        # A machine's name need not resolve to an address.
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    ranks = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(RANKS), *files],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        reports = [process.communicate(timeout=240)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(reports)
    shared = load_file(tmp_path / "result")["output"]
    with torch.no_grad():
        alone = model(**released.inputs(0), return_dict=False)[0]
    assert shared.shape == alone.shape
    assert float((shared - alone).abs().max()) < 2e-5
