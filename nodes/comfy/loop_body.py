"""The body of the chunk loop: found, told apart, and copied."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from comfy_execution.graph_utils import GraphBuilder, is_link

from ...mirage_core.errors import MirageError
from ...mirage_core.rollout.state import RolloutState
from .ui import is_output_node

CHUNKS_PER_EXPANSION = 16
"""Body copies that one expansion adds; a longer loop continues with another expansion.

Messages of the server grow with the nodes that a prompt has ever had, so copies are made in
portions, and each portion begins from a state by value, which keeps chains of nodes short.
"""

CORE_BODY, CORE_END = "_loop_body", "_loop_end"
"""Where ComfyUI's validation writes, on a Start Loop of its own, the ids of what belongs to it."""

T = TypeVar("T")

Node = dict[str, Any]
"""A node of a prompt: ``class_type``, ``inputs``, and what ComfyUI notes beside them."""


class Boxed(Mapping[str, str], Generic[T]):
    """A value as a constant input of an expanded node, unlike any other.

    ComfyUI's cache reads a mapping's items to tell inputs apart. What a loop carries is worth
    nothing to a later prompt: chunks that are saved are read from disk, and what was made in
    another folder, or before a file was deleted, must not be taken for this one's.
    """

    def __init__(self, value: T) -> None:
        self.value = value
        self._items = {"made": uuid.uuid4().hex}

    def __getitem__(self, key: str) -> str:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


def unboxed(value: T | Boxed[T]) -> T:
    """What a box holds; any other value as it is."""
    return value.value if isinstance(value, Boxed) else value


@dataclass(frozen=True)
class Flow:
    """Ties a Loop Close to its Loop Open.

    Attributes:
        state: The state with which the body of this iteration begins.
        body: The body as it was before it ran; None where no Loop Close takes this flow.
    """

    state: RolloutState
    body: LoopBody | None = None


class PromptNodes(Mapping[str, Node]):
    """The nodes of a prompt as they were added to it.

    ComfyUI's own loops replace the inputs of their ends while they run.
    """

    def __init__(self, dynprompt: Any) -> None:  # noqa: ANN401
        self._parts = (dynprompt.original_prompt, dynprompt.ephemeral_prompt)
        self.display_id = dynprompt.get_display_node_id
        self.parent_id = dynprompt.get_parent_node_id

    def __getitem__(self, node_id: str) -> Node:
        for part in self._parts:
            if node_id in part:
                return dict(part[node_id])
        raise KeyError(node_id)

    def __iter__(self) -> Iterator[str]:
        for part in self._parts:
            yield from part

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def siblings(self, node_id: str) -> dict[str, Node]:
        """Nodes that were added together with this one, itself included."""
        parent = self.parent_id(node_id)
        return {other: self[other] for other in self if self.parent_id(other) == parent}


def sources(node: Node) -> set[str]:
    """Ids of the nodes that a node takes its inputs from."""
    return {value[0] for value in node.get("inputs", {}).values() if is_link(value)}


def ancestors(nodes: Mapping[str, Node], *node_ids: str) -> set[str]:
    """Ids of all nodes upstream of some; those that are not among ``nodes`` end the search."""
    found: set[str] = set()
    pending = [node_id for node_id in node_ids if node_id in nodes]
    while pending:
        new = sources(nodes[pending.pop()]) - found
        found |= new
        pending += [node_id for node_id in new if node_id in nodes]
    return found


def descendants(nodes: Mapping[str, Node], node_id: str) -> set[str]:
    """Ids of all nodes downstream of one."""
    takers: dict[str, list[str]] = {}
    for taker, node in nodes.items():
        for source in sources(node):
            takers.setdefault(source, []).append(taker)
    found: set[str] = set()
    pending = [node_id]
    while pending:
        new = set(takers.get(pending.pop(), ())) - found
        found |= new
        pending += new
    return found


def close_of(nodes: Mapping[str, Node], open_id: str) -> str | None:
    """The Loop Close that takes the flow of a Loop Open; None when there is none.

    Raises:
        MirageError: There are several. Which of them a chunk belongs to could not be told.
    """
    closes = sorted(
        node_id
        for node_id, node in nodes.items()
        if node["class_type"] == "MirageLoopClose" and node["inputs"].get("flow") == [open_id, 0]
    )
    if len(closes) > 1:
        raise MirageError(
            "Several Mirage Loop Close end the same Mirage Loop Open",
            got=f"nodes {', '.join(closes)} take the flow of node {open_id}",
            expected="one Mirage Loop Close for each Mirage Loop Open",
            fix="Give each its own: copy Mirage Loop Open and the body together with Mirage Loop "
            "Close. All of them may begin from the same Mirage Rollout Start",
        )
    return closes[0] if closes else None


@dataclass(frozen=True)
class LoopBody:
    """The nodes between a Loop Open and its Loop Close, as they were before they ran.

    Attributes:
        open_id: The Loop Open.
        close_id: The Loop Close.
        members: Ids of all nodes of the body, the Loop Open included, the Loop Close not.
        nodes: The members and the Loop Close.
        display_ids: Which node of the workflow stands for each of them.
    """

    open_id: str
    close_id: str
    members: frozenset[str]
    nodes: Mapping[str, Node]
    display_ids: Mapping[str, str]

    @classmethod
    def find(cls, nodes: PromptNodes, open_id: str) -> LoopBody | None:
        """The body that begins at a Loop Open, with output nodes that hang off it.

        Only nodes that stand beside the Loop Open count: what a node of the body expands to,
        its copy expands to by itself.

        Raises:
            MirageError: The body shares nodes with another loop, or writes a chunk twice.
        """
        near = nodes.siblings(open_id)
        close_id = close_of(near, open_id)
        if close_id is None:
            return None
        inside = _between(near, open_id, close_id)
        ends = {n for n in inside if is_output_node(near[n]["class_type"])}
        wanted = ends | ancestors(near, close_id, *ends)
        members = _with_core_loops(near, wanted & inside | {open_id})
        _expect_one_writer(near, open_id, close_id)
        _expect_own_nodes(near, open_id, members, inside)
        kept = members | {close_id}
        return cls(
            open_id,
            close_id,
            frozenset(members),
            {n: near[n] for n in kept},
            {n: nodes.display_id(n) for n in kept},
        )

    def repeat(self, state: RolloutState) -> tuple[dict[str, Node], Any]:
        """Copies of the body for the chunks after ``state``, and the last copy's result."""
        graph = GraphBuilder()
        notes: dict[str, dict[str, Any]] = {}
        carried: Any = Boxed(state)
        copies = min(state.remaining, CHUNKS_PER_EXPANSION)
        for iteration in range(copies):
            copy = _Copy(self, graph, f"chunk{state.done + iteration + 1}")
            notes |= copy.add(sorted(self.members))
            copy.node(self.open_id).set_input("state", carried)
            carried = copy.link(self.nodes[self.close_id]["inputs"]["state"])
        if copies < state.remaining:
            copy.add([self.close_id])
            close = copy.node(self.close_id)
            # By value, since only this body is as it was before ComfyUI ran it.
            close.set_input("flow", Boxed(Flow(state, self)))
            carried = close.out(0)
        added = graph.finalize()
        for node_id, note in notes.items():
            added[node_id].update(note)
        return added, carried


@dataclass(frozen=True)
class _Copy:
    """One copy of a body, as it is added to a graph."""

    body: LoopBody
    graph: GraphBuilder
    name: str

    def add(self, node_ids: list[str]) -> dict[str, dict[str, Any]]:
        """Add copies of nodes; returns what ComfyUI noted on them, with the copies' ids."""
        body, notes = self.body, {}
        for node_id in node_ids:
            node = self.graph.node(body.nodes[node_id]["class_type"], self._id(node_id))
            node.set_override_display_id(body.display_ids[node_id])
        for node_id in node_ids:
            content, node = body.nodes[node_id], self.node(node_id)
            for key, value in content["inputs"].items():
                node.set_input(key, self.link(value))
            if CORE_END in content:
                notes[node.id] = {
                    CORE_BODY: [self.node(other).id for other in content[CORE_BODY]],
                    CORE_END: self.node(content[CORE_END]).id,
                }
        return notes

    def node(self, node_id: str) -> Any:  # noqa: ANN401
        """The copy of a node."""
        return self.graph.lookup_node(self._id(node_id))

    def link(self, value: Any) -> Any:  # noqa: ANN401
        """An input's value, led to the copy where it is a link into the body."""
        inside = is_link(value) and value[0] in self.body.members
        return self.node(value[0]).out(value[1]) if inside else value

    def _id(self, node_id: str) -> str:
        return f"{self.name}_{node_id}"


def _between(nodes: Mapping[str, Node], open_id: str, close_id: str) -> set[str]:
    """Everything downstream of a Loop Open that does not need its Loop Close."""
    return descendants(nodes, open_id) - descendants(nodes, close_id) - {close_id}


def _expect_one_writer(nodes: Mapping[str, Node], open_id: str, close_id: str) -> None:
    """Refuse a Cache Update that takes the loop's state and does not lead to its end.

    It would write the loop's chunks beside the one that does.
    """
    needed = ancestors(nodes, close_id)
    for node_id, node in nodes.items():
        writes = node["class_type"] == "MirageCacheUpdate"
        if writes and node["inputs"].get("state") == [open_id, 1] and node_id not in needed:
            raise MirageError(
                "A Mirage Cache Update takes the state of a loop that it is no part of",
                got=f"node {node_id} has the state of node {open_id}, and does not lead to "
                f"Mirage Loop Close, node {close_id}",
                expected="one Mirage Cache Update for each loop, which leads to its end",
                fix="Remove it, or connect its state to the Mirage Loop Open of its own loop",
            )


def _expect_own_nodes(
    nodes: Mapping[str, Node], open_id: str, members: set[str], inside: set[str]
) -> None:
    """Refuse bodies that share nodes: each loop makes its chunks by itself, at its own time.

    A loop that stands in the body of another one belongs to that body.
    """
    for other_id, node in nodes.items():
        if node["class_type"] != "MirageLoopOpen" or other_id == open_id:
            continue
        close_id = close_of(nodes, other_id)
        theirs = set() if close_id is None else _between(nodes, other_id, close_id)
        nested = other_id in inside or open_id in theirs
        if not nested and (shared := sorted(members & theirs)):
            names = ", ".join(f"{n} ({nodes[n]['class_type']})" for n in shared)
            raise MirageError(
                "Two loops share nodes of their bodies",
                got=f"{names}: downstream of both Mirage Loop Open {open_id} and {other_id}",
                expected="loops that share nothing between Mirage Loop Open and Mirage Loop Close",
                fix="Give each loop nodes of its own, and compare what the loops make after "
                "Mirage Rollout Result",
            )


def _with_core_loops(nodes: Mapping[str, Node], members: set[str]) -> set[str]:
    """The members, with ComfyUI's own loops that end among them: those are copied whole.

    Such a loop's start may take nothing from the body.
    """
    while True:
        added = {
            other
            for node_id, node in nodes.items()
            if node.get(CORE_END) in members
            for other in (node_id, *node[CORE_BODY])
        }
        if added <= members:
            break
        members = members | added
    for node_id in members:
        if nodes[node_id].get(CORE_END, node_id) not in members:
            raise MirageError(
                "A Start Loop stands in the body of the chunk loop, and its End Loop does not",
                got=f"nodes {node_id} and {nodes[node_id][CORE_END]}",
                expected="both between Mirage Loop Open and Mirage Loop Close",
                fix="Move Start Loop out of the body, or End Loop into it",
            )
    return members
