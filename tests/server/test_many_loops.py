"""Several loops, shots and servers, and every cache of ComfyUI's: no shot gets another's chunks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.comfy_client import ComfyClient, ComfyRunError
from dev.comfy_server import ComfyServer
from mirage_core.folder_lock import HOLDER

from .prompts import (
    BODY,
    Prompt,
    body_runs,
    contents,
    folders,
    loop,
    node,
    once_in,
    runs_of,
    shot,
)

pytestmark = pytest.mark.server

SECOND = "second_"
"""Prefix of a loop that was pasted."""


@pytest.fixture(scope="module")
def classic(
    comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server with the old cache."""
    base = tmp_path_factory.mktemp("classic")
    options = {"env": {"OMP_NUM_THREADS": "1"}, "extra_args": ["--cache-classic"]}
    with ComfyServer(base, comfyui=comfyui_path, **options) as server:
        yield server


@pytest.fixture(scope="module")
def least_recent(
    comfyui_path: Path, classic: ComfyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server with the third cache, and with the output folder of the one with the old cache."""
    arguments = ["--cache-lru", "100", "--output-directory", str(classic.output)]
    options = {"env": {"OMP_NUM_THREADS": "1"}, "extra_args": arguments}
    base = tmp_path_factory.mktemp("lru")
    with ComfyServer(base, comfyui=comfyui_path, **options) as server:
        yield server


def every(count: int) -> dict[str, int]:
    return dict.fromkeys(BODY, count)


def pasted(prompt: Prompt, shared: tuple[str, ...] = ("start",)) -> Prompt:
    """The loop of a shot once more, with its links: what pasting it adds to the graph."""
    names = {name: SECOND + name for name in loop() if name not in shared}

    def led(value: Any) -> Any:
        return [names.get(value[0], value[0]), value[1]] if isinstance(value, list) else value

    return {
        copy: {
            "class_type": prompt[name]["class_type"],
            "inputs": {key: led(value) for key, value in prompt[name]["inputs"].items()},
        }
        for name, copy in names.items()
    }


def inverted(prompt: Prompt) -> Prompt:
    """A pasted loop that inverts the frames before it writes them."""
    invert = node("ImageInvert", image=[f"{SECOND}decode", 0])
    prompt[f"{SECOND}update"]["inputs"]["images"] = ["invert", 0]
    return prompt | {"invert": invert}


def by_content(server: ComfyServer, name: str) -> dict[str, dict[str, bytes]]:
    """The files of every rollout that was saved under a name."""
    return {folder.name: contents(folder) for folder in folders(server.output, name)}


def test_two_loops_on_one_start_are_two_shots(
    comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    """Each loop makes what it makes alone, bit for bit, and goes on as what it is."""
    both = shot(97, name="both")
    both |= inverted(pasted(both))
    alone = shot(97, name="first"), shot(97, name="second")
    second = alone[1] | inverted(pasted(alone[1]))
    for name in loop():
        if name != "start":
            del second[name]
    for prompt in (both, alone[0], second):
        comfy_client.run(prompt, timeout=120)
    made = by_content(comfy_server, "both")
    assert len(made) == 2
    assert made == by_content(comfy_server, "first") | by_content(comfy_server, "second")
    again = comfy_client.run(both, timeout=60)
    assert body_runs(again) == {**every(0), "open": 1}
    assert runs_of(again, f"{SECOND}open") == 1 and runs_of(again, f"{SECOND}fill") == 0
    assert by_content(comfy_server, "both") == made


def test_a_pasted_loop_that_differs_in_nothing_is_a_shot_too(
    comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    prompt = shot(65, name="twins")
    result = comfy_client.run(prompt | pasted(prompt), timeout=120)
    assert body_runs(result) == every(2)
    assert runs_of(result, f"{SECOND}fill") == 2
    first, second = by_content(comfy_server, "twins").values()
    assert first["video.mp4"] == second["video.mp4"]


def test_a_shot_that_goes_on_from_another_does_not_make_it_anew(
    comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    prompt = shot(65, name="before")
    prompt |= pasted(prompt, shared=())
    prompt[f"{SECOND}start"]["inputs"] |= {"cache": ["result", 2], "name": "after"}
    first = comfy_client.run(prompt, timeout=120)
    assert body_runs(first) == every(2) and runs_of(first, f"{SECOND}fill") == 2
    made = by_content(comfy_server, "before")
    for changes in ({"policy": "append"}, {"drop_flying": False}):
        prompt[f"{SECOND}update"]["inputs"] |= changes
        edited = comfy_client.run(prompt, timeout=120)
        assert body_runs(edited) == {**every(0), "open": 1}
        assert runs_of(edited, f"{SECOND}fill") == 2
        assert by_content(comfy_server, "before") == made
    assert len(by_content(comfy_server, "after")) == 3


@pytest.mark.parametrize("kind", ["classic", "least_recent"])
def test_no_cache_gives_chunks_of_another_folder(
    kind: str, classic: ComfyServer, request: pytest.FixtureRequest
) -> None:
    """A name or ``resume`` that changes between two runs, and files that go."""
    server: ComfyServer = request.getfixturevalue(kind)
    client, output = ComfyClient(server.url), classic.output
    names = f"{kind}_a", f"{kind}_b"
    for name in names:
        assert body_runs(client.run(shot(97, name=name), timeout=120)) == every(3)
    (first,), (second,) = (folders(output, name) for name in names)
    expected = contents(first)
    assert len([name for name in expected if name.endswith(".mp4")]) == 4
    assert contents(second) == expected

    anew = client.run(shot(97, name=names[0], resume=False), timeout=120)
    assert body_runs(anew) == every(3)
    other = folders(output, names[0])[-1]
    made = contents(other)
    assert made.pop("rollout.json") != expected["rollout.json"], "it says that it is made anew"
    assert made.items() < expected.items()

    for folder in (first, other):
        shutil.rmtree(folder)
    assert body_runs(client.run(shot(97, name=names[0]), timeout=120)) == every(3)
    assert contents(first) == expected

    for path in first.glob("chunk_000[12].*"):
        path.unlink()
    assert body_runs(client.run(shot(97, name=names[0]), timeout=120)) == every(2)
    assert contents(first) == expected


def slow(name: str) -> Prompt:
    """Frames large enough that drawing a chunk takes far longer than a request."""
    return shot(97, width=384, height=256, preset="orbit", name=name)


def test_a_second_server_is_told_who_works_on_a_shot(
    classic: ComfyServer, least_recent: ComfyServer
) -> None:
    refused: list[ComfyRunError] = []

    def meanwhile() -> None:
        with pytest.raises(ComfyRunError) as caught:
            ComfyClient(least_recent.url).run(slow("shared"), timeout=120)
        refused.append(caught.value)

    client = ComfyClient(classic.url)
    result = client.run(slow("shared"), on_progress=once_in(2, 1, meanwhile), timeout=120)
    assert body_runs(result) == every(3)
    (error,) = refused
    assert error.exception_type.endswith(".FolderInUseError")
    assert f"process {classic.pid} on" in str(error)
    (folder,) = folders(classic.output, "shared")
    expect_let_go(folder)
    again = ComfyClient(least_recent.url).run(slow("shared"), timeout=120)
    assert body_runs(again) == {**every(0), "open": 1}


def test_an_interrupted_prompt_lets_go_of_its_shot(
    classic: ComfyServer, least_recent: ComfyServer
) -> None:
    client = ComfyClient(classic.url)
    stop = once_in(2, 1, client.interrupt)
    result = client.run(slow("let_go"), on_progress=stop, timeout=120)
    assert result.status == "interrupted"
    (folder,) = folders(classic.output, "let_go")
    expect_let_go(folder)
    again = ComfyClient(least_recent.url).run(slow("let_go"), timeout=120)
    assert body_runs(again) == every(2)


def expect_let_go(folder: Path) -> None:
    """The server lets go of a folder within moments of the prompt's end."""
    deadline = time.monotonic() + 60
    while (folder / HOLDER).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
