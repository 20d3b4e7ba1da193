"""What a video model is shown in place of its memory: one beside it, or one of the last frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache.build import observe
from ..cache.types import LatentCache
from ..codecs.base import LatentCodec, PatchCodec, is_drawable
from ..codecs.colours import ColourCodec
from ..conditioning.condition import Condition
from ..constants import TEMPORAL_STRIDE
from ..errors import ModelMismatchError
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.trajectory import Trajectory
from ..ops.best_view import BestView
from ..preview.drawn import as_still, drawn_tokens
from ..preview.fill import fill_holes
from ..readout.pixel_memory import FeatureCache, PixelCache, RgbCache
from ..readout.readout import Readout, read
from ..rollout.conditions import OnPart, ProjectionSource, TokenConditions
from ..rollout.memory import begin_memory
from ..rollout.settings import GenerationSettings, MemorySettings
from ..rollout.state import RolloutState
from ..writing.policy import WriteRules, write
from .variations import Variation


class _OfTokens:
    """What is shown in place of a memory of tokens."""

    def expect_fitting(self, state: RolloutState, codec: LatentCodec) -> None:
        """Raise `ModelMismatchError` unless the shot's own memory holds this codec's tokens."""
        TokenConditions().expect_fitting(state, codec)


@dataclass(eq=False)
class Beside(_OfTokens):
    """A memory with a point per pixel beside that of the shot, which the model is shown instead.

    Attributes:
        memory: What is remembered.
        rules: How it is written.
        codec: Of the shot's latents.
    """

    memory: PixelCache
    rules: WriteRules
    codec: LatentCodec

    @classmethod
    def begun(
        cls, variation: Variation, codec: LatentCodec, picture: Tensor, first: FrameGeometry,
        cameras: Trajectory,
    ) -> Beside:  # fmt: skip
        """The memory of a picture (H, W, 3) alone, with its depth and the shot's cameras."""
        kind = FeatureCache if variation.memory == "features" else RgbCache
        rules = WriteRules() if variation.policy is None else WriteRules(variation.policy)
        beside = cls(kind.empty(codec), rules, codec)
        if not variation.filtered:
            first = dataclasses.replace(first, exclude=None)
        beside._write(picture[None], first.select([0]), cameras.select([0]), [0])
        return beside

    def learn(
        self, frames: Tensor, geometry: FrameGeometry, cameras: Trajectory, numbers: Sequence[int]
    ) -> None:
        """Remember the latent frames (T, H, W, 3) of a chunk, but for the first: it is known."""
        new = list(range(1, len(frames)))
        self._write(
            frames[new], geometry.select(new), cameras.select(new), [numbers[n] for n in new]
        )

    def _write(
        self, frames: Tensor, geometry: FrameGeometry, cameras: Trajectory, numbers: list[int]
    ) -> None:
        tokens = None
        if isinstance(self.memory, FeatureCache):
            tokens = self.codec.encode_images(frames).half()
        observation = self.memory.observe(
            frames, geometry, world_to_camera=cameras.world_to_camera,
            numbers=torch.tensor(numbers), tokens=tokens,
        )  # fmt: skip
        self.memory = self.memory.holding(write(self.memory.cache, observation, self.rules))

    def __call__(
        self,
        state: RolloutState,
        readout: Readout,
        settings: GenerationSettings,
        on_part: OnPart | None = None,
    ) -> Condition:
        """The condition of the next chunk, of what this memory shows."""
        condition = TokenConditions()(state, readout, settings, on_part)
        cameras, codec = readout.trajectory, self.codec
        if not is_drawable(codec):
            shown = self.memory.read(cameras)
            return dataclasses.replace(condition, projection=shown.tokens, visible=shown.visible)
        # Branches of this codec are shown pictures near the middle of what a latent stands for,
        # without holes, see `mirage_core.preview.drawn.drawn_latents`.
        stride = TEMPORAL_STRIDE
        middle = [max(0, stride * (n // stride) - 1) for n in range(len(cameras))]
        shown = self.memory.read(cameras.select(middle))
        tokens = as_still(fill_holes(shown.tokens, shown.visible), codec)
        return dataclasses.replace(condition, projection=tokens, visible=shown.visible)


@dataclass(eq=False)
class Drawn(_OfTokens):
    """Colours beside the shot's memory that are drawn as its tokens are, in their place.

    Nothing but what a point carries and how many there are differs from a memory of tokens whose
    patches are drawn: the cells that count as seen are those of the shot's own memory.

    Attributes:
        cache: What is remembered.
        colours: What makes the colours.
        codec: Of the shot's latents; encodes the drawings.
        settings: How the memory is written.
        view: How the branch wants the memory looked at.
    """

    cache: LatentCache
    colours: ColourCodec
    codec: PatchCodec
    settings: MemorySettings
    view: BestView | None = None

    @classmethod
    def begun(
        cls, variation: Variation, codec: LatentCodec, settings: MemorySettings, picture: Tensor,
        first: FrameGeometry, cameras: Trajectory,
    ) -> Drawn:  # fmt: skip
        """The memory of a picture (H, W, 3), with its depth and the shot's cameras.

        Raises:
            ModelMismatchError: The model does not take drawings.
        """
        if not is_drawable(codec):
            raise ModelMismatchError(
                f"The variation {variation.name} needs a model that takes drawings",
                got=f"tokens of {codec.name!r}",
                expected="the embedded codec, whose tokens can be drawn",
                fix="Leave step out, or use --model bundled",
            )
        colours = ColourCodec(variation.step or 1)
        cache = begin_memory(
            colours.encode_images(picture[None]),
            dataclasses.replace(first.select([0]), world_to_camera=None),
            colours.name,
            settings,
            world_to_camera=cameras.world_to_camera[:1],
        )
        return cls(cache, colours, codec, settings)

    def learn(
        self, frames: Tensor, geometry: FrameGeometry, cameras: Trajectory, numbers: Sequence[int]
    ) -> None:
        """Remember the latent frames (T, H, W, 3) of a chunk, but for the first: it is known."""
        new = list(range(1, len(frames)))
        observation = observe(
            self.colours.encode_images(frames[new]),
            geometry.select(new),
            world_to_camera=cameras.world_to_camera[new],
            frames=torch.tensor([numbers[n] for n in new]),
            convention=self.settings.convention,
            config=self.settings.write,
            allow_empty=True,
        )
        self.cache = write(self.cache, observation, self.settings.rules)

    def __call__(
        self,
        state: RolloutState,
        readout: Readout,
        settings: GenerationSettings,
        on_part: OnPart | None = None,
    ) -> Condition:
        """The condition of the next chunk, of this memory's drawings."""
        condition = TokenConditions()(state, readout, settings, on_part)
        tokens = drawn_tokens(
            self.cache, readout.trajectory, self.colours, self.codec, self.view
        )
        return dataclasses.replace(condition, projection=tokens)


@dataclass(eq=False)
class Anew(_OfTokens):
    """Conditions from a memory that begins anew with every chunk, from the chunk's first frame.

    The shot's own memory is written all the same, so that nothing else changes.

    Attributes:
        cache: What is remembered of the frame that the next chunk begins with.
        codec: Of the shot's latents.
        settings: How the memory begins.
        projection: What the side branch is shown of a readout; its tokens when None.
    """

    cache: LatentCache
    codec: LatentCodec
    settings: MemorySettings
    projection: ProjectionSource | None = None

    @classmethod
    def begun(
        cls, codec: LatentCodec, settings: MemorySettings, projection: ProjectionSource | None,
        picture: Tensor, first: FrameGeometry, cameras: Trajectory,
    ) -> Anew:  # fmt: skip
        """The memory of a picture (H, W, 3), with its depth and the shot's cameras."""
        anew = cls(LatentCache(codec=codec.name), codec, settings, projection)
        anew.learn(picture[None], first.select([0]), cameras.select([0]), [0])
        return anew

    def learn(
        self, frames: Tensor, geometry: FrameGeometry, cameras: Trajectory, numbers: Sequence[int]
    ) -> None:
        """Forget everything, and remember the last of some frames (T, H, W, 3)."""
        last = dataclasses.replace(geometry.select([len(geometry) - 1]), world_to_camera=None)
        self.cache = begin_memory(
            self.codec.encode_images(frames[-1:]), last, self.codec.name, self.settings,
            world_to_camera=cameras.world_to_camera[-1:], allow_empty=True,
        )  # fmt: skip

    def __call__(
        self,
        state: RolloutState,
        readout: Readout,
        settings: GenerationSettings,
        on_part: OnPart | None = None,
    ) -> Condition:
        """The condition of the next chunk; no earlier frame is a reference."""
        shown = read(self.cache, readout.trajectory, settings.memory.view)
        alone = dataclasses.replace(settings, references=0)
        return TokenConditions(self.projection)(state, shown, alone, on_part)


def expect_scene_units(variation: Variation, scaled: bool) -> None:
    """Raise `ModelMismatchError` for a memory beside the shot's whose depth is not aligned."""
    if not scaled:
        raise ModelMismatchError(
            f"The variation {variation.name} needs depth in scene units",
            got="depth that is aligned to the shot's own memory as it is written",
            expected="geometry of the whole shot",
            fix="Put a geometry file beside the footage, or leave the variation out",
        )
