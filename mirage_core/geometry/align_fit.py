"""Robust regression of scale and shift over the frames of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

CORRELATED_CELLS: Final = 16
"""Neighbouring cells share their errors: so many count as one measurement."""

MIN_SPREAD: Final = 0.005
"""Smallest spread of relative errors that is assumed, however well depth agrees."""

SHIFT_RANGE: Final = 0.5
"""Typical size of a shift, in units of the clip's typical inverse depth."""

SHIFTS_TRIED: Final = 25
MAX_START_SHIFT: Final = 3.0
"""Shifts with which the search starts, in units of the clip's typical inverse depth."""

STEPS: Final = 20
TUKEY: Final = 4.685
"""Standard deviations beyond which a cell does not count: 95 % efficient on normal errors."""

CAUCHY: Final = 4.0
"""Standard deviations at which a change between frames weighs half. Ordinary changes keep four
fifths of their weight, and none loses all of it: a frame without known depth follows others."""


@dataclass(frozen=True, eq=False)
class RobustFit:
    """Scale and shift of T frames, from cells whose depth is known twice.

    The model is ``log z_known = a - log(1 / z + b)``, with depths in units in which a typical
    one is 1, and parameters (a, b) of each frame.

    Attributes:
        inverse: (T, h, w) float64 ``1 / z`` of the new depth.
        target: (T, h, w) float64 ``log z_known``.
        weight: (T, h, w) float64, 0 where a cell does not count.
        step: Standard deviation of the change of (a, b) between successive frames. Changes have
            Cauchy's heavy tails: where an estimator starts anew its scale jumps, and frames that
            are measured well must not meet halfway.
        shifts: Whether b is fitted; else it is 0.
    """

    inverse: Tensor
    target: Tensor
    weight: Tensor
    step: float
    shifts: bool

    def residual(self, parameters: Tensor) -> Tensor:
        """(T, h, w) log of known over aligned depth for parameters (T, 2)."""
        return self.target - parameters[:, 0, None, None] + self._shifted(parameters).log()

    def _shifted(self, parameters: Tensor) -> Tensor:
        return (self.inverse + parameters[:, 1, None, None]).clamp_min(1e-3)

    def solve(self) -> tuple[Tensor, Tensor]:
        """Parameters (T, 2), and the robust weights (T, h, w) at the solution."""
        parameters = self._start()
        robust, spread = torch.ones_like(self.target), math.inf
        for _ in range(STEPS):
            residual = self.residual(parameters)
            # A limit that could rise again would let outliers pull, and so raise it, in turn.
            spread = min(spread, self._spread(residual))
            robust = (1 - (residual / (TUKEY * spread)).square()).clamp_min(0.0).square()
            change = self._step(residual, robust / spread**2, parameters)
            parameters = parameters + change
            if float(change.abs().max()) < 1e-9:  # noqa: PLR2004
                break
        return parameters, robust

    def _start(self) -> Tensor:
        """Parameters (T, 2) with the least median error of each frame, over a range of shifts.

        A median is not moved by outliers as long as they are fewer than half.
        """
        frames = len(self.target)
        best = torch.zeros(frames, 2, dtype=torch.float64)
        error = torch.full((frames,), math.inf, dtype=torch.float64)
        low = -float(self.inverse[self.weight > 0].min())
        reach = torch.linspace(0, 1, SHIFTS_TRIED, dtype=torch.float64)[1:]
        tried = torch.cat([low * (1 - reach), MAX_START_SHIFT * reach]).tolist()
        for shift in [0.0, *tried] if self.shifts else [0.0]:
            parameters = torch.zeros(frames, 2, dtype=torch.float64)
            parameters[:, 1] = shift
            residual = self.residual(parameters)
            for frame in range(frames):
                # A frame without known depth starts from what all frames together say.
                known = bool((self.weight[frame] > 0).any())
                part = slice(frame, frame + 1) if known else slice(None)
                errors, weight = residual[part].flatten(), self.weight[part].flatten()
                scale = weighted_median(errors, weight)
                size = float(weighted_median((errors - scale).abs(), weight))
                if size < float(error[frame]) - 1e-12:  # noqa: PLR2004
                    error[frame] = size
                    best[frame] = torch.stack([scale, scale.new_tensor(shift)])
        return best

    def _spread(self, residual: Tensor) -> float:
        """Standard deviation of the errors, from their median size."""
        size = weighted_median(residual.abs().flatten(), self.weight.flatten())
        return max(MIN_SPREAD, 1.4826 * float(size))

    def _step(self, residual: Tensor, information: Tensor, parameters: Tensor) -> Tensor:
        """One Gauss-Newton step (T, 2) over all frames at once."""
        frames = len(residual)
        weight = self.weight * information / CORRELATED_CELLS
        slope = -1 / self._shifted(parameters)
        if not self.shifts:
            slope = torch.zeros_like(slope)
        jacobian = torch.stack([torch.ones_like(slope), slope], dim=-1).flatten(1, 2)
        weighted = jacobian * weight.flatten(1)[..., None]
        normal = weighted.transpose(1, 2) @ jacobian
        right = (weighted.transpose(1, 2) @ residual.flatten(1)[..., None])[..., 0]
        # A shift that nothing measures stays near zero; without shifts it is zero.
        stiff = 1 / SHIFT_RANGE**2 if self.shifts else 1.0
        normal[:, 1, 1] += stiff
        right[:, 1] -= stiff * parameters[:, 1]
        system = torch.block_diag(*normal)
        walk = torch.eye(frames, dtype=torch.float64).diff(dim=0)
        changes = (walk @ parameters).square().sum(1) / self.step**2
        ordinary = 1 / (1 + changes / CAUCHY**2)
        stiffness = walk.T @ (ordinary[:, None] * walk)
        prior = torch.kron(stiffness, torch.eye(2, dtype=torch.float64))
        prior = prior / self.step**2
        right = right.flatten() - prior @ parameters.flatten()
        return torch.linalg.solve(system + prior, right).view(frames, 2)


def weighted_median(values: Tensor, weight: Tensor) -> Tensor:
    """Lower weighted median; 0 where nothing has weight."""
    order = values.argsort()
    total = weight[order].cumsum(0)
    if not len(total) or not bool(total[-1] > 0):
        return values.new_zeros(())
    return values[order[int(torch.searchsorted(total, total[-1] / 2))]]
