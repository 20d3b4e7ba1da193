"""Camera moves: presets, keys, files."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.cache.types import LatentCache
from ..mirage_core.errors import MirageError
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.geometry.trajectory import Trajectory
from ..mirage_core.geometry.transform import invert_rigid
from ..mirage_core.trajectories.files import load_trajectory, save_trajectory
from ..mirage_core.trajectories.keyboard import keyboard_trajectory
from ..mirage_core.trajectories.lens import LENSES, PICTURE, fit_lens
from ..mirage_core.trajectories.presets import EASINGS, PRESETS, preset_trajectory
from ..mirage_core.trajectories.shot import shot_from_json, shot_trajectory
from ..mirage_core.validate import expect_frame_count, expect_frame_size, expect_range
from .comfy import viewer
from .comfy.files import file_stamp, list_files, next_file, resolve_file
from .types import CacheType, GeometryType, TrajectoryType

MIN_FRAMES = 5
MAX_FRAMES = 100_001


def lens_input(advanced: bool = False) -> io.Input:
    """Whose lens a move begins with."""
    return io.Combo.Input(
        "lens", options=list(LENSES), default=PICTURE, optional=True, advanced=advanced,
        tooltip="picture: the move begins with the field of view of the picture, and a zoom stays "
        "a zoom. file: it keeps its own, and where that differs the picture jumps in size.",
    )  # fmt: skip


def lens_geometry_input() -> io.Input:
    """The geometry that tells the lens of the picture."""
    return GeometryType.Input(
        "geometry", optional=True,
        tooltip="Geometry of the picture, for its lens. Without it Mirage Rollout Start compares.",
    )  # fmt: skip


def picture_lens(geometry: FrameGeometry | None, width: int, height: int) -> Tensor | None:
    """(3, 3) intrinsics of a picture, in its pixels; None without a geometry.

    Raises:
        ShapeError: The geometry is that of a picture of another aspect ratio.
    """
    if geometry is None:
        return None
    geometry.expect_aspect(width, height)
    return geometry.intrinsics_for((height, width))[0]


class MirageTrajectory(io.ComfyNode):
    """A camera move that fits a picture."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageTrajectory",
            display_name="Mirage Trajectory",
            category="Mirage/camera",
            description=(
                "A camera move. Amounts are relative to the typical distance of the scene, so a "
                "preset looks the same on a tabletop and on a valley."
            ),
            search_aliases=["camera path", "camera move", "dolly", "orbit", "pan", "keyframes"],
            inputs=[
                io.Image.Input("image", tooltip="The picture: its size is the video's size."),
                GeometryType.Input(
                    "geometry", tooltip="Field of view and typical distance of the picture."
                ),
                io.Combo.Input(
                    "preset", options=list(PRESETS), default="orbit",
                    tooltip="The move. Positive amounts go right, up, forward, clockwise.",
                ),
                io.Int.Input(
                    "frames", default=97, min=MIN_FRAMES, max=MAX_FRAMES, step=4,
                    tooltip="Length of the shot: 4n + 1 frames.",
                ),
                io.Float.Input(
                    "amount", default=1.0, min=-10.0, max=10.0, step=0.05,
                    tooltip="Size of the move; 1 is calm, negative values reverse the direction.",
                ),
                io.Boolean.Input(
                    "there_and_back", default=False,
                    tooltip="Move in the first half of the shot and return in the second.",
                ),
                io.Combo.Input(
                    "easing", options=list(EASINGS), default="smooth",
                    tooltip="How the move accelerates and decelerates.",
                ),
                io.Float.Input(
                    "fps", default=24.0, min=1.0, max=120.0, step=0.01,
                    tooltip="Frames per second of the video.", advanced=True,
                ),
                io.String.Input(
                    "keys", default="", advanced=True,
                    tooltip="Replaces the preset by walking: w s a d move, i k j l turn, . stays; "
                    "for example w*16 l*24 wl*8. The keys decide the number of frames.",
                ),
                io.String.Input(
                    "keyframes", default="", advanced=True, multiline=True,
                    tooltip="Replaces preset and keys by keyframes, as JSON with the format "
                    "mirage-keyframes.",
                ),
                CacheType.Input(
                    "cache", optional=True,
                    tooltip="The memory to draw; without it the picture's own depth is drawn.",
                ),
            ],
            outputs=[TrajectoryType.Output(display_name="trajectory")],
        )

    @classmethod
    @override
    def validate_inputs(
        cls, frames: int | None = None, keys: str | None = None, keyframes: str | None = None
    ) -> bool | str:
        decided_by_keys = (keys or "").strip() and not (keyframes or "").strip()
        if frames is None or decided_by_keys:
            return True
        try:
            expect_range("The number of frames", frames, MIN_FRAMES, MAX_FRAMES)
            expect_frame_count(frames)
        except MirageError as error:
            return str(error)
        return True

    @classmethod
    @override
    def execute(
        cls,
        image: Tensor,
        geometry: FrameGeometry,
        preset: str,
        frames: int,
        amount: float,
        there_and_back: bool,
        easing: str,
        fps: float,
        keys: str,
        keyframes: str,
        cache: LatentCache | None = None,
    ) -> io.NodeOutput:
        height, width = int(image.shape[1]), int(image.shape[2])
        expect_frame_size(width, height)
        geometry.expect_aspect(width, height)
        intrinsics = geometry.intrinsics_for((height, width))[0]
        camera: dict[str, Any] = {
            "intrinsics": intrinsics, "width": width, "height": height, "fps": fps,
        }  # fmt: skip
        pose = geometry.world_to_camera
        start = None if pose is None else invert_rigid(pose[:1])[0]
        depth = geometry.typical_depth()
        if keyframes.strip():
            shot = shot_from_json(keyframes, scene_depth=depth, start=start)
            path = shot_trajectory(shot, frames, **camera)
        elif keys.strip():
            path = keyboard_trajectory(keys, scene_depth=depth, start=start, **camera)
        else:
            path = preset_trajectory(
                preset,
                frames,
                scene_depth=depth,
                amount=amount,
                there_and_back=there_and_back,
                easing=easing,
                start=start,
                **camera,
            )
        view = viewer.trajectory_view(path, image, geometry, start, cache)
        return io.NodeOutput(path, ui={"mirage_view": (view,)})


class MirageTrajectorySave(io.ComfyNode):
    """Saves a camera move as JSON."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageTrajectorySave",
            display_name="Mirage Trajectory Save",
            category="Mirage/camera",
            description="Saves a camera move as JSON that states its axis convention.",
            search_aliases=["export camera", "save camera path"],
            inputs=[
                TrajectoryType.Input("trajectory", tooltip="The move."),
                io.String.Input(
                    "filename_prefix", default="trajectory", tooltip="Name below output/mirage."
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    @override
    def execute(cls, trajectory: Trajectory, filename_prefix: str) -> io.NodeOutput:
        path = next_file(filename_prefix, "json")
        save_trajectory(path, trajectory)
        return io.NodeOutput(ui={"text": (str(path),)})


class MirageTrajectoryLoad(io.ComfyNode):
    """Loads a camera move from JSON."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageTrajectoryLoad",
            display_name="Mirage Trajectory Load",
            category="Mirage/camera",
            description="Loads a camera move from output/mirage or the input folder.",
            search_aliases=["import camera", "load camera path"],
            inputs=[
                io.Combo.Input(
                    "file", options=list_files("json"), tooltip="The trajectory file."
                ),
                lens_geometry_input(),
                lens_input(),
            ],
            outputs=[TrajectoryType.Output(display_name="trajectory")],
        )

    @classmethod
    @override
    def fingerprint_inputs(cls, file: str, **_: Any) -> tuple[str, int]:
        return file_stamp(file)

    @classmethod
    @override
    def execute(
        cls, file: str, geometry: FrameGeometry | None = None, lens: str = PICTURE
    ) -> io.NodeOutput:
        path = load_trajectory(resolve_file(file))
        fitted = fit_lens(path, picture_lens(geometry, path.width, path.height), lens)
        return io.NodeOutput(fitted.trajectory, ui={"text": (fitted.report,)})
