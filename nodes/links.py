"""Values in the places of links: a graph may hold them, and no node can use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.cache.actor import Actor
from ..mirage_core.cache.types import LatentCache
from ..mirage_core.errors import LinkError
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.geometry.trajectory import Trajectory
from ..mirage_core.masks.tracks import Tracks
from ..mirage_core.readout.readout import Readout
from ..mirage_core.rollout.state import RolloutState
from .comfy.loop_body import Boxed
from .comfy.scene_models import SceneModels
from .shot import PlannedShot
from .types import (
    ActorType,
    CacheType,
    GeometryType,
    ReadoutType,
    SceneModelsType,
    StateType,
    TracksType,
    TrajectoryType,
)

_HOLDS: Final[dict[str, type | tuple[type, ...]]] = {
    io.Image.io_type: Tensor,
    io.Mask.io_type: Tensor,
    TrajectoryType.io_type: Trajectory,
    GeometryType.io_type: FrameGeometry,
    CacheType.io_type: LatentCache,
    ReadoutType.io_type: Readout,
    ActorType.io_type: Actor,
    TracksType.io_type: Tracks,
    SceneModelsType.io_type: SceneModels,
    # What a loop begins with, and what its copies hand on.
    StateType.io_type: (RolloutState, PlannedShot, Boxed),
}
"""What the links of a type carry; those of all other types carry no plain value."""

_PLAIN: Final = (str, int, float, bool)
_LONGEST: Final = 60
"""Characters of a value that a message repeats."""


def with_checked_links(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """A node whose inputs are looked at before it runs.

    ComfyUI checks the types of links, and lets a value through that a graph in its API format
    holds in the place of a link.

    Args:
        node: A node.

    Returns:
        A class of the same name that raises `LinkError` for such a value.
    """

    @classmethod  # type: ignore[misc]
    @override
    def execute(cls: type[io.ComfyNode], **inputs: Any) -> io.NodeOutput:
        if cls.SCHEMA is not None:
            expect_links(cls.SCHEMA, inputs)
        output: io.NodeOutput = node.execute.__func__(cls, **inputs)  # type: ignore[attr-defined]
        return output

    own = {"execute": execute, "__doc__": node.__doc__, "__module__": node.__module__}
    return type(node.__name__, (node,), own)


def expect_links(schema: io.Schema, inputs: Mapping[str, Any]) -> None:
    """Raise `LinkError` where a value stands in the place of a link.

    Args:
        schema: Of the node.
        inputs: What it is called with.
    """
    for asked in schema.inputs:
        if asked.id not in inputs or isinstance(asked, io.WidgetInput):
            continue
        given = inputs[asked.id]
        # Nothing is what a node gets for an optional input, and for one that it did not ask for.
        may_lack = asked.optional or asked.lazy
        for value in given if schema.is_input_list else (given,):
            if not (value is None and may_lack) and not _fits(value, asked.get_io_type()):
                raise LinkError(
                    f"The input {asked.id} of {schema.display_name} needs a link",
                    got=f"the value {_shown(value)}",
                    expected=f"the {asked.get_io_type()} that another node makes",
                    fix="Connect an output of that type",
                )


def _fits(value: object, kind: str) -> bool:
    if value is None or isinstance(value, _PLAIN):
        return kind == io.AnyType.io_type
    if kind == io.Latent.io_type:
        return isinstance(value, Mapping) and isinstance(value.get("samples"), Tensor)
    return isinstance(value, _HOLDS.get(kind, object))


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, _PLAIN) or value is None else type(value).__name__
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
