"""What saved workflows rely on: node ids, sockets, widgets, defaults and categories.

``UPDATE_SNAPSHOT=1 pytest tests/nodes/test_snapshot.py`` takes up additions; what would break a
saved workflow needs ``UPDATE_SNAPSHOT=breaking``.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dev.comfy_client import ComfyClient

SNAPSHOT = Path(__file__).with_name("snapshot.json")
RULES = ("default", "min", "max", "step", "options", "multiline", "control_after_generate")
FILE_CHOICES = {
    ("MirageCacheLoad", "file"),
    ("MirageTrajectoryLoad", "file"),
    ("MirageTrajectoryImport", "file"),
    ("MirageGeometryLoad", "file"),
    ("MirageLoadEstimator", "folder"),
    ("MirageLoadBranch", "branch_name"),
    ("MirageLaterLora", "lora_name"),
    ("MirageSplitCheckpoint", "model_name"),
}
"""Choices that list what is on the machine."""

Snapshot = dict[str, dict[str, Any]]


def take(object_info: dict[str, Any]) -> Snapshot:
    """The guarded part of the server's answer to /object_info."""
    return {
        name: describe(name, info)
        for name, info in sorted(object_info.items())
        if info["python_module"] == "custom_nodes.mirage"
    }


def describe(name: str, info: dict[str, Any]) -> dict[str, Any]:
    inputs = []
    for group in ("required", "optional"):
        for key in info["input_order"].get(group, []):
            kind, options = info["input"][group][key]
            entry = {"name": key, "type": kind, "optional": group == "optional"}
            entry |= {rule: options[rule] for rule in RULES if rule in options}
            if (name, key) in FILE_CHOICES:
                entry["options"] = "files"
            inputs.append(entry)
    return {
        "category": info["category"],
        "output_node": info["output_node"],
        "inputs": inputs,
        "outputs": [
            {"name": key, "type": kind}
            for key, kind in zip(info["output_name"], info["output"], strict=True)
        ],
    }


def breaks(old: Snapshot, new: Snapshot) -> list[str]:
    """What a workflow saved with ``old`` would miss in ``new``, one line each."""
    found = [f"{name} is gone" for name in old if name not in new]
    for name in old.keys() & new.keys():
        before, after = old[name], new[name]
        for key in ("inputs", "outputs"):
            kept = zip(before[key], after[key], strict=False)
            if len(after[key]) < len(before[key]) or not all(fits(a, b) for a, b in kept):
                found.append(f"{name}: its {key} changed")
        added = after["inputs"][len(before["inputs"]) :]
        found += [f"{name}: {i['name']} is new and required" for i in added if not i["optional"]]
        if before["output_node"] != after["output_node"]:
            found.append(f"{name}: output node or not changed")
    return sorted(found)


def fits(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a saved socket or widget still means the same; choices may have been added.

    So may types that an input takes.
    """
    types = [set(str(socket["type"]).split(",")) for socket in (old, new)]
    if "optional" in old and types[0] < types[1]:
        return fits(old, new | {"type": old["type"]})
    if isinstance(old.get("options"), list) and isinstance(new.get("options"), list):
        return set(old["options"]) <= set(new["options"]) and fits(
            old | {"options": None}, new | {"options": None}
        )
    return old == new


@pytest.fixture(scope="module")
def object_info(comfy_server: Any) -> dict[str, Any]:
    return ComfyClient(comfy_server.url).object_info()


@pytest.mark.server
def test_every_node_is_registered(pack: ModuleType, object_info: dict[str, Any]) -> None:
    ids = [node.GET_SCHEMA().node_id for node in pack.nodes.NODES]
    assert len(set(ids)) == len(ids)
    assert set(ids) == set(take(object_info))
    assert all(node.__name__ == name for node, name in zip(pack.nodes.NODES, ids, strict=True))


@pytest.mark.server
def test_every_node_explains_itself(object_info: dict[str, Any]) -> None:
    for name in take(object_info):
        info = object_info[name]
        assert name.startswith("Mirage") and info["display_name"].startswith("Mirage ")
        assert info["category"].startswith("Mirage/")
        assert info["description"].endswith(".") and info["search_aliases"], name
        for group in ("required", "optional"):
            for key, (_, options) in info["input"].get(group, {}).items():
                assert options.get("tooltip", "").endswith("."), f"{name}.{key} has no tooltip"


@pytest.mark.server
def test_nodes_are_those_of_the_snapshot(object_info: dict[str, Any]) -> None:
    new = take(object_info)
    old = json.loads(SNAPSHOT.read_text(encoding="utf-8")) if SNAPSHOT.exists() else {}
    wish = os.environ.get("UPDATE_SNAPSHOT")
    if wish and (wish == "breaking" or not breaks(old, new)):
        SNAPSHOT.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
        old = new
    assert breaks(old, new) == [], "saved workflows would break"
    assert new == old, "nodes changed: run this test with UPDATE_SNAPSHOT=1 and commit the result"


OLD: Snapshot = {
    "A": {
        "category": "Mirage/x",
        "output_node": False,
        "inputs": [{"name": "a", "type": "INT", "optional": False, "default": 1}],
        "outputs": [{"name": "o", "type": "IMAGE"}],
    }
}
CHOICE = {"name": "c", "type": "COMBO", "optional": False, "options": ["x", "y"]}
OPTIONAL = {"name": "b", "type": "MASK", "optional": True}
REQUIRED = {"name": "b", "type": "MASK", "optional": False}


def changed(**changes: Any) -> Snapshot:
    new = copy.deepcopy(OLD)
    new["A"] |= changes
    return new


def test_additions_break_nothing() -> None:
    inputs, outputs = OLD["A"]["inputs"], OLD["A"]["outputs"]
    assert breaks(OLD, OLD | {"B": OLD["A"]}) == []
    assert breaks(OLD, changed(inputs=[*inputs, OPTIONAL])) == []
    assert breaks(OLD, changed(outputs=[*outputs, {"name": "p", "type": "MASK"}])) == []
    assert breaks(OLD, changed(category="Mirage/y")) == []
    more = CHOICE | {"options": ["w", *CHOICE["options"]]}
    assert breaks(changed(inputs=[CHOICE]), changed(inputs=[more])) == []
    assert breaks(changed(inputs=[more]), changed(inputs=[CHOICE])) == ["A: its inputs changed"]
    wide = [inputs[0] | {"type": "INT,FLOAT"}]
    assert breaks(OLD, changed(inputs=wide)) == []
    assert breaks(changed(inputs=wide), OLD) == ["A: its inputs changed"]
    assert breaks(OLD, changed(outputs=[{"name": "o", "type": "IMAGE,MASK"}])) != []


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        ({}, "A is gone"),
        (changed(inputs=[*OLD["A"]["inputs"], REQUIRED]), "A: b is new and required"),
        (changed(inputs=[OPTIONAL, *OLD["A"]["inputs"]]), "A: its inputs changed"),
        (changed(inputs=[OLD["A"]["inputs"][0] | {"default": 2}]), "A: its inputs changed"),
        (changed(inputs=[]), "A: its inputs changed"),
        (changed(outputs=[{"name": "o", "type": "MASK"}]), "A: its outputs changed"),
        (changed(output_node=True), "A: output node or not changed"),
    ],
)
def test_breaking_changes_are_named(new: Snapshot, reason: str) -> None:
    assert reason in breaks(OLD, new)
