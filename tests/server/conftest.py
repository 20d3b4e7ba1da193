"""A second server, for tests that kill theirs or need one that has done nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.comfy_client import ComfyClient
from dev.comfy_server import ComfyServer


@pytest.fixture(scope="session")
def other_server(
    comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server on a base of its own; a test that stops it starts it again."""
    base = tmp_path_factory.mktemp("other")
    with ComfyServer(base, comfyui=comfyui_path, env={"OMP_NUM_THREADS": "1"}) as server:
        yield server


@pytest.fixture
def other_client(other_server: ComfyServer) -> ComfyClient:
    """A client of the second server."""
    return ComfyClient(other_server.url)
