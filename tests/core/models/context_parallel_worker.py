"""One of two processes that share a forward pass; the test beside it starts both.

Arguments: rank, number of processes, the meeting file, the model's folder, inputs, result.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from safetensors.torch import load_file, save_file

from mirage_core.errors import ShapeError
from mirage_core.models.transformer import MirageTransformer3DModel


def expect_refusal(model: MirageTransformer3DModel, tensors: dict[str, torch.Tensor]) -> None:
    """Three tokens in a frame are not for two processes: an error before they talk."""
    small = tensors["hidden_states"][..., :2, :6].contiguous()
    same = {name: tensors[name] for name in ("timestep", "encoder_hidden_states")}
    try:
        model(small, **same, num_reference_frames=2)
    except ShapeError:
        return
    raise RuntimeError("an odd number of tokens was accepted")


def main(rank: int, world: int, meeting: str, folder: str, inputs: str, result: str) -> None:
    torch.set_num_threads(1)
    # diffusers picks a rank's device by the number of accelerators, which is 0 here.
    torch.accelerator.device_count = lambda: 1
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    model = MirageTransformer3DModel.from_pretrained(folder).eval()
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=world))
    seen = []
    model.blocks[0].register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape)))
    model.vace_blocks[1].register_forward_hook(lambda _m, _i, out: seen.append(out[1].shape))
    tensors = load_file(inputs)
    with torch.no_grad():
        (output,) = model(
            **tensors, num_reference_frames=2, num_preceding_frames=2, return_dict=False
        )
    # Each rank has held half of each frame: 9 frames in the backbone, 7 in the branch.
    halves = [(1, 9, 12, 48), (1, 7, 12, 48)]
    if [tuple(shape) for shape in seen] != halves:
        raise RuntimeError(f"this rank held {seen}, expected {halves}")
    expect_refusal(model, tensors)
    if rank == 0:
        save_file({"output": output.contiguous()}, result)
    dist.barrier()
    dist.destroy_process_group()
    # Gloo's threads may outlive the group, and abort the process when Python unloads them.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
