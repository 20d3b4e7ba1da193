"""A shot with a longer or another end, queued in a real ComfyUI: only what is new is made."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from dev.comfy_client import ComfyClient
from dev.comfy_server import ComfyServer

from .prompts import BODY, Prompt, body_runs, contents, folders, loop, memory, move, node, scene

pytestmark = pytest.mark.server


def walk(keys: str, **settings: object) -> Prompt:
    """A shot whose camera walks as the keys say."""
    return scene() | move(keys=keys) | memory() | loop(**settings)


def every(count: int) -> dict[str, int]:
    return dict.fromkeys(BODY, count)


@pytest.mark.parametrize(
    ("keys", "made", "taken"),
    [("w*64 d*32", 1, "2 of 3"), ("w*32 a*32", 1, "1 of 2"), ("w*32", 0, "1 of 1")],
    ids=["longer", "another end", "shorter"],
)
def test_only_new_chunks_are_made(
    comfy_server: ComfyServer,
    comfy_client: ComfyClient,
    other_server: ComfyServer,
    other_client: ComfyClient,
    keys: str,
    made: int,
    taken: str,
) -> None:
    """The same chunks and the same video as on a server that made no other shot."""
    name = f"goes_on_{taken[0]}_{made}"
    first = comfy_client.run(walk("w*64", name=name), timeout=120)
    assert body_runs(first) == every(2)
    (old,) = folders(comfy_server.output, name)
    before = contents(old)
    result = comfy_client.run(walk(keys, name=name), timeout=120)
    assert body_runs(result) == {**every(made), "open": max(made, 1)}
    (new,) = (path for path in folders(comfy_server.output, name) if path != old)
    (report,) = result.outputs["result"]["text"]
    assert f"{taken} chunks taken over from {old.name}" in report
    other_client.run(walk(keys, name=name), timeout=120)
    (fresh,) = folders(other_server.output, name)
    assert contents(new) == contents(fresh)
    assert contents(old) == before

    shutil.rmtree(old)
    again = comfy_client.run(walk(keys, name=name), timeout=60)
    assert body_runs(again) == {**every(0), "open": 1}
    assert contents(new) == contents(fresh)


def test_a_setting_of_the_loop_takes_nothing_over(comfy_client: ComfyClient) -> None:
    comfy_client.run(walk("w*32", name="set"), timeout=120)
    for changes in ({"policy": "append"}, {"seed": 1}):
        result = comfy_client.run(walk("w*64", name="set", **changes), timeout=120)
        assert body_runs(result) == every(2), changes
    assert body_runs(comfy_client.run(walk("w*64", name="set"), timeout=120)) == every(1)


def test_another_file_under_the_same_name_makes_all_anew(
    comfy_server: ComfyServer, comfy_client: ComfyClient
) -> None:
    """A mask that the loop reads by its name; the shot with the old one is kept and found again."""
    mask = comfy_server.input / "left_out.png"

    def run(level: int) -> int:
        Image.new("RGB", (64, 64), (level, 0, 0)).save(mask)
        with_mask = walk("w*32", name="files")
        with_mask["mask"] = node("LoadImageMask", image=mask.name, channel="red")
        with_mask["update"]["inputs"]["exclude"] = ["mask", 0]
        return body_runs(comfy_client.run(with_mask, timeout=120))["update"]

    assert run(0) == 1
    (folder,) = folders(comfy_server.output, "files")
    before = contents(folder)
    assert run(1) == 1
    assert contents(folder.with_name(f"{folder.name}.take-1")) == before
    assert run(1) == 0
    assert run(0) == 0
    assert contents(folder) == before


def test_off_makes_all_anew(comfy_client: ComfyClient) -> None:
    comfy_client.run(walk("w*32", name="off"), timeout=120)
    anew = walk("w*64", name="off", resume=False)
    assert body_runs(comfy_client.run(anew, timeout=120)) == every(2)


def test_another_name_is_another_place(comfy_client: ComfyClient) -> None:
    comfy_client.run(walk("w*32", name="here"), timeout=120)
    assert body_runs(comfy_client.run(walk("w*64", name="there"), timeout=120)) == every(2)


def test_a_walk_makes_one_chunk_for_each_queue(comfy_client: ComfyClient) -> None:
    """Queued again and again with a path that is a short chunk longer, the shot alone wanted."""
    lengths = {"first_chunk_frames": 9, "chunk_frames": 9}
    path: list[str] = []
    for key in ("w", "wl", "d", "sa"):
        path.append(f"{key}*8")
        prompt = walk(" ".join(path), name="walked", **lengths)
        result = comfy_client.run(prompt, timeout=120, targets=["result"])
        assert body_runs(result) == every(1), path
        news = [data for kind, data in result.messages if kind == "mirage.chunk"]
        assert [(one["done"], one["chunks"]) for one in news] == [(len(path), len(path))]
