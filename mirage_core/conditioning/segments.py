"""Clean frames beside the noisy ones: token order, rotary positions and timesteps.

The denoiser sees ``[reference R | target T | preceding P]`` in one forward pass. Where a frame
stands is told by its rotary position alone, so the order matters to nothing but the bookkeeping.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ShapeError


@dataclass(frozen=True)
class Segments:
    """How many latent frames of each kind one forward pass holds.

    Attributes:
        target: Frames of the chunk.
        references: Clean frames of the same place, seen at any time before.
        preceding: Clean frames right before the first target frame.
        clean: How many target frames, from the first on, are known and clean.

    Raises:
        ShapeError: There is no target frame, a count is negative, or not one or more of the
            target frames are clean.
    """

    target: int
    references: int = 0
    preceding: int = 0
    clean: int = 1

    def __post_init__(self) -> None:
        if self.target < 1 or self.references < 0 or self.preceding < 0:
            raise ShapeError(
                "The numbers of frames of a forward pass are invalid",
                got=f"{self.references} references, {self.target} target, "
                f"{self.preceding} preceding",
                expected="at least one target frame, and no negative number",
            )
        if not 1 <= self.clean <= self.target:
            raise ShapeError(
                "The number of clean frames does not fit the chunk",
                got=f"{self.clean} clean frames of {self.target}",
                expected="at least one, and no more than there are",
                fix="Use the clean latents of this chunk, as the loop gives them",
            )

    @property
    def total(self) -> int:
        """Number of all frames, R + T + P."""
        return self.references + self.target + self.preceding

    @property
    def main(self) -> int:
        """Frames that the side branch sees: target and preceding."""
        return self.target + self.preceding

    @property
    def target_frames(self) -> slice:
        """Where the target stands among all frames."""
        return slice(self.references, self.references + self.target)

    def positions(self, height: int, width: int, device: torch.device | None = None) -> Tensor:
        """Rotary position (t, y, x) of every token.

        Target and preceding frames count t = 0 .. T+P-1 in this order, clean target frames
        first, so preceding frames follow the target in position. Reference j of R stands at
        t = j - R, shifted down by one picture height, where no target token is.

        Args:
            height: Rows of tokens in a frame (latent rows / 2).
            width: Columns of tokens in a frame.
            device: Where the result lives.

        Returns:
            ((R + T + P) * height * width, 3) int64, frames in order, row by row.
        """
        frames = torch.arange(-self.references, self.main, device=device)
        rows = torch.arange(height, device=device)
        columns = torch.arange(width, device=device)
        shift = torch.where(frames < 0, height, 0)
        shape = (self.total, height, width)
        return torch.stack(
            [
                frames[:, None, None].expand(shape),
                (shift[:, None, None] + rows[None, :, None]).expand(shape),
                columns.expand(shape),
            ],
            dim=-1,
        ).reshape(-1, 3)

    def timesteps(self, timestep: Tensor) -> Tensor:
        """Timestep of every frame: 0 for those that are clean.

        Args:
            timestep: (B,) of the noisy frames, 0..1000, or (B, T) one for each target frame.

        Returns:
            (B, R + T + P); with (B,) the clean target frames get 0, with (B, T) what was given.

        Raises:
            ShapeError: ``timestep`` has another shape.
        """
        batch = timestep.shape[0] if timestep.ndim else 0
        if timestep.ndim == 1:
            target = timestep[:, None].repeat(1, self.target)
            target[:, : self.clean] = 0
        elif tuple(timestep.shape) == (batch, self.target):
            target = timestep
        else:
            raise ShapeError(
                "The timesteps do not match the frames",
                got=tuple(timestep.shape),
                expected=f"(B,) or (B, {self.target})",
            )
        before = target.new_zeros(batch, self.references)
        after = target.new_zeros(batch, self.preceding)
        return torch.cat([before, target, after], dim=1)
