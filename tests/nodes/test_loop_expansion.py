"""How Loop Close copies its body, on ComfyUI's own graph classes and without running a node."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
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


def find(loops: ModuleType, prompt: Any, open_id: str = "open") -> Any:
    return loops.LoopBody.find(loops.PromptNodes(prompt), open_id)


def digest(
    loops: ModuleType, prompt: Any, open_id: str = "open", start_id: str = "start", **how: bool
) -> str:
    settings = importlib.import_module(f"{loops.__package__}.loop_settings")
    return settings.settings_digest(loops.PromptNodes(prompt), open_id, start_id, **how)


def add(prompt: Any, nodes: dict[str, Any], parent_id: str) -> list[str]:
    """Take up the nodes of an expansion as the executor does."""
    for name, content in nodes.items():
        display = content.get("override_display_id", parent_id)
        prompt.add_ephemeral_node(name, content, parent_id, display)
    return list(nodes)


def expand(body: Any, prompt: Any, close_id: str, state: State) -> tuple[list[str], Any]:
    """Expand one Loop Close as the executor does; new ids and what stands for its result."""
    from comfy_execution.graph_utils import GraphBuilder

    GraphBuilder.set_default_prefix(close_id, 0, 0)
    nodes, result = body.repeat(state)
    return add(prompt, nodes, close_id), result


def unroll(loops: ModuleType, prompt: Any, chunks: int) -> Iterator[tuple[list[str], Any]]:
    """All expansions of a loop, the first chunk having run as the literal nodes."""
    body, close_id, state = find(loops, prompt), "close", State(chunks, 1)
    while close_id:
        names, result = expand(body, prompt, close_id, state)
        yield names, result
        copies = sum(prompt.get_node(name)["class_type"] == "MirageLoopOpen" for name in names)
        state = replace(state, done=state.done + copies)
        closes = [n for n in names if prompt.get_node(n)["class_type"] == "MirageLoopClose"]
        close_id = closes[0] if closes else ""
        if closes:
            body = prompt.get_node(close_id)["inputs"]["flow"].value.body
    assert state.remaining == 0


def kinds(prompt: Any, names: list[str]) -> list[str]:
    return [prompt.get_node(name)["class_type"] for name in names]


def test_body_is_what_lies_between(loops: ModuleType) -> None:
    body = find(loops, dynamic(graph()))
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
    body = find(loops, dynamic(prompt))
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
        assert isinstance(first, loops.Boxed) and first.value.done in (1, 17, 33)
        by_open = {prompt.get_node(n)["inputs"]["state"][0]: n for n in updates}
        chain = [by_open[name] for name in opens]
        assert later == [[update, 0] for update in chain[:-1]]
        closes = [n for n in names if prompt.get_node(n)["class_type"] == "MirageLoopClose"]
        if closes:
            inputs = prompt.get_node(closes[0])["inputs"]
            assert inputs["state"] == [chain[-1], 0]
            assert inputs["flow"].value.state == first.value
            assert result == [closes[0], 0]
        else:
            assert result == [chain[-1], 0]


def test_copies_share_what_is_outside(loops: ModuleType) -> None:
    prompt = dynamic(graph())
    names, _ = expand(find(loops, prompt), prompt, "close", State(3, 1))
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
    names, result = expand(find(loops, prompt, "1:6:open"), prompt, "1:6:close", State(3, 1))
    assert len(names) == 2 * len(BODY)
    assert prompt.get_display_node_id(result[0]) == "1:6:update"


def test_ids_do_not_grow_with_the_loop(loops: ModuleType) -> None:
    prompt = dynamic(graph())
    chunks = 200
    longest = max(len(n) for names, _ in unroll(loops, prompt, chunks) for n in names)
    expansions = -(-chunks // loops.CHUNKS_PER_EXPANSION)
    assert longest < 24 * (expansions + 1)


def test_what_loops_carry_is_told_apart(loops: ModuleType) -> None:
    """ComfyUI's cache never takes one making of a chunk for another, however alike they are."""
    from comfy_execution.caching import to_hashable

    state = State(9, 3)
    box, other = loops.Boxed(state), loops.Boxed(state)
    assert hash(to_hashable(box)) == hash(to_hashable(box))
    assert to_hashable(box) == to_hashable(box)
    assert to_hashable(box) != to_hashable(other)
    assert loops.unboxed(box) is loops.unboxed(state) is state


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
    digests = [digest(loops, dynamic(prompt)) for prompt in (graph(), changed)]
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
    digests = [digest(loops, dynamic(prompt)) for prompt in (graph(), changed)]
    assert digests[0] != digests[1]


def pasted() -> dict[str, dict[str, Any]]:
    """The loop, and a copy with its links, as pasting makes it, that differs in one setting."""
    prompt = graph()
    names = {name: f"{name}2" for name in (*BODY, "close", "result")}

    def led(value: Any) -> Any:
        return [names.get(value[0], value[0]), value[1]] if isinstance(value, list) else value

    for name, copy in names.items():
        content = prompt[name]
        inputs = {key: led(value) for key, value in content["inputs"].items()}
        prompt[copy] = content | {"inputs": inputs}
    prompt["update2"]["inputs"]["policy"] = "append"
    return prompt


def test_every_loop_of_a_start_is_a_rollout_of_its_own(loops: ModuleType) -> None:
    prompt = dynamic(pasted())
    first, second = (digest(loops, prompt, name) for name in ("open", "open2"))
    assert first != second
    # Beside another loop it is the rollout that it is alone, so that it goes on from its chunks.
    assert first == digest(loops, dynamic(graph()))
    assert find(loops, prompt).members == BODY
    assert find(loops, prompt, "open2").members == {f"{name}2" for name in BODY}


def test_two_ends_of_one_loop_are_refused(loops: ModuleType) -> None:
    prompt = graph()
    prompt["update2"] = node("MirageCacheUpdate", state=["open", 1], policy="append")
    prompt["close2"] = node("MirageLoopClose", flow=["open", 0], state=["update2", 0])
    with pytest.raises(Exception, match="end the same Mirage Loop Open") as caught:
        find(loops, dynamic(prompt))
    assert type(caught.value).__name__ == "MirageError"
    assert "close, close2" in str(caught.value) and caught.value.fix


def refused(loops: ModuleType, prompt: dict[str, Any], message: str) -> None:
    """Whichever loop begins first, it says so before anything is made."""
    for open_id in ("open", "open2"):
        with pytest.raises(Exception, match=message) as caught:
            find(loops, dynamic(prompt), open_id)
        assert type(caught.value).__name__ == "MirageError"
        assert caught.value.got and caught.value.expected and caught.value.fix


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("update2", "images", ["decode", 0]),
        ("decode2", "samples", ["fill", 0]),
        ("fill2", "readout", ["read", 0]),
        ("fill2", "first_latent", ["open", 4]),
        ("update2", "state", ["open", 1]),
    ],
)
def test_a_pasted_node_that_takes_from_the_first_loop_is_refused(
    loops: ModuleType, name: str, key: str, value: list[Any]
) -> None:
    prompt = pasted()
    prompt[name]["inputs"][key] = value
    refused(loops, prompt, "share nodes|no part of")


def test_a_preview_of_two_loops_at_once_is_refused(loops: ModuleType) -> None:
    prompt = pasted()
    prompt["blend"] = node("ImageBlend", image1=["decode", 0], image2=["decode2", 0])
    prompt["look"] = node("PreviewImage", images=["blend", 0])
    refused(loops, prompt, "share nodes")
    prompt["blend"]["inputs"] = {"image1": ["result", 3], "image2": ["result2", 3]}
    assert find(loops, dynamic(prompt)).members == BODY


def test_a_second_writer_beside_the_body_is_refused(loops: ModuleType) -> None:
    prompt = graph()
    prompt["invert"] = node("ImageInvert", image=["decode", 0])
    prompt["other"] = node("MirageCacheUpdate", state=["open", 1], images=["invert", 0])
    prompt["look"] = node("PreviewAny", source=["other", 1])
    with pytest.raises(Exception, match="no part of") as caught:
        find(loops, dynamic(prompt))
    assert "other" in caught.value.got
    # A choice between two ways of writing is one writer.
    prompt["choice"] = node("ComfySwitchNode", on_true=["update", 0], on_false=["other", 0])
    prompt["close"]["inputs"]["state"] = ["choice", 0]
    assert find(loops, dynamic(prompt)).members >= BODY | {"invert", "other", "choice"}


def test_a_loop_in_the_body_of_another_belongs_to_it(loops: ModuleType) -> None:
    """Its plan hangs off the outer body; an inner loop may look at what the outer one made."""
    prompt = pasted()
    prompt["start2"] = node("MirageRolloutStart", name="in", resume=True, seed=["open", 5])
    prompt["open2"]["inputs"]["state"] = ["start2", 0]
    prompt["update2"]["inputs"]["exclude"] = ["decode", 0]
    inner = {f"{name}2" for name in (*BODY, "start", "close", "result")}
    assert find(loops, dynamic(prompt)).members == BODY | inner
    assert find(loops, dynamic(prompt), "open2").members == {f"{name}2" for name in BODY}


def test_an_inner_loop_is_the_same_rollout_again(loops: ModuleType) -> None:
    """What a copy of the outer body begins with is told by its rollout, not by its making."""

    def inner(run_id: str) -> str:
        prompt = graph()
        state = loops.RolloutState.__new__(loops.RolloutState)
        for key, value in (("run_id", run_id), ("done", 2)):
            object.__setattr__(state, key, value)
        prompt["outer"] = node("MirageLoopOpen", state=loops.Boxed(state))
        prompt["start"]["inputs"]["seed"] = ["outer", 5]
        return digest(loops, dynamic(prompt))

    assert inner("a") == inner("a") != inner("b")


@pytest.mark.parametrize(
    ("kind", "later"),
    [
        ("MirageTrajectoryImport", {"lens": "picture", "camera": "", "animation": ""}),
        ("MirageTrajectoryLoad", {"lens": "picture"}),
        ("MirageTrajectoryFromCameras", {"lens": "picture"}),
    ],
)
def test_inputs_that_came_later_do_not_make_another_rollout(
    loops: ModuleType, kind: str, later: dict[str, Any]
) -> None:
    """The browser fills them into graphs whose shots were begun without them."""

    def with_inputs(**inputs: Any) -> str:
        prompt = graph()
        prompt["move"] = node(kind, file="a.glb", **inputs)
        prompt["start"]["inputs"]["trajectory"] = ["move", 0]
        return digest(loops, dynamic(prompt))

    assert with_inputs() == with_inputs(**later)
    for key in later:
        assert with_inputs(**later | {key: "file"}) != with_inputs()


@pytest.mark.parametrize(
    ("name", "later", "other"),
    [
        ("read", {"actor_strength": 1.0}, {"actor_strength": 0.5}),
        ("read", {"actor_strength": 1}, {"actor_strength": ["codec", 0]}),
        ("update", {"unseen": "stay"}, {"unseen": "go_on"}),
    ],
)
def test_what_actors_brought_to_the_body_does_not_make_another_rollout(
    loops: ModuleType, name: str, later: dict[str, Any], other: dict[str, Any]
) -> None:
    """A shot that was stopped before there were actors goes on when its graph is opened again."""

    def with_inputs(inputs: dict[str, Any], **how: bool) -> str:
        prompt = graph()
        prompt[name]["inputs"] |= inputs
        return digest(loops, dynamic(prompt), **how)

    for how in ({}, {"by_value": True}):
        assert with_inputs({}, **how) == with_inputs(later, **how)
        assert with_inputs({}, **how) != with_inputs(other, **how)


@pytest.mark.parametrize("key", ["name", "resume"])
def test_names_by_link_do_not_make_another_rollout(loops: ModuleType, key: str) -> None:
    prompts = chained(), chained()
    for value, prompt in enumerate(prompts):
        prompt["typed"] = node("PrimitiveString", value=value)
        for start in ("start", "start2"):
            prompt[start]["inputs"][key] = ["typed", 0]
    for open_id, start_id in (("open", "start"), ("open2", "start2")):
        one, other = (digest(loops, dynamic(p), open_id, start_id) for p in prompts)
        assert one == other


def chained() -> dict[str, dict[str, Any]]:
    """A second shot that begins with the memory of the first."""
    prompt = pasted()
    prompt["start2"] = node("MirageRolloutStart", name="two", resume=True, cache=["result", 2])
    prompt["open2"]["inputs"]["state"] = ["start2", 0]
    return prompt


@pytest.mark.parametrize(
    ("name", "inputs", "first", "second"),
    [
        ("update2", {"policy": "novelty"}, False, True),
        ("start2", {"name": "other"}, False, False),
        ("start2", {"seed": 5}, False, False),
        ("update", {"policy": "append"}, True, True),
        ("start", {"name": "other", "resume": False}, False, False),
        ("start", {"first_chunk_frames": 33, "chunk_frames": 33}, False, False),
        ("start", {"overlap_frames": 1}, False, False),
        ("start", {"fps": 0.0}, False, False),
        ("start", {"fps": 16.0}, False, True),
        ("start", {"lens": "picture"}, False, False),
        ("start", {"lens": "file"}, False, True),
        ("start", {"first_chunk_frames": 37}, False, True),
        ("start", {"chunk_frames": 37}, False, True),
        ("start", {"overlap_frames": 5}, False, True),
        ("start", {"overlap_frames": ["codec", 0]}, False, True),
    ],
)
def test_a_shot_depends_on_the_shot_before_and_never_on_the_one_after(
    loops: ModuleType, name: str, inputs: dict[str, Any], first: bool, second: bool
) -> None:
    changed = chained()
    changed[name]["inputs"] |= inputs
    for open_id, start_id, differs in (("open", "start", first), ("open2", "start2", second)):
        before = digest(loops, dynamic(chained()), open_id, start_id)
        assert (before != digest(loops, dynamic(changed), open_id, start_id)) is differs


@pytest.mark.parametrize(
    ("name", "inputs", "differs"),
    [
        ("move", {"frames": 97}, False),
        ("start", {"seed": 5}, False),
        ("start", {"fps": 16.0}, False),
        ("update", {"policy": "append"}, True),
        ("codec", {"kind": "other"}, True),
        ("look", {"frames": 97}, True),
    ],
)
def test_what_a_start_is_given_counts_as_a_value(
    loops: ModuleType, name: str, inputs: dict[str, Any], differs: bool
) -> None:
    """Two shots with other moves do the same; a move that the body takes by itself is told."""

    def prompt() -> dict[str, dict[str, Any]]:
        nodes = graph() | {"move": node("MirageTrajectory"), "look": node("MirageTrajectory")}
        nodes["start"]["inputs"]["trajectory"] = ["move", 0]
        nodes["fill"]["inputs"]["trajectory"] = ["look", 0]
        return nodes

    before, changed = prompt(), prompt()
    changed[name]["inputs"] |= inputs
    one, other = (digest(loops, dynamic(p), by_value=True) for p in (before, changed))
    assert (one != other) is differs
    assert digest(loops, dynamic(before)) != one


@pytest.mark.parametrize(
    ("taker", "as_given", "differs"),
    [
        ({"geometry": ["room", 1]}, True, False),
        ({"geometry": ["room", 1]}, False, True),
        ({"geometry": ["room", 1], "images": ["room", 0]}, True, True),
        ({"other": ["room", 1]}, True, True),
    ],
    ids=["depth", "other cameras", "pictures too", "another input"],
)
def test_depth_of_each_camera_counts_as_a_value(
    loops: ModuleType, taker: dict[str, Any], as_given: bool, differs: bool
) -> None:
    def prompt(frames: int) -> Any:
        nodes = graph() | {
            "move": node("MirageTrajectory", frames=frames),
            "room": node("MirageEmbeddedShot", seed=16, trajectory=["move", 0]),
        }
        nodes["start"]["inputs"]["trajectory"] = ["move", 0]
        nodes["update"]["inputs"] |= taker
        return dynamic(nodes)

    one, other = (
        digest(loops, prompt(frames), by_value=True, as_given=as_given) for frames in (65, 97)
    )
    assert (one != other) is differs


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's folders, empty."""
    import folder_paths

    kinds = ("input", "output", "loras", "geometry_estimation")
    for kind in kinds:
        (tmp_path / kind).mkdir()
    for kind in kinds[:2]:
        monkeypatch.setattr(folder_paths, f"get_{kind}_directory", lambda k=kind: str(tmp_path / k))
    places = {kind: ([str(tmp_path / kind)], {".safetensors"}) for kind in kinds[2:]}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", places)
    return tmp_path


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("input/photo.png", "photo.png"),
        ("output/mirage/depth_00001_.safetensors", "mirage/depth_00001_.safetensors [output]"),
        ("input/render.0002.exr", "render.####.exr"),
        ("loras/style.safetensors", "style.safetensors"),
        ("geometry_estimation/unidepth/model.safetensors", "unidepth"),
        ("elsewhere/path.mp4", "{folder}/elsewhere/path.mp4"),
    ],
    ids=["picture", "output", "numbered", "model", "folder", "path"],
)
def test_files_that_the_body_reads_count_by_content(
    loops: ModuleType, folders: Path, written: str, name: str
) -> None:
    """Another picture or model under the same name is another shot, a copy of it the same."""
    path = folders / written
    path.parent.mkdir(parents=True, exist_ok=True)
    (path.parent / "config.json").write_text("{}")
    inputs = {"file": name.format(folder=folders), "text": "/ .. a house #2, #3"}

    def told() -> str:
        prompt = graph() | {"given": node("Given", **inputs)}
        prompt["update"]["inputs"]["given"] = ["given", 0]
        return digest(loops, dynamic(prompt), by_value=True)

    path.write_bytes(b"one")
    before = told()
    path.write_bytes(b"two")
    assert told() != before
    path.unlink()
    path.write_bytes(b"one")
    assert told() == before


def test_files_beside_the_loop_do_not_count(loops: ModuleType, folders: Path) -> None:
    prompt = graph() | {"given": node("LoadImage", image="photo.png")}
    prompt["start"]["inputs"]["cache"] = ["given", 0]
    told = []
    for content in (b"one", b"two"):
        (folders / "input/photo.png").write_bytes(content)
        told.append(digest(loops, dynamic(prompt), by_value=True))
    assert told[0] == told[1]


def test_a_body_without_an_end_depends_on_all_that_it_does(loops: ModuleType) -> None:
    prompts = graph(), graph()
    for prompt in prompts:
        del prompt["close"]
        prompt["result"]["inputs"]["state"] = ["update", 0]
    prompts[1]["update"]["inputs"]["policy"] = "append"
    one, other = map(dynamic, prompts)
    assert find(loops, one) is None
    assert digest(loops, one) != digest(loops, other)


def test_inputs_by_value_are_told_apart(loops: ModuleType) -> None:
    """Loops of other packs give their copies pictures and objects in place of links."""
    import torch

    def with_value(value: Any) -> Any:
        prompt = graph()
        prompt["fill"]["inputs"]["image"] = value
        return dynamic(prompt)

    pictures = torch.zeros(64, 64), torch.zeros(64, 64)
    pictures[1][20, 20] = 1
    same, other = (digest(loops, with_value(picture)) for picture in pictures)
    assert same == digest(loops, with_value(torch.zeros(64, 64))) != other
    thing = object()
    assert digest(loops, with_value(thing)) != digest(loops, with_value(thing))


def test_close_asks_for_its_state_only_when_a_chunk_is_left(pack: ModuleType) -> None:
    close, flow = pack.nodes.loop.MirageLoopClose, pack.nodes.loop.Flow
    done, open_ = (flow(SimpleNamespace(complete=flag), "body") for flag in (True, False))
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


def test_flow_by_way_of_another_node_is_refused_before_the_work(pack: ModuleType) -> None:
    nodes = pack.nodes.loop
    flow = nodes.Flow(SimpleNamespace(complete=False, done=0))
    with pytest.raises(pack.mirage_core.errors.MirageError, match="cannot tell where"):
        nodes.MirageLoopClose.check_lazy_status(flow=flow)


def test_a_finished_shot_is_no_plan(pack: ModuleType) -> None:
    nodes = pack.nodes.loop
    with pytest.raises(pack.mirage_core.errors.MirageError, match="finished shot") as caught:
        nodes._flow_from(SimpleNamespace(complete=True), None, "open")
    assert "Mirage Rollout Result" in caught.value.fix


def test_a_plan_is_no_state(pack: ModuleType) -> None:
    shot = pack.nodes.shot
    plan = shot.PlannedShot(None, None, True, "start")
    with pytest.raises(pack.mirage_core.errors.MirageError, match="straight from Mirage Rollout"):
        shot.expect_begun(plan)
    with pytest.raises(pack.mirage_core.errors.MirageError, match="straight from Mirage Rollout"):
        pack.nodes.loop.MirageRolloutResult.execute(plan)


def test_two_writers_of_one_state_are_refused(pack: ModuleType) -> None:
    class State:
        pass

    shot, state = pack.nodes.shot, State()
    shot.expect_one_writer(state, "7")
    shot.expect_one_writer(state, "7")
    shot.expect_one_writer(State(), "8")
    with pytest.raises(pack.mirage_core.errors.MirageError, match="same chunk twice"):
        shot.expect_one_writer(state, "8")


def test_without_a_server_a_folder_is_held_to_the_end_of_the_program(
    pack: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(pack.nodes.comfy.prompt.atexit, "register", kept.append)
    act = object()
    pack.nodes.comfy.prompt.when_prompt_ends(act)
    assert act in kept


def test_state_of_another_loop_is_refused(pack: ModuleType) -> None:
    nodes = pack.nodes.loop
    ours, theirs = (SimpleNamespace(complete=False, done=n, run_id=str(n)) for n in (0, 1))
    with pytest.raises(pack.mirage_core.errors.MirageError, match="belongs to another loop"):
        nodes.MirageLoopClose.execute(nodes.Flow(ours, "body"), theirs)
