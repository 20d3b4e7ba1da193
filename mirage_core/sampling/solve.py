"""From noise to a chunk's latents: the flow-matching solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor

from ..errors import ModelMismatchError, ShapeError, ValueRangeError
from ..validate import expect_shape
from .schedule import expect_sigmas, timesteps_of

Denoise = Callable[[Tensor, float], Tensor]
"""Velocity of the flow at latents (C, T, h, w) and a timestep 0..1000, both float32."""

OnStep = Callable[[int, int, Tensor], None]
"""Called with (done, total, clean): steps and the present estimate of the finished latents
(C, T, h, w). May raise to cancel."""

Method = Literal["unipc", "euler"]
METHODS: Final[tuple[str, ...]] = get_args(Method)
"""``unipc``: second order, the method's own. ``euler``: first order."""

_Step = Callable[[Tensor, Tensor], Tensor]
"""The next latents from (velocity, latents); knows by itself which step it is."""


def sample(
    denoise: Denoise,
    noise: Tensor,
    first: Tensor | None,
    sigmas: Tensor,
    *,
    method: Method | str = "unipc",
    integer_timesteps: bool = True,
    on_step: OnStep | None = None,
) -> Tensor:
    """Integrate the flow from noise to latents; all arithmetic is float32.

    ``x = (1 - sigma) z + sigma n``, and the model gives ``v = n - z`` (rectified flow). The
    clean leading frames are put back, bit for bit, before the first step and after every step.
    Nothing outlives the call, so that a chunk that was cancelled leaves no trace in the next.

    Args:
        denoise: The model.
        noise: (C, T, h, w) standard normal.
        first: (C, K, h, w) clean leading latent frames, K <= T; None when all frames are made.
        sigmas: (N + 1,) noise levels that fall to 0, such as `schedule.sigma_schedule`.
        method: One of `METHODS`.
        integer_timesteps: Cut timesteps to integer numbers, as the released sampler does.
        on_step: Called after every step; may raise to cancel.

    Returns:
        (C, T, h, w) float32 on the device of ``noise``.

    Raises:
        ShapeError: The clean frames or what the model returns have another size.
        ValueRangeError: The method is unknown, the noise levels are no schedule, or the model
            returned numbers that are not finite.
        ModelMismatchError: diffusers, which holds the solver, is not installed.
    """
    expect_sigmas(sigmas)
    expect_method(method)
    sizes = expect_shape("The noise", noise, "C T h w")
    if first is not None:
        _expect_clean(first, sizes)
        first = first.to(noise.device, torch.float32)
    levels = sigmas.float().tolist()
    step = _stepper(method, sigmas)
    latents = _with_first(noise.float(), first)
    timesteps = timesteps_of(sigmas, integer=integer_timesteps)
    for number, timestep in enumerate(timesteps):
        velocity = denoise(latents, timestep).float()
        expect_shape("The model's velocity", velocity, "C T h w", **sizes)
        clean = latents - levels[number] * velocity
        latents = _with_first(step(velocity, latents), first)
        if on_step is not None:
            on_step(number + 1, len(timesteps), _with_first(clean, first))
    _expect_finite(latents)
    return latents


def expect_method(method: str) -> None:
    """Raise `ValueRangeError` unless a solver is known."""
    if method not in METHODS:
        raise ValueRangeError("The sampler is unknown", got=method, expected=", ".join(METHODS))


def _expect_clean(first: Tensor, sizes: dict[str, int]) -> None:
    frame = {name: sizes[name] for name in ("C", "h", "w")}
    given = expect_shape("The clean first latent", first, "C K h w", **frame)["K"]
    if given > sizes["T"]:
        raise ShapeError(
            "There are more clean latents than the chunk has",
            got=f"{given} clean latents for a chunk of {sizes['T']}",
            fix="Use the clean latents of this chunk, as the loop gives them",
        )


def _with_first(latents: Tensor, first: Tensor | None) -> Tensor:
    """Latents that begin with the clean frames (C, K, h, w)."""
    return latents if first is None else torch.cat([first, latents[:, first.shape[1] :]], dim=1)


def _stepper(method: str, sigmas: Tensor) -> _Step:
    if method == "unipc":
        return _unipc(sigmas)
    return _euler(sigmas)


def _euler(sigmas: Tensor) -> _Step:
    steps = iter(sigmas.float().diff().tolist())
    return lambda velocity, latents: latents + next(steps) * velocity


def _unipc(sigmas: Tensor) -> _Step:
    """Second-order UniPC with the bh2 corrector; a new scheduler has no history."""
    scheduler = _scheduler_class()(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0
    )
    # Without a shift the scheduler takes the levels as they are, and adds the final 0 itself.
    scheduler.set_timesteps(sigmas=sigmas[:-1].double().cpu().numpy())
    scheduler.set_begin_index(0)
    timesteps = iter(scheduler.timesteps)

    def step(velocity: Tensor, latents: Tensor) -> Tensor:
        found = scheduler.step(velocity, next(timesteps), latents, return_dict=False)[0]
        return found.float()

    return step


def _scheduler_class() -> Any:
    # Imported here: the graph samples with ComfyUI's own solvers and needs no diffusers.
    try:
        from diffusers import UniPCMultistepScheduler
    except ImportError as error:
        raise ModelMismatchError(
            "The sampler of the library requires diffusers",
            got=str(error),
            fix="Run pip install diffusers, or choose the method euler",
        ) from error
    return UniPCMultistepScheduler


def _expect_finite(latents: Tensor) -> None:
    if bool(torch.isfinite(latents).all()):
        return
    raise ValueRangeError(
        "The video model returned values that are not finite",
        got="NaN or infinite latents",
        expected="finite numbers",
        fix="Run it in bfloat16 or float32: float16 overflows in this model",
    )
