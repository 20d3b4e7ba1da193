"""Write the shipped workflows and blueprints from one description of their graphs.

Three places of a saved subgraph must agree on every link; writing them by hand goes wrong. Run
it with ``python tools/build_workflows.py`` after a change of nodes or graphs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comfy_client import ComfyClient
from comfy_server import PACK, ComfyServer
from workflow_flatten import widget_names

NAMESPACE = uuid.UUID("6d697261-6765-4c6f-8f70-000000000001")
NODE_WIDTH = 290


@dataclass(frozen=True)
class Out:
    """Output ``slot`` of node ``node`` of the same graph; node -10 is the subgraph's input."""

    node: int
    slot: int = 0


@dataclass
class Node:
    """A node of a graph: its class, where it stands, links and widget values by name."""

    kind: str
    at: tuple[int, int]
    inputs: dict[str, Out | Any] = field(default_factory=dict)
    size: tuple[int, int] = (NODE_WIDTH, 120)
    title: str | None = None


@dataclass
class Subgraph:
    """A graph with inputs and outputs of its own."""

    name: str
    description: str
    inputs: list[tuple[str, str]]
    outputs: list[tuple[str, str, Out]]
    nodes: dict[int, Node]
    category: str = "Mirage"

    @property
    def id(self) -> str:
        return str(uuid.uuid5(NAMESPACE, self.name))


CHUNK_LOOP = Subgraph(
    name="Mirage Chunk Loop (Preview)",
    description=(
        "Makes a shot chunk by chunk from the memory alone: reads it, fills holes smoothly, "
        "writes back what was new, and repeats to the end of the trajectory."
    ),
    inputs=[("state", "MIRAGE_STATE"), ("vae", "VAE")],
    outputs=[("state", "MIRAGE_STATE", Out(25))],
    nodes={
        20: Node("MirageLoopOpen", (150, 0), {"state": Out(-10, 0)}, (240, 180)),
        21: Node("MirageReadout", (460, 0), {"cache": Out(20, 2), "trajectory": Out(20, 3)}),
        22: Node(
            "MiragePreviewFill",
            (790, 0),
            {"readout": Out(21, 0), "vae": Out(-10, 1), "first_latent": Out(20, 4)},
        ),
        24: Node(
            "MirageCacheUpdate",
            (1120, 0),
            {
                "state": Out(20, 1),
                "readout": Out(21, 0),
                "latent": Out(22, 0),
                "images": Out(22, 2),
                "geometry": Out(22, 1),
                "vae": Out(-10, 1),
            },
            (NODE_WIDTH, 260),
        ),
        25: Node(
            "MirageLoopClose", (1460, 0), {"flow": Out(20, 0), "state": Out(24, 0)}, (220, 60)
        ),
    },
)

FIRST_SHOT: dict[int, Node] = {
    1: Node("MirageEmbeddedScene", (0, 0), {"seed": 16, "width": 1280, "height": 704}, (270, 150)),
    2: Node("MirageEmbeddedCodec", (0, 250), {}, (270, 40)),
    3: Node(
        "MirageTrajectory",
        (330, 0),
        {
            "image": Out(1, 0),
            "geometry": Out(1, 1),
            "preset": "orbit",
            "amount": 0.6,
            "frames": 97,
            "there_and_back": True,
        },
        (300, 320),
    ),
    4: Node(
        "MirageCacheInit",
        (330, 380),
        {"image": Out(1, 0), "geometry": Out(1, 1), "vae": Out(2, 0)},
        (300, 190),
    ),
    5: Node(
        "MirageRolloutStart",
        (690, 0),
        {
            "cache": Out(4, 0),
            "trajectory": Out(3, 0),
            "first_latent": Out(4, 1),
            "name": "first_shot",
        },
        (280, 190),
    ),
    6: Node(CHUNK_LOOP.id, (1030, 0), {"state": Out(5, 0), "vae": Out(2, 0)}, (280, 80)),
    7: Node("MirageRolloutResult", (1370, 0), {"state": Out(6, 0)}, (290, 140)),
    8: Node(
        "SaveVideo", (1690, 0), {"video": Out(7, 0), "filename_prefix": "mirage/first_shot"},
        (420, 420),
    ),
    9: Node(
        "SaveImage",
        (1690, 480),
        {"images": Out(7, 3), "filename_prefix": "mirage/first_shot_sheet"},
        (420, 300),
    ),
    10: Node(
        "MirageCacheSave",
        (1370, 200),
        {"cache": Out(7, 2), "filename_prefix": "first_shot_memory"},
        (290, 60),
    ),
    11: Node("PreviewAny", (1370, 330), {"source": Out(7, 4)}, (290, 280)),
}


class Writer:
    """Turns descriptions into saved workflows, with the server's word on sockets and widgets."""

    def __init__(self, object_info: Mapping[str, Any]) -> None:
        self.info = object_info

    def workflow(
        self, nodes: dict[int, Node], subgraphs: list[Subgraph], name: str
    ) -> dict[str, Any]:
        known = {item.id: item for item in subgraphs}
        records, links = self._graph(nodes, known, first_link=1)
        return {
            "id": str(uuid.uuid5(NAMESPACE, f"workflow {name}")),
            "revision": 0,
            "last_node_id": max(nodes),
            "last_link_id": len(links),
            "nodes": records,
            "links": [[k, a, sa, b, sb, kind] for k, a, sa, b, sb, kind in links],
            "groups": [],
            "definitions": {"subgraphs": [self._definition(item) for item in subgraphs]},
            "config": {},
            "extra": {},
            "version": 0.4,
        }

    def blueprint(self, subgraph: Subgraph) -> dict[str, Any]:
        """A workflow whose only node is the subgraph."""
        host = Node(subgraph.id, (0, 0), {}, (280, 80))
        result = self.workflow({1: host}, [subgraph], f"blueprint {subgraph.name}")
        result["extra"] = {"BlueprintDescription": subgraph.description}
        return result

    def _sockets(
        self, node: Node, known: Mapping[str, Subgraph]
    ) -> list[tuple[str, str, bool, bool]]:
        """(name, type, is widget, is optional) of every input."""
        if node.kind in known:
            return [(name, kind, False, False) for name, kind in known[node.kind].inputs]
        info = self.info[node.kind]
        widgets = set(widget_names(info))
        result = []
        for group in ("required", "optional"):
            for name in info.get("input_order", {}).get(group, []):
                kind = info["input"][group][name][0]
                kind = kind if isinstance(kind, str) else "COMBO"
                result.append((name, kind, name in widgets, group == "optional"))
        return result

    def _outputs(self, node: Node, known: Mapping[str, Subgraph]) -> list[tuple[str, str]]:
        if node.kind in known:
            return [(name, kind) for name, kind, _ in known[node.kind].outputs]
        info = self.info[node.kind]
        return list(zip(info["output_name"], info["output"], strict=True))

    def _graph(
        self, nodes: dict[int, Node], known: Mapping[str, Subgraph], first_link: int
    ) -> tuple[list[dict[str, Any]], list[tuple[int, int, int, int, int, str]]]:
        links: list[tuple[int, int, int, int, int, str]] = []
        records: dict[int, dict[str, Any]] = {}
        for order, (number, node) in enumerate(nodes.items()):
            inputs: list[dict[str, Any]] = []
            for name, kind, widget, optional in self._sockets(node, known):
                slot: dict[str, Any] = {"name": name, "type": kind, "link": None}
                if optional and not widget:
                    slot["shape"] = 7
                if widget:
                    slot["widget"] = {"name": name}
                source = node.inputs.get(name)
                if isinstance(source, Out):
                    slot["link"] = first_link + len(links)
                    links.append(
                        (slot["link"], source.node, source.slot, number, len(inputs), kind)
                    )
                inputs.append(slot)
            records[number] = self._record(number, node, order, inputs, known)
        for link, origin, slot_number, *_ in links:
            if origin in records:
                records[origin]["outputs"][slot_number]["links"].append(link)
        return list(records.values()), links

    def _record(
        self,
        number: int,
        node: Node,
        order: int,
        inputs: list[dict[str, Any]],
        known: Mapping[str, Subgraph],
    ) -> dict[str, Any]:
        record: dict[str, Any] = {
            "id": number,
            "type": node.kind,
            "pos": list(node.at),
            "size": list(node.size),
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": inputs,
            "outputs": [
                {"name": name, "type": kind, "links": []}
                for name, kind in self._outputs(node, known)
            ],
            "properties": {} if node.kind in known else {"Node name for S&R": node.kind},
            "widgets_values": [] if node.kind in known else self._values(node),
        }
        title = node.title or (known[node.kind].name if node.kind in known else None)
        return record | ({"title": title} if title else {})

    def _values(self, node: Node) -> list[Any]:
        info = self.info[node.kind]
        return [self._value(node, info, name) for name in widget_names(info)]

    @staticmethod
    def _value(node: Node, info: Mapping[str, Any], name: str) -> Any:
        if name.endswith("/control_after_generate"):
            return "fixed"
        if name.endswith("/upload"):
            return "image"
        given = node.inputs.get(name)
        if given is not None and not isinstance(given, Out):
            return given
        spec = next(info["input"][g][name] for g in info["input"] if name in info["input"][g])
        options = spec[1] if len(spec) > 1 else {}
        if "default" in options:
            return options["default"]
        choices = spec[0] if isinstance(spec[0], list) else options.get("options", [""])
        first = choices[0] if choices else ""
        return first["key"] if isinstance(first, dict) else first

    def _definition(self, item: Subgraph) -> dict[str, Any]:
        records, links = self._graph(item.nodes, {}, first_link=1)
        last = len(links)
        for slot, (_, kind, source) in enumerate(item.outputs):
            last += 1
            links.append((last, source.node, source.slot, -20, slot, kind))
            by_id = {record["id"]: record for record in records}
            by_id[source.node]["outputs"][source.slot]["links"].append(last)
        right = max(node.at[0] + node.size[0] for node in item.nodes.values()) + 80
        return {
            "id": item.id,
            "version": 1,
            "revision": 0,
            "config": {},
            "name": item.name,
            "description": item.description,
            "category": item.category,
            "state": {
                "lastGroupId": 0,
                "lastNodeId": max(item.nodes),
                "lastLinkId": last,
                "lastRerouteId": 0,
            },
            "inputNode": {"id": -10, "bounding": [-50, 0, 120, 40 + 20 * len(item.inputs)]},
            "outputNode": {"id": -20, "bounding": [right, 0, 120, 40 + 20 * len(item.outputs)]},
            "inputs": [
                _slot(item, "input", (slot, name, kind), 50, links)
                for slot, (name, kind) in enumerate(item.inputs)
            ],
            "outputs": [
                _slot(item, "output", (slot, name, kind), right + 20, links)
                for slot, (name, kind, _) in enumerate(item.outputs)
            ],
            "widgets": [],
            "nodes": records,
            "groups": [],
            "links": [
                {
                    "id": link,
                    "origin_id": origin,
                    "origin_slot": origin_slot,
                    "target_id": target,
                    "target_slot": target_slot,
                    "type": kind,
                }
                for link, origin, origin_slot, target, target_slot, kind in links
            ],
            "extra": {},
        }


def _slot(
    item: Subgraph, side: str, slot: tuple[int, str, str], x: int, links: list[Any]
) -> dict[str, Any]:
    """The record of a subgraph's input or output, with the links that meet it."""
    number, name, kind = slot
    end = slice(1, 3) if side == "input" else slice(3, 5)
    meets = (-10, number) if side == "input" else (-20, number)
    return {
        "id": str(uuid.uuid5(NAMESPACE, f"{item.name} {side} {name}")),
        "name": name,
        "type": kind,
        "linkIds": [link[0] for link in links if link[end] == meets],
        "pos": [x, 20 + 20 * number],
    }


def build(object_info: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All shipped files by their path in the pack."""
    writer = Writer(object_info)
    return {
        "workflows/mirage_first_shot.json": writer.workflow(FIRST_SHOT, [CHUNK_LOOP], "first_shot"),
        f"subgraphs/{CHUNK_LOOP.name}.json": writer.blueprint(CHUNK_LOOP),
    }


def as_text(content: Mapping[str, Any]) -> str:
    """How the files are written."""
    return json.dumps(content, indent=1) + "\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as base, ComfyServer(base) as server:
        files = build(ComfyClient(server.url).object_info())
    for name, content in files.items():
        (PACK / name).write_text(as_text(content), encoding="utf-8")
        print(f"wrote {name}")


if __name__ == "__main__":
    main()
