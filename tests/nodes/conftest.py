"""The pack's own modules inside the test process, with ComfyUI importable and no server."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dev.comfy_server import PACK

from .sampling_kit import Kit

NAME = "mirage_pack"


@pytest.fixture(scope="session")
def pack(comfyui_path: Path) -> Iterator[ModuleType]:
    """The pack as ComfyUI imports it: a package under a name of ComfyUI's choice."""
    # At the end: ComfyUI has top-level modules of common names.
    sys.path.append(str(comfyui_path))
    from comfy.cli_args import args

    args.cpu = True
    spec = importlib.util.spec_from_file_location(
        NAME, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    importlib.import_module(f"{NAME}.nodes")
    yield module
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]
    sys.path.remove(str(comfyui_path))


@pytest.fixture(scope="session")
def kit(pack: ModuleType) -> Iterator[Kit]:
    """A tiny video model, and ComfyUI's samplers."""
    kit = Kit(pack)
    yield kit
    kit.close()


@pytest.fixture
def inference() -> Iterator[None]:
    """As ComfyUI runs nodes."""
    import torch

    with torch.inference_mode():
        yield
