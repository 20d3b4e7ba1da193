"""A graph of ComfyUI is judged as the library's own systems are: asked for, made, measured."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dev.comfy_client import ComfyClient
from dev.comfy_server import ComfyServer
from mirage_core.cli.main import main
from mirage_core.evaluation.elsewhere import DEPTH, PICTURE, TRAJECTORY
from mirage_core.evaluation.report import read_report
from mirage_core.rollout.run_folder import VIDEO

from .prompts import Prompt, folders, loop, memory, node

pytestmark = [pytest.mark.server, pytest.mark.rooms]

SIZE = ("--tiny", "--rooms", "1", "--size", "96x64", "--frames", "33")


def graph(folder: str) -> Prompt:
    """The preview of what a folder of the server's input asks for; new frames have its depth."""
    prompt = memory(image=["picture", 0], geometry=["first", 0]) | loop(folder)
    prompt["update"]["inputs"]["geometry"] = ["whole", 0]
    return prompt | {
        "codec": node("MirageEmbeddedCodec"),
        "picture": node("LoadImage", image=f"{folder}/{PICTURE}"),
        "first": node("MirageGeometryLoad", file=f"{folder}/first_depth.safetensors", fov=60.0),
        "whole": node("MirageGeometryLoad", file=f"{folder}/{DEPTH}", fov=60.0),
        "move": node("MirageTrajectoryLoad", file=f"{folder}/{TRAJECTORY}"),
    }


def test_the_preview_as_a_graph_gets_the_numbers_of_the_preview(
    comfy_server: ComfyServer, comfy_client: ComfyClient, tmp_path: Path
) -> None:
    videos = comfy_server.input / "asked"
    ask = ["evaluate", "re10k", *SIZE, "--model", "videos", "--videos", str(videos)]
    main([*ask, "--out", str(tmp_path / "graph")])
    asked = sorted(path.name for path in videos.iterdir())
    assert len(asked) == 2
    for name in asked:
        comfy_client.run(graph(f"asked/{name}"), timeout=300)
        (made,) = folders(comfy_server.output, f"asked/{name}")
        shutil.copy(made / VIDEO, videos / name / "video.mp4")
    assert main([*ask, "--out", str(tmp_path / "graph"), "--retry"]) == 0
    words = ["evaluate", "re10k", *SIZE, "--model", "preview", "--out", str(tmp_path / "own")]
    assert main(words) == 0
    (found,) = (item["asked"] for item in read_report(tmp_path / "graph").items.values())
    (expected,) = (item["preview"] for item in read_report(tmp_path / "own").items.values())
    assert found["psnr"] == pytest.approx(expected["psnr"], abs=0.7)
    assert found["psnr_c"] == pytest.approx(expected["psnr_c"], abs=2.5)
