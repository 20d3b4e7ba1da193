"""Documents against what they describe: nodes of a running server, files, commands, errors."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.check import LEFT_OUT
from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, PACK_NAME, ComfyServer
from mirage_core import errors
from mirage_core.trajectories.presets import EASINGS, PRESETS

LOCALE = PACK / "locales" / "en" / "nodeDefs.json"
README = PACK / "README.md"
IMAGE_BYTES, ALL_IMAGES_BYTES = 400 * 1024, 2 * 1024 * 1024
HELP_IMAGE_BYTES = 70 * 1024
TABLE_IMAGE_BYTES = 128 * 1024
EVALUATION = PACK / "docs" / "evaluation"
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
UNTRACKED = {".venv", "out", "build", "dist", "node_modules"}


def documents() -> list[Path]:
    """All markdown files of the pack."""
    found = []
    for folder, names, files in os.walk(PACK):
        names[:] = [n for n in names if n not in UNTRACKED and not n.startswith(".")]
        found += [Path(folder) / name for name in files if name.endswith(".md")]
    return sorted(found)


def prose(text: str) -> str:
    """Markdown without code blocks and code spans."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(text: str) -> set[str]:
    """Targets of links to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings}


def links(path: Path) -> Iterator[str]:
    """Links of a document that do not lead to the network."""
    text = prose(path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            yield target


def name_of(path: Path) -> str:
    return path.relative_to(PACK).as_posix()


@pytest.fixture(scope="module")
def nodes(comfy_server: ComfyServer) -> dict[str, Any]:
    """The server's description of every node of the pack."""
    info = ComfyClient(comfy_server.url).object_info()
    return {name: node for name, node in info.items() if name.startswith("Mirage")}


@pytest.fixture(scope="module")
def locale() -> dict[str, Any]:
    return json.loads(LOCALE.read_text(encoding="utf-8"))


def inputs_of(node: dict[str, Any]) -> list[str]:
    order = node["input_order"]
    return [name for group in ("required", "optional") for name in order.get(group, [])]


@pytest.mark.server
class TestNodes:
    def test_every_node_has_one_help_page(self, nodes):
        assert {path.stem for path in (PACK / "js" / "docs").glob("*.md")} == set(nodes)

    def test_help_pages_name_the_node_and_all_of_its_sockets(self, nodes):
        for name, node in nodes.items():
            page = (PACK / "js" / "docs" / f"{name}.md").read_text(encoding="utf-8")
            assert page.startswith(f"# {node['display_name']}\n"), name
            for part in ("## Inputs", "## Outputs", "## Tips", "## Typical errors", "## Example"):
                assert part in page, f"{name} lacks {part}"
            for socket in [*inputs_of(node), *node["output_name"]]:
                assert re.search(rf"\b{re.escape(socket)}\b", page), f"{name} omits {socket}"

    def test_the_browser_gets_help_pages_and_names(self, nodes, locale, comfy_server):
        for name in nodes:
            address = f"{comfy_server.url}/extensions/{PACK_NAME}/docs/{name}.md"
            with DIRECT.open(address, timeout=30) as reply:
                assert reply.read().decode().startswith("# Mirage"), name
        served = ComfyClient(comfy_server.url).get_json("/i18n")
        assert served["en"]["nodeDefs"] == locale

    def test_every_help_page_shows_its_node(self, nodes, comfy_server):
        drawn = {path.stem for path in (PACK / "js" / "docs" / "images").iterdir()}
        again = "python tools pictures.make_node_pictures"
        assert drawn == set(nodes) - {"MirageTrajectory"}, again
        for name in nodes:
            page = PACK / "js" / "docs" / f"{name}.md"
            (target,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
            assert Path(target).name == f"{name}.jpg"
            picture = (page.parent / target).read_bytes()
            address = f"{comfy_server.url}/extensions/{PACK_NAME}/docs/{target}"
            with DIRECT.open(address, timeout=30) as reply:
                assert reply.read() == picture, name
            assert len(picture) < HELP_IMAGE_BYTES, name

    def test_the_locale_has_the_same_nodes_inputs_and_outputs(self, nodes, locale):
        assert set(locale) == set(nodes)
        for name, node in nodes.items():
            entry = locale[name]
            assert entry["display_name"] == node["display_name"]
            assert list(entry.get("inputs", {})) == inputs_of(node), name
            numbers = [str(slot) for slot in range(len(node["output_name"]))]
            assert list(entry.get("outputs", {})) == numbers, name

    def test_english_texts_stand_in_the_schema_alone(self, locale):
        """A tooltip in the locale would hide a later change of the schema's."""
        for name, entry in locale.items():
            assert set(entry) <= {"display_name", "inputs", "outputs"}, name
            sockets = [*entry.get("inputs", {}).values(), *entry.get("outputs", {}).values()]
            assert all(set(socket) == {"name"} and socket["name"] for socket in sockets), name

    def test_the_readme_lists_every_node(self, nodes):
        text = README.read_text(encoding="utf-8")
        for name in nodes:
            assert f"js/docs/{name}.md" in text, name


class TestLinks:
    @pytest.mark.parametrize("path", documents(), ids=name_of)
    def test_relative_links_lead_to_files_and_headings(self, path):
        for target in links(path):
            file, _, heading = target.partition("#")
            place = (path.parent / file).resolve() if file else path
            assert place.exists(), f"{name_of(path)} links to {target}"
            if heading and place.suffix == ".md":
                known = anchors(place.read_text(encoding="utf-8"))
                assert heading in known, f"{name_of(path)} links to {target}"

    @pytest.mark.parametrize("path", documents(), ids=name_of)
    def test_paths_in_backticks_exist(self, path):
        text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
        folders = "tools|tests|mirage_core|nodes|workflows|subgraphs|locales|docs"
        for name in re.findall(rf"`((?:{folders})/[\w/]+(?:\.\w+)?)`", text):
            assert (PACK / name).exists(), f"{name_of(path)} names {name}"

    def test_pictures_are_small(self):
        pictures = [*(PACK / "docs" / "images").iterdir(), *(PACK / "workflows").glob("*.jpg")]
        sizes = {path.name: path.stat().st_size for path in pictures}
        assert max(sizes.values()) < IMAGE_BYTES, sizes
        assert sum(sizes.values()) < ALL_IMAGES_BYTES, sizes

    def test_pictures_of_tables_are_small(self):
        sizes = {path.name: path.stat().st_size for path in EVALUATION.glob("*.jpg")}
        assert max(sizes.values()) < TABLE_IMAGE_BYTES, sizes
        pages = {path.stem for path in EVALUATION.glob("*.md")}
        assert pages - {"README"} <= {Path(name).stem for name in sizes}

    def test_every_workflow_has_a_thumbnail_and_a_line(self):
        listed = (PACK / "workflows" / "README.md").read_text(encoding="utf-8")
        for path in (PACK / "workflows").glob("*.json"):
            assert path.with_suffix(".jpg").exists(), path.name
            assert path.name in listed, path.name


class TestFacts:
    def test_make_commands_are_targets(self):
        makefile = (PACK / "Makefile").read_text(encoding="utf-8")
        targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
        for path in documents():
            named = re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(encoding="utf-8"), re.M)
            assert set(named) <= targets, name_of(path)

    def test_what_the_quick_check_leaves_out_is_described(self):
        """Every marker says what a test needs; none of these is run by the quick check."""
        project = (PACK / "pyproject.toml").read_text(encoding="utf-8")
        (block,) = re.findall(r"^markers = \[\n(.*?)^\]", project, re.M | re.S)
        markers = re.findall(r'^ *"(\w+): ', block, re.M)
        assert list(LEFT_OUT) == markers
        page = (PACK / "CONTRIBUTING.md").read_text(encoding="utf-8")
        assert [name for name in markers if f"| `{name}` |" not in page] == []

    def test_the_readme_opens_with_the_commands(self):
        blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
        assert re.findall(r"^make (\w+)", blocks[0], re.M) == ["demo", "check", "test", "comfy"]

    def test_every_error_class_has_an_entry(self):
        text = (PACK / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
        classes = {name for name, item in vars(errors).items() if inspect.isclass(item)}
        assert set(re.findall(r"^### (\w+Error)$", text, re.M)) == classes

    def test_messages_of_the_troubleshooting_page_are_raised_somewhere(self):
        text = (PACK / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
        section = text.split("## Errors")[1].split("## The nodes are missing")[0]
        code = "".join(
            path.read_text(encoding="utf-8")
            for folder in ("mirage_core", "nodes")
            for path in (PACK / folder).rglob("*.py")
        )
        messages = set(re.findall(r"^\| ([^|]+) \|", section, re.M)) - {"message", "---"}
        assert len(messages) > 20
        for part in {part.strip() for message in messages for part in message.split("...")}:
            assert part in code, f"no error says {part!r}"

    def test_presets_and_easings_are_described(self):
        page = (PACK / "js" / "docs" / "MirageTrajectory.md").read_text(encoding="utf-8")
        for name in (*PRESETS, *EASINGS):
            assert re.search(rf"\b{name}\b", page), name
        assert f"{len(PRESETS)} presets" in README.read_text(encoding="utf-8")

    @pytest.mark.processes
    def test_the_readme_program_runs(self, tmp_path):
        text = README.read_text(encoding="utf-8")
        (program,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"\d+ points, \d+\.\d% of the cells unseen\n", done.stdout)
        assert (tmp_path / "preview.mp4").stat().st_size > 0
