"""Where the nodes of the graphs that sample stand: in five columns that open at a readable size.

What a shot begins from stands at the left, what it makes at the right. Loaders are folded to their
titles: their files are chosen once, if at all. So the frontend opens the graph at 60 % on a page of
1440 x 900, where titles can be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from workflows.writer import NOTE, Node

TOP, BOTTOM = -60, 1010
"""The columns' first and last line."""

TITLE = 32
"""Height of a title bar, which stands above a node's place."""

BETWEEN = 20
"""Between a node and the title bar of the next one."""

FOLDED = frozenset(
    ("UNETLoader", "ModelSamplingSD3", "CLIPLoader", "VAELoader", "MirageLoadBranch")
) | {
    "LoadMoGeModel", "MirageGeometryMoGe", "MirageRolloutResult", "MirageLook", "MirageCacheSave",
}  # fmt: skip

LOOP = "the loop"
"""In the place of its class, which is an id."""

COLUMNS: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (-300, 260, (
        "UNETLoader", "ModelSamplingSD3", "CLIPLoader", "MirageLoadBranch", "VAELoader",
        "LoadMoGeModel", "MirageSceneModels", NOTE,
    )),
    (0, 280, ("LoadImage", "ImageScale", "MoGeInference", "MirageLook", "MirageGeometryMoGe")),
    (320, 380, ("MirageCacheInit", "MirageTrajectory")),
    (740, 300, (
        "CLIPTextEncode", "MirageRolloutStart", "PreviewAny", "MirageCacheSave",
    )),
    (1080, 340, (LOOP, "MirageRolloutResult", "SaveVideo", "SaveImage")),
)  # fmt: skip
"""Left edge, width and classes of each column, from above."""

HEIGHTS = {
    "LoadImage": 330, "ImageScale": 170, "MoGeInference": 210, "MirageSceneModels": 230,
    "MirageCacheInit": 250, "CLIPTextEncode": 130, "MirageRolloutStart": 310, "PreviewAny": 170,
    "SaveVideo": 380, "SaveImage": 220,
}  # fmt: skip
GROWS = {"MirageRolloutStart": 100, "SaveImage": 80}
"""Room for what a node tells or shows when it has run."""

LAST = frozenset((NOTE, "MirageTrajectory"))
"""Fill what is left of their column."""


def arranged(nodes: Mapping[int, Node], tall_loop: bool = False) -> dict[int, Node]:
    """The nodes at their places.

    Args:
        nodes: Of a whole shot.
        tall_loop: The texts are in the loop, and not beside it: what the shot made then stands
            below the plan.

    Raises:
        ValueError: A node has no place.
    """
    placed: dict[int, Node] = {}
    for left, width, kinds in _columns(tall_loop):
        line = TOP
        for kind in kinds:
            for number, node in nodes.items():
                if _kind(node) != kind:
                    continue
                placed[number] = _placed(node, kind, (left, line), width)
                height = 0 if kind in FOLDED else placed[number].size[1] + GROWS.get(kind, 0)
                line += height + TITLE + BETWEEN
    lost = [node.kind for number, node in nodes.items() if number not in placed]
    if lost:
        raise ValueError(f"no place for {', '.join(lost)}")
    return {number: placed[number] for number in nodes}


def _columns(tall_loop: bool) -> Sequence[tuple[int, int, Sequence[str]]]:
    if not tall_loop:
        return COLUMNS
    *others, (left, width, plan), (right, wide, made) = COLUMNS
    plan = ("MirageRolloutStart", "SaveImage", *plan[2:])
    return *others, (left, width, plan), (right, wide, made[:-1])


def _kind(node: Node) -> str:
    """The class of a node, or that it is the loop: a subgraph's class is its id."""
    return LOOP if node.kind.count("-") == 4 else node.kind


def _placed(node: Node, kind: str, at: tuple[int, int], width: int) -> Node:
    height = BOTTOM - at[1] if kind in LAST else HEIGHTS.get(kind, node.size[1])
    return dataclasses.replace(node, at=at, size=(width, height), folded=kind in FOLDED)
