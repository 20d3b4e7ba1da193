"""The chunk loop: one body of nodes, run once per chunk, with one state carried along."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from typing_extensions import override

from ..mirage_core.cache.types import LatentCache
from ..mirage_core.errors import MirageError
from ..mirage_core.geometry.trajectory import Trajectory, fov_of
from ..mirage_core.rollout.plan import expect_rollout_length
from ..mirage_core.rollout.progress import time_left
from ..mirage_core.rollout.report import review
from ..mirage_core.rollout.run_folder import all_latents, finish, open_folder
from ..mirage_core.rollout.state import RolloutState, chunk_seed, rollout_id
from .comfy.files import output_folder, video_from_file
from .comfy.loop_body import BoxedState, LoopBody, body_digest
from .comfy.ui import progress, show_text
from .comfy.vae import Latent, latent_tokens, make_latent
from .types import CacheType, FlowType, StateType, TrajectoryType


@dataclass(frozen=True)
class Flow:
    """Ties a Loop Close to its Loop Open.

    Attributes:
        state: The state with which the body of this iteration begins.
    """

    state: RolloutState


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
                "Plans a shot in chunks of at most 33 frames. Every finished chunk is saved "
                "below output/mirage; when the same shot is queued again it goes on after the "
                "last saved chunk."
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
            ],
            outputs=[StateType.Output(display_name="state")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
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
    ) -> io.NodeOutput:
        expect_rollout_length(len(trajectory))
        tokens = latent_tokens(first_latent, "The picture's latent")[:, :1]
        settings = body_digest(cls.hidden.dynprompt, cls.hidden.unique_id)
        run_id = rollout_id(trajectory, cache, tokens, seed, settings)
        folder = output_folder(name) / run_id[:12]
        if not resume:
            folder = _unused(folder)
        state = RolloutState(trajectory, cache, tokens, seed, run_id, folder)
        return io.NodeOutput(open_folder(state))


def _unused(folder: Path) -> Path:
    number, candidate = 2, folder
    while candidate.exists():
        candidate = folder.with_name(f"{folder.name}-{number}")
        number += 1
    return candidate


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
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @override
    def execute(cls, state: RolloutState | BoxedState) -> io.NodeOutput:
        state = state.state if isinstance(state, BoxedState) else state
        if state.complete:
            # Previews that hang off the body would run it once more: there is no chunk for them.
            return io.NodeOutput(Flow(state), *[ExecutionBlocker(None)] * 7)
        text = f"Chunk {state.done + 1} of {len(state.plan)}"
        left = time_left(state)
        show_text(text + (f", {left} left" if left else ""), cls.hidden.unique_id)
        return io.NodeOutput(
            Flow(state),
            state,
            state.cache,
            state.frame_cameras,
            make_latent(state.overlap_latent),
            chunk_seed(state.seed, state.done),
            state.done,
            _field_of_view(state.latent_cameras),
        )


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
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            enable_expand=True,
        )

    @classmethod
    @override
    def check_lazy_status(cls, flow: Flow, state: RolloutState | None = None) -> list[str]:
        return [] if flow.state.complete or state is not None else ["state"]

    @classmethod
    @override
    def execute(cls, flow: Flow, state: RolloutState | None = None) -> io.NodeOutput:
        if flow.state.complete:
            return io.NodeOutput(flow.state)
        if state is None or state.done <= flow.state.done:
            raise MirageError(
                "The loop's body does not finish a chunk",
                expected="the state of Mirage Cache Update",
                fix="Connect the state output of Mirage Cache Update to Mirage Loop Close",
            )
        if state.complete:
            return io.NodeOutput(state)
        body = LoopBody.find(cls.hidden.dynprompt, cls.hidden.unique_id)
        graph, result = body.repeat(state)
        return io.NodeOutput(result, expand=graph.finalize())


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
                "The finished shot: the video, which stays on disk (Get Video Components makes "
                "images of it), its latents, the memory, a contact sheet with what was known "
                "below each frame, and a report."
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
            is_output_node=True,
        )

    @classmethod
    @override
    def execute(cls, state: RolloutState) -> io.NodeOutput:
        path = finish(state)
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
