"""Mirage for ComfyUI: camera-directed video with a latent spatial memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import MirageExtension

OLDEST_COMFYUI = (0, 30, 0)
WEB_DIRECTORY = "./js"


def _expect_comfyui(found: str) -> None:
    """Check that this ComfyUI is new enough.

    Args:
        found: ComfyUI's version, such as ``0.30.0``.

    Raises:
        ImportError: It is older than the oldest supported version.
    """
    digits = ("".join(filter(str.isdigit, part)) for part in found.split(".")[:3])
    if tuple(int(part or 0) for part in digits) < OLDEST_COMFYUI:
        oldest = ".".join(map(str, OLDEST_COMFYUI))
        raise ImportError(
            f"Mirage needs ComfyUI {oldest} or newer. Got: {found}. Update ComfyUI and restart it."
        )


def _check_host() -> None:
    """Check the ComfyUI that imports the pack; other programs may read the package too."""
    try:
        from comfyui_version import __version__
    except ModuleNotFoundError:
        return
    _expect_comfyui(__version__)


async def comfy_entrypoint() -> MirageExtension:
    """ComfyUI calls this to learn which nodes there are."""
    from .nodes import MirageExtension

    return MirageExtension()


_check_host()

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
