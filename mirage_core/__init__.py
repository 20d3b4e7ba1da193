"""Latent spatial memory for camera-directed video: the library behind the node pack.

The package imports no part of ComfyUI and does no work at import.
"""

from __future__ import annotations

__version__ = "0.1.0"
