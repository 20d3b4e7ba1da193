"""The server and client that other tests build on, against a real ComfyUI."""

from __future__ import annotations

import re
import struct
import threading
import zlib
from pathlib import Path

import pytest

from dev.comfy_client import (
    ComfyClient,
    ComfyClientError,
    ComfyRunError,
    ComfyTimeoutError,
    ComfyValidationError,
    Progress,
)
from dev.comfy_server import ComfyServer, ServerError

pytestmark = pytest.mark.server

PROBE_PACK = '''
"""Nodes that wait and fail, to test how a run is followed."""
import time
import comfy.model_management
import comfy.utils


class ProbeWait:
    RETURN_TYPES = ("INT",)
    FUNCTION = "wait"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"steps": ("INT", {"default": 1, "min": 1, "max": 100000})}}

    def wait(self, steps):
        bar = comfy.utils.ProgressBar(steps)
        for _ in range(steps):
            bar.update(1)
            time.sleep(0.01)
        return {"ui": {"steps": [steps]}, "result": (steps,)}


class ProbeFail(ProbeWait):
    def wait(self, steps):
        raise RuntimeError(f"failed on purpose at {steps}")


NODE_CLASS_MAPPINGS = {"ProbeWait": ProbeWait, "ProbeFail": ProbeFail}
'''


def png(red: int, green: int, blue: int) -> bytes:
    """A PNG of one pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes([0, red, green, blue]))
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def probe(node: str, steps: int) -> dict[str, dict]:
    return {"7": {"class_type": node, "inputs": {"steps": steps}}}


@pytest.fixture(scope="module")
def probe_server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory):
    """A server of this module alone, so that tests may kill it; its pack is the probe."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text(PROBE_PACK)
    server = ComfyServer(folder / "base", comfyui=comfyui_path, pack=folder / "pack")
    with server:
        yield server


@pytest.fixture
def probe_client(probe_server: ComfyServer) -> ComfyClient:
    return ComfyClient(probe_server.url)


def test_pack_is_imported(comfy_server: ComfyServer, comfy_client: ComfyClient) -> None:
    stats = comfy_client.system_stats()
    version = tuple(int(part) for part in stats["system"]["comfyui_version"].split(".")[:3])
    assert version >= (0, 30, 0)

    log = comfy_server.log()
    pack = re.escape(str(comfy_server.base / "custom_nodes" / "mirage"))
    lines = [line for line in log.splitlines() if re.search(rf"seconds.*: {pack}$", line)]
    assert len(lines) == 1, f"the pack was not loaded:\n{log}"
    assert "IMPORT FAILED" not in lines[0], log
    assert not re.search(rf"(comfy_entrypoint in|Cannot import|Skip) {pack}", log), log


def test_everything_lands_below_the_base(comfy_client: ComfyClient, tmp_path: Path) -> None:
    picture = tmp_path / "pixel.png"
    picture.write_bytes(png(255, 128, 0))
    uploaded = comfy_client.upload_image(picture, subfolder="smoke")
    assert uploaded == {"name": "pixel.png", "subfolder": "smoke", "type": "input"}
    assert comfy_client.view("pixel.png", "smoke", "input") == picture.read_bytes()

    load = {"class_type": "LoadImage", "inputs": {"image": "smoke/pixel.png"}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "smoke"}}
    result = comfy_client.run({"1": load, "2": save}, timeout=60)
    assert result.status == "success"
    assert result.executed == ["1", "2"]
    (saved,) = result.files("2")
    assert comfy_client.view(**saved).startswith(b"\x89PNG")


def test_progress_and_cache_are_reported(probe_client: ComfyClient) -> None:
    seen: list[Progress] = []
    first = probe_client.run(probe("ProbeWait", 30), on_progress=seen.append, timeout=60)
    assert first.outputs == {"7": {"steps": [30]}}
    assert first.executed == first.displayed == ["7"]
    assert {step.node for step in seen} == {"7"}
    assert all(0 <= step.value <= step.maximum for step in seen)
    assert [step.value for step in seen] == sorted(step.value for step in seen)

    second = probe_client.run(probe("ProbeWait", 30), timeout=60)
    assert (second.executed, second.cached) == ([], ["7"])
    assert second.outputs == first.outputs


def test_errors_name_the_node(probe_client: ComfyClient) -> None:
    with pytest.raises(ComfyRunError, match="failed on purpose at 5") as caught:
        probe_client.run(probe("ProbeFail", 5), timeout=60)
    error = caught.value
    assert (error.node_id, error.node_type) == ("7", "ProbeFail")
    assert error.exception_type == "RuntimeError"
    assert error.result.status == "error"


def test_refused_prompts_are_readable(probe_client: ComfyClient) -> None:
    with pytest.raises(ComfyValidationError, match=r"node 7 \(ProbeWait\).*steps") as caught:
        probe_client.submit(probe("ProbeWait", 0))
    assert set(caught.value.node_errors) == {"7"}
    with pytest.raises(ComfyValidationError, match="NoSuchNode"):
        probe_client.submit(probe("NoSuchNode", 1))
    half = {**probe("ProbeWait", 2), "8": probe("ProbeWait", 0)["7"]}
    with pytest.raises(ComfyValidationError, match="node 8"):
        probe_client.submit(half)


def test_interrupt_and_timeout(probe_client: ComfyClient) -> None:
    once = threading.Event()

    def interrupt(step: Progress) -> None:
        if not once.is_set():
            once.set()
            probe_client.interrupt()

    result = probe_client.run(probe("ProbeWait", 2000), on_progress=interrupt, timeout=60)
    assert (result.status, result.outputs) == ("interrupted", {})
    with pytest.raises(ComfyTimeoutError):
        probe_client.run(probe("ProbeWait", 2001), timeout=0.5)
    assert probe_client.run(probe("ProbeWait", 3), timeout=60).status == "success"


def test_killed_server_is_noticed_and_comes_back(
    probe_server: ComfyServer, probe_client: ComfyClient
) -> None:
    keepsake = probe_server.output / "keepsake.txt"
    keepsake.write_text("kept")
    first = probe_server.pid
    with pytest.raises(ComfyClientError, match="went away|closed|No answer"):
        probe_client.run(
            probe("ProbeWait", 2002), on_progress=lambda step: probe_server.kill(), timeout=60
        )
    assert probe_server.pid is None
    probe_server.restart()
    assert probe_server.pid not in (None, first)
    assert keepsake.read_text() == "kept"
    assert ComfyClient(probe_server.url).view("keepsake.txt") == b"kept"


def test_failed_start_shows_the_log(comfyui_path: Path, tmp_path: Path) -> None:
    server = ComfyServer(
        tmp_path, comfyui=comfyui_path, pack=None, extra_args=["--cpu", "--no-such-option"]
    )
    with pytest.raises(ServerError, match="no-such-option"):
        server.start()
    assert server.pid is None


def test_client_refuses_other_machines() -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1"):
        ComfyClient("http://comfy.example:8188")
