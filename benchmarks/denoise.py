"""One denoising step: plain model, with the side branch, with clean frames beside; one JSON.

Weights are random. On a CUDA device the model has the size of Wan2.2-TI2V-5B with a side branch
of 15 blocks, and the latents that of 1280 x 704; without one everything is tiny, which shows that
the program runs and how the parts compare, and nothing of a GPU. Cases take turns, so that a
machine that slows down slows all of them.

``over_flops`` is the time of a case over the plain model's, divided by the same ratio of floating
point operations: 1 when the branch and the frames beside cost what their operations cost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import date
from functools import partial

import diffusers
import torch
from diffusers.models.attention_dispatch import attention_backend
from readout_cpu import processor
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mirage_core.constants import LATENT_CHANNELS
from mirage_core.models.transformer import MirageTransformer3DModel

TARGET = 1.10
"""Most that a case may cost over what its operations predict."""

BACKENDS = ("native", "_native_cudnn", "_native_flash", "_native_efficient", "flash", "sage")
"""Attention of torch's choice, its parts by name, and packages that may be installed."""

REAL = {"num_attention_heads": 24, "attention_head_dim": 128, "ffn_dim": 14336, "num_layers": 30}
TINY = {"num_attention_heads": 4, "attention_head_dim": 24, "ffn_dim": 384, "num_layers": 6}


@dataclass(frozen=True)
class Case:
    """A forward pass: which frames it holds, and whether the side branch runs."""

    name: str
    branch: bool
    references: int = 0
    preceding: int = 0
    target: int = 9

    @property
    def frames(self) -> int:
        return self.references + self.target + self.preceding


CASES = (
    Case("plain", False),
    Case("branch", True),
    Case("branch, 2 preceding", True, preceding=2),
    Case("branch, 2 preceding, 4 references", True, references=4, preceding=2),
)


def skeleton(real: bool) -> MirageTransformer3DModel:
    sizes = REAL if real else TINY
    text = {"text_dim": 4096, "freq_dim": 256} if real else {"text_dim": 64, "freq_dim": 64}
    layers = tuple(range(0, sizes["num_layers"], 2))
    return MirageTransformer3DModel(**sizes, **text, side_layers=layers)


def model(real: bool, device: str, dtype: torch.dtype) -> MirageTransformer3DModel:
    with torch.device("meta"):
        made = skeleton(real)
    # Filled where it will run: the CPU has no part in 15 GB of random numbers.
    made = made.to_empty(device=device).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    exact = set(made._keep_in_fp32_modules)
    for name, parameter in made.named_parameters():
        kind = torch.float32 if exact & set(name.split(".")) else dtype
        parameter.data = torch.empty_like(parameter, dtype=kind).normal_(
            0, 0.02, generator=generator
        )
    return made


def inputs(case: Case, real: bool, device: str, dtype: torch.dtype) -> dict[str, Tensor | int]:
    height, width = (44, 80) if real else (12, 20)
    channels, length = (4096, 512) if real else (64, 16)
    shape = (1, LATENT_CHANNELS, case.frames, height, width)
    timestep = torch.full((1, case.frames), 500.0)
    timestep[:, : case.references + 1] = 0
    timestep[:, case.references + case.target :] = 0
    given: dict[str, Tensor | int] = {
        "hidden_states": torch.randn(shape, device=device, dtype=dtype),
        "timestep": timestep.to(device),
        "encoder_hidden_states": torch.randn(1, length, channels, device=device, dtype=dtype),
        "num_reference_frames": case.references,
        "num_preceding_frames": case.preceding,
    }
    if case.branch:
        main = case.target + case.preceding
        side = (1, 2 * LATENT_CHANNELS, main, height, width)
        given["side_hidden_states"] = torch.randn(side, device=device, dtype=dtype)
    return given


def flops(case: Case, real: bool) -> int:
    """Operations of one forward pass, counted on tensors without data."""
    with torch.device("meta"):
        counted = skeleton(real)
    given = inputs(case, real, "meta", torch.float32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        counted(**given)
    return counter.get_total_flops()


def seconds(run: Callable[[], object], device: str) -> float:
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measure(
    net: MirageTransformer3DModel,
    real: bool,
    device: str,
    rounds: int,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
    cases: tuple[Case, ...] = CASES,
) -> Iterator[tuple[Case, dict[str, float | None]]]:
    """Median and spread of each case, taken in turns, and the most memory that it took."""
    dtype = next(net.parameters()).dtype
    given = {case: inputs(case, real, device, dtype) for case in cases}
    taken: dict[Case, list[float]] = {case: [] for case in cases}
    peak: dict[Case, float | None] = dict.fromkeys(cases)
    with torch.inference_mode(), around():
        for number in range(rounds + 1):
            for case in cases:
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                spent = seconds(lambda case=case: net(**given[case]), device)
                if device == "cuda":
                    peak[case] = torch.cuda.max_memory_allocated() / 2**30
                if number:
                    taken[case].append(spent)
    for case in cases:
        yield (
            case,
            {
                "median_s": statistics.median(taken[case]),
                "least_s": min(taken[case]),
                "most_s": max(taken[case]),
                "peak_gib": peak[case],
            },
        )


def compare(
    results: Iterator[tuple[Case, dict[str, float | None]]], operations: dict[Case, int]
) -> dict[str, dict[str, float | None]]:
    rows = dict(results)
    plain = next(case for case in rows if not case.branch)
    report = {}
    for case, row in rows.items():
        by_flops = operations[case] / operations[plain]
        by_time = float(row["median_s"] or 0) / float(rows[plain]["median_s"] or 1)
        report[case.name] = {
            **row,
            "tflop": operations[case] / 1e12,
            "time_over_plain": by_time,
            "flops_over_plain": by_flops,
            "over_flops": by_time / by_flops,
        }
    return report


def backends(
    net: MirageTransformer3DModel, real: bool, device: str, rounds: int
) -> dict[str, float | str | None]:
    """Median step of the largest case under every attention that runs here."""
    found: dict[str, float | str | None] = {}
    largest = CASES[-1:]
    for name in BACKENDS:
        try:
            around = partial(attention_backend, name)
            ((_, row),) = measure(net, real, device, rounds, around, largest)
            found[name] = row["median_s"]
        except (RuntimeError, ValueError, ImportError, NotImplementedError) as error:
            found[name] = f"does not run here: {str(error).splitlines()[0][:120]}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    chosen = parser.parse_args()
    device, real = chosen.device, chosen.device == "cuda"
    if device == "cpu":
        torch.set_num_threads(1)
    dtype = torch.bfloat16 if real else torch.float32
    net = model(real, device, dtype)
    operations = {case: flops(case, real) for case in CASES}
    report = {
        "program": "benchmarks/denoise.py",
        "machine": torch.cuda.get_device_name() if real else processor(),
        "threads": torch.get_num_threads(),
        "rounds": chosen.rounds,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "date": date.today().isoformat(),
        "size": "Wan2.2-TI2V-5B, 1280 x 704, random weights" if real else "tiny, random weights",
        "target_over_flops": TARGET,
        "real_size_tflop": {case.name: flops(case, True) / 1e12 for case in CASES},
        "eager": compare(measure(net, real, device, chosen.rounds), operations),
        "attention_backends_s": backends(net, real, device, chosen.rounds),
    }
    if not chosen.no_compile:
        net.compile_repeated_blocks(fullgraph=True, dynamic=True)
        report["compiled"] = compare(measure(net, real, device, chosen.rounds), operations)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
