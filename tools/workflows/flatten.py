"""From a workflow as the browser saves it to a prompt as the server takes it.

The browser does this itself; this does the same for programs that have no browser, for
workflows of this project: subgraphs, widgets and links, but no reroutes and no muted nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
BEYOND_PROMPT = {"control_after_generate"}
INPUT_NODE = -10
SEEDS = ("seed", "noise_seed")
"""The browser gives whole numbers of these names a control, whether their node asks or not."""

Link = tuple[str, int]


def widget_names(info: Mapping[str, Any]) -> list[str]:
    """Names of a node's widgets in the order of ``widgets_values``.

    A widget that only lives in the browser has the name of the widget it belongs to, followed
    by ``/control_after_generate``.
    """
    names = []
    for group in ("required", "optional"):
        for name in info.get("input_order", {}).get(group, []):
            spec = info["input"][group][name]
            kind = spec[0] if isinstance(spec[0], str) else "COMBO"
            options = spec[1] if len(spec) > 1 else {}
            if kind not in WIDGETS or options.get("forceInput"):
                continue
            names.append(name)
            if options.get("control_after_generate") or (kind == "INT" and name in SEEDS):
                names.append(f"{name}/control_after_generate")
            if options.get("image_upload"):
                names.append(f"{name}/upload")
    return names


def model_files(workflow: Mapping[str, Any]) -> list[dict[str, str]]:
    """Model files that the nodes of a workflow name: name, url and directory of each."""
    inside = [item["nodes"] for item in workflow.get("definitions", {}).get("subgraphs", [])]
    nodes = [node for level in (workflow["nodes"], *inside) for node in level]
    return [file for node in nodes for file in node.get("properties", {}).get("models", [])]


def flatten(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt of a workflow.

    Args:
        workflow: What the browser saves.
        object_info: The server's answer to /object_info.
    """
    subgraphs = {item["id"]: item for item in workflow.get("definitions", {}).get("subgraphs", [])}
    prompt: dict[str, Any] = {}
    links = {item[0]: (item[1], item[2]) for item in workflow["links"]}
    _Level(workflow["nodes"], links, "", {}, subgraphs, object_info).emit(prompt)
    return prompt


class _Level:
    """One graph: the root, or the inside of one subgraph node."""

    def __init__(
        self,
        nodes: list[dict[str, Any]],
        links: dict[int, tuple[int, int]],
        prefix: str,
        outer: dict[int, Any],
        subgraphs: Mapping[str, Any],
        object_info: Mapping[str, Any],
    ) -> None:
        self.nodes = {node["id"]: node for node in nodes}
        self.links, self.prefix, self.outer = links, prefix, outer
        self.subgraphs, self.object_info = subgraphs, object_info

    def emit(self, prompt: dict[str, Any]) -> None:
        for node in self.nodes.values():
            if node["type"] in self.subgraphs:
                self._inside(node).emit(prompt)
            elif node["type"] in self.object_info:
                prompt[f"{self.prefix}{node['id']}"] = {
                    "class_type": node["type"],
                    "inputs": self._inputs(node),
                }

    def _inputs(self, node: dict[str, Any]) -> dict[str, Any]:
        values = dict(
            zip(
                widget_names(self.object_info[node["type"]]),
                node.get("widgets_values") or [],
                strict=True,
            )
        )
        inputs = {name: value for name, value in values.items() if "/" not in name}
        for slot in node.get("inputs", []):
            if slot.get("link") is not None:
                source = self._source(*self.links[slot["link"]])
                if source is not None:
                    inputs[slot["name"]] = source
        return inputs

    def _source(self, node_id: int, slot: int) -> Any:
        """A link ``[id, slot]`` of the prompt, or the value that a host widget holds."""
        if node_id == INPUT_NODE:
            return self.outer.get(slot)
        node = self.nodes[node_id]
        if node["type"] not in self.subgraphs:
            return [f"{self.prefix}{node_id}", slot]
        inside = self._inside(node)
        definition = self.subgraphs[node["type"]]
        link = definition["outputs"][slot]["linkIds"][0]
        return inside._source(*inside.links[link])

    def _inside(self, node: dict[str, Any]) -> _Level:
        definition = self.subgraphs[node["type"]]
        links = {
            item["id"]: (item["origin_id"], item["origin_slot"]) for item in definition["links"]
        }
        by_name = {slot["name"]: slot for slot in node.get("inputs", [])}
        values = iter(node.get("widgets_values") or [])
        outer: dict[int, Any] = {}
        for number, slot in enumerate(definition["inputs"]):
            host = by_name.get(slot["name"], {})
            value = next(values, None) if "widget" in host else None
            link = host.get("link")
            outer[number] = self._source(*self.links[link]) if link is not None else value
        prefix = f"{self.prefix}{node['id']}:"
        return _Level(
            definition["nodes"], links, prefix, outer, self.subgraphs, self.object_info
        )
