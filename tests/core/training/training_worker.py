"""One of several processes that train together; the test beside it starts them all.

Arguments: the model, the clips, the run's folder, settings as JSON, and where rank 0 writes the
losses. Rank and meeting point come from the environment, as accelerate and torchrun set them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from mirage_core.codecs.dct import DctCodec
from mirage_core.models.load import load_transformer
from mirage_core.training.distributed import Distributed, local_shard
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.trainer import Trainer, TrainingData
from mirage_core.training.validation import LoopTest


def main(model: str, clips: str, folder: str, settings: str, result: str) -> None:
    torch.set_num_threads(1)
    processes = Distributed(cpu=True)
    chosen = TrainingSettings(**json.loads(settings))
    if chosen.context_parallel > 1:
        # diffusers picks a process's device by the number of accelerators, which is 0 here.
        torch.accelerator.device_count = lambda: 1
    data = TrainingData(Path(clips), torch.zeros(1, 16), held_out=Path(clips))
    transformer = load_transformer(model, dtype=torch.float32)
    loops = LoopTest(DctCodec(), torch.zeros(1, 16), chosen, processes.device)
    trainer = Trainer(transformer, chosen, data, Path(folder), processes, loops)
    held = sum(local_shard(p).numel() * 4 for p in trainer.model.parameters())
    values: list[dict[str, float]] = []
    trainer.run(lambda report: values.append(report.values))
    Path(f"{result}.{processes.rank}").write_text(
        json.dumps({"values": values, "held": held, "processes": processes.count})
    )
    processes.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
