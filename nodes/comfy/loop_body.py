"""The body of the chunk loop: found, told apart, and copied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from comfy_execution.graph_utils import GraphBuilder, is_link

from ...mirage_core.rollout.state import RolloutState
from .ui import is_output_node

CHUNKS_PER_EXPANSION = 16
"""Body copies that one expansion adds; a longer loop continues with another expansion.

Messages of the server grow with the nodes that a prompt has ever had, so copies are made in
portions, and each portion begins from a state by value, which keeps chains of nodes short.
"""


class BoxedState(Mapping[str, str]):
    """A state as a constant input of an expanded node.

    ComfyUI's cache reads a mapping's items to tell inputs apart; they name the state.
    """

    def __init__(self, state: RolloutState) -> None:
        self.state = state
        self._items = {"rollout": state.run_id, "chunk": str(state.done)}

    def __getitem__(self, key: str) -> str:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def body_digest(dynprompt: Any, start_id: str) -> str:  # noqa: ANN401
    """Digest of everything that the loops begun by a Rollout Start depend on.

    Names of files to write do not count: only what is upstream of a Loop Close does.
    """
    upstream: set[str] = set()
    for node_id in dynprompt.all_node_ids():
        if dynprompt.get_node(node_id)["class_type"] == "MirageLoopClose":
            above = ancestors(dynprompt, node_id)
            upstream |= above | {node_id} if start_id in above else set()
    described = []
    for node_id in sorted(upstream - {start_id}):
        node = dynprompt.get_node(node_id)
        described.append((node_id, node["class_type"], sorted(node["inputs"].items())))
    return hashlib.sha256(json.dumps(described, default=str).encode()).hexdigest()


def ancestors(dynprompt: Any, node_id: str) -> set[str]:  # noqa: ANN401
    """Ids of all nodes upstream of a node."""
    found: set[str] = set()
    pending = [node_id]
    while pending:
        for value in dynprompt.get_node(pending.pop()).get("inputs", {}).values():
            if is_link(value) and value[0] not in found:
                found.add(value[0])
                pending.append(value[0])
    return found


@dataclass(frozen=True)
class LoopBody:
    """The nodes between a Loop Open and its Loop Close.

    Attributes:
        dynprompt: The prompt as it runs.
        open_id: The Loop Open.
        close_id: The Loop Close.
        members: All nodes of the body, the Loop Open included, the Loop Close not.
    """

    dynprompt: Any
    open_id: str
    close_id: str
    members: frozenset[str]

    @classmethod
    def find(cls, dynprompt: Any, close_id: str) -> LoopBody:  # noqa: ANN401
        """The body that ends in a Loop Close, with output nodes that hang off it."""
        open_id = dynprompt.get_node(close_id)["inputs"]["flow"][0]
        above = {node_id: ancestors(dynprompt, node_id) for node_id in dynprompt.all_node_ids()}
        inside = {n for n in above if open_id in above[n] and close_id not in above[n]}
        ends = {n for n in inside if is_output_node(dynprompt.get_node(n)["class_type"])}
        wanted = ends.union(above[close_id], *(above[n] for n in ends))
        members = (wanted & inside) - {close_id} | {open_id}
        return cls(dynprompt, open_id, close_id, frozenset(members))

    def repeat(self, state: RolloutState) -> tuple[GraphBuilder, Any]:
        """Copies of the body for the chunks after ``state``, and the last copy's result."""
        graph = GraphBuilder()
        carried: Any = BoxedState(state)
        copies = min(state.remaining, CHUNKS_PER_EXPANSION)
        for iteration in range(copies):
            name = f"chunk{state.done + iteration + 1}"
            self._copy(graph, name, self.members)
            graph.lookup_node(self._name(name, self.open_id)).set_input("state", carried)
            carried = self._result(graph, name)
        if copies < state.remaining:
            self._copy(graph, name, {self.close_id})
            carried = graph.lookup_node(self._name(name, self.close_id)).out(0)
        return graph, carried

    def _name(self, copy: str, node_id: str) -> str:
        return f"{copy}_{self.dynprompt.get_display_node_id(node_id)}"

    def _copy(self, graph: GraphBuilder, name: str, members: set[str] | frozenset[str]) -> None:
        for node_id in members:
            node = graph.node(
                self.dynprompt.get_node(node_id)["class_type"], self._name(name, node_id)
            )
            node.set_override_display_id(self.dynprompt.get_display_node_id(node_id))
        for node_id in members:
            copy = graph.lookup_node(self._name(name, node_id))
            for key, value in self.dynprompt.get_node(node_id)["inputs"].items():
                inside = is_link(value) and value[0] in self.members
                copy.set_input(key, self._link(graph, name, value) if inside else value)

    def _link(self, graph: GraphBuilder, name: str, link: list[Any]) -> Any:  # noqa: ANN401
        return graph.lookup_node(self._name(name, link[0])).out(link[1])

    def _result(self, graph: GraphBuilder, name: str) -> Any:  # noqa: ANN401
        return self._link(graph, name, self.dynprompt.get_node(self.close_id)["inputs"]["state"])
