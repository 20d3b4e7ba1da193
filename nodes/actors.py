"""What moves: actors from masks, their places in a memory, and tracks for the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.actors.build import ActorConfig, Look, make_actor
from ..mirage_core.actors.ground import find_ground
from ..mirage_core.actors.place import place_actor
from ..mirage_core.actors.sight import on_depth
from ..mirage_core.actors.tracks import one_track
from ..mirage_core.cache.actor import Actor
from ..mirage_core.cache.track import Behaviour
from ..mirage_core.cache.types import LatentCache
from ..mirage_core.codecs.base import expect_same_codec
from ..mirage_core.codecs.colours import ColourCodec
from ..mirage_core.codecs.memory_kind import MemoryKind
from ..mirage_core.constants import DEFAULT_FPS, TEMPORAL_STRIDE
from ..mirage_core.errors import GeometryError, ShapeError
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.geometry.lift import lift
from ..mirage_core.geometry.trajectory import Trajectory
from ..mirage_core.masks.tracks import Tracks
from ..mirage_core.validate import expect_frame_size
from .comfy.vae import VaeCodec
from .types import ActorType, CacheType, GeometryType, TracksType, TrajectoryType

if TYPE_CHECKING:
    import comfy.sd

CATEGORY: Final = "Mirage/actors"

BEHAVIOURS: Final = [one.value for one in Behaviour]

EVERY: Final = 8
"""Batches longer than this are looked at every fourth frame: as chunks are remembered."""

GROUND_STEP: Final = 8
"""Pixels between those among which the floor is looked for."""


class MirageActor(io.ComfyNode):
    """An actor from pictures, their depth, and a mask that follows it."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageActor",
            display_name="Mirage Actor",
            category=CATEGORY,
            description=(
                "Makes an actor of something that moves: its own points, its size, and its track. "
                "From a clip with a tracked mask, or from one photograph with a mask."
            ),
            search_aliases=["moving thing", "person", "character", "cast"],
            inputs=[
                io.Image.Input("image", tooltip="One picture, or the frames of a clip."),
                GeometryType.Input(
                    "geometry",
                    tooltip="Depth of the picture, or of all frames, or of every fourth.",
                ),
                io.Mask.Input("mask", tooltip="White on the thing, in every frame."),
                io.Vae.Input("vae", tooltip="The VAE that the memory was made with."),
                CacheType.Input(
                    "cache",
                    tooltip="The memory that it will go into: the actor is of its kind.",
                ),
                io.String.Input(
                    "name", default="actor", tooltip="What it is called, and known again by."
                ),
                TrajectoryType.Input(
                    "trajectory", optional=True,
                    tooltip="Cameras of the frames, where the geometry does not have them.",
                ),
                io.Int.Input(
                    "start_frame", default=0, min=0, max=1_000_000, optional=True, advanced=True,
                    tooltip="Frame of the shot that the first picture is.",
                ),
                io.Boolean.Input(
                    "turns", default=True, optional=True, advanced=True,
                    tooltip="It faces where it goes, as people and cars do. Off: it keeps one "
                    "heading, as what glides.",
                ),
            ],
            outputs=[
                ActorType.Output(display_name="actor"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    @override
    def execute(
        cls,
        image: Tensor,
        geometry: FrameGeometry,
        mask: Tensor,
        vae: comfy.sd.VAE,
        cache: LatentCache,
        name: str,
        trajectory: Trajectory | None = None,
        start_frame: int = 0,
        turns: bool = True,
    ) -> io.NodeOutput:
        expect_frame_size(int(image.shape[2]), int(image.shape[1]))
        geometry.expect_aspect(int(image.shape[2]), int(image.shape[1]))
        rows, seen, mask = _chosen_frames(len(image), geometry, mask)
        poses = _poses(seen, trajectory, rows, len(image))
        tokens = _encoded(image[rows], vae, cache)
        numbers = torch.tensor(rows) + start_frame
        if trajectory is not None:
            numbers = trajectory.frame_numbers[rows] + start_frame
        look = Look(tokens, seen, poses, numbers)
        marked = on_depth(mask, seen)
        ground = find_ground(_points_beside(seen, poses, marked))
        made = make_actor(name, look, marked, cache, ground, ActorConfig(turns=turns))
        report = "\n".join([_describe(made.actor), *made.notes])
        return io.NodeOutput(made.actor, report, ui={"text": (report,)})


def _chosen_frames(
    count: int, geometry: FrameGeometry, mask: Tensor
) -> tuple[list[int], FrameGeometry, Tensor]:
    """Which of so many pictures are looked at, with their depth and masks."""
    rows = list(range(count))
    few = (count - 1) // TEMPORAL_STRIDE + 1
    if len(geometry) not in (count, few):
        raise ShapeError(
            "The actor's pictures and their depth have different numbers of frames",
            got=f"{count} pictures, {len(geometry)} depth maps",
            expected=f"{count}, or {few} (every fourth)",
            fix="Estimate depth on the same frames",
        )
    if len(geometry) != count or count > EVERY:
        rows = rows[::TEMPORAL_STRIDE]
    if len(geometry) != len(rows):
        geometry = geometry.select(rows)
    if len(mask) == count:
        mask = mask[rows]
    return rows, geometry, mask


def _poses(
    geometry: FrameGeometry, trajectory: Trajectory | None, rows: list[int], count: int
) -> Tensor:
    """(F, 4, 4) cameras of the chosen frames; the world begins at a single picture's camera."""
    if trajectory is not None:
        if len(trajectory) != count:
            raise ShapeError(
                "The actor's pictures and the trajectory have different numbers of frames",
                got=f"{count} pictures, {len(trajectory)} cameras",
                expected="a camera for every picture",
            )
        return trajectory.world_to_camera[rows]
    if geometry.world_to_camera is not None:
        return geometry.world_to_camera
    if len(rows) > 1:
        raise GeometryError(
            "The cameras of the actor's frames are not known",
            got=f"{len(rows)} frames without poses",
            expected="a trajectory, or geometry with poses",
            fix="Connect the trajectory of the clip, or use one picture",
        )
    return torch.eye(4, dtype=torch.float64)[None]


def _encoded(pictures: Tensor, vae: comfy.sd.VAE, cache: LatentCache) -> Tensor:
    """What a memory of this kind remembers of pictures."""
    codec = VaeCodec(vae, memory=cache.kind)
    if cache.kind is MemoryKind.COLOURS:
        return ColourCodec.named(cache.codec).encode_images(pictures[..., :3])
    expect_same_codec(cache.codec, codec)
    return codec.encode_images(pictures[..., :3]).to(torch.float16)


def _points_beside(geometry: FrameGeometry, poses: Tensor, mask: Tensor) -> Tensor:
    """(N, 3) points of the first frame that are not the thing: among them is the floor."""
    points = lift(geometry.depth[:1], geometry.intrinsics[:1], poses[:1])[0]
    still = (geometry.depth[0] > 0) & ~mask[0]
    few = slice(None, None, max(1, min(GROUND_STEP, points.shape[0] // 64)))
    return points[few, few][still[few, few]]


def _describe(actor: Actor) -> str:
    width, height, length = actor.size
    track = actor.track
    return (
        f"{actor.name}: {len(actor):,} points, {width:.2f} wide, {height:.2f} high, "
        f"{length:.2f} long; seen in {len(track)} frames, "
        f"{int(track.frames[0])} to {int(track.frames[-1])}"
    )


class MiragePlaceActor(io.ComfyNode):
    """Puts an actor into a memory: at a size, on the floor, along a path."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MiragePlaceActor",
            display_name="Mirage Place Actor",
            category=CATEGORY,
            description=(
                "Puts an actor into a memory, on the floor of its scene, and says what it does "
                "when nobody looks: be forgotten, stay, go on, or follow a path."
            ),
            search_aliases=["cast", "direct", "path", "blocking", "choreography"],
            inputs=[
                CacheType.Input("cache", tooltip="The memory of the set."),
                ActorType.Input(
                    "actor", tooltip="From Mirage Actor. One of the same name is replaced."
                ),
                io.Combo.Input(
                    "behaviour", options=BEHAVIOURS, default=Behaviour.STAY.value,
                    tooltip="forget: shown only at the times at which it was seen. stay: where it "
                    "was last. go_on: its last motion, slower and slower. path: as the path says.",
                ),
                io.Float.Input(
                    "height", default=0.0, min=0.0, max=1000.0, step=0.01,
                    tooltip="Its height in scene units; 0 keeps the size that its depth gives it.",
                ),
                io.String.Input(
                    "path", default="", multiline=True,
                    tooltip='Keyframes as JSON: [{"frame": 0, "place": [0, 3], "heading": 90}, '
                    '{"time": 2, "place": [1, 3]}]. Place is x and z in scene units, heading is in '
                    "degrees. Without the behaviour path, the first one says where it stands.",
                ),
                io.Float.Input(
                    "fps", default=DEFAULT_FPS, min=0.1, max=1000.0, step=0.01, advanced=True,
                    tooltip="Frames per second, for keyframes with a time.",
                ),
            ],
            outputs=[
                CacheType.Output(display_name="cache"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    @override
    def execute(
        cls,
        cache: LatentCache,
        actor: Actor,
        behaviour: str,
        height: float,
        path: str,
        fps: float,
    ) -> io.NodeOutput:
        placed = place_actor(
            cache, actor, height=height, behaviour=Behaviour(behaviour), path=path, fps=fps
        )
        report = "\n".join(placed.notes)
        return io.NodeOutput(placed.cache, report, ui={"text": (report,)})


class MirageTracks(io.ComfyNode):
    """Names for masks of moving things, so that the loop writes each to its actor."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageTracks",
            display_name="Mirage Tracks",
            category=CATEGORY,
            description=(
                "Names the mask of one moving thing in a chunk's frames. Mirage Cache Update "
                "writes it to its actor and not to the set. Chain one node for each thing."
            ),
            search_aliases=["sam3 track", "actor mask", "moving things"],
            inputs=[
                io.Mask.Input(
                    "mask", tooltip="White on the thing, for every frame of the chunk."
                ),
                io.String.Input("name", default="actor", tooltip="What it is called."),
                TracksType.Input(
                    "tracks", optional=True, tooltip="Further things, from another such node."
                ),
                io.Boolean.Input(
                    "lasting", default=False, optional=True, advanced=True,
                    tooltip="The mask follows the same thing through all chunks. Off: what it is "
                    "is found by its name, place and looks.",
                ),
            ],
            outputs=[TracksType.Output(display_name="tracks")],
        )

    @classmethod
    @override
    def execute(
        cls, mask: Tensor, name: str, tracks: Tracks | None = None, lasting: bool = False
    ) -> io.NodeOutput:
        if tracks is None:
            return io.NodeOutput(one_track(name, mask, lasting=lasting))
        return io.NodeOutput(tracks.with_thing(name, mask, lasting=lasting))
