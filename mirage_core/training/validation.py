"""How good the model is: its loss on held-out clips, and closed loops on procedural scenes.

The loss is a poor guide. It hardly tells a model that uses the memory from one that does not,
and can fall while closed loops get no better. Choose checkpoints by the closed loop.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..codecs.base import LatentCodec
from ..conditioning.condition import Condition
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.trajectory import Trajectory, intrinsics_from_fov
from ..metrics import psnr
from ..rollout.begin import begin
from ..rollout.denoisers import TransformerDenoisers, projection_source
from ..rollout.depth_source import KnownDepth
from ..rollout.generate import generate
from ..rollout.models import DenoiserFactory, GenerationModels
from ..rollout.run_folder import all_latents
from ..rollout.settings import GenerationSettings
from ..sampling.solve import Denoise
from ..scenes.scene import ProceduralScene
from ..trajectories.presets import preset_trajectory
from .batch import BatchMaker, one_text
from .data.dataset import ClipDataset
from .distributed import Distributed
from .films import memory_frames, side_by_side
from .flow import flow_loss, spaced_sigmas
from .forward import precision, velocity
from .sampler import VALIDATION_SEED, mixed_seed
from .settings import TrainingSettings
from .stop import StopFlag

LEVELS: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where on the noise schedule the held-out loss is measured; the same for every clip."""

FIRST_SCENE: Final = 900_000
"""Seeds of the validation scenes begin here; leave them out of training."""

MOVES: Final = ("truck", "orbit", "dolly", "arc")
SIZES: Final = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1)
FIELD_OF_VIEW: Final = 70.0
SMALL: Final = 320


@dataclass(frozen=True)
class ClosedLoop:
    """What a camera finds that goes away and comes back; mean over the scenes, in dB.

    Attributes:
        closed: PSNR of the last frame against the first: both show the same view.
        truth: PSNR of all generated frames against the rendered ones.
        ceiling: PSNR of the codec alone against the rendered frames, which no model can beat.
    """

    closed: float
    truth: float
    ceiling: float


@dataclass(frozen=True, eq=False)
class Film:
    """One shot of a validation, to look at.

    Attributes:
        scene: Seed of its room.
        frames: (F, H, 3W, 3) in 0..1: what the memory showed, what was made, the rendered truth.
        fps: Frames per second.
    """

    scene: int
    frames: Tensor
    fps: float


OnFilm = Callable[[Film], None]


@torch.no_grad()
def held_out_loss(
    model: Any,
    dataset: ClipDataset,
    maker: BatchMaker,
    processes: Distributed,
    weights: Tensor | None = None,
    stop: StopFlag | None = None,
) -> float:
    """Mean loss over held-out clips and `LEVELS`, with all their references, without dropout.

    Args:
        model: The video model.
        dataset: Held-out clips; the settings say how many of them are used, evenly spread.
        maker: Makes batches.
        processes: Share the work.
        weights: (C,) of the loss.
        stop: Asked between clips.

    Raises:
        StopRequested: The run is to end.
    """
    settings = maker.settings
    count = min(settings.validation_clips, len(dataset))
    clips = [number * len(dataset) // count for number in range(count)]
    jobs = [(clip, level) for clip in clips for level in LEVELS]
    total = torch.zeros(2, device=processes.device)
    # All processes run the model equally often, since each holds a part of every block.
    together = settings.context_parallel
    for first in range(0, len(jobs), processes.count // together):
        if stop is not None:
            stop.check()
        place = first + processes.rank // together
        number, level = jobs[min(place, len(jobs) - 1)]
        clip = dataset[number]
        sigmas = spaced_sigmas(1, clip.target.shape[1], level, shift=settings.shift)
        seed = mixed_seed(VALIDATION_SEED, number, round(100 * level))
        batch = maker.make([clip], seed, sigmas).to(processes.device, settings.compute_dtype)
        loss = flow_loss(velocity(model, batch, settings), batch.target, batch.noise, weights)
        total += torch.stack([loss, torch.ones_like(loss)]) * (place < len(jobs))
    total = processes.mean(total)
    return float(total[0] / total[1])


@dataclass(frozen=True, eq=False)
class LoopTest:
    """Closed loops on procedural scenes.

    Attributes:
        codec: Pixels to latents and back, the one of the training clips.
        text: (L, D) or (1, L, D) prompt of all shots; filled up with zeros as in training.
        settings: Of the run.
        device: Where to sample.
    """

    codec: LatentCodec
    text: Tensor
    settings: TrainingSettings
    device: torch.device

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", one_text(self.text))

    def __call__(
        self, model: Any, stop: StopFlag | None = None, on_film: OnFilm | None = None
    ) -> ClosedLoop:
        """Run all scenes; with a sharded model, all processes must call this.

        Args:
            model: The video model.
            stop: Asked between steps of the sampler.
            on_film: Given each shot to look at.

        Raises:
            StopRequested: The run is to end.
        """
        count = self.settings.validation_scenes
        results = [
            self._scene(model, FIRST_SCENE + number, stop, on_film) for number in range(count)
        ]
        columns = zip(*map(dataclasses.astuple, results), strict=True)
        return ClosedLoop(*(sum(values) / count for values in columns))

    def _scene(
        self, model: Any, seed: int, stop: StopFlag | None, on_film: OnFilm | None
    ) -> ClosedLoop:
        width, height = self.settings.validation_size
        scene = ProceduralScene.from_seed(seed, texture_size=256 if width <= SMALL else 512)
        path = there_and_back(scene, self.settings.validation_frames, width, height)
        truth, depth = scene.render(path)
        geometry = FrameGeometry(depth, path.intrinsics, path.world_to_camera, metric=True)
        models = GenerationModels(
            self.codec, self._denoisers(model, stop), KnownDepth(geometry), self.device,
            projection=projection_source(model, self.codec),
        )  # fmt: skip
        settings = GenerationSettings(
            steps=self.settings.validation_steps,
            shift=self.settings.shift,
            method="euler",
            references=self.settings.references,
            preceding=self.settings.preceding,
        )
        with tempfile.TemporaryDirectory(prefix="mirage-validation-") as folder:
            state = begin(
                truth[0], geometry, path, self.codec,
                settings=settings, seed=seed, folder=Path(folder) / "shot",
            )  # fmt: skip
            state = generate(state, models, settings)
            made = _decoded(self.codec, all_latents(state))
            if on_film is not None:
                known = memory_frames(state, self.codec)
                on_film(Film(seed, side_by_side(known, made, truth), path.fps))
        return compare(self.codec, made, truth)

    def _denoisers(self, model: Any, stop: StopFlag | None) -> DenoiserFactory:
        """The model in the run's precision; geometry and codec around it keep theirs."""
        denoisers = TransformerDenoisers(model, self._text(), codec=self.codec)

        def make(condition: Condition) -> Denoise:
            denoise = denoisers(condition)

            def exact_around(latents: Tensor, timestep: float) -> Tensor:
                if stop is not None:
                    stop.check()
                with precision(self.settings, latents.device):
                    return denoise(latents, timestep)

            return exact_around

        return make

    def _text(self) -> Tensor:
        missing = self.settings.text_tokens - len(self.text)
        filled = torch.nn.functional.pad(self.text, (0, 0, 0, max(0, missing)))
        return filled[None, : self.settings.text_tokens]


def there_and_back(
    scene: ProceduralScene, frames: int, width: int, height: int
) -> Trajectory:
    """The largest of some moves from the scene's own start that bumps into nothing."""
    intrinsics = intrinsics_from_fov(width, height, FIELD_OF_VIEW)
    start = scene.start_camera_to_world
    place: Callable[..., Trajectory] = preset_trajectory
    options: dict[str, Any] = {
        "intrinsics": intrinsics, "width": width, "height": height, "scene_depth": 2.5,
        "there_and_back": True, "start": start,
    }  # fmt: skip
    for size in SIZES:
        for turn in range(len(MOVES)):
            move = MOVES[(scene.seed + turn) % len(MOVES)]
            for way in (size, -size):
                path = place(move, frames, amount=way, **options)
                if bool(scene.free(path.positions).all()):
                    return path
    return place("pan", frames, amount=1.0, **options)


def measure(codec: LatentCodec, latents: Tensor, truth: Tensor) -> ClosedLoop:
    """Compare one shot there and back with the rendered one.

    Args:
        codec: Pixels to latents and back.
        latents: (C, T, h, w) of the whole shot.
        truth: (4T - 3, H, W, 3) rendered frames in 0..1.
    """
    return compare(codec, _decoded(codec, latents), truth)


def compare(codec: LatentCodec, made: Tensor, truth: Tensor) -> ClosedLoop:
    """Compare frames (F, H, W, 3) of one shot there and back with the rendered ones."""
    ideal = _decoded(codec, codec.encode(truth))
    return ClosedLoop(
        psnr(made[-1], made[0]), psnr(made[1:], truth[1:]), psnr(ideal[1:], truth[1:])
    )


def _decoded(codec: LatentCodec, latents: Tensor) -> Tensor:
    return codec.decode(latents).float().cpu().clamp(0, 1)


def describe(loop: ClosedLoop) -> dict[str, float]:
    """The numbers by the names under which they are logged."""
    return {f"closed_loop/{name}": value for name, value in dataclasses.asdict(loop).items()}
