"""What stays out of the memory of footage: masks from files, or from a model, for every shot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from torch import Tensor

from ...constants import TEMPORAL_STRIDE
from ...geometry.frame_geometry import FrameGeometry
from ...geometry.masks import MaskGrowth, grow, over_time, with_mask
from ...masks.folder import find_masks
from ...masks.types import FrameMasks, MaskProvider
from ...rollout.mask_source import tell_masks
from .fit import Fit
from .footage_files import base_name


class MaskSource(Protocol):
    """Who finds the masks of footage; is sent to the workers."""

    def of_item(self, item: str, count: int, fit: Fit) -> MaskProvider:
        """Who finds the masks of one video or folder of pictures.

        Args:
            item: Its path below the folder of the footage.
            count: Its frames, before any are left out.
            fit: How its pictures come to their size in training.

        Returns:
            What takes pictures in their size in training, and their numbers in the footage.

        Raises:
            MirageError: There are no masks for it, or they do not belong to it.
        """


@dataclass(frozen=True)
class MaskFiles:
    """Masks in files: those of ``a/b.mp4``, or of the pictures in ``a/b/``, lie in ``root/a/b/``.

    Attributes:
        root: Folder of folders that `mirage_core.masks.folder.find_masks` reads. Masks show the
            crop of the footage, before it is cut.
    """

    root: Path

    def of_item(self, item: str, count: int, fit: Fit) -> MaskProvider:
        """The masks of a video, of every frame that it has or one for all of them.

        Raises:
            CacheFormatError: The folder is missing, or holds no masks that can be read.
            ShapeError: They are of another number of frames, or of another crop.
        """
        found = find_masks(self.root / base_name(item))
        found.expect_shot(count, *fit.own)

        def fitted(frames: Tensor, numbers: Sequence[int]) -> FrameMasks:
            return FrameMasks(fit.masks(found(frames, numbers).left_out))

        return fitted


@dataclass(frozen=True)
class MaskModel:
    """Masks by a model that looks at the training pictures.

    Attributes:
        make: Reads the model; called once per worker, when the first masks are wanted.
    """

    make: Callable[[], MaskProvider]

    @cached_property
    def _provider(self) -> MaskProvider:
        return self.make()

    def __getstate__(self) -> dict[str, object]:
        return {"make": self.make}

    def of_item(self, item: str, count: int, fit: Fit) -> MaskProvider:
        """The same model for all footage."""
        return self._provider


@dataclass(frozen=True)
class ShotMasks:
    """Masks of footage, and how far they grow.

    Attributes:
        source: Who finds them.
        grow: Pixels of the training pictures by which they grow on every side.

    Raises:
        ValueRangeError: They grow by a negative number, or by too much.
    """

    source: MaskSource
    grow: int = 0

    def __post_init__(self) -> None:
        MaskGrowth(self.grow)

    def left_out(self, provider: MaskProvider, frames: Tensor, numbers: Sequence[int]) -> Tensor:
        """What stays out of the memory at the latent frames of a shot.

        Args:
            provider: Of the shot's footage, from ``source``.
            frames: (F, H, W, 3) pictures in 0..1, F of the form 4T - 3.
            numbers: Their numbers in the footage.

        Returns:
            (T, H, W) bool: masked in any of the pictures that a latent frame covers.
        """
        found = provider(frames, numbers)
        tell_masks(found)
        marked = over_time(found.left_out.float(), (len(frames) - 1) // TEMPORAL_STRIDE + 1)
        return grow(marked, self.grow) > 0


def masked(geometry: FrameGeometry, left_out: Tensor | None, frames: Tensor) -> FrameGeometry:
    """Geometry of T frames without what `ShotMasks.left_out` found in a shot's ``frames``."""
    return with_mask(geometry, left_out, (int(frames.shape[1]), int(frames.shape[2])))
