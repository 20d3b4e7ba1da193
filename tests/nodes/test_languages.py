"""Texts of the interface: every one is there, and in every language the pack comes with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer

LOCALES = sorted(path for path in (PACK / "locales").iterdir() if path.is_dir())
OTHERS = [path for path in LOCALES if path.name != "en"]
OFFERED = {"en", "zh", "zh-TW", "ru", "ja", "ko", "fr", "es", "ar", "tr", "pt-BR", "fa"}
"""Languages that ComfyUI's settings offer."""


def texts(folder: Path, name: str = "main") -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def by_name(path: Path) -> str:
    return path.name


def test_there_is_a_second_language_that_can_be_chosen() -> None:
    assert len(LOCALES) >= 2 and {path.name for path in LOCALES} <= OFFERED


@pytest.mark.parametrize("folder", OTHERS, ids=by_name)
def test_the_widgets_speak_every_language(folder: Path) -> None:
    english, other = texts(PACK / "locales" / "en")["mirage"], texts(folder)["mirage"]
    assert list(other) == list(english)
    for key, text in english.items():
        assert other[key].strip(), key
        assert sorted(re.findall(r"\{\w+\}", other[key])) == sorted(re.findall(r"\{\w+\}", text))


def test_no_text_is_missing_or_left_over() -> None:
    known = set(texts(PACK / "locales" / "en")["mirage"])
    modules = [path.read_text(encoding="utf-8") for path in (PACK / "js").rglob("*.mjs")]
    source = "\n".join(modules)
    called = set(re.findall(r"\btext\(\s*\"(\w+)\"", source))
    assert called <= known, called - known
    written = set(re.findall(r"\"(\w+)\"", source))
    made = {f"{stem}_" for stem in re.findall(r"`(\w+)_\$\{", source)}
    unused = {
        key for key in known - called - written if not any(key.startswith(stem) for stem in made)
    }
    assert unused == set()


@pytest.mark.server
@pytest.mark.parametrize("folder", OTHERS, ids=by_name)
def test_nodes_are_translated_completely(comfy_server: ComfyServer, folder: Path) -> None:
    info = ComfyClient(comfy_server.url).object_info()
    nodes = {k: v for k, v in info.items() if v["python_module"] == "custom_nodes.mirage"}
    found = texts(folder, "nodeDefs")
    assert set(found) == set(nodes)
    for name, node in nodes.items():
        entry = found[name]
        assert entry["display_name"] and entry["description"], name
        inputs = [key for group in ("required", "optional")
                  for key in node["input_order"].get(group, [])]  # fmt: skip
        assert list(entry.get("inputs", {})) == inputs, name
        assert all(item["name"] and item["tooltip"] for item in entry.get("inputs", {}).values())
        slots = [str(slot) for slot in range(len(node["output"]))]
        assert list(entry.get("outputs", {})) == slots, name


@pytest.mark.server
def test_the_server_hands_out_all_languages(comfy_server: ComfyServer) -> None:
    served = ComfyClient(comfy_server.url).get_json("/i18n")
    for folder in LOCALES:
        assert served[folder.name]["mirage"] == texts(folder)["mirage"]


@pytest.mark.parametrize(
    "page",
    sorted(page for name in OTHERS for page in (PACK / "js" / "docs").glob(f"*/{name.name}.md")),
    ids=lambda page: f"{page.parent.name}/{page.stem}",
)
def test_a_translated_help_page_names_the_node_and_all_of_its_sockets(page: Path) -> None:
    """The page lies where ComfyUI looks for it first, and has what the English one has."""
    node = texts(PACK / "locales" / page.stem, "nodeDefs")[page.parent.name]
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {node['display_name']}\n")
    english = page.parent.with_suffix(".md").read_text(encoding="utf-8")
    for sign in ("## ", "\n- ", "\n| "):
        assert text.count(sign) == english.count(sign), sign
    for socket in [*node["inputs"].values(), *node["outputs"].values()]:
        assert re.search(rf"(?<!\w){re.escape(socket['name'])}(?!\w)", text), socket["name"]


def test_actors_are_explained_in_every_language() -> None:
    for folder in OTHERS:
        for name in ("MirageActor", "MiragePlaceActor", "MirageTracks", "MirageEmbeddedMovers"):
            assert (PACK / "js" / "docs" / name / f"{folder.name}.md").is_file()
