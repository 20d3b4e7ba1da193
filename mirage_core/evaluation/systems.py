"""What makes a shot from a picture and a camera path: the preview, the bundled model, any other."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import torch
from torch import Tensor

from ..codecs.base import LatentCodec
from ..codecs.colours import ColourCodec
from ..codecs.dct import DctCodec
from ..codecs.memory_kind import memory_drawer
from ..constants import TEMPORAL_STRIDE
from ..errors import ModelMismatchError, ValueRangeError
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.trajectory import Trajectory
from ..models.bundled import SHIFT, STEPS, branch_path, empty_text, model_path
from ..preview.drawn import Drawings
from ..preview.render import render_preview
from ..readout.readout import read
from ..rollout.begin import begin
from ..rollout.denoisers import TransformerDenoisers, projection_source
from ..rollout.depth_source import DepthSource
from ..rollout.generate import generate
from ..rollout.memory import write_chunk
from ..rollout.models import DenoiserFactory, GenerationModels
from ..rollout.plan import ChunkLengths
from ..rollout.progress import Progress
from ..rollout.run_folder import commit, load_record, open_folder
from ..rollout.settings import GenerationSettings
from ..rollout.state import RolloutState
from .shown import Anew, Beside, Drawn, expect_scene_units
from .variations import PIXEL_MEMORIES, Variation
from .witness import Witness

PREVIEW_STEP: Final = 2
"""Pixels along each side of a colour that the preview remembers."""


@dataclass(frozen=True, eq=False)
class Request:
    """A shot to make.

    Attributes:
        picture: (H, W, 3) in 0..1.
        geometry: Its depth.
        cameras: Of all frames of the shot.
        depth: Where the depth of new frames comes from.
        seed: Of the noise.
        prompt: What it shows, for models that read it.
        name: Of the shot, for shots that are asked for by name.
    """

    picture: Tensor
    geometry: FrameGeometry
    cameras: Trajectory
    depth: DepthSource
    seed: int = 0
    prompt: str = ""
    name: str = ""


@dataclass(frozen=True, eq=False)
class Made:
    """A finished shot.

    Attributes:
        frames: (F, H, W, 3) in 0..1.
        known: (T, h, w) bool, latent cells that the memory showed when they were made; None
            where another program made the shot, as with the two below.
        points: Of the memory at the end.
        memory_bytes: Of the memory at the end.
        seconds: By stage, of all chunks together.
        geometry: Depth as it was estimated, of the latent frames of each chunk.
    """

    frames: Tensor
    known: Tensor | None
    points: int | None
    memory_bytes: int | None
    seconds: dict[str, float]
    geometry: Sequence[FrameGeometry]

    def remembered(self) -> dict[str, float | None]:
        """Share of the cells that the memory showed after the given picture, and its points."""
        known = None if self.known is None else float(self.known[1:].float().mean())
        return {"known": known, "points": None if self.points is None else float(self.points)}


class System(Protocol):
    """Makes shots; is sent to the workers."""

    @property
    def name(self) -> str:
        """Of its way in results."""

    def settings(self) -> dict[str, Any]:
        """What results depend on."""

    def prepare(self) -> None:
        """Load its models."""

    def announce(self, requests: Sequence[Request]) -> None:
        """Told of all shots of an item, before the first of them is made."""

    def shoot(self, request: Request, variation: Variation | None = None) -> Made:
        """Make a whole shot.

        Raises:
            MirageError: The shot or the variation is none that it can make.
        """


@dataclass(frozen=True)
class PreviewSystem:
    """Draws the memory, fills holes with smooth colour, and remembers what it drew; no network."""

    name: ClassVar[str] = "preview"

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        return {"model": self.name}

    def prepare(self) -> None:
        """There is nothing to load."""

    def announce(self, requests: Sequence[Request]) -> None:
        """Shots are made one by one."""

    def shoot(self, request: Request, variation: Variation | None = None) -> Made:
        """Make a whole shot.

        Raises:
            ModelMismatchError: The variation is one of a video model.
        """
        variation = variation or Variation("latent")
        if variation.memory not in ("tokens", "colours") or variation.branch is not None:
            raise ModelMismatchError(
                f"The preview cannot make the variation {variation.name}",
                got=f"memory {variation.memory}, branch {variation.branch}",
                expected="a memory of tokens or of colours, and no branch",
                fix="Use --model bundled, or another video model",
            )
        codec, loop = DctCodec(), variation.applied(GenerationSettings(references=0))
        step = variation.step or PREVIEW_STEP
        colours = ColourCodec(step) if variation.memory == "colours" else None
        witness = Witness(request.depth, filtered=variation.filtered)
        known = []
        with tempfile.TemporaryDirectory(prefix="mirage-evaluation-") as folder:
            state = open_folder(
                _begun(request, codec, loop, variation, Path(folder), colours=colours)
            )
            while not state.complete:
                state = self._chunk(state, codec, loop, witness, variation)
                known.append(load_record(state, state.done - 1).visible)
        return _made(witness, known, state)

    def _chunk(
        self,
        state: RolloutState,
        codec: DctCodec,
        loop: GenerationSettings,
        witness: Witness,
        variation: Variation,
    ) -> RolloutState:
        witness.stage("drawing")
        readout = read(state.cache, state.frame_cameras, loop.memory.view)
        drawer = memory_drawer(state.cache.codec)
        drawn = render_preview(
            state.cache, state.frame_cameras, drawer, view=variation.drawn_view
        ).frames
        latents = torch.cat([state.overlap_latent, codec.encode(drawn)[:, 1:]], dim=1)
        witness.stage("depth")
        geometry = witness(
            drawn[::TEMPORAL_STRIDE], state.latent_cameras, state.chunk.pose_frames
        )
        chunk = range(state.chunk.first_frame, state.chunk.output_end)
        witness.masks(drawn, state.frame_cameras, chunk)
        witness.stage("memory")
        written = write_chunk(
            state, latents, drawn, geometry, loop.memory,
            encode=codec.encode_images, scaled=witness.scaled,
        )  # fmt: skip
        witness.stage("saving")
        return commit(state, latents=latents, frames=drawn, readout=readout, cache=written.cache)


@dataclass(frozen=True, eq=False)
class Parts:
    """A video model with all that goes with it.

    Attributes:
        models: For `mirage_core.rollout.generate`; their depth is that of each request.
        settings: Of the loop.
        lengths: Of chunks.
        colours: Makes the memory's colours, for models that are shown drawings of them.
        texts: Makes the denoisers for a prompt; None where prompts are not read.
    """

    models: GenerationModels
    settings: GenerationSettings
    lengths: ChunkLengths = field(default_factory=ChunkLengths)
    colours: ColourCodec | None = None
    texts: Callable[[str], DenoiserFactory] | None = None


@dataclass(frozen=True)
class ModelSystem:
    """A video model in the loop of a rollout.

    Attributes:
        name: Of its way in results.
        load: Loads it, with another side branch than its own if one is given; is sent to the
            workers.
        about: What results depend on, as JSON can hold it.
    """

    name: str
    load: Callable[[Path | None], Parts]
    about: dict[str, Any] = field(default_factory=dict, hash=False)

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        return {"model": self.name, **self.about}

    def prepare(self) -> None:
        """Load the model with its own branch."""
        self._parts(None)

    def announce(self, requests: Sequence[Request]) -> None:
        """Shots are made one by one."""

    def _parts(self, branch: Path | None) -> Parts:
        loaded: dict[Path | None, Parts] = self.__dict__.setdefault("_loaded", {})
        if branch not in loaded:
            # One at a time: two large models need not fit.
            loaded.clear()
            loaded[branch] = self.load(branch)
        return loaded[branch]

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}

    def shoot(self, request: Request, variation: Variation | None = None) -> Made:
        """Make a whole shot.

        Raises:
            ModelMismatchError: The variation is none that this model can be shown.
            MirageError: As `mirage_core.rollout.generate.generate`.
        """
        variation = variation or Variation("latent")
        parts = self._parts(variation.branch)
        loop = variation.applied(parts.settings)
        witness = Witness(request.depth, filtered=variation.filtered)
        models = self._models(parts, request, variation, witness)
        with tempfile.TemporaryDirectory(prefix="mirage-evaluation-") as folder:
            state = _begun(
                request, models.codec, loop, variation, Path(folder),
                lengths=parts.lengths, colours=parts.colours,
            )  # fmt: skip

            def told(progress: Progress) -> None:
                witness.stage(progress.stage)

            witness.stage("sampling")
            state = generate(state, models, loop, told)
            known = [load_record(state, index).visible for index in range(state.done)]
        return _made(witness, known, state)

    def _models(
        self, parts: Parts, request: Request, variation: Variation, witness: Witness
    ) -> GenerationModels:
        models = dataclasses.replace(parts.models, depth=witness, masks=witness.masks)
        if parts.texts is not None:
            models = dataclasses.replace(models, denoiser=parts.texts(request.prompt))
        if variation.view == "best_view" and models.projection is not None:
            raise ModelMismatchError(
                f"The variation {variation.name} changes nothing for this branch",
                got="a branch that takes drawings, and has its own way of looking at the memory",
                fix="Leave the variation out, or use a branch that takes the readout's tokens",
            )
        if variation.memory == "tokens":
            return models
        if parts.colours is not None or models.conditions is not None:
            raise ModelMismatchError(
                f"The variation {variation.name} needs a branch that is shown tokens",
                got=f"{self.name}, which is shown drawings of colours",
            )
        expect_scene_units(variation, witness.scaled)
        start = request.picture, request.geometry, request.cameras
        shown: Beside | Drawn | Anew
        if variation.step is not None:
            memory = variation.applied(parts.settings).memory
            shown = Drawn.begun(variation, models.codec, memory, *start)
            if isinstance(models.projection, Drawings):
                shown = dataclasses.replace(shown, view=models.projection.view)
        elif variation.memory in PIXEL_MEMORIES:
            shown = Beside.begun(variation, models.codec, *start)
        else:
            memory = variation.applied(parts.settings).memory
            shown = Anew.begun(models.codec, memory, models.projection, *start)
        witness.learn = shown.learn
        return dataclasses.replace(models, conditions=shown, projection=None)


def _begun(
    request: Request,
    codec: LatentCodec,
    loop: GenerationSettings,
    variation: Variation,
    folder: Path,
    *,
    lengths: ChunkLengths | None = None,
    colours: ColourCodec | None = None,
) -> RolloutState:
    first = request.geometry.select([0])
    if not variation.filtered:
        first = dataclasses.replace(first, exclude=None)
    return begin(
        request.picture, first, request.cameras, codec,
        settings=loop, seed=request.seed, folder=folder / "shot", lengths=lengths, colours=colours,
    )  # fmt: skip


def _made(witness: Witness, known: list[Tensor], state: RolloutState) -> Made:
    witness.stage("")
    frames = []
    for chunk, seen in zip(state.plan, witness.frames, strict=True):
        frames.append(seen[chunk.shared_frames :])
    return Made(
        torch.cat(frames),
        torch.cat([cells.cpu() for cells in known]),
        len(state.cache),
        state.cache.nbytes,
        dict(witness.seconds),
        tuple(witness.geometry),
    )


def bundled_parts(branch: Path | None = None) -> Parts:
    """The model that ships with the pack.

    Raises:
        ModelMismatchError: The pack was installed without it, or the branch is none of its size.
    """
    from ..models.load import load_transformer

    model = load_transformer(model_path(), branch=branch or branch_path(), dtype=torch.float32)
    codec = DctCodec()
    models = GenerationModels(
        codec, TransformerDenoisers(model.eval(), empty_text()), NoDepth(),
        projection=projection_source(model, codec),
    )  # fmt: skip
    settings = GenerationSettings(steps=STEPS, shift=SHIFT, method="euler", references=0)
    return Parts(models, settings)


class NoDepth:
    """Stands where the depth of each request goes."""

    scaled: ClassVar[bool] = True

    def __call__(
        self, frames: Tensor, cameras: Trajectory, numbers: Sequence[int]
    ) -> FrameGeometry:
        """Raise `ValueRangeError`."""
        raise ValueRangeError("There is no depth without a request", got=list(numbers))


BUNDLED: Final = ModelSystem("bundled", bundled_parts, {"steps": STEPS, "shift": SHIFT})
