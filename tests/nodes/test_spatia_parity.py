"""A shot with a branch of Spatia's through ComfyUI's model, against the library, chunk by chunk."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import lora
from tiny_weights import write

from .sampling_kit import COLUMNS, ROWS, Kit
from .test_sampling_parity import _transformer, by_graph, by_library

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")
pytest.importorskip("peft", reason="needs peft for the library's LoRAs")

pytestmark = pytest.mark.usefixtures("inference")

FEATURES = "render,score"
FRAMES, LENGTHS = 29, (13, 13, 5)
"""Three chunks: 13 frames, 8 and 8; the later ones share 5 frames with the one before."""

SIZE = (ROWS * 16, COLUMNS * 16)
REFERENCES = 2


@dataclasses.dataclass
class Shot:
    """A shot on a memory of colours, which the embedded codec's VAE encodes."""

    kit: Kit
    state: Any
    geometry: Any
    vae: Any

    def readout(self) -> Any:
        return self.kit.module("readout.readout").read(self.state.cache, self.state.frame_cameras)

    def apply(self, model: Any = None, **changes: Any) -> tuple[Any, dict[str, Tensor]]:
        first = self.kit.vae_border.make_clean_latent(self.state.overlap_latent)
        inputs = {
            "readout": self.readout(), "first_latent": first, "state": self.state,
            "vae": self.vae, "references": REFERENCES, "branch": self.kit.branch(FEATURES),
        }  # fmt: skip
        return self.kit.apply(model, **inputs | changes)

    def condition(self) -> Any:
        """What the library tells of the chunk."""
        settings = self.kit.module("rollout.settings").GenerationSettings(
            references=REFERENCES, preceding=0
        )
        source = self.kit.module("rollout.spatia").SpatiaConditions(
            self.kit.vae_border.VaeCodec(self.vae)
        )
        return source(self.state, self.readout(), settings)

    def finish(self, latents: Tensor) -> None:
        """Decode the chunk, write it to the memory, and save it."""
        codec = self.kit.vae_border.VaeCodec(self.vae)
        frames = codec.decode(latents).clamp(0, 1)
        numbers = self.state.chunk.pose_frames
        written = self.kit.module("rollout.memory").write_chunk(
            self.state, latents, frames, self.geometry.select(numbers),
            encode=codec.encode_images, scaled=True,
        )  # fmt: skip
        overlap = self.kit.module("rollout.decode").encode_overlap(codec, self.state, frames)
        self.state = self.kit.module("rollout.run_folder").commit(
            self.state, latents=latents, frames=frames, readout=self.readout(),
            cache=written.cache, overlap=overlap,
        )  # fmt: skip


@pytest.fixture
def shot(kit: Kit, tmp_path: Path) -> Shot:
    rng = torch.Generator().manual_seed(4)
    picture = torch.rand(*SIZE, 3, generator=rng)
    cameras = kit.trajectory(FRAMES, SIZE[1], SIZE[0], step=0.05)
    geometry = kit.module("geometry.frame_geometry").FrameGeometry(
        2 + 0.3 * torch.rand(FRAMES, *SIZE, generator=rng), cameras.intrinsics
    )
    vae = kit.vae_border.DctVAE()
    state = kit.module("rollout.begin").begin(
        picture, geometry, cameras, kit.vae_border.VaeCodec(vae),
        settings=kit.module("rollout.settings").GenerationSettings(),
        lengths=kit.module("rollout.plan").ChunkLengths(*LENGTHS),
        colours=kit.module("codecs.colours").ColourCodec(2), folder=tmp_path / "shot",
    )  # fmt: skip
    return Shot(kit, kit.module("rollout.run_folder").open_folder(state), geometry, vae)


@pytest.mark.samplers
def test_three_chunks_are_the_librarys(kit: Kit, shot: Shot) -> None:
    """With guidance, and references that are read from the clips on disk."""
    transformer = _transformer(kit, FEATURES, False)
    for number in range(3):
        condition = shot.condition()
        assert condition.segments.references == (0, REFERENCES, REFERENCES)[number]
        assert condition.clean == (1, 2, 2)[number]
        model, latent = shot.apply()
        expected = by_library(kit, condition, latent, transformer, guidance=3.5)
        found = by_graph(kit, model, latent, cfg=3.5)
        assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())
        shot.finish(found)
    assert shot.state.complete


@pytest.fixture
def loras(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's folder for LoRAs, with one under Spatia's names."""
    folder, paths = tmp_path / "loras", kit.models.folder_paths
    folder.mkdir()
    _, endings = paths.folder_names_and_paths["loras"]
    monkeypatch.setitem(paths.folder_names_and_paths, "loras", ([str(folder)], endings))
    named = {name.replace("diffusion_model.", "pipe.dit."): t for name, t in lora().items()}
    write(folder / "later.safetensors", named)
    return folder


def later_lora(kit: Kit, state: Any, file: str = "later.safetensors", strength: float = 0.7) -> Any:
    return kit.nodes.MirageLaterLora.execute(kit.model, file, strength, state).args[0]


@pytest.mark.samplers
def test_a_later_lora_is_the_librarys(kit: Kit, shot: Shot, loras: Path) -> None:
    """Off in the first chunk, on in the next, also for a shot that is resumed there."""
    transformer = _transformer(kit, FEATURES, False)
    module = kit.module("models.lora")
    info = module.apply_lora(transformer, loras / "later.safetensors", 0.7)
    switch = kit.module("rollout.denoisers").LaterLora(transformer, info.name)
    assert later_lora(kit, shot.state) is kit.model
    for number in range(2):
        switch(shot.state)
        model, latent = shot.apply(later_lora(kit, shot.state))
        expected = by_library(kit, shot.condition(), latent, transformer)
        found = by_graph(kit, model, latent)
        assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())
        without = by_graph(kit, *shot.apply())
        assert (float((found - without).abs().max()) > 1e-3) == (number > 0)
        if number == 0:
            shot.finish(found)
    assert later_lora(kit, shot.state, strength=0.0) is kit.model
    assert not kit.model.patches, "the model that came in was changed"


@pytest.mark.parametrize(
    ("layer", "width", "message"),
    [
        ("blocks.9.self_attn.q", 256, "blocks.9.*which this model does not have"),
        ("text_encoder.q", 256, "text_encoder.q.*which this model does not have"),
        ("blocks.0.self_attn.q", 128, "made for another model"),
        ("vace_blocks.0.self_attn.q", 256, "changes the side branch"),
    ],
)
def test_a_later_lora_that_does_not_fit_is_told_in_the_first_chunk(
    kit: Kit, shot: Shot, loras: Path, layer: str, width: int, message: str
) -> None:
    parts = {"A": torch.ones(2, width), "B": torch.ones(256, 2)}
    named = {f"pipe.dit.{layer}.lora_{part}.weight": tensor for part, tensor in parts.items()}
    write(loras / "other.safetensors", named)
    with pytest.raises(kit.errors.ModelMismatchError, match=message):
        later_lora(kit, shot.state, "other.safetensors")


@pytest.mark.samplers
def test_the_drawing_and_the_references_are_seen(kit: Kit, shot: Shot) -> None:
    shot.finish(by_graph(kit, *shot.apply()))
    whole = by_graph(kit, *shot.apply())
    half = by_graph(kit, *shot.apply(strength=0.5))
    alone = by_graph(kit, *shot.apply(references=0))
    assert float((whole - half).abs().max()) > 1e-3
    assert float((whole - alone).abs().max()) > 1e-3
    model, latent = shot.apply(strength=0.0)
    plain = by_graph(kit, kit.model, latent)
    assert torch.equal(by_graph(kit, model, latent), plain)


def test_what_does_not_go_together_is_refused(kit: Kit, shot: Shot) -> None:
    error = kit.errors.ModelMismatchError
    with pytest.raises(error, match=r"drawing of the memory.*no VAE"):
        shot.apply(vae=None)
    with pytest.raises(error, match=r"drawings only.*no side branch"):
        shot.apply(branch=None)
    with pytest.raises(error, match=r"drawings only.*scene,visible"):
        shot.apply(branch=kit.branch("scene,visible"))
    with pytest.raises(error, match=r"colour render.*what = colours"):
        kit.apply(branch=kit.branch(FEATURES))
    with pytest.raises(kit.errors.ShapeError, match="first latent"):
        shot.apply(first_latent=kit.first_latent((1, 4, 8)))


def test_without_a_state_the_drawing_alone_is_shown(kit: Kit, shot: Shot) -> None:
    model, latent = shot.apply(state=None)
    assert latent["samples"].shape[2] == 4
    assert float(by_graph(kit, model, latent).abs().max()) > 0


def test_drawing_makes_room_on_a_gpu_that_has_float64(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, management = kit.nodes.comfy.device, kit.comfy.model_management
    freed: list[tuple[int, torch.device]] = []
    monkeypatch.setattr(management, "free_memory", lambda size, place: freed.append((size, place)))
    for name, expected in (("cuda", "cuda"), ("mps", "cpu"), ("cpu", "cpu")):
        monkeypatch.setattr(management, "get_torch_device", lambda name=name: torch.device(name))
        assert device.drawing_device() == torch.device(expected)
    assert freed == [(device.ROOM, torch.device("cuda"))]
