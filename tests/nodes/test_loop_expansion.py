"""How Loop Close copies its body, on ComfyUI's own graph classes and without running a node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

BODY = {"open", "read", "fill", "decode", "update"}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def graph() -> dict[str, dict[str, Any]]:
    return {
        "codec": node("MirageEmbeddedCodec"),
        "start": node("MirageRolloutStart", name="shot", resume=True, seed=1),
        "open": node("MirageLoopOpen", state=["start", 0]),
        "read": node("MirageReadout", cache=["open", 2], trajectory=["open", 3]),
        "fill": node("MiragePreviewFill", readout=["read", 0], vae=["codec", 0]),
        "decode": node("VAEDecode", samples=["fill", 0], vae=["codec", 0]),
        "update": node(
            "MirageCacheUpdate", state=["open", 1], images=["decode", 0], policy="novelty"
        ),
        "close": node("MirageLoopClose", flow=["open", 0], state=["update", 0]),
        "result": node("MirageRolloutResult", state=["close", 0]),
        "video": node("SaveVideo", video=["result", 0], filename_prefix="v"),
    }


@dataclass(frozen=True)
class State:
    """As much of a `RolloutState` as the expansion looks at."""

    chunks: int
    done: int = 0
    run_id: str = "run"

    @property
    def remaining(self) -> int:
        return self.chunks - self.done


@pytest.fixture
def loops(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(
        pack.nodes.comfy.loop_body,
        "is_output_node",
        lambda kind: kind in ("SaveVideo", "PreviewImage", "MirageRolloutResult"),
    )
    return pack.nodes.comfy.loop_body


def dynamic(prompt: dict[str, Any]) -> Any:
    from comfy_execution.graph import DynamicPrompt

    return DynamicPrompt(prompt)


def expand(loops: ModuleType, prompt: Any, close_id: str, state: State) -> tuple[list[str], Any]:
    """Expand one Loop Close as the executor does; new ids and what stands for its result."""
    from comfy_execution.graph_utils import GraphBuilder

    GraphBuilder.set_default_prefix(close_id, 0, 0)
    built, result = loops.LoopBody.find(prompt, close_id).repeat(state)
    nodes = built.finalize()
    for name, content in nodes.items():
        display = content.get("override_display_id", close_id)
        prompt.add_ephemeral_node(name, content, close_id, display)
    return list(nodes), result


def unroll(loops: ModuleType, prompt: Any, chunks: int) -> Iterator[tuple[list[str], Any]]:
    """All expansions of a loop, the first chunk having run as the literal nodes."""
    close_id, state = "close", State(chunks, 1)
    while close_id:
        names, result = expand(loops, prompt, close_id, state)
        yield names, result
        copies = sum(prompt.get_node(name)["class_type"] == "MirageLoopOpen" for name in names)
        state = replace(state, done=state.done + copies)
        closes = [n for n in names if prompt.get_node(n)["class_type"] == "MirageLoopClose"]
        close_id = closes[0] if closes else ""
    assert state.remaining == 0


def kinds(prompt: Any, names: list[str]) -> list[str]:
    return [prompt.get_node(name)["class_type"] for name in names]


def test_body_is_what_lies_between(loops: ModuleType) -> None:
    body = loops.LoopBody.find(dynamic(graph()), "close")
    assert (body.open_id, body.members) == ("open", BODY)


def test_outputs_that_hang_off_the_body_belong_to_it(loops: ModuleType) -> None:
    prompt = graph() | {
        "look": node("PreviewImage", images=["decode", 0]),
        "invert": node("ImageInvert", image=["decode", 0]),
        "look2": node("PreviewImage", images=["invert", 0]),
        "idle": node("ImageInvert", image=["decode", 0]),
        "after": node("PreviewImage", images=["result", 3]),
        "beside": node("PreviewImage", images=["codec", 0]),
    }
    body = loops.LoopBody.find(dynamic(prompt), "close")
    assert body.members == BODY | {"look", "invert", "look2"}


@pytest.mark.parametrize("chunks", [2, 3, 16, 17, 18, 33, 34, 50, 100])
def test_every_chunk_gets_one_copy(loops: ModuleType, chunks: int) -> None:
    prompt = dynamic(graph())
    names = [name for added, _ in unroll(loops, prompt, chunks) for name in added]
    copies = kinds(prompt, names)
    for name in BODY:
        assert copies.count(graph()[name]["class_type"]) == chunks - 1
    portion = loops.CHUNKS_PER_EXPANSION
    assert copies.count("MirageLoopClose") == (chunks - 2) // portion
    assert {prompt.get_display_node_id(name) for name in names} <= BODY | {"close"}
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("chunks", [4, 17, 18, 40])
def test_state_goes_from_copy_to_copy(loops: ModuleType, chunks: int) -> None:
    prompt = dynamic(graph())
    for names, result in unroll(loops, prompt, chunks):
        opens = [n for n in names if prompt.get_node(n)["class_type"] == "MirageLoopOpen"]
        updates = [n for n in names if prompt.get_node(n)["class_type"] == "MirageCacheUpdate"]
        first, *later = [prompt.get_node(name)["inputs"]["state"] for name in opens]
        assert isinstance(first, loops.BoxedState)
        by_open = {prompt.get_node(n)["inputs"]["state"][0]: n for n in updates}
        chain = [by_open[name] for name in opens]
        assert later == [[update, 0] for update in chain[:-1]]
        closes = [n for n in names if prompt.get_node(n)["class_type"] == "MirageLoopClose"]
        if closes:
            inputs = prompt.get_node(closes[0])["inputs"]
            assert inputs == {"flow": [opens[-1], 0], "state": [chain[-1], 0]}
            assert result == [closes[0], 0]
        else:
            assert result == [chain[-1], 0]


def test_copies_share_what_is_outside(loops: ModuleType) -> None:
    prompt = dynamic(graph())
    names, _ = expand(loops, prompt, "close", State(3, 1))
    for name in names:
        for key, value in prompt.get_node(name)["inputs"].items():
            if key == "vae":
                assert value == ["codec", 0]
            elif isinstance(value, list):
                assert value[0] in names
    policies = [prompt.get_node(n)["inputs"].get("policy") for n in names]
    assert policies.count("novelty") == 2


def test_subgraph_ids_are_not_taken_apart(loops: ModuleType) -> None:
    """The browser names nodes in a subgraph 6:20, and nested ones 1:6:20."""

    def rename(value: Any) -> Any:
        return [f"1:6:{value[0]}", value[1]] if isinstance(value, list) else value

    prompt = dynamic(
        {
            f"1:6:{name}": content
            | {"inputs": {key: rename(value) for key, value in content["inputs"].items()}}
            for name, content in graph().items()
        }
    )
    names, result = expand(loops, prompt, "1:6:close", State(3, 1))
    assert len(names) == 2 * len(BODY)
    assert prompt.get_display_node_id(result[0]) == "1:6:update"


def test_ids_do_not_grow_with_the_loop(loops: ModuleType) -> None:
    prompt = dynamic(graph())
    chunks = 200
    longest = max(len(n) for names, _ in unroll(loops, prompt, chunks) for n in names)
    expansions = -(-chunks // loops.CHUNKS_PER_EXPANSION)
    assert longest < 24 * (expansions + 1)


def test_boxed_states_are_told_apart(loops: ModuleType) -> None:
    from comfy_execution.caching import to_hashable

    def key(**changes: Any) -> Any:
        return to_hashable(loops.BoxedState(State(**{"chunks": 9, "done": 3} | changes)))

    assert hash(key()) == hash(key()) and key() == key()
    assert key() != key(done=4)
    assert key() != key(run_id="other")


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("start", {"name": "elsewhere"}),
        ("start", {"resume": False}),
        ("video", {"filename_prefix": "w"}),
    ],
)
def test_names_do_not_make_another_rollout(
    loops: ModuleType, name: str, inputs: dict[str, Any]
) -> None:
    changed = graph()
    changed[name]["inputs"] |= inputs
    digests = [loops.body_digest(dynamic(prompt), "start") for prompt in (graph(), changed)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("update", {"policy": "append"}),
        ("codec", {"weights": "a"}),
        ("fill", {"vae": ["start", 0]}),
    ],
)
def test_settings_of_the_body_make_another_rollout(
    loops: ModuleType, name: str, inputs: dict[str, Any]
) -> None:
    changed = graph()
    changed[name]["inputs"] |= inputs
    digests = [loops.body_digest(dynamic(prompt), "start") for prompt in (graph(), changed)]
    assert digests[0] != digests[1]


def test_close_asks_for_its_state_only_when_a_chunk_is_left(pack: ModuleType) -> None:
    close, flow = pack.nodes.loop.MirageLoopClose, pack.nodes.loop.Flow
    done, open_ = (flow(SimpleNamespace(complete=flag)) for flag in (True, False))
    assert close.check_lazy_status(flow=done) == []
    assert close.check_lazy_status(flow=open_) == ["state"]
    assert close.check_lazy_status(flow=open_, state=open_.state) == []
    assert close.execute(done).args == (done.state,)


def test_body_that_finishes_nothing_is_refused(pack: ModuleType) -> None:
    nodes = pack.nodes.loop
    stuck = SimpleNamespace(complete=False, done=2)
    with pytest.raises(pack.mirage_core.errors.MirageError, match="Mirage Cache Update") as caught:
        nodes.MirageLoopClose.execute(nodes.Flow(stuck), stuck)
    assert caught.value.expected and caught.value.fix
