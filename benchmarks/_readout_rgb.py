"""The memory of pixels beside the latent one: rasterise it, and encode what was drawn."""

from __future__ import annotations

import statistics

import torch
from _readout_timing import VIEWS, Plan, cameras, captured, reads, rotate, spread
from readout_cpu import GRID, cast, pose, solids

from mirage_core.constants import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE
from mirage_core.ops.kernels import BlockTensors
from mirage_core.ops.operators import read_tokens, run_bounds

CHUNK_LATENTS = 8
VAE = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": LATENT_CHANNELS, "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2, "attn_scales": [], "temperal_downsample": [False, True, True],
    "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2,
    "scale_factor_spatial": SPATIAL_STRIDE, "scale_factor_temporal": TEMPORAL_STRIDE,
    "latents_mean": [0.0] * LATENT_CHANNELS, "latents_std": [1.0] * LATENT_CHANNELS,
}  # fmt: skip
"""Configuration of the Wan2.2 VAE in diffusers."""


def encode_us(plan: Plan) -> dict[str, object]:
    """The Wan2.2 VAE's encoder with random weights on the frames of one chunk."""
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        return {"skipped": f"needs diffusers: {error}"}
    shrunk = {"base_dim": 8, "decoder_base_dim": 8} if plan.small else {}
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**{**VAE, **shrunk}).to(plan.device, torch.bfloat16).eval()
    frames = torch.rand(1, 3, plan.frames, *plan.picture).to(plan.device, torch.bfloat16)
    times = rotate(plan, [lambda: vae.encode(2 * frames - 1)], 3)
    return {"us": spread(times), "parameters": sum(p.numel() for p in vae.encoder.parameters())}


def block_of(plan: Plan, chunk: int, size: tuple[int, int], channels: int) -> BlockTensors:
    """What one chunk adds: the points of its latent frames, at a resolution."""
    boxes = solids().to(plan.device)
    first = 1000 - CHUNK_LATENTS * (max(plan.chunks) - chunk)
    cells = size[0] * size[1]
    axes = torch.empty(3, CHUNK_LATENTS * cells, device=plan.device)
    for number in range(CHUNK_LATENTS):
        part = slice(number * cells, (number + 1) * cells)
        axes[:, part] = cast(pose(first + number), boxes, size).T
    values = torch.randn(axes.shape[1], channels, device=plan.device).bfloat16()
    return BlockTensors([axes.T], [run_bounds(axes.T)], [values], [])


def joined(parts: list[BlockTensors]) -> BlockTensors:
    """One memory of many blocks."""
    fields = range(4)
    return BlockTensors(*([tensor for part in parts for tensor in part[field]] for field in fields))


def against_rgb(plan: Plan) -> dict[str, object]:
    """Reads of a latent and of an RGB memory of the same frames, as chunks accumulate."""
    encode = encode_us(plan)
    latent: list[BlockTensors] = []
    pixels: list[BlockTensors] = []
    rows = []
    views = cameras(0, GRID, VIEWS).to(plan.device)
    shot = cameras(0, plan.picture, plan.frames, TEMPORAL_STRIDE).to(plan.device)
    for chunk in range(max(plan.chunks)):
        latent.append(block_of(plan, chunk, GRID, LATENT_CHANNELS))
        pixels.append(block_of(plan, chunk, plan.picture, 3))
        if chunk + 1 not in plan.chunks:
            continue
        replays = captured(plan, reads([joined(latent)], [views]))
        ours = rotate(plan, replays, plan.runs, queued=True)
        cloud = joined(pixels)
        drawn = rotate(
            plan,
            [
                lambda held=cloud: read_tokens(
                    held, shot, plan.picture, channels=3, dtype=torch.bfloat16,
                    nearest_centre=False,
                )
            ],
            3,
        )  # fmt: skip
        drawing, reading = statistics.median(drawn), statistics.median(ours)
        total = drawing + encode["us"]["median"] if "us" in encode else None
        rows.append(
            {
                "chunks": chunk + 1,
                "latent_points": sum(map(len, joined(latent).points)),
                "rgb_points": sum(map(len, cloud.points)),
                "latent_read_us": spread(ours),
                "rgb_rasterise_us": spread(drawn),
                "rgb_total_us": total and round(total, 1),
                "ratio": total and round(total / reading, 1),
                "ratio_without_encoding": round(drawing / reading, 1),
            }
        )
    return {"encode": encode, "per_chunk": rows}
