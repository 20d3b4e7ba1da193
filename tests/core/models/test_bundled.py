"""The small model that ships, in the loop of a rollout: what the memory is worth to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mirage_core.codecs.dct import DctCodec
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.metrics import psnr
from mirage_core.models.bundled import SHIFT, STEPS, empty_text
from mirage_core.scenes.scene import ProceduralScene

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")

from mirage_core.models.bundled import load_embedded_transformer
from mirage_core.rollout.begin import begin
from mirage_core.rollout.denoisers import TransformerDenoisers, projection_source
from mirage_core.rollout.depth_source import KnownDepth
from mirage_core.rollout.generate import generate
from mirage_core.rollout.models import GenerationModels
from mirage_core.rollout.run_folder import all_latents
from mirage_core.rollout.settings import GenerationSettings
from mirage_core.training.validation import there_and_back

ROOM, FRAMES, WIDTH, HEIGHT = 910_003, 65, 192, 128
CODEC = DctCodec()


@pytest.fixture(scope="module")
def room() -> Any:
    """A room that no training saw, there and back."""
    scene = ProceduralScene.from_seed(ROOM, texture_size=256)
    path = there_and_back(scene, FRAMES, WIDTH, HEIGHT)
    truth, depth = scene.render(path)
    return path, truth, FrameGeometry(depth, path.intrinsics, path.world_to_camera, metric=True)


def make(room: Any, folder: Path, side_scale: float) -> torch.Tensor:
    """(65, H, W, 3) frames of the whole shot; without the branch at a scale of 0."""
    path, truth, geometry = room
    model = load_embedded_transformer()
    models = GenerationModels(
        CODEC,
        TransformerDenoisers(model, empty_text(), side_scale=side_scale),
        KnownDepth(geometry),
        projection=projection_source(model, CODEC),
    )
    settings = GenerationSettings(steps=STEPS, shift=SHIFT, method="euler", references=0)
    state = begin(truth[0], geometry, path, CODEC, settings=settings, seed=1, folder=folder)
    return CODEC.decode(all_latents(generate(state, models, settings)))


@pytest.mark.rollout
def test_what_was_seen_comes_back(room: Any, tmp_path: Path) -> None:
    """Closed loop: the last frame shows what the first one showed, thanks to the memory."""
    truth = room[1]
    seen, blind = (make(room, tmp_path / str(scale), scale) for scale in (1.0, 0.0))
    assert psnr(seen[-1], seen[0]) > CLOSED_LOOP
    assert psnr(seen[-1], seen[0]) > psnr(blind[-1], blind[0]) + 3
    assert psnr(seen[1:], truth[1:]) > psnr(blind[1:], truth[1:]) + 1


CLOSED_LOOP = 24.0
"""Least PSNR of the last frame against the first, in dB."""
