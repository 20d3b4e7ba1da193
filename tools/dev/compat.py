"""``make compat``: a small first shot with other versions of Python, ComfyUI and its frontend.

Prints a line of the table in docs/reliability.md for each. A Python is a version that PATH has,
such as 3.13, or a path; it gets ComfyUI's requirements and the pack's in out/compat, some GB each,
but for the version that .venv has. COMFYUI_PATH names another ComfyUI. ``--frontend`` runs the
browser's first-run test with another frontend than ComfyUI requires: a version, or "newest".
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dev.bootstrap import TORCH
from dev.comfy_client import ComfyClient, ComfyClientError
from dev.comfy_server import PACK, ComfyServer, ServerError
from dev.comfy_source import SetupError, comfyui_location
from workflows.flatten import flatten

HOME = PACK / "out" / "compat"
PYTHONS = ("3.10", "3.11", "3.13")
SMALL = {"width": 320, "height": 192, "frames": 33}
WORKFLOW = PACK / "workflows" / "mirage_first_shot.json"
FRONTEND = "comfyui-frontend-package"
FIRST_RUN = "tests/browser/test_first_run.py"


def find_python(wanted: str) -> Path | None:
    """A Python that runs, by version or path; None where there is none."""
    found = shutil.which(wanted if os.sep in wanted else f"python{wanted}")
    runs = found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0
    return Path(found) if found and runs else None


def pip(python: Path, *options: str) -> None:
    """Run pip, and raise SetupError where it fails."""
    command = [str(python), "-m", "pip", "install", "--quiet", *options]
    if subprocess.run(command).returncode != 0:
        raise SetupError(f"`{' '.join(command)}` failed; its output is above.")


def environment(python: Path) -> Path:
    """The interpreter of an environment with all that ComfyUI and the pack need."""
    ask = [str(python), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(sys.executable)
    place = HOME / version
    inside = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not inside.exists():
        subprocess.run([str(python), "-m", "venv", str(place)], check=True)
    pip(
        inside, *TORCH, "-r", str(comfyui_location() / "requirements.txt"),
        "-r", str(PACK / "requirements.txt"),
    )  # fmt: skip
    return inside


def first_shot(python: Path) -> dict[str, Any]:
    """What a server on this interpreter says of itself, and how its first shot ended."""
    with tempfile.TemporaryDirectory(prefix="mirage-compat-") as base:
        with ComfyServer(base, python=python) as server:
            client = ComfyClient(server.url)
            system = client.system_stats()["system"]
            workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
            prompt = flatten(workflow, client.object_info())
            for content in prompt.values():
                kept = content["inputs"]
                kept |= {k: v for k, v in SMALL.items() if isinstance(kept.get(k), int)}
            result = client.run(prompt, timeout=900)
            videos = [path for path in server.output.rglob("*.mp4") if path.stat().st_size]
    return {**system, "shot": "made" if result.status == "success" and videos else result.status}


def line(found: dict[str, Any]) -> str:
    """A line of the table."""
    cells = (
        found["comfyui_version"], found["python_version"].split()[0], found["pytorch_version"],
        found.get("installed_frontend_version") or found.get("required_frontend_version", "?"),
        found["shot"],
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def with_frontend(version: str) -> str:
    """Run the first-run test in a browser with another frontend; returns what came of it."""
    place = HOME / "frontend"
    shutil.rmtree(place, ignore_errors=True)
    wanted = FRONTEND if version == "newest" else f"{FRONTEND}=={version}"
    pip(Path(sys.executable), "--no-deps", "--target", str(place), wanted)
    (info,) = place.glob("comfyui_frontend_package-*.dist-info")
    version = info.name.removesuffix(".dist-info").rpartition("-")[2]
    # Not by -m, which puts the checkout on the path: its package `nodes` would shadow ComfyUI's.
    pytest = Path(sys.executable).with_name("pytest")
    command = [str(pytest), "-q", "-p", "no:xdist", FIRST_RUN]
    static = place / "comfyui_frontend_package" / "static"
    known = os.environ | {"MIRAGE_FRONTEND_ROOT": str(static)}
    done = subprocess.run(command, cwd=PACK, env=known, capture_output=True, text=True)
    return f"frontend {version}, {FIRST_RUN}: {done.stdout.strip().splitlines()[-1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", nargs="*", default=list(PYTHONS), help="versions or paths")
    parser.add_argument("--frontend", help="a version of the frontend, or newest")
    given = parser.parse_args()
    failed = False
    for wanted in given.python:
        python = find_python(wanted)
        if python is None:
            print(f"Python {wanted} is not on this machine: not run", flush=True)
            continue
        try:
            print(line(first_shot(environment(python))), flush=True)
        except (SetupError, ServerError, ComfyClientError) as error:
            failed = True
            print(f"Python {wanted}: {error}", flush=True)
    if given.frontend:
        print(with_frontend(given.frontend), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
