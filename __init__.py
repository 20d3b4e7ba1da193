"""Mirage for ComfyUI: camera-directed video with a latent spatial memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import MirageExtension

OLDEST_COMFYUI = (0, 30, 0)
WEB_DIRECTORY = "./js"


def _expect_comfyui() -> None:
    """Raise unless this ComfyUI is new enough.

    Raises:
        ImportError: ComfyUI is older than the oldest supported version.
    """
    from comfyui_version import __version__ as found

    numbers = tuple(int("".join(filter(str.isdigit, part)) or 0) for part in found.split(".")[:3])
    if numbers < OLDEST_COMFYUI:
        oldest = ".".join(map(str, OLDEST_COMFYUI))
        raise ImportError(
            f"Mirage needs ComfyUI {oldest} or newer. Got: {found}. Update ComfyUI and restart it."
        )


async def comfy_entrypoint() -> MirageExtension:
    """ComfyUI calls this to learn which nodes there are."""
    _expect_comfyui()
    from .nodes import MirageExtension

    return MirageExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
