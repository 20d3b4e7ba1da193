"""The chunk loop: one body of nodes, run once per chunk, with one state carried along."""

from __future__ import annotations

import uuid
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from typing_extensions import override

from ..mirage_core.cache.types import LatentCache
from ..mirage_core.constants import MAX_CHUNK_FRAMES, TEMPORAL_STRIDE
from ..mirage_core.errors import MirageError
from ..mirage_core.files import ensure_writable_folder
from ..mirage_core.geometry.trajectory import Trajectory, fov_of
from ..mirage_core.log import logger
from ..mirage_core.rollout.plan import ChunkLengths, expect_rollout_length
from ..mirage_core.rollout.progress import time_left
from ..mirage_core.rollout.report import review
from ..mirage_core.rollout.run_folder import all_latents, finish, take_up
from ..mirage_core.rollout.state import RolloutState, chunk_seed
from ..mirage_core.trajectories.fit import resampled
from ..mirage_core.trajectories.lens import PICTURE, fit_lens, memory_lens
from .comfy.cancel import stop_when_cancelled
from .comfy.files import output_folder, video_from_file, workflow_tags
from .comfy.loop_body import Boxed, Flow, LoopBody, PromptNodes, unboxed
from .comfy.loop_settings import settings_digest
from .comfy.patch_shelf import keep_saved_pictures
from .comfy.ui import progress, show_text
from .comfy.vae import Latent, latent_tokens, make_clean_latent, make_latent
from .shot import PlannedShot, expect_begun
from .trajectory import lens_input
from .types import CacheType, FlowType, StateType, TrajectoryType

LONGEST_CHUNK = 1001
"""Frames beyond what any video model makes at once."""


class MirageRolloutStart(io.ComfyNode):
    """The plan of a shot, taken up where it was left."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageRolloutStart",
            display_name="Mirage Rollout Start",
            category="Mirage/loop",
            description=(
                "Plans a shot in chunks, of at most 33 frames unless told otherwise. Every "
                "finished chunk is saved below output/mirage; when the same shot is queued again "
                "it goes on after the last saved chunk."
            ),
            search_aliases=["rollout", "resume", "chunk plan", "long video"],
            inputs=[
                CacheType.Input("cache", tooltip="The memory to begin with."),
                TrajectoryType.Input("trajectory", tooltip="Cameras of the whole shot."),
                io.Latent.Input("first_latent", tooltip="Latent of the given picture."),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**53, control_after_generate=True,
                    tooltip="Seed of the shot; each chunk draws its own noise from it.",
                ),
                io.String.Input(
                    "name", default="rollout", tooltip="Folder below output/mirage."
                ),
                io.Boolean.Input(
                    "resume", default=True,
                    tooltip="Go on with saved chunks of the same shot; off makes all anew.",
                ),
                *_lengths(),
                io.Float.Input(
                    "fps", default=0.0, min=0.0, max=120.0, step=0.01, optional=True,
                    advanced=True,
                    tooltip="Frames per second that the move is resampled to, as long as before: "
                    "16 for Wan2.1's models, 24 for Wan2.2's. 0 keeps it as it is.",
                ),
                lens_input(advanced=True),
            ],
            outputs=[StateType.Output(display_name="state")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @override
    def fingerprint_inputs(cls, **_: Any) -> str:
        # What is on disk and what the loop's body does decide the result: look every time.
        return uuid.uuid4().hex

    @classmethod
    @override
    def execute(
        cls,
        cache: LatentCache,
        trajectory: Trajectory,
        first_latent: Latent,
        seed: int,
        name: str,
        resume: bool,
        first_chunk_frames: int = MAX_CHUNK_FRAMES,
        chunk_frames: int = MAX_CHUNK_FRAMES,
        overlap_frames: int = 1,
        fps: float = 0.0,
        lens: str = PICTURE,
    ) -> io.NodeOutput:
        lengths = ChunkLengths(first_chunk_frames, chunk_frames, overlap_frames)
        given = trajectory.fingerprint()
        told = ""
        if fps and fps != trajectory.fps:
            expect_rollout_length(len(trajectory))
            told = _actors_keep_frames(cache, trajectory.fps, fps)
            trajectory = resampled(trajectory, fps)
        expect_rollout_length(len(trajectory))
        fitted = fit_lens(trajectory, memory_lens(cache, trajectory), lens)
        report = "\n".join(line for line in (fitted.report, told) if line)
        logger.info("%s: %s", name, report)
        tokens = latent_tokens(first_latent, "The picture's latent", cache.kind)[:, :1]
        folder = ensure_writable_folder(output_folder(name))
        state = RolloutState(fitted.trajectory, cache, tokens, seed, run_id="", lengths=lengths)
        as_given = fitted.trajectory.fingerprint() == given
        show_text(report, cls.hidden.unique_id)
        return io.NodeOutput(
            PlannedShot(state, folder, resume, cls.hidden.unique_id, as_given),
            ui={"text": (report,)},
        )


def _actors_keep_frames(cache: LatentCache, before: float, fps: float) -> str:
    """What to tell of actors whose paths are in frames of another rate; nothing without any."""
    if not any(actor.path is not None for actor in cache.actors):
        return ""
    return (
        f"the paths of actors keep their frames: the camera's are {fps:g} per second now, no more "
        f"{before:g}. Set fps = {fps:g} in Mirage Place Actor, and keyframes by time"
    )


def _lengths() -> list[io.Input]:
    """Inputs of how long the chunks are."""
    shortest = TEMPORAL_STRIDE + 1
    return [
        io.Int.Input(
            "first_chunk_frames", default=MAX_CHUNK_FRAMES, min=shortest, max=LONGEST_CHUNK,
            step=TEMPORAL_STRIDE, optional=True, advanced=True,
            tooltip="Frames of the first chunk, 4n + 1: as many as the video model was trained "
            "to begin with. 33 for Mirage's models, 121 for Spatia, 81 for VACE.",
        ),
        io.Int.Input(
            "chunk_frames", default=MAX_CHUNK_FRAMES, min=shortest, max=LONGEST_CHUNK,
            step=TEMPORAL_STRIDE, optional=True, advanced=True,
            tooltip="Frames that the model sees of every later chunk, 4n + 1, those of the "
            "overlap included. 33 for Mirage's models, 81 for Spatia and VACE.",
        ),
        io.Int.Input(
            "overlap_frames", default=1, min=1, max=LONGEST_CHUNK, step=TEMPORAL_STRIDE,
            optional=True, advanced=True,
            tooltip="Frames at the end of a chunk that the next one begins with, 4n + 1. 1 hands "
            "the last latent on; more are encoded anew as a clip. 9 for Spatia, 5 or 9 for VACE.",
        ),
    ]


class MirageLoopOpen(io.ComfyNode):
    """Where the body of the loop begins."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageLoopOpen",
            display_name="Mirage Loop Open",
            category="Mirage/loop",
            description="Begins the body of the chunk loop: what the next chunk needs.",
            search_aliases=["for loop", "iterate", "loop start"],
            inputs=[StateType.Input("state", tooltip="From Mirage Rollout Start.")],
            outputs=[
                FlowType.Output(display_name="flow"),
                StateType.Output(display_name="state"),
                CacheType.Output(display_name="cache"),
                TrajectoryType.Output(display_name="trajectory"),
                io.Latent.Output(display_name="first_latent"),
                io.Int.Output(display_name="seed"),
                io.Int.Output(display_name="chunk"),
                io.Float.Output(display_name="fov"),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            # Two with equal inputs begin different loops: neither may be given the other's outputs.
            not_idempotent=True,
        )

    @classmethod
    @override
    def execute(cls, state: PlannedShot | RolloutState | Boxed[RolloutState]) -> io.NodeOutput:
        flow = _flow_from(state, cls.hidden.dynprompt, cls.hidden.unique_id)
        state = flow.state
        taken = state.taken_over
        told = [] if taken is None else [taken.describe(len(state.plan))]
        if state.complete:
            show_text("\n".join(told), cls.hidden.unique_id)
            # Previews that hang off the body would run it once more: there is no chunk for them.
            return io.NodeOutput(flow, *[ExecutionBlocker(None)] * 7)
        text = f"Chunk {state.done + 1} of {len(state.plan)}"
        left = time_left(state)
        told.insert(0, text + (f", {left} left" if left else ""))
        show_text("\n".join(told), cls.hidden.unique_id)
        return io.NodeOutput(
            flow,
            state,
            state.cache,
            state.frame_cameras,
            make_clean_latent(state.overlap_latent),
            chunk_seed(state.seed, state.done),
            state.done,
            _field_of_view(state.latent_cameras),
        )


def _flow_from(
    state: PlannedShot | RolloutState | Boxed[RolloutState],
    dynprompt: Any,  # noqa: ANN401
    open_id: str,
) -> Flow:
    """The flow of a Loop Open: the first of a loop begins a rollout, its copies go on with it."""
    if isinstance(state, PlannedShot):
        nodes = PromptNodes(dynprompt)
        body = LoopBody.find(nodes, open_id)
        settings = settings_digest(nodes, open_id, state.start_id)
        ways = settings_digest(
            nodes, open_id, state.start_id, by_value=True, as_given=state.as_given
        )
        return Flow(keep_saved_pictures(state.begin(settings, ways)), body)
    flow = Flow(unboxed(state))
    if flow.state.complete:
        raise MirageError(
            "Mirage Loop Open gets the state of a finished shot",
            expected="the plan of a shot, from Mirage Rollout Start",
            fix="Connect state of Mirage Rollout Start; to go on from a finished shot, give it the "
            "cache of Mirage Rollout Result",
        )
    return flow


def _field_of_view(cameras: Trajectory) -> float:
    """Horizontal, in degrees, of the middle camera: a zoom has no single one."""
    return fov_of(cameras.intrinsics[len(cameras) // 2], cameras.width)


class MirageLoopClose(io.ComfyNode):
    """Where the body of the loop ends; repeats it until the shot is complete."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageLoopClose",
            display_name="Mirage Loop Close",
            category="Mirage/loop",
            description=(
                "Ends the body of the chunk loop and repeats it for every chunk that is left. "
                "The trajectory's length decides how many there are."
            ),
            search_aliases=["end loop", "repeat", "loop end"],
            inputs=[
                FlowType.Input("flow", tooltip="From Mirage Loop Open."),
                StateType.Input("state", lazy=True, tooltip="From Mirage Cache Update."),
            ],
            outputs=[StateType.Output(display_name="state")],
            enable_expand=True,
        )

    @classmethod
    @override
    def check_lazy_status(
        cls, flow: Flow | Boxed[Flow], state: RolloutState | None = None
    ) -> list[str]:
        flow = unboxed(flow)
        if flow.state.complete or state is not None:
            return []
        _expect_body(flow)
        return ["state"]

    @classmethod
    @override
    def execute(
        cls, flow: Flow | Boxed[Flow], state: RolloutState | None = None
    ) -> io.NodeOutput:
        flow = unboxed(flow)
        if flow.state.complete:
            return io.NodeOutput(flow.state)
        if state is None or expect_begun(state).done <= flow.state.done:
            raise MirageError(
                "The loop's body does not finish a chunk",
                expected="the state of Mirage Cache Update",
                fix="Connect the state output of Mirage Cache Update to Mirage Loop Close",
            )
        if state.run_id != flow.state.run_id:
            raise MirageError(
                "The state at this Mirage Loop Close belongs to another loop",
                expected="the state of the Mirage Cache Update between it and its Mirage Loop Open",
                fix="Connect state of the same Mirage Loop Open to every node of the body",
            )
        state = take_up(state)
        if state.complete:
            return io.NodeOutput(state)
        added, result = _expect_body(flow).repeat(state)
        return io.NodeOutput(result, expand=added)


def _expect_body(flow: Flow) -> LoopBody:
    if flow.body is None:
        raise MirageError(
            "This Mirage Loop Close cannot tell where its loop begins",
            expected="Mirage Rollout Start, Mirage Loop Open and Mirage Loop Close in a row",
            fix="Connect state of Mirage Rollout Start to Mirage Loop Open, and its flow straight "
            "to Mirage Loop Close, with no node between",
        )
    return flow.body


class MirageRolloutResult(io.ComfyNode):
    """The finished shot."""

    @classmethod
    @override
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MirageRolloutResult",
            display_name="Mirage Rollout Result",
            category="Mirage/loop",
            description=(
                "The finished shot: the video, which stays on disk with the workflow in it (Get "
                "Video Components makes images of it), its latents, the memory, a contact sheet "
                "with what was known below each frame, and a report."
            ),
            search_aliases=["result", "contact sheet", "long video output"],
            inputs=[StateType.Input("state", tooltip="From Mirage Loop Close.")],
            outputs=[
                io.Video.Output(display_name="video"),
                io.Latent.Output(display_name="latent"),
                CacheType.Output(display_name="cache"),
                io.Image.Output(display_name="contact_sheet"),
                io.String.Output(display_name="report"),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    @override
    def execute(cls, state: RolloutState) -> io.NodeOutput:
        state = expect_begun(state)
        tags = workflow_tags(cls.hidden.prompt, cls.hidden.extra_pnginfo)
        path = finish(state, tags=tags, on_clip=stop_when_cancelled)
        read_frame = progress(len(state.trajectory))
        seen = review(state, path, read_frame)
        return io.NodeOutput(
            video_from_file(path),
            make_latent(all_latents(state)),
            state.cache,
            seen.contact_sheet[None],
            seen.report,
            ui={"text": (seen.report,)},
        )
