"""Spatia's noise levels and solver, as its own code has them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mirage_core.errors import ValueRangeError
from mirage_core.sampling.schedule import (
    DEFAULT_SHIFT,
    DEFAULT_STEPS,
    MAX_SIGMA,
    sigma_schedule,
    timesteps_of,
)
from mirage_core.sampling.solve import sample
from spatia_oracle import SpatiaOracle

pytest.importorskip("diffusers", reason="needs diffusers for the solver")

ORACLE = SpatiaOracle()
SETTINGS = ORACLE.settings["scheduler"]


def test_defaults_are_the_originals() -> None:
    assert (DEFAULT_STEPS, DEFAULT_SHIFT, MAX_SIGMA) == (
        40, SETTINGS["shift"], SETTINGS["sigma_max"],
    )  # fmt: skip


@pytest.mark.parametrize("steps", [40, 8])
def test_grid_of_unipc_is_the_originals(steps: int) -> None:
    sigmas = sigma_schedule(steps, SETTINGS["shift"])
    expected = ORACLE.tensor(f"scheduler.uni_pc.{steps}.sigmas")
    assert torch.allclose(sigmas, expected, atol=1e-6, rtol=0)
    timesteps = ORACLE.tensor(f"scheduler.uni_pc.{steps}.timesteps")
    assert timesteps_of(sigmas) == timesteps.tolist()


def test_grid_of_euler_is_the_originals() -> None:
    sigmas = sigma_schedule(40, SETTINGS["shift"], start=1.0)
    expected = ORACLE.tensor("scheduler.euler.40.sigmas")
    assert torch.allclose(sigmas[:-1], expected, atol=1e-6, rtol=0)
    timesteps = ORACLE.tensor("scheduler.euler.40.timesteps")
    assert timesteps_of(sigmas, integer=False) == pytest.approx(timesteps.tolist(), abs=1e-3)


@pytest.mark.parametrize("start", [0.0, 1.001, float("nan")])
def test_grids_that_begin_nowhere(start: float) -> None:
    with pytest.raises(ValueRangeError, match="first noise level"):
        sigma_schedule(8, start=start)


def test_every_step_of_a_walk_is_the_originals() -> None:
    """The model is called at what the step before left, so its inputs are the walk."""
    walk = ORACLE.tensor("scheduler.walk.latents")[:, 0]
    matrix, offset, start = (
        ORACLE.tensor(f"scheduler.walk.{name}") for name in ("matrix", "offset", "start")
    )
    seen: list[Tensor] = []

    def velocity(latents: Tensor, timestep: float) -> Tensor:
        seen.append(latents)
        mixed = torch.einsum("ij,jthw->ithw", matrix, latents)
        return torch.tanh(mixed + offset[0] * timestep / 1000)

    end = sample(velocity, start[0], None, sigma_schedule(len(walk), SETTINGS["shift"]))
    for found, expected in zip([*seen[1:], end], walk, strict=True):
        assert torch.allclose(found, expected, atol=1e-4, rtol=0)
