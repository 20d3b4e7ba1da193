"""ComfyUI's own loops inside the chunk loop, and around it.

From 0.36 on ComfyUI has Start Loop and End Loop. Its validation notes on a Start Loop which nodes
belong to it; a Start Loop that runs copies those, and replaces the inputs of its End Loop. No
release with them can be fetched here, so what they do to a prompt is done by `run_core_loop`.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from .test_loop_expansion import BODY, State, add, digest, expand, find, graph, loops, node

__all__ = ["loops"]  # a fixture

INSIDE = {"from", "each", "shown", "to"}
"""A loop of ComfyUI's own in the body of the chunk loop."""


def validated(prompt: dict[str, Any]) -> dict[str, Any]:
    """Note the nodes of ComfyUI's loops on their starts; ends are named after their starts."""
    for start, end in (("from", "to"), ("outer", "outer_end")):
        if start in prompt:
            takers = {
                name: {v[0] for v in content["inputs"].values() if isinstance(v, list)}
                for name, content in prompt.items()
            }
            body: set[str] = set()
            while new := {n for n in takers if takers[n] & (body | {start})} - body - {end}:
                body |= new if end not in new else new - {end}
            inside = {n for n in body if reaches(takers, n, end)}
            prompt[start] |= {"_loop_body": sorted(inside), "_loop_end": end}
    return prompt


def reaches(takers: dict[str, set[str]], name: str, end: str) -> bool:
    seen, pending = set(), [end]
    while pending:
        for source in takers.get(pending.pop(), ()):
            if source not in seen:
                seen.add(source)
                pending.append(source)
    return name in seen


def with_loop_inside(*, independent: bool) -> dict[str, Any]:
    """Frames pass a loop of ComfyUI's own, whose start takes nothing from the body, or does."""
    prompt = graph()
    start = {} if independent else {"initial_iteration_value": ["fill", 0]}
    prompt |= {
        "from": node("StartLoop", mode="simple", **start),
        "each": node("ImageBlur", image=["decode", 0], index=["from", 0]),
        "shown": node("PreviewImage", images=["each", 0]),
        "to": node("EndLoop", output_value=["each", 0], termination0=["shown", 0]),
    }
    prompt["update"]["inputs"]["images"] = ["to", 0]
    return validated(prompt)


class Prompt:
    """ComfyUI's `DynamicPrompt` with the replacements that newer releases have."""

    def __new__(cls, prompt: dict[str, Any]) -> Any:
        from comfy_execution.graph import DynamicPrompt

        class Dynamic(DynamicPrompt):
            def __init__(self, original: dict[str, Any]) -> None:
                super().__init__(original)
                self.overrides: dict[str, Any] = {}

            def get_node(self, node_id: str) -> Any:
                return self.overrides.get(node_id) or super().get_node(node_id)

        return Dynamic(prompt)


def run_core_loop(prompt: Any, start_id: str, positions: int = 2) -> list[str]:
    """Do to a prompt what a Start Loop does when it runs; returns the ids of what it adds."""
    from comfy_execution.graph_utils import GraphBuilder

    GraphBuilder.set_default_prefix(start_id, 0, 0)
    graph, notes = GraphBuilder(), {}
    start = prompt.get_node(start_id)
    body, end_id = start["_loop_body"], start["_loop_end"]
    for position in range(positions):
        index = graph.node("LoopIteration", f"iteration_{position}", iteration_index=position)
        copies = {
            other: graph.node(prompt.get_node(other)["class_type"], f"{position}_{other}")
            for other in body
        }
        for other, copy in copies.items():
            content = prompt.get_node(other)
            copy.set_override_display_id(other)
            for key, value in content["inputs"].items():
                if isinstance(value, list) and value[0] == start_id:
                    value = index.out(value[1])
                elif isinstance(value, list) and value[0] in copies:
                    value = copies[value[0]].out(value[1])
                copy.set_input(key, value)
            if "_loop_end" in content:
                notes[copy.id] = {
                    "_loop_body": [copies[inner].id for inner in content["_loop_body"]],
                    "_loop_end": copies[content["_loop_end"]].id,
                }
        graph.node("LoopProgress", f"progress_{position}", done=copies[body[0]].out(0))
    graph.node("LoopResult", "result", close_id=end_id)
    added = graph.finalize()
    for name, note in notes.items():
        added[name].update(note)
    end = prompt.get_node(end_id)
    prompt.overrides[end_id] = end | {"inputs": {}}
    return add(prompt, added, start_id)


@pytest.fixture(autouse=True)
def outputs(loops: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ("SaveVideo", "PreviewImage", "MirageRolloutResult", "LoopProgress", "LoopResult")
    monkeypatch.setattr(loops, "is_output_node", lambda kind: kind in kinds)


@pytest.mark.parametrize("independent", [True, False])
def test_a_loop_inside_is_part_of_the_body(loops: ModuleType, independent: bool) -> None:
    body = find(loops, Prompt(with_loop_inside(independent=independent)))
    assert body.members == BODY | INSIDE


@pytest.mark.parametrize("independent", [True, False])
def test_every_copy_has_a_whole_loop_of_its_own(loops: ModuleType, independent: bool) -> None:
    """The loop of the first chunk has run when the copies are made: that changes nothing."""
    prompt = Prompt(with_loop_inside(independent=independent))
    body = find(loops, prompt)
    run_core_loop(prompt, "from")
    names, _ = expand(body, prompt, "close", State(4, 1))
    starts = [name for name in names if prompt.get_node(name)["class_type"] == "StartLoop"]
    assert len(starts) == 3
    seen: set[str] = set()
    for start in starts:
        content = prompt.get_node(start)
        own = {*content["_loop_body"], content["_loop_end"], start}
        assert own <= set(names) and not own & seen
        assert len(own) == len(INSIDE)
        seen |= own
        end = prompt.get_node(content["_loop_end"])["inputs"]
        assert end["output_value"][0] in own and end["termination0"][0] in own
        added = run_core_loop(prompt, start)
        copies = [name for name in added if prompt.get_node(name)["class_type"] == "ImageBlur"]
        frames = {prompt.get_node(name)["inputs"]["image"][0] for name in copies}
        assert len(copies) == 2 and len(frames) == 1 and frames <= set(names)


def test_a_loop_that_ran_before_the_loop_open_changes_nothing(loops: ModuleType) -> None:
    """A start that takes nothing from the body may run before anything else."""
    prompt = Prompt(with_loop_inside(independent=True))
    before = find(loops, prompt), digest(loops, prompt)
    run_core_loop(prompt, "from")
    after = find(loops, prompt)
    assert (after.members, after.nodes) == (before[0].members, before[0].nodes)
    assert digest(loops, prompt) == before[1]


def test_loops_in_loops_are_copied_whole(loops: ModuleType) -> None:
    prompt = with_loop_inside(independent=True)
    prompt["outer"] = node("StartLoop", mode="simple")
    prompt["from"]["inputs"]["parent_iteration"] = ["outer", 0]
    prompt["outer_end"] = node("EndLoop", output_value=["to", 0])
    prompt["update"]["inputs"]["images"] = ["outer_end", 0]
    dynamic = Prompt(validated(prompt))
    body = find(loops, dynamic)
    assert body.members == BODY | INSIDE | {"outer", "outer_end"}
    names, _ = expand(body, dynamic, "close", State(2, 1))
    (outer,) = (n for n in names if len(dynamic.get_node(n).get("_loop_body", ())) > 2)
    added = run_core_loop(dynamic, outer)
    inner = [name for name in added if dynamic.get_node(name)["class_type"] == "StartLoop"]
    assert len(inner) == 2
    for start in inner:
        assert set(dynamic.get_node(start)["_loop_body"]) < set(added)
        run_core_loop(dynamic, start)


def test_a_loop_that_ends_after_the_body_is_refused(loops: ModuleType) -> None:
    prompt = graph()
    prompt["from"] = node("StartLoop", mode="simple", initial_iteration_value=["fill", 0])
    prompt["update"]["inputs"]["index"] = ["from", 0]
    prompt["to"] = node("EndLoop", output_value=["result", 0])
    with pytest.raises(Exception, match="its End Loop does not") as caught:
        find(loops, Prompt(validated(prompt)))
    assert caught.value.fix


def around() -> dict[str, Any]:
    """The whole chunk loop in the body of a loop of ComfyUI's own, with a seed for each round."""
    prompt = graph()
    prompt["outer"] = node("StartLoop", mode="simple")
    prompt["start"]["inputs"]["seed"] = ["outer", 0]
    prompt["outer_end"] = node("EndLoop", output_value=["result", 0], accumulate=True)
    del prompt["video"]
    return validated(prompt)


def test_the_chunk_loop_runs_in_a_loop_around_it(loops: ModuleType) -> None:
    prompt = Prompt(around())
    names = run_core_loop(prompt, "outer", 3)
    opens = [name for name in names if prompt.get_node(name)["class_type"] == "MirageLoopOpen"]
    assert len(opens) == 3
    digests = set()
    for open_id in opens:
        body = find(loops, prompt, open_id)
        assert {prompt.get_display_node_id(name) for name in body.members} == BODY
        assert body.members < set(names)
        start_id = prompt.get_node(open_id)["inputs"]["state"][0]
        digests.add(digest(loops, prompt, open_id, start_id))
        added, _ = expand(body, prompt, body.close_id, State(3, 1))
        assert len(added) == 2 * len(BODY)
        assert {prompt.get_display_node_id(name) for name in added} == BODY
        assert len(find(loops, prompt, open_id).members) == len(BODY)
    assert len(digests) == 3, "each round is a rollout of its own"


def test_a_round_is_the_same_rollout_when_queued_again(loops: ModuleType) -> None:
    found = []
    for _ in range(2):
        prompt = Prompt(around())
        names = run_core_loop(prompt, "outer")
        kinds = {name: prompt.get_node(name)["class_type"] for name in names}
        opens = sorted(name for name in names if kinds[name] == "MirageLoopOpen")
        starts = sorted(name for name in names if kinds[name] == "MirageRolloutStart")
        found.append([digest(loops, prompt, *pair) for pair in zip(opens, starts, strict=True)])
    assert found[0] == found[1]


def test_what_a_node_of_the_body_expands_to_is_not_copied(loops: ModuleType) -> None:
    prompt = Prompt(graph())
    before = find(loops, prompt)
    inner = {"decode.0.0.look": node("PreviewImage", images=["read", 0])}
    add(prompt, inner, "decode")
    assert find(loops, prompt).members == before.members
