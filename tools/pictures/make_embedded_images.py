"""Make the thumbnail of the workflow with the small model that ships, by running it.

Run it with ``python tools pictures.make_embedded_images`` after a change of the model or the graph.
"""

from __future__ import annotations

import argparse
import json
import tempfile

import torch
from PIL import Image

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer
from mirage_core.rollout.video import read_frames
from workflows.flatten import flatten

WORKFLOW = PACK / "workflows" / "mirage_embedded_model.json"
SHOWN = (0, 48)
"""The given picture, and the farthest point of the move."""


def main() -> None:
    """Run the workflow as it ships, and put two of its frames side by side."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as base, ComfyServer(base) as server:
        client = ComfyClient(server.url)
        prompt = flatten(json.loads(WORKFLOW.read_text("utf-8")), client.object_info())
        result = client.run(prompt, timeout=1800)
        if result.status != "success":
            raise SystemExit(f"the workflow ended with {result.status}")
        (video,) = (server.output / "mirage").glob("embedded_model_*.mp4")
        frames = list(read_frames(video))
    pair = torch.cat([frames[number] for number in SHOWN], dim=1)
    target = WORKFLOW.with_suffix(".jpg")
    Image.fromarray(pair.numpy()).save(target, quality=85)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
