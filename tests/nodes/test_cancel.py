"""Cancel takes effect inside of what takes long: between layers, latent frames and steps."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from .sampling_kit import Kit
from .vace_kit import HEIGHT, WIDTH, VaceKit

pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture
def management(pack: ModuleType) -> Iterator[ModuleType]:
    import comfy.model_management

    yield comfy.model_management
    comfy.model_management.interrupt_current_processing(False)


class Cancels:
    """A forward hook that presses Cancel at the n-th call of a module, and counts the calls."""

    def __init__(self, management: ModuleType, at: int = 1) -> None:
        self.management, self.at, self.calls = management, at, 0

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.management.interrupt_current_processing(True)


def hooks_of(module: nn.Module) -> int:
    return sum(len(part._forward_pre_hooks) for part in module.modules())


def test_between_layers(pack: ModuleType, management: ModuleType) -> None:
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    first, last = Cancels(management), Cancels(management, at=0)
    layers[0].register_forward_hook(first)
    layers[2].register_forward_hook(last)
    with pytest.raises(management.InterruptProcessingException):
        with pack.nodes.comfy.cancel.stopping_between(layers):
            layers(torch.zeros(1, 2))
    assert (first.calls, last.calls, hooks_of(layers)) == (1, 0, 0)
    management.interrupt_current_processing(False)
    layers(torch.zeros(1, 2))
    assert last.calls == 1


@pytest.mark.parametrize("what", ["encode", "encode_images", "decode"])
def test_inside_of_a_vae_with_weights(
    pack: ModuleType, management: ModuleType, what: str
) -> None:
    with torch.inference_mode():
        shot = VaceKit(pack)
    kind = shot.module("mirage_core.codecs.memory_kind").MemoryKind.COLOURS
    codec, model = shot.border.VaeCodec(shot.wan21, memory=kind), shot.wan21.first_stage_model
    given = torch.rand(16, 2, HEIGHT // 8, WIDTH // 8) if what == "decode" else torch.rand(
        5, HEIGHT, WIDTH, 3
    )
    call = getattr(codec, what)
    expected, before = call(given), hooks_of(model)
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv3d)]
    counts, press = Cancels(management, at=0), Cancels(management, at=2)
    handles = [part.register_forward_hook(counts) for part in convolutions]
    call(given)
    whole, counts.calls = counts.calls, 0
    handles += [part.register_forward_hook(press) for part in convolutions]
    with pytest.raises(management.InterruptProcessingException):
        call(given)
    assert counts.calls == 2 < whole
    for handle in handles:
        handle.remove()
    management.interrupt_current_processing(False)
    assert hooks_of(model) == before
    assert torch.equal(call(given), expected)


def test_inside_of_the_embedded_codec(pack: ModuleType, management: ModuleType) -> None:
    vae = pack.nodes.comfy.vae.DctVAE()
    frames, latent = torch.zeros(5, 32, 32, 3), torch.zeros(1, 48, 2, 2, 2)
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        vae.encode(frames)
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        vae.decode(latent)


@pytest.mark.samplers
def test_between_the_blocks_of_the_video_model(kit: Kit, management: ModuleType) -> None:
    model, latent = kit.apply()
    blocks = model.model.diffusion_model.blocks
    press, last = Cancels(management), Cancels(management, at=0)
    handles = [blocks[0].register_forward_hook(press), blocks[-1].register_forward_hook(last)]
    try:
        with pytest.raises(management.InterruptProcessingException):
            kit.ksampler(model, latent, steps=2)
    finally:
        for handle in handles:
            handle.remove()
    assert len(blocks) > 1 and (press.calls, last.calls) == (1, 0)
    assert hooks_of(blocks) == 0


def test_inside_of_an_estimator(pack: ModuleType, management: ModuleType) -> None:
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    layers[0].register_forward_hook(Cancels(management))
    estimator = pack.nodes.comfy.estimator
    module = estimator._NetworkModule(layers)
    import comfy.model_patcher

    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(module, load_device=cpu, offload_device=cpu)

    def run(frames: Tensor, cameras: Any) -> Tensor:
        return layers(frames)

    with pytest.raises(management.InterruptProcessingException):
        estimator.Estimator(run, patcher).run(torch.zeros(1, 2), None)


def test_while_holes_are_filled_and_frames_drawn(
    pack: ModuleType, management: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Preview Fill asks while it fills; the drawing asks between the stages of a frame."""
    readout = pack.nodes.readout
    seen = []

    def fill(_: object, on_step: Any) -> None:
        on_step(1, 24)
        management.interrupt_current_processing(True)
        seen.append("filled")
        on_step(2, 24)

    monkeypatch.setattr(readout, "fill_readout", fill)
    monkeypatch.setattr(readout, "expect_same_codec", lambda *_: None)
    held = SimpleNamespace(kind=None, codec="embedded-dct-1")
    vae = pack.nodes.comfy.vae.DctVAE()
    with pytest.raises(management.InterruptProcessingException):
        readout.MiragePreviewFill.execute(SimpleNamespace(cache=held), vae)
    assert seen == ["filled"]
