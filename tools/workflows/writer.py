"""Turns descriptions of graphs into workflows and blueprints as the browser saves them.

Three places of a saved subgraph must agree on every link; writing them by hand goes wrong.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from workflows.flatten import INPUT_NODE, widget_names

NAMESPACE = uuid.UUID("6d697261-6765-4c6f-8f70-000000000001")
NODE_WIDTH = 290
NOTE = "MarkdownNote"
"""A kind of node that only the browser knows: text for people."""


Link = tuple[int, int, int, int, int, str]


@dataclass(frozen=True)
class Out:
    """Output ``slot`` of node ``node`` of the same graph; node -10 is the subgraph's input."""

    node: int
    slot: int = 0


@dataclass(frozen=True)
class ModelFile:
    """A model file that a node names; the browser offers to download what is missing."""

    name: str
    url: str
    directory: str


@dataclass
class Node:
    """A node of a graph: its class, where it stands, links and widget values by name."""

    kind: str
    at: tuple[int, int]
    inputs: dict[str, Out | Any] = field(default_factory=dict)
    size: tuple[int, int] = (NODE_WIDTH, 120)
    title: str | None = None
    file: ModelFile | None = None
    folded: bool = False
    """Shown as its title alone."""


@dataclass
class Subgraph:
    """A graph with inputs and outputs of its own.

    Attributes:
        widgets: Values of the inputs that the node shows as widgets.
    """

    name: str
    description: str
    inputs: list[tuple[str, str]]
    outputs: list[tuple[str, str, Out]]
    nodes: dict[int, Node]
    category: str = "Mirage"
    widgets: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(uuid.uuid5(NAMESPACE, self.name))

    def shown(self, value: Any) -> Any:
        """The widget value behind an inner input that is linked to the subgraph's own."""
        if isinstance(value, Out) and value.node == INPUT_NODE:
            return self.widgets.get(self.inputs[value.slot][0])
        return value


class Writer:
    """Turns descriptions into saved workflows, with the server's word on sockets and widgets."""

    def __init__(self, object_info: Mapping[str, Any]) -> None:
        self.info = object_info

    def workflow(
        self,
        nodes: dict[int, Node],
        subgraphs: list[Subgraph],
        name: str,
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
        height = 40 + 20 * len(subgraph.inputs)
        host = Node(subgraph.id, (0, 0), {}, (280, max(80, height)))
        result = self.workflow({1: host}, [subgraph], f"blueprint {subgraph.name}")
        result["extra"] = {"BlueprintDescription": subgraph.description}
        return result

    def _sockets(
        self, node: Node, known: Mapping[str, Subgraph]
    ) -> list[tuple[str, str, bool, bool]]:
        """(name, type, is widget, is optional) of every input."""
        if node.kind in known:
            item = known[node.kind]
            return [(name, kind, name in item.widgets, False) for name, kind in item.inputs]
        if node.kind == NOTE:
            return []
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
        if node.kind == NOTE:
            return []
        info = self.info[node.kind]
        return list(zip(info["output_name"], info["output"], strict=True))

    def _graph(
        self,
        nodes: dict[int, Node],
        known: Mapping[str, Subgraph],
        first_link: int,
        inside: Subgraph | None = None,
    ) -> tuple[list[dict[str, Any]], list[Link]]:
        links: list[Link] = []
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
            values = self._values(node, known, inside)
            records[number] = self._record(number, node, order, inputs, values, known)
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
        values: list[Any],
        known: Mapping[str, Subgraph],
    ) -> dict[str, Any]:
        record: dict[str, Any] = {
            "id": number,
            "type": node.kind,
            "pos": list(node.at),
            "size": list(node.size),
            "flags": {"collapsed": True} if node.folded else {},
            "order": order,
            "mode": 0,
            "inputs": inputs,
            "outputs": [
                {"name": name, "type": kind, "links": []}
                for name, kind in self._outputs(node, known)
            ],
            "properties": {} if node.kind in known else {"Node name for S&R": node.kind},
            "widgets_values": values,
        }
        if node.file is not None:
            record["properties"]["models"] = [asdict(node.file)]
        title = node.title or (known[node.kind].name if node.kind in known else None)
        return record | ({"title": title} if title else {})

    def _values(
        self, node: Node, known: Mapping[str, Subgraph], inside: Subgraph | None
    ) -> list[Any]:
        if node.kind == NOTE:
            return [node.inputs["text"]]
        if node.kind in known:
            item = known[node.kind]
            shown = [name for name, _ in item.inputs if name in item.widgets]
            return [node.inputs.get(name, item.widgets[name]) for name in shown]
        info = self.info[node.kind]
        return [self._value(node, info, name, inside) for name in widget_names(info)]

    @staticmethod
    def _value(
        node: Node, info: Mapping[str, Any], name: str, inside: Subgraph | None
    ) -> Any:
        if name.endswith("/control_after_generate"):
            return "fixed"
        if name.endswith("/upload"):
            return "image"
        given = node.inputs.get(name)
        given = given if inside is None else inside.shown(given)
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
        records, links = self._graph(item.nodes, {}, first_link=1, inside=item)
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


def as_text(content: Mapping[str, Any]) -> str:
    """How the files are written."""
    return json.dumps(content, indent=1) + "\n"
