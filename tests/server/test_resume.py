"""A rollout that was stopped goes on from disk, and ends with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from dev.comfy_client import ComfyClient, ComfyClientError, ComfyRunError
from dev.comfy_server import ComfyServer
from dev.damage import flipped
from mirage_core.files import TEMPORARY_PREFIX
from mirage_core.folder_lock import HOLDER

from .prompts import (
    BODY,
    Prompt,
    body_runs,
    contents,
    folders,
    interrupt_in,
    node,
    once_in,
    runs_of,
    shot,
)

pytestmark = pytest.mark.server

CHUNKS = 4

SHARING = {"first_chunk_frames": 33, "chunk_frames": 41, "overlap_frames": 9}
"""Lengths of as many chunks."""


def prompt(name: str, **settings: object) -> Prompt:
    """Frames large enough that drawing a chunk takes far longer than a request."""
    made = shot(97 + 32, width=384, height=256, preset="orbit", name=name, **settings)
    memory = node("MirageCacheSave", cache=["result", 2], filename_prefix=f"{name}_memory")
    latent = node("SaveLatent", samples=["result", 1], filename_prefix=f"{name}_latent")
    return made | {"memory": memory, "latent": latent}


def saved_chunks(folder: Path) -> int:
    return len(list(folder.glob("chunk_*.safetensors")))


def results(server: ComfyServer, name: str) -> dict[str, bytes]:
    """The newest folder of a rollout, with its memory file and its latents."""
    (memory,) = (server.output / "mirage").glob(f"{name}_memory*.safetensors")
    folder = folders(server.output, name)[-1]
    return contents(folder) | {"memory": memory.read_bytes(), "latent": latent_of(server, name)}


def latent_of(server: ComfyServer, name: str) -> bytes:
    """Bytes of the saved LATENT alone: the file's header holds the prompt."""
    (path,) = server.output.glob(f"{name}_latent*.latent")
    return load_file(path)["latent_tensor"].numpy().tobytes()


@pytest.fixture(scope="module")
def uninterrupted(comfy_server: ComfyServer) -> dict[str, bytes]:
    result = ComfyClient(comfy_server.url).run(prompt("whole"), timeout=120)
    assert body_runs(result) == dict.fromkeys(BODY, CHUNKS)
    return results(comfy_server, "whole")


def check_resumed(
    server: ComfyServer, name: str, expected: dict[str, bytes], **settings: object
) -> None:
    """Queue a stopped rollout again: only what is missing is made, and nothing differs."""
    (folder,) = folders(server.output, name)
    saved = saved_chunks(folder)
    assert 1 <= saved < CHUNKS
    kept = contents(folder)
    result = ComfyClient(server.url).run(prompt(name, **settings), timeout=120)
    assert body_runs(result) == dict.fromkeys(BODY, CHUNKS - saved)
    found = results(server, name)
    assert found.keys() == expected.keys()
    assert [key for key in found if found[key] != expected[key]] == []
    chunks = [key for key in kept if key.endswith(".safetensors")]
    assert [key for key in chunks if found[key] != kept[key]] == []


def test_interrupted_rollout_goes_on(
    comfy_server: ComfyServer, comfy_client: ComfyClient, uninterrupted: dict[str, bytes]
) -> None:
    stop = interrupt_in(comfy_client, chunk=2)
    result = comfy_client.run(prompt("interrupted"), on_progress=stop, timeout=120)
    assert result.status == "interrupted"
    # It stopped within the frames of that chunk: no node after the one that drew them ran.
    assert result.displayed[-1] == "fill"
    assert runs_of(result, "fill") == 2 and runs_of(result, "update") == 1
    (folder,) = folders(comfy_server.output, "interrupted")
    assert saved_chunks(folder) == 1
    assert not [name for name in contents(folder) if name.startswith(TEMPORARY_PREFIX)]
    check_resumed(comfy_server, "interrupted", uninterrupted)


def test_killed_server_goes_on(
    other_server: ComfyServer, other_client: ComfyClient, uninterrupted: dict[str, bytes]
) -> None:
    kill = once_in(3, 2, other_server.kill)
    with pytest.raises(ComfyClientError):
        other_client.run(prompt("killed"), on_progress=kill, timeout=120)
    (folder,) = folders(other_server.output, "killed")
    assert (folder / HOLDER).exists(), "a dead server's note blocks nobody"
    other_server.restart()
    check_resumed(other_server, "killed", uninterrupted)


def test_interrupted_chunks_that_share_frames_go_on(
    comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    comfy_client.run(prompt("whole_sharing", **SHARING), timeout=120)
    expected = results(comfy_server, "whole_sharing")
    result = comfy_client.run(
        prompt("stopped_sharing", **SHARING),
        on_progress=interrupt_in(comfy_client, 2), timeout=120,
    )  # fmt: skip
    assert result.status == "interrupted"
    check_resumed(comfy_server, "stopped_sharing", expected, **SHARING)


def test_torn_chunk_is_made_again(
    comfy_server: ComfyServer, comfy_client: ComfyClient, uninterrupted: dict[str, bytes]
) -> None:
    folder = comfy_server.output / "mirage" / "torn" / folders(comfy_server.output, "whole")[0].name
    folder.mkdir(parents=True)
    files = {n: c for n, c in uninterrupted.items() if "." in n}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    torn = folder / "chunk_0002.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    (folder / "chunk_0003.mp4").unlink()
    result = comfy_client.run(prompt("torn"), timeout=120)
    assert body_runs(result) == dict.fromkeys(BODY, 2)
    assert contents(folder) == files


def test_only_a_damaged_chunk_is_made_again(
    comfy_server: ComfyServer, comfy_client: ComfyClient, uninterrupted: dict[str, bytes]
) -> None:
    """The one behind it follows, and is taken; the last one is damaged as well."""
    run = folders(comfy_server.output, "whole")[0].name
    folder = comfy_server.output / "mirage" / "flipped" / run
    folder.mkdir(parents=True)
    files = {n: c for n, c in uninterrupted.items() if "." in n}
    for name, content in files.items():
        damaged = name in ("chunk_0001.mp4", "chunk_0003.safetensors")
        place = len(content) // 2
        (folder / name).write_bytes(flipped(content, place) if damaged else content)
    result = comfy_client.run(prompt("flipped"), timeout=120)
    assert body_runs(result) == dict.fromkeys(BODY, 2)
    assert contents(folder) == files


def test_resume_can_be_turned_off(comfy_server: ComfyServer, comfy_client: ComfyClient) -> None:
    first = comfy_client.run(shot(37, name="anew"), timeout=60)
    second = comfy_client.run(shot(37, name="anew", resume=False), timeout=60)
    assert body_runs(first) == body_runs(second) == dict.fromkeys(BODY, 2)
    before, after = folders(comfy_server.output, "anew")
    assert after.name == f"{before.name}-2"
    ours, theirs = contents(after), contents(before)
    assert ours.pop("rollout.json") != theirs.pop("rollout.json"), "it says that it is made anew"
    assert ours == theirs
    third = comfy_client.run(shot(37, name="anew", resume=False), timeout=60)
    assert body_runs(third) == dict.fromkeys(BODY, 2)
    assert len(folders(comfy_server.output, "anew")) == 3


def test_folder_of_another_rollout_is_left_alone(
    comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    comfy_client.run(shot(5, name="owner"), timeout=60)
    (folder,) = folders(comfy_server.output, "owner")
    manifest = folder / "rollout.json"
    manifest.write_text(manifest.read_text().replace('"run_id": "', '"run_id": "0'))
    before = contents(folder)
    with pytest.raises(ComfyRunError, match="belongs to another rollout") as caught:
        comfy_client.run(shot(5, name="owner"), timeout=60)
    assert caught.value.exception_type.endswith(".ResumeError")
    assert contents(folder) == before
