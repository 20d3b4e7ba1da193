"""Camera moves from and to other programs, and ComfyUI's own cameras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io
from torch import Tensor
from typing_extensions import override

from ..mirage_core.errors import GeometryError, MirageError
from ..mirage_core.geometry.frame_geometry import FrameGeometry
from ..mirage_core.geometry.trajectory import Trajectory, fov_of, intrinsics_from_fov
from ..mirage_core.geometry.transform import invert_rigid
from ..mirage_core.trajectories.exchange.camera_file import DEFAULT_FOV as UNSTATED_FOV
from ..mirage_core.trajectories.exchange.camera_file import CameraFile, Wanted
from ..mirage_core.trajectories.exchange.formats import (
    FORMATS,
    GLTF,
    MODEL_FILES,
    SUFFIXES,
    export_trajectory,
    read_cameras,
)
from ..mirage_core.trajectories.exchange.load3d import (
    DEFAULT_FOV,
    camera_of_frame,
    cameras_of_move,
    keyframes_of_cameras,
)
from ..mirage_core.trajectories.fit import begin_at, largest_step, retimed, scaled
from ..mirage_core.trajectories.keyframes import keyframe_trajectory
from ..mirage_core.trajectories.lens import PICTURE, fit_lens
from ..mirage_core.validate import expect_frame_count, expect_frame_size, expect_range
from .comfy.files import file_stamp, list_files, next_file, resolve_file
from .trajectory import lens_geometry_input, lens_input, picture_lens
from .types import GeometryType, TrajectoryType

CATEGORY = "Mirage/camera"


def _frames_input(default: int, tooltip: str) -> io.Int.Input:
    return io.Int.Input("frames", default=default, min=0, max=16385, step=4, tooltip=tooltip)


def _fps_input() -> io.Float.Input:
    return io.Float.Input(
        "fps",
        default=24.0,
        min=1.0,
        max=120.0,
        step=0.01,
        advanced=True,
        tooltip="Frames per second of the video.",
    )


def _check_frames(frames: int | None) -> bool | str:
    try:
        if frames:
            expect_frame_count(frames)
    except MirageError as error:
        return str(error)
    return True


def _first_pose(geometry: FrameGeometry | None) -> Tensor | None:
    if geometry is None or geometry.world_to_camera is None:
        return None
    return invert_rigid(geometry.world_to_camera[:1])[0]


def _camera_files() -> list[str]:
    files = [name for suffix in SUFFIXES for name in list_files(suffix[1:])]
    endings = {Path(name).suffix[1:] for name in MODEL_FILES}
    models = [name for ending in sorted(endings) for name in list_files(ending)]
    # Only by their whole name: weights have the same endings.
    return files + [
        name for name in models if Path(name.removesuffix(" [output]")).name in MODEL_FILES
    ]


def _import_report(found: CameraFile, before: Trajectory, path: Trajectory) -> str:
    length = float((path.positions[1:] - path.positions[:-1]).norm(dim=1).sum())
    parts = [
        f"{len(before)} frames in the file, {len(path)} in the shot, path length {length:.3g}"
    ]
    if len(before) > 1:
        step, frame = largest_step(before)
        parts.append(f"largest step {step:.3g} to frame {frame} of the file")
    return "\n".join([", ".join(parts), found.format, *found.notes])


class MirageTrajectoryImport(io.ComfyNode):
    """A camera move from another program."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageTrajectoryImport",
            display_name="Mirage Trajectory Import",
            category=CATEGORY,
            description=(
                "Loads a camera move from Blender, Houdini, Unreal (glTF), Nuke (.chan), COLMAP, "
                "nerfstudio, trackers (TUM, KITTI) or other video models, and fits it to the "
                "picture."
            ),
            search_aliases=[
                "gltf", "glb", "colmap", "realestate10k", "blender camera", "transforms.json",
                "nerf", "match move", "nuke", "chan", "nerfstudio", "camera_path.json", "tum",
                "kitti", "wan fun camera", "recammaster", "motionctrl", "viewcrafter", "fbx",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The picture: its size is the video's size."),
                io.Combo.Input(
                    "file", options=_camera_files(),
                    tooltip="From the input folder, or below output/mirage. For a COLMAP model "
                    "choose images.txt or images.bin; its cameras must be in the same folder.",
                ),
                _frames_input(
                    0, "Length of the shot, 4n + 1; the move is retimed to fill it. "
                    "0 keeps the frames of the file, truncated to 4n + 1."
                ),
                io.Float.Input(
                    "scale", default=1.0, min=0.001, max=1000.0, step=0.01,
                    tooltip="Scale of the move: scene units per unit of the file.",
                ),
                io.Boolean.Input(
                    "begin_at_picture", default=True,
                    tooltip="Start the move at the camera of the picture. Off keeps the positions "
                    "of the file, for moves that were made in the memory's world coordinates.",
                ),
                _fps_input(),
                GeometryType.Input(
                    "geometry", optional=True,
                    tooltip="Geometry of the picture: its lens, and its camera pose if it has one.",
                ),
                io.String.Input(
                    "camera", default="", optional=True, advanced=True,
                    tooltip="Name or number of the camera of a file with several, such as a rig. "
                    "Empty takes the first, of glTF the first that moves; the report names them.",
                ),
                io.String.Input(
                    "animation", default="", optional=True, advanced=True,
                    tooltip="Name or number of the animation in a glTF file; empty takes the first "
                    "that moves the camera. The report names all.",
                ),
                lens_input(),
            ],
            outputs=[
                TrajectoryType.Output(display_name="trajectory"),
                io.String.Output(display_name="report"),
            ],
        )  # fmt: skip

    @classmethod
    @override
    def validate_inputs(cls, frames: int | None = None) -> bool | str:
        return _check_frames(frames)

    @classmethod
    @override
    def fingerprint_inputs(cls, file: str, **_: Any) -> tuple[str, int]:
        return file_stamp(file)

    @classmethod
    @override
    def execute(
        cls,
        image: Tensor,
        file: str,
        frames: int,
        scale: float,
        begin_at_picture: bool,
        fps: float,
        geometry: FrameGeometry | None = None,
        camera: str = "",
        animation: str = "",
        lens: str = PICTURE,
    ) -> io.NodeOutput:
        height, width = int(image.shape[1]), int(image.shape[2])
        expect_frame_size(width, height)
        known = picture_lens(geometry, width, height)
        fov = UNSTATED_FOV if known is None else fov_of(known, width)
        wanted = Wanted(width, height, fps, fov, camera.strip(), animation.strip())
        found = read_cameras(resolve_file(file), wanted)
        fitted = fit_lens(found.trajectory, known, lens)
        before = path = scaled(fitted.trajectory, scale)
        if begin_at_picture:
            path = begin_at(path, _first_pose(geometry))
        path = retimed(path, frames) if frames else path.select(slice((len(path) - 1) // 4 * 4 + 1))
        report = "\n".join((_import_report(found, before, path), fitted.report))
        return io.NodeOutput(path, report, ui={"text": (report,)})


class MirageTrajectoryExport(io.ComfyNode):
    """A camera move for another program."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageTrajectoryExport",
            display_name="Mirage Trajectory Export",
            category=CATEGORY,
            description=(
                "Saves a camera move below output/mirage for Blender and Unreal (glTF), Nuke "
                "(.chan), COLMAP, RealEstate10K, Wan-Fun, ReCamMaster, or as transforms.json."
            ),
            search_aliases=[
                "gltf", "glb", "colmap", "blender camera", "nerf", "unreal", "nuke", "chan",
            ],
            inputs=[
                TrajectoryType.Input("trajectory", tooltip="The move."),
                io.Combo.Input(
                    "format", options=list(FORMATS), default=GLTF, tooltip="File format."
                ),
                io.String.Input(
                    "filename_prefix", default="camera", tooltip="Name below output/mirage."
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    @override
    def execute(cls, trajectory: Trajectory, format: str, filename_prefix: str) -> io.NodeOutput:
        target = next_file(filename_prefix, "json").with_suffix("")
        return io.NodeOutput(ui={"text": (str(export_trajectory(trajectory, target, format)),)})


class MirageTrajectoryFromCameras(io.ComfyNode):
    """A path through ComfyUI's own cameras."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageTrajectoryFromCameras",
            display_name="Mirage Trajectory from Cameras",
            category=CATEGORY,
            description=(
                "Makes a move through one or more cameras of Load 3D or Create Camera Info. "
                "Several cameras in a list become keyframes at equal intervals."
            ),
            search_aliases=["load 3d camera", "camera info", "camera list"],
            inputs=[
                io.Image.Input("image", tooltip="The picture: its size is the video's size."),
                io.Load3DCamera.Input(
                    "cameras", tooltip="One camera, or a list of them in the order of the move."
                ),
                _frames_input(49, "Frames of the shot, 4n + 1."),
                _fps_input(),
                lens_geometry_input(),
                lens_input(),
            ],
            outputs=[TrajectoryType.Output(display_name="trajectory")],
            is_input_list=True,
        )

    @classmethod
    @override
    def execute(
        cls,
        image: list[Tensor],
        cameras: list[dict[str, Any]],
        frames: list[int],
        fps: list[float],
        geometry: list[FrameGeometry] | None = None,
        lens: list[str] | None = None,
    ) -> io.NodeOutput:
        height, width = int(image[0].shape[1]), int(image[0].shape[2])
        expect_frame_size(width, height)
        keys = keyframes_of_cameras(cameras, frames[0], width=width, height=height)
        # Every keyframe brings its own field of view; this one is only scaled.
        intrinsics = intrinsics_from_fov(width, height, keys[0].fov_x or DEFAULT_FOV)
        path = keyframe_trajectory(
            keys, frames[0], intrinsics=intrinsics, width=width, height=height, fps=fps[0]
        )
        known = picture_lens(geometry[0] if geometry else None, width, height)
        fitted = fit_lens(path, known, lens[0] if lens else PICTURE)
        return io.NodeOutput(fitted.trajectory, ui={"text": (fitted.report,)})


class MirageTrajectoryFromGeometry(io.ComfyNode):
    """A path through the cameras of several photographs."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageTrajectoryFromGeometry",
            display_name="Mirage Trajectory from Geometry",
            category=CATEGORY,
            description=(
                "Makes a move through the cameras that Depth Anything 3 (multiview) estimated for "
                "several photographs or the frames of a video."
            ),
            search_aliases=["da3 extrinsics", "match move", "camera poses", "photographs"],
            inputs=[
                io.Image.Input("image", tooltip="The picture: its size is the video's size."),
                GeometryType.Input("geometry", tooltip="Geometry with camera poses."),
                _frames_input(0, "Frames of the shot, 4n + 1. 0 uses one frame per camera."),
                _fps_input(),
            ],
            outputs=[TrajectoryType.Output(display_name="trajectory")],
        )

    @classmethod
    @override
    def validate_inputs(cls, frames: int | None = None) -> bool | str:
        return _check_frames(frames)

    @classmethod
    @override
    def execute(
        cls, image: Tensor, geometry: FrameGeometry, frames: int, fps: float
    ) -> io.NodeOutput:
        height, width = int(image.shape[1]), int(image.shape[2])
        expect_frame_size(width, height)
        geometry.expect_aspect(width, height)
        if geometry.world_to_camera is None:
            raise GeometryError(
                "This geometry has no camera poses",
                expected="several views with cameras",
                fix="Run Depth Anything 3 with mode multiview on several pictures",
            )
        path = Trajectory(
            geometry.world_to_camera, geometry.intrinsics_for((height, width)), width, height, fps
        )
        path = retimed(path, frames) if frames else path.select(slice((len(path) - 1) // 4 * 4 + 1))
        return io.NodeOutput(path)


class MirageTrajectoryCamera(io.ComfyNode):
    """ComfyUI's own camera for one frame of a move."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageTrajectoryCamera",
            display_name="Mirage Trajectory Camera",
            category=CATEGORY,
            description=(
                "The camera of one frame, for Load 3D, Render Splat and other 3D nodes, and the "
                "cameras of the whole move as a list."
            ),
            search_aliases=["camera info", "load 3d camera"],
            inputs=[
                TrajectoryType.Input("trajectory", tooltip="The move."),
                io.Int.Input(
                    "frame",
                    default=0,
                    min=-16385,
                    max=16385,
                    tooltip="Frame of the move; -1 is the last one.",
                ),
            ],
            outputs=[
                io.Load3DCamera.Output(display_name="camera_info"),
                io.Load3DCamera.Output(
                    display_name="cameras",
                    is_output_list=True,
                    tooltip="One camera for every fourth frame.",
                ),
            ],
        )

    @classmethod
    @override
    def execute(cls, trajectory: Trajectory, frame: int) -> io.NodeOutput:
        count = len(trajectory)
        expect_range("The frame", frame, -count, count - 1, f"The move has {count} frames")
        return io.NodeOutput(
            camera_of_frame(trajectory, frame % count), cameras_of_move(trajectory)
        )
