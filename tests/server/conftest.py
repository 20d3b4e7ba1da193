"""Servers beside the shared one: with the files of all workflows, or for tests that kill theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.comfy_client import ComfyClient
from dev.comfy_server import ComfyServer
from tiny_install import install, sampling_server

from .stopped_shots import HEIGHT, WIDTH


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server that holds every file which the shipped workflows name."""
    base = tmp_path_factory.mktemp(request.path.stem)
    install(base, (WIDTH, HEIGHT))
    with sampling_server(base, comfyui_path) as running:
        yield running


@pytest.fixture(scope="module")
def object_info(server: ComfyServer) -> dict[str, Any]:
    """What the server says of its nodes."""
    return ComfyClient(server.url).object_info()


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
