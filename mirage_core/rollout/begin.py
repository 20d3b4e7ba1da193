"""The state before the first chunk: the memory of the given picture, and the plan of the shot."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..codecs.base import LatentCodec
from ..codecs.colours import ColourCodec
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.trajectory import Trajectory
from ..validate import expect_frame_size, expect_shape
from .chain import shot_start
from .memory import begin_memory
from .plan import ChunkLengths
from .settings import GenerationSettings
from .state import RolloutState, rollout_id


def begin(
    picture: Tensor,
    geometry: FrameGeometry,
    trajectory: Trajectory,
    codec: LatentCodec,
    *,
    settings: GenerationSettings,
    seed: int = 0,
    folder: Path | None = None,
    models: str = "",
    lengths: ChunkLengths | None = None,
    colours: ColourCodec | None = None,
    depth: str = "",
) -> RolloutState:
    """Make the memory of the given picture, and the state before the first chunk.

    Args:
        picture: (H, W, 3) in 0..1.
        geometry: Depth of the picture; only its first frame is taken. Without poses of its
            own, its camera is the first of the trajectory.
        trajectory: Cameras of the whole shot.
        codec: Pixels to latents.
        settings: How the shot is generated.
        seed: Seed of the shot.
        folder: Where chunks are saved.
        models: Any text that stands for the models in use, for the rollout's id. Without one
            no chunks are shared with other shots, which may be made with other models.
        lengths: How long the chunks are; 33 frames that overlap by one when None.
        colours: Makes a memory of colours, for models that are shown drawings of the scene; the
            memory holds the codec's tokens when None.
        depth: Any text that stands for where depth of new frames comes from, where that may
            differ between shots of the same ``models``: known depth of a whole shot. Only shots
            with equal texts take chunks over from each other.

    Raises:
        ShapeError: The picture's size does not fit the grid, the depth, or the trajectory.
        GeometryError: Nothing of the picture can be remembered.
        PlanError: The trajectory's length is not 4n + 1.
        TrajectoryError: The trajectory is too short.
    """
    expect_frame_size(trajectory.width, trajectory.height)
    expect_shape("The picture", picture, "H W 3", H=trajectory.height, W=trajectory.width)
    geometry.expect_aspect(trajectory.width, trajectory.height)
    tokens = codec.encode_images(picture[None].float())
    held, name = tokens, codec.name
    if colours is not None:
        held, name = colours.encode_images(picture[None]), colours.name
    cache = begin_memory(
        held,
        geometry.select([0]),
        name,
        settings.memory,
        world_to_camera=trajectory.world_to_camera[:1],
    )
    lengths = lengths or ChunkLengths()
    text = f"{settings.describe()}\0{models}"
    run_id = rollout_id(trajectory, cache, tokens, seed, text, lengths)
    start = shot_start(cache, tokens, seed, f"{text}\0{depth}") if models else None
    return RolloutState(
        trajectory, cache, tokens, seed, run_id, folder, lengths=lengths, start=start
    )
