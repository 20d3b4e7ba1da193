"""What the registry hands out: unpacked and run by a ComfyUI that has nothing else of the pack."""

from __future__ import annotations

import ast
import json
import re
import zipfile
from pathlib import Path

import pytest

from dev import package
from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer
from dev.comfy_source import SetupError
from workflows.flatten import flatten

LEFT_OUT = ("tests", "tools", "benchmarks", "docs/images", "docs/benchmarks", ".ci")
SMALL = {"width": 192, "height": 128, "frames": 33}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return package.build(tmp_path_factory.mktemp("package") / "mirage.zip")
    except SetupError as error:
        pytest.skip(str(error))


def test_it_is_small_and_holds_what_users_need(archive: Path) -> None:
    names = zipfile.ZipFile(archive).namelist()
    assert archive.stat().st_size < package.MAX_BYTES
    assert not [name for name in names if name.startswith(tuple(f"{x}/" for x in LEFT_OUT))]
    tracked = {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"}
    assert tracked <= set(names)
    for folder in ("nodes", "mirage_core", "js", "locales", "workflows", "subgraphs"):
        here = {
            path.relative_to(PACK).as_posix()
            for path in (PACK / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert here == {name for name in names if name.startswith(f"{folder}/")}


def imports(path: str, code: str) -> set[str]:
    """What a file of the pack imports, relative names from the pack's own folder."""
    found = set()
    for item in ast.walk(ast.parse(code)):
        if isinstance(item, ast.Import):
            found |= {alias.name for alias in item.names}
        elif isinstance(item, ast.ImportFrom):
            above = Path(path).parts[: -item.level] if item.level else ()
            found.add(".".join([*(("",) if item.level else ()), *above, item.module or ""]))
    return found


def test_what_ships_imports_nothing_that_is_left_out(archive: Path) -> None:
    packed = zipfile.ZipFile(archive)
    names = set(packed.namelist())
    seen = set()
    for path in sorted(name for name in names if name.endswith(".py")):
        for module in imports(path, packed.read(path).decode("utf-8")):
            place = module.strip(".").replace(".", "/")
            seen.add(place)
            if module.startswith("."):
                assert {f"{place}.py", f"{place}/__init__.py"} & names or not place, (path, module)
            else:
                # The examples are for programs; in ComfyUI the pack's library has no such name.
                own = {"tests", "tools", "benchmarks", "dev", "pictures", "workflows"}
                own |= set() if path.startswith("docs/examples/") else {"mirage_core"}
                assert place.split("/")[0] not in own, (path, module)
    assert {"mirage_core/readout/readout", "nodes/comfy/vae"} <= seen


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as packed:
        packed.writestr("../outside.py", "")
    with pytest.raises(SetupError, match="lead out"):
        package.install(tmp_path / "bad.zip", tmp_path / "nodes")


@pytest.mark.server
def test_the_first_shot_runs_from_it(archive: Path, comfyui_path: Path, tmp_path: Path) -> None:
    pack = package.install(archive, tmp_path / "unpacked")
    assert (pack / package.TRACKING).read_text(encoding="utf-8").splitlines()
    base = tmp_path / "comfy"
    with ComfyServer(base, comfyui=comfyui_path, pack=pack) as server:
        client = ComfyClient(server.url)
        path = pack / "workflows" / f"mirage_{package.SHOT}.json"
        info = client.object_info()
        prompt = flatten(json.loads(path.read_text(encoding="utf-8")), info)
        for content in prompt.values():
            kept = content["inputs"]
            kept |= {key: value for key, value in SMALL.items() if isinstance(kept.get(key), int)}
        assert client.run(prompt, timeout=120).status == "success"
        assert list(server.output.rglob("*.mp4"))
    assert {name for name in info if name.startswith("Mirage")} == registered()


def registered() -> set[str]:
    """Ids of all nodes that the checkout's sources define."""
    sources = (path.read_text(encoding="utf-8") for path in (PACK / "nodes").glob("*.py"))
    return {name for text in sources for name in re.findall(r'node_id="(Mirage\w+)"', text)}
