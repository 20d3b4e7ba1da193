"""The small model that ships: loads everywhere, and gives graph and library the same chunk."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from .sampling_kit import FRAMES, Kit

MAX_BYTES = 24 * 2**20
STEPS, SEED = 3, 7

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")


pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture(scope="module")
def shipped(kit: Kit) -> tuple[Any, Any, list, Any]:
    """Outputs of Mirage Embedded Model."""
    return kit.nodes.MirageEmbeddedModel.execute().args


def test_the_files_are_small_and_say_what_they_are(kit: Kit) -> None:
    model = kit.module("models.bundled")
    paths = model.model_path(), model.branch_path()
    assert sum(path.stat().st_size for path in paths) <= MAX_BYTES
    kinds = [kit.module("checkpoints.branch_file").inspect(path) for path in paths]
    assert kinds == ["backbone", "branch"]


def test_comfyui_takes_it_for_wan22(kit: Kit, shipped: Any) -> None:
    model, vae, conditioning, branch = shipped
    backbone = kit.models.expect_video_model(model)
    assert (backbone.dim, backbone.num_heads, backbone.out_dim) == (256, 2, 48)
    assert backbone.dim // backbone.num_heads == 128
    assert branch.fitted(backbone).layers == (0, 2)
    assert model.get_model_object("model_sampling").shift == kit.module("models.bundled").SHIFT
    assert vae.codec.name == kit.module("codecs.dct").CODEC_NAME
    (token, _), = conditioning
    assert not token.any() and token.shape == (1, 1, 4096)


def by_graph(kit: Kit, model: Any, latent: dict[str, Tensor], conditioning: list) -> Tensor:
    shift = kit.module("models.bundled").SHIFT
    sampler, sigmas = kit.nodes.MirageUniPC.execute(STEPS, shift).args
    guider = kit.comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": conditioning})
    samples = latent["samples"]
    noise = kit.comfy.sample.prepare_noise(samples, SEED)
    made = guider.sample(
        noise, samples, sampler, sigmas, denoise_mask=latent["noise_mask"], disable_pbar=True,
        seed=SEED,
    )  # fmt: skip
    return kit.vae_border.to_model_space(made)[0]


def by_library(kit: Kit, readout: Any, latent: dict[str, Tensor]) -> Tensor:
    own, codec = kit.module("models.bundled"), kit.module("codecs.dct").DctCodec()
    transformer = own.load_embedded_transformer()
    source = kit.module("rollout.denoisers").projection_source(transformer, codec)
    of_projection = kit.module("conditioning.condition").Condition.of_projection
    condition = of_projection(source(readout), readout.visible)
    denoise = kit.module("models.denoiser").MirageDenoiser(
        transformer, condition, own.empty_text()
    )
    return kit.module("sampling.solve").sample(
        denoise,
        kit.module("sampling.noise").chunk_noise(tuple(latent["samples"].shape[1:]), SEED),
        kit.vae_border.latent_tokens(latent, "x")[:, :1],
        kit.module("sampling.schedule").sigma_schedule(STEPS, own.SHIFT),
    )


def test_graph_and_library_make_the_same_chunk(kit: Kit, shipped: Any) -> None:
    model, vae, conditioning, branch = shipped
    readout = kit.readout(codec=kit.module("codecs.dct").CODEC_NAME)
    patched, latent = kit.apply(
        model=model, readout=readout, branch=branch, vae=vae, references=0
    )
    found = by_graph(kit, patched, latent, conditioning)
    assert found.shape[1] == FRAMES
    assert float((found - by_library(kit, readout, latent)).abs().max()) < 1e-4
    plain, latent = kit.apply(model=model, readout=readout, branch=branch, strength=0.0)
    without = by_graph(kit, plain, latent, conditioning)
    assert float((found - without).abs().max()) > 0.1, "the memory changes nothing"


def test_a_branch_is_shown_the_memory_as_it_was_trained(kit: Kit) -> None:
    """Of two pictures of one wall, seen from both sides of the camera."""
    codec = kit.module("codecs.dct").DctCodec()
    cameras = kit.trajectory(5, 96, 64, step=0.4)
    noise = torch.randn(2, 48, 1, 4, 6, generator=torch.Generator().manual_seed(3)).half()
    ends = [kit.memory(noise[n], cameras.select([4 * n]), codec.name, None) for n in (0, 1)]
    cache = dataclasses.replace(ends[0], blocks=(*ends[0].blocks, *ends[1].blocks))
    readout = kit.module("readout.readout").read(cache, cameras)
    draw = kit.module("preview.drawn").drawn_latents
    best = kit.module("ops.best_view").BestView()
    drawings = [draw(readout, codec), draw(readout, codec, best)]
    assert not torch.equal(*drawings)
    for features, drawn in zip(("drawn,visible", "drawn_best,visible"), drawings, strict=True):
        shown = kit.nodes.branch.shown_to(kit.config(features, False), readout)
        assert torch.equal(shown, drawn)


def test_its_branch_refuses_a_memory_of_another_codec(kit: Kit, shipped: Any) -> None:
    model, _, _, branch = shipped
    with pytest.raises(kit.errors.ModelMismatchError, match="cannot be drawn one by one"):
        kit.apply(model=model, branch=branch)


def test_a_missing_file_says_what_to_do(kit: Kit, monkeypatch: Any, tmp_path: Any) -> None:
    monkeypatch.setattr(kit.module("models.bundled"), "FOLDER", tmp_path)
    with pytest.raises(kit.errors.ModelMismatchError, match="Reinstall the pack"):
        kit.nodes.MirageEmbeddedModel.execute()


@pytest.mark.rooms
def test_a_rendered_shot_continues_its_picture(kit: Kit) -> None:
    """Frame 0 is the picture of Mirage Embedded Scene; frames follow the move."""
    picture, geometry = kit.nodes.MirageEmbeddedScene.execute(16, 96, 64, 70.0).args
    shot = kit.trajectory(5, 96, 64, step=0.02)
    images, depth = kit.nodes.MirageEmbeddedShot.execute(16, shot).args
    assert images.shape == (5, 64, 96, 3) and len(depth) == 5
    assert torch.allclose(images[0], picture[0], atol=1e-5)
    assert torch.allclose(depth.depth[0], geometry.depth[0], atol=1e-4)
    assert float((images[4] - images[0]).abs().mean()) > 1e-3
    assert torch.equal(depth.world_to_camera, shot.world_to_camera)


def test_a_background_needs_tokens_that_can_be_drawn(kit: Kit) -> None:
    codec = kit.module("codecs.dct").CODEC_NAME
    vae, behind = kit.vae_border.DctVAE(), torch.full((9, 64, 96, 3), 0.25)
    readout = kit.readout(codec=codec)
    _, _, images = kit.nodes.MiragePreviewFill.execute(readout, vae, None, behind).args
    _, _, smooth = kit.nodes.MiragePreviewFill.execute(readout, vae).args
    assert bool(torch.isclose(images[8], behind[8], atol=1e-6).all(dim=-1).any())
    assert not torch.equal(images, smooth)
    vae.codec = None
    with pytest.raises(kit.errors.ModelMismatchError, match="over a background"):
        kit.nodes.MiragePreviewFill.execute(kit.readout(), vae, None, behind)
