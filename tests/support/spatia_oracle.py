"""What Spatia's own code makes of random inputs and tiny random weights.

The part that every machine tests against is in ``tests/data``; the whole of it is four times as
large and read from a folder beside the checkout, where there is one.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import reduce
from safetensors import safe_open
from torch import Tensor

from mirage_core.geometry.trajectory import Trajectory
from shared_material import SHARED

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "tests" / "data" / "spatia_oracle.safetensors"
WHOLE = SHARED / "oracle" / "spatia.safetensors"


class SpatiaOracle:
    """Tensors by name, and the settings that they were made with."""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Sizes, cases and choices."""
        return json.loads(OWN.with_suffix(".json").read_text(encoding="utf-8"))

    def tensor(self, name: str) -> Tensor:
        """One tensor; skips the test where its file is not at hand."""
        for path in (OWN, WHOLE):
            if path.exists():
                with safe_open(path, "pt") as file:
                    if name in file.keys():  # noqa: SIM118 - not a mapping
                        return file.get_tensor(name)
        pytest.skip(f"{name} is in ../shared/oracle/{WHOLE.name}, which is not here")

    def group(self, prefix: str) -> dict[str, Tensor]:
        """All tensors of the tests' own file whose names begin so, without that beginning."""
        with safe_open(OWN, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}

    def encode(self, frames: Tensor) -> Tensor:
        """The stand-in autoencoder: (4n + 1, H, W, 3) in 0..1 to (48, n + 1, H / 16, W / 16)."""
        weights = self.tensor("vae.time_weights")
        pixels = 2 * frames - 1
        groups = torch.einsum("tfhwc,f->thwc", pixels[1:].unflatten(0, (-1, 4)), weights)
        video = torch.cat([pixels[:1], groups])
        cells = reduce(video, "t (h r a) (w s b) c -> t h w (c r s)", "mean", r=2, s=2, a=8, b=8)
        latent = cells @ self.tensor("vae.weight").T + self.tensor("vae.bias")
        return latent.permute(3, 0, 1, 2)


def cameras(world_to_camera: Tensor, lens: list[float], size: tuple[int, int]) -> Trajectory:
    """A trajectory from (F, 3 or 4, 4) poses and (fx, fy, cx, cy) in pixels of (H, W)."""
    poses = torch.eye(4, dtype=torch.float64).repeat(len(world_to_camera), 1, 1)
    poses[:, :3] = world_to_camera[:, :3].double()
    fx, fy, cx, cy = lens
    matrix = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    return Trajectory(poses, matrix.repeat(len(poses), 1, 1), size[1], size[0])
