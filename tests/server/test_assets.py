"""What the browser fetches from the pack: templates, blueprints, help pages, texts."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from typing import Any

import pytest
from PIL import Image

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer

pytestmark = pytest.mark.server

WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))
BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def nodes(comfy_server: ComfyServer) -> dict[str, Any]:
    info = ComfyClient(comfy_server.url).object_info()
    return {n: i for n, i in info.items() if i["python_module"] == "custom_nodes.mirage"}


def get(client: ComfyClient, path: str) -> bytes:
    with OPENER.open(client.url + urllib.parse.quote(path), timeout=60) as reply:
        return bytes(reply.read())


def test_templates_are_listed_and_served(comfy_client: ComfyClient) -> None:
    listed = comfy_client.get_json("/workflow_templates")["mirage"]
    assert sorted(listed) == [path.stem for path in WORKFLOWS] != []
    for path in WORKFLOWS:
        served = get(comfy_client, f"/api/workflow_templates/mirage/{path.name}")
        assert served == path.read_bytes()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_template_has_a_picture(comfy_client: ComfyClient, path: Any) -> None:
    picture = path.with_suffix(".jpg")
    served = get(comfy_client, f"/api/workflow_templates/mirage/{picture.name}")
    assert served == picture.read_bytes()
    assert len(served) < 300_000
    with Image.open(picture) as image:
        assert image.format == "JPEG" and min(image.size) >= 256


def test_blueprints_are_listed_and_served(comfy_client: ComfyClient) -> None:
    listed = {
        entry["name"]: (key, entry)
        for key, entry in comfy_client.get_json("/global_subgraphs").items()
        if entry["info"]["node_pack"] == "custom_nodes.mirage"
    }
    assert sorted(listed) == sorted(path.stem for path in BLUEPRINTS) != []
    for path in BLUEPRINTS:
        key, entry = listed[path.stem]
        assert entry["source"] == "custom_node"
        content = json.loads(comfy_client.get_json(f"/global_subgraphs/{key}")["data"])
        assert content == json.loads(path.read_text(encoding="utf-8"))
        (host,) = content["nodes"]
        first = content["definitions"]["subgraphs"][0]
        assert (host["type"], first["name"]) == (first["id"], path.stem)
        assert first["category"] == "Mirage" and first["description"]


def test_every_node_has_a_help_page(comfy_client: ComfyClient, nodes: dict[str, Any]) -> None:
    for name in nodes:
        page = get(comfy_client, f"/extensions/mirage/docs/{name}.md").decode()
        assert page.startswith("# "), f"{name}: a help page begins with a heading"
        for key in ("required", "optional"):
            for field in nodes[name]["input"].get(key, {}):
                assert field in page, f"the help page of {name} does not mention {field}"


def test_no_help_page_is_left_over(nodes: dict[str, Any]) -> None:
    pages = {path.stem for path in (PACK / "js" / "docs").glob("*.md")}
    assert pages == set(nodes)


def test_texts_name_what_there_is(comfy_client: ComfyClient, nodes: dict[str, Any]) -> None:
    texts = comfy_client.get_json("/i18n")["en"]["nodeDefs"]
    ours = {name: entry for name, entry in texts.items() if name.startswith("Mirage")}
    assert set(ours) == set(nodes)
    for name, entry in ours.items():
        info = nodes[name]
        fields = {f for group in ("required", "optional") for f in info["input"].get(group, {})}
        assert set(entry.get("inputs", {})) <= fields, name
        assert set(entry.get("outputs", {})) <= set(map(str, range(len(info["output"])))), name
        assert set(entry) <= {"display_name", "description", "inputs", "outputs"}, name
        assert entry.get("display_name", info["display_name"]) == info["display_name"]
