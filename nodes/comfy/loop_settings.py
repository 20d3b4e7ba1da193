"""What a loop depends on, as a digest of the nodes of its prompt."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

import torch
from comfy_execution.graph_utils import is_link
from torch import Tensor

from ...mirage_core.cache.track import Behaviour
from ...mirage_core.rollout.plan import ChunkLengths
from ...mirage_core.rollout.state import RolloutState
from ...mirage_core.trajectories.lens import PICTURE
from .loop_body import Boxed, Node, ancestors, close_of, descendants
from .named_files import named_files
from .scene_models import taken_files

_LENGTHS = ChunkLengths()
_PLAIN: dict[str, dict[str, Any]] = {
    "MirageRolloutStart": {
        "first_chunk_frames": _LENGTHS.first, "chunk_frames": _LENGTHS.later,
        "overlap_frames": _LENGTHS.overlap, "fps": 0, "lens": PICTURE,
    },
    "MirageTrajectoryImport": {"lens": PICTURE, "camera": "", "animation": ""},
    "MirageTrajectoryLoad": {"lens": PICTURE},
    "MirageTrajectoryFromCameras": {"lens": PICTURE},
    "MirageReadout": {"actor_strength": 1},
    "MirageRender": {"actor_strength": 1},
    "MirageCacheUpdate": {"unseen": Behaviour.STAY.value},
}  # fmt: skip
"""Inputs that nodes were given later, with the values that change nothing."""


_TAKE_DEPTH = {
    ("MirageCacheUpdate", "geometry", 1),
    ("MirageAlignGeometry", "geometry", 1),
}
"""Nodes of a loop that take depth of a whole shot and use the chunk's: kind, input, and which
output of Mirage Embedded Shot it is."""


def what_counts(node: Node) -> Node:
    """A node without the inputs that only say where a shot is saved, and with what they stand for.

    Defaults of later inputs are left out as well: prompts of saved shots may lack them, and the
    browser fills them in.
    """
    if node["class_type"] == "MirageSceneModels":
        # What auto stands for: a file that came since is another one.
        return node | {"inputs": node["inputs"] | taken_files(node["inputs"])}
    plain = _PLAIN.get(node["class_type"])
    if plain is None:
        return node
    places = ("name", "resume") if node["class_type"] == "MirageRolloutStart" else ()
    kept = {
        key: value
        for key, value in node["inputs"].items()
        if key not in places and (key, value) not in plain.items()
    }
    return node | {"inputs": kept}


def settings_digest(
    nodes: Mapping[str, Node],
    open_id: str,
    start_id: str,
    *,
    by_value: bool = False,
    as_given: bool = False,
) -> str:
    """Digest of everything that a loop depends on.

    Names of files to write do not count: only what is upstream of the Loop Close does, and of
    other shots upstream not under which name they are saved. Without a Loop Close, whatever
    hangs off the Loop Open counts.

    Args:
        nodes: Of the prompt.
        open_id: The Loop Open.
        start_id: The Rollout Start.
        by_value: Leave out what counts only as a value that the Rollout Start is given: two shots
            with other cameras are then described alike, and their cameras tell them apart. Files
            that the loop reads by name count by their content as well.
        as_given: The shot's cameras are those that the Rollout Start was given, unchanged. Nodes
            that look at each of them by itself then count ``by_value`` as well.
    """
    nodes = {node_id: what_counts(node) for node_id, node in nodes.items()}
    if by_value and start_id in nodes:
        if as_given:
            nodes |= _by_camera(nodes, nodes[start_id]["inputs"].get("trajectory"))
        nodes[start_id] = nodes[start_id] | {"inputs": {}}
    close_id = close_of(nodes, open_id)
    ends = descendants(nodes, open_id) if close_id is None else {close_id}
    counted = {n: nodes[n] for n in sorted((ancestors(nodes, *ends) | ends) - {start_id})}
    described: list[tuple[Any, ...]] = [
        (node_id, node["class_type"], sorted(node["inputs"].items()))
        for node_id, node in counted.items()
    ]
    if by_value:
        described += named_files(counted.values())
    return hashlib.sha256(json.dumps(described, default=_by_value).encode()).hexdigest()


def _by_camera(nodes: Mapping[str, Node], path: Any) -> dict[str, Node]:  # noqa: ANN401
    """Nodes that give depth for each of a path's cameras, without the path itself.

    Only those whose depth alone is taken, and by nodes that look at the frames of a chunk.
    """
    found: dict[str, Node] = {}
    for node_id, node in nodes.items():
        if node["class_type"] != "MirageEmbeddedShot" or node["inputs"].get("trajectory") != path:
            continue
        takers = [
            (taker["class_type"], key, value[1])
            for taker in nodes.values()
            for key, value in taker["inputs"].items()
            if is_link(value) and value[0] == node_id
        ]
        if takers and all(taker in _TAKE_DEPTH for taker in takers):
            kept = {key: value for key, value in node["inputs"].items() if key != "trajectory"}
            found[node_id] = node | {"inputs": kept}
    return found


def _by_value(value: Any) -> str:  # noqa: ANN401
    """Stands for an input by value, which loops give to their copies."""
    if isinstance(value, Boxed) and isinstance(value.value, RolloutState):
        return f"{value.value.run_id} {value.value.done}"
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return f"{tuple(value.shape)} {value.dtype} {hashlib.sha256(data).hexdigest()}"
    # Nothing is known of it, so nothing that is saved may be taken for made with it.
    return uuid.uuid4().hex
