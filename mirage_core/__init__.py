"""Latent spatial memory for camera-directed video: the library behind the node pack.

The names below are what most programs need; all else is imported from its module. The package
imports no part of ComfyUI and does no work at import: a name's module is read when the name is
first asked for, so that the package alone costs nothing, not even torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "DctCodec",
    "FrameGeometry",
    "GenerationSettings",
    "ProceduralScene",
    "begin",
    "begin_memory",
    "generate",
    "preset_trajectory",
    "read",
    "render_preview",
]

if TYPE_CHECKING:
    from .codecs.dct import DctCodec
    from .geometry.frame_geometry import FrameGeometry
    from .preview.render import render_preview
    from .readout.readout import read
    from .rollout.begin import begin
    from .rollout.generate import generate
    from .rollout.memory import begin_memory
    from .rollout.settings import GenerationSettings
    from .scenes.scene import ProceduralScene
    from .trajectories.presets import preset_trajectory
else:
    # Type checkers do not see this: to them it would make every misspelt name a good one.
    _HOMES = {
        "DctCodec": ".codecs.dct",
        "FrameGeometry": ".geometry.frame_geometry",
        "GenerationSettings": ".rollout.settings",
        "ProceduralScene": ".scenes.scene",
        "begin": ".rollout.begin",
        "begin_memory": ".rollout.memory",
        "generate": ".rollout.generate",
        "preset_trajectory": ".trajectories.presets",
        "read": ".readout.readout",
        "render_preview": ".preview.render",
    }

    def __getattr__(name: str) -> object:
        """A name of the table, from its module (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name], __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
