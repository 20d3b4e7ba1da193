"""Values that a graph in the API format holds in the places of links."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any

import pytest
import torch

from mirage_core.geometry.trajectory import Trajectory


@pytest.fixture(scope="module")
def nodes(pack: ModuleType) -> dict[str, Any]:
    """What ComfyUI gets, by node id."""
    listed = asyncio.run(pack.nodes.MirageExtension().get_node_list())
    return {node.GET_SCHEMA().node_id: node for node in listed}


def linked(node: Any) -> list[Any]:
    """Inputs that need a link."""
    from comfy_api.latest import io

    return [own for own in node.SCHEMA.inputs if not isinstance(own, io.WidgetInput)]


def test_nodes_keep_their_names_and_inputs(pack: ModuleType, nodes: dict[str, Any]) -> None:
    for plain in pack.nodes.NODES:
        checked = nodes[plain.GET_SCHEMA().node_id]
        assert checked.__name__ == plain.__name__
        assert checked.GET_NODE_INFO_V1() == plain.GET_NODE_INFO_V1()


@pytest.mark.parametrize("value", [5, 0.5, "a picture", "", True, {}, {"samples": 5}, None])
def test_no_node_takes_a_value_for_a_link(
    pack: ModuleType, nodes: dict[str, Any], value: object
) -> None:
    refused = 0
    kinds = ("IMAGE", "MASK", "LATENT", "MIRAGE_")
    for node in nodes.values():
        for own in linked(node):
            plain = isinstance(value, str | int | float)
            if not plain and not own.get_io_type().startswith(kinds):
                continue
            if value is None and (own.optional or own.lazy):
                continue
            if isinstance(value, dict) and own.get_io_type() in (
                "MIRAGE_BRANCH",
                "MIRAGE_FLOW",
                "MIRAGE_ESTIMATOR",
            ):
                continue
            # What an estimator of ComfyUI's gives is a dictionary.
            if isinstance(value, dict) and "MOGE_GEOMETRY" in own.get_io_type():
                continue
            given = {own.id: [value] if node.SCHEMA.is_input_list else value}
            with pytest.raises(pack.mirage_core.errors.LinkError, match=f"input {own.id} of"):
                node.execute(**given)
            refused += 1
    assert refused > 40


def test_a_node_runs_with_what_its_links_carry(pack: ModuleType, nodes: dict[str, Any]) -> None:
    core = pack.mirage_core.geometry.trajectory
    lens = core.intrinsics_from_fov(64, 64, 60).repeat(5, 1, 1)
    path = core.Trajectory(torch.eye(4, dtype=torch.float64).repeat(5, 1, 1), lens, 64, 64)
    assert type(path) is not Trajectory
    out = nodes["MirageTrajectoryCamera"].execute(trajectory=path, frame=0)
    cameras = nodes["MirageTrajectoryFromCameras"].execute(
        image=[torch.zeros(1, 64, 64, 3)], cameras=[out.args[0]], frames=[5], fps=[24.0]
    )
    assert len(cameras.args[0]) == 5


def test_a_loop_begins_with_a_plan_and_goes_on_with_what_its_copies_hand_on(
    pack: ModuleType, nodes: dict[str, Any]
) -> None:
    schema = nodes["MirageLoopOpen"].SCHEMA or nodes["MirageLoopOpen"].define_schema()
    plan = object.__new__(pack.nodes.shot.PlannedShot)
    boxed = object.__new__(pack.nodes.comfy.loop_body.Boxed)
    for state in (plan, boxed):
        pack.nodes.links.expect_links(schema, {"state": state})
    with pytest.raises(pack.mirage_core.errors.LinkError):
        pack.nodes.links.expect_links(schema, {"state": object()})
