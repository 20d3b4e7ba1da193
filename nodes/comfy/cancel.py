"""Stopping in the middle of what takes long, when the prompt is cancelled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import comfy.model_management
from torch import nn


def stop_when_cancelled(*_: object) -> None:
    """A callback for whatever a loop reports: shows nothing, and stops when cancelled."""
    comfy.model_management.throw_exception_if_processing_interrupted()


@contextmanager
def stopping_between(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Stop before any of these modules when cancelled; their results stay as they are.

    ComfyUI asks between the steps of a sampler, and before and after a call of a VAE. On a CPU
    one of these can take a minute.
    """
    hooks = [module.register_forward_pre_hook(stop_when_cancelled) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
