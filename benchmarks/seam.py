"""What carried latents do for the seam between two chunks.

Prints one JSON report for the embedded codec and for a Wan2.2 VAE with random weights: the largest
change from one frame to the next across the seam, over the largest one inside the chunks, for 0
to 8 carried latents; and how far the chunk's frames are, on average, from those of the whole video
decoded at once. A smooth procedural move is encoded as one video and decoded in two chunks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date

import diffusers
import torch
from diffusers import AutoencoderKLWan
from readout_cpu import processor
from torch import Tensor

from mirage_core.checkpoints.vae_format import wan22_config
from mirage_core.codecs.dct import DctCodec
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid
from mirage_core.models.vae import WanCodec
from mirage_core.rollout.decode import decode_with_context
from mirage_core.scenes.scene import ProceduralScene

CHUNK = 9
"""Latent frames of a chunk; the second one shares its first with the first one's last."""


def video(size: int, seed: int) -> Tensor:
    """(65, size, size, 3): a move to the right through a furnished room."""
    scene = ProceduralScene.from_seed(seed, texture_size=256)
    frames = 8 * (CHUNK - 1) + 1
    poses = scene.start_camera_to_world.repeat(frames, 1, 1)
    steps = torch.linspace(0, 0.4, frames, dtype=torch.float64)
    poses[:, :3, 3] += steps[:, None] * poses[:, :3, 0]
    lens = intrinsics_from_fov(size, size, 70).repeat(frames, 1, 1)
    return scene.render(Trajectory(invert_rigid(poses), lens, size, size))[0]


def change(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference of two frames."""
    return float((one - other).abs().mean())


def measure(decode: Callable[[Tensor], Tensor], latents: Tensor) -> dict[str, dict[str, float]]:
    whole = decode(latents)
    first = decode(latents[:, :CHUNK])
    second = latents[:, CHUNK - 1 :]
    found = {}
    for carried in (0, 1, 2, 4, 8):
        before = latents[:, CHUNK - 1 - carried : CHUNK - 1]
        frames = decode_with_context(decode, before, second)
        inside = [
            change(one, other)
            for part in (first, frames[1:])
            for one, other in zip(part, part[1:], strict=False)
        ]
        error = (frames[1:] - whole[len(first) :]).abs().flatten(1).mean(1)
        found[str(carried)] = {
            "change_inside": max(inside),
            "seam_over_inside": change(first[-1], frames[1]) / max(inside),
            "error_of_the_first_new_frame": float(error[0]),
            "error_of_the_last_frame": float(error[-1]),
        }
    return found


def random_wan(encoder: int, decoder: int, seed: int) -> WanCodec:
    """A Wan2.2 VAE of the real structure and these widths, with diffusers' own random weights."""
    torch.manual_seed(seed)
    return WanCodec(AutoencoderKLWan(**wan22_config(encoder, decoder)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument(
        "--widths", type=int, nargs=2, default=(16, 16), metavar=("ENCODER", "DECODER"),
        help="of the VAE; 160 256 is real",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=3)
    chosen = parser.parse_args()
    frames = video(chosen.size, chosen.seed)
    embedded, wan = DctCodec(), random_wan(*chosen.widths, chosen.seed)
    name = "wan2.2, random weights, widths {} and {}".format(*chosen.widths)
    report = {
        "program": "benchmarks/seam.py",
        "date": date.today().isoformat(),
        "machine": processor(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "size": chosen.size,
        "embedded": measure(embedded.decode, embedded.encode(frames)),
        name: measure(wan.decode, wan.encode(frames)),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
