"""Fixtures that need more than Python: ComfyUI's source, a running server, a browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dev.bootstrap import find_chromium
from dev.comfy_server import ComfyServer
from dev.comfy_source import SetupError, check_comfyui, comfyui_location

if TYPE_CHECKING:
    from dev.comfy_client import ComfyClient

# Tiny pictures gain nothing from threads, and spinning ones starve each other on a busy machine.
SERVER_ENV = {"OMP_NUM_THREADS": "1"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device, naming the reason."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """ComfyUI's source."""
    path = comfyui_location()
    try:
        check_comfyui(path)
    except SetupError as error:
        pytest.skip(str(error))
    return path


@pytest.fixture(scope="session")
def comfy_server(
    comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A running server with the pack linked in, shared by all tests of the run.

    MIRAGE_FRONTEND_ROOT names the folder of another frontend than the one ComfyUI requires: the
    ``static`` of another comfyui-frontend-package.
    """
    base = tmp_path_factory.mktemp("comfy")
    frontend = os.environ.get("MIRAGE_FRONTEND_ROOT")
    options = ["--front-end-root", frontend] if frontend else []
    with ComfyServer(base, comfyui=comfyui_path, env=SERVER_ENV, extra_args=options) as server:
        yield server


@pytest.fixture
def comfy_client(comfy_server: ComfyServer) -> ComfyClient:
    """A client of the shared server."""
    # Its package is one that a machine with only the GPU tests' needs does not have.
    from dev.comfy_client import ComfyClient

    return ComfyClient(comfy_server.url)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium or Chrome."""
    path = find_chromium()
    if path is None:
        pytest.skip("needs Chromium: install it, or set MIRAGE_CHROMIUM to its path")
    return path
