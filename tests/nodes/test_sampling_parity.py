"""The graph's way through ComfyUI's model against the oracle and against the library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tiny_models import conditioning, lora, side_branch, video_model
from tiny_weights import write

from .sampling_kit import FRAMES, Kit

DATA = Path(__file__).parents[1] / "data"
ORACLE = json.loads((DATA / "denoiser_oracle.json").read_text(encoding="utf-8"))
SEED, STEPS, SHIFT = 7, 2, 5.0

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")


pytestmark = pytest.mark.usefixtures("inference")


# --- oracle ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return load_file(DATA / "denoiser_oracle.safetensors")


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def released(kit: Kit, tensors: dict[str, Tensor]) -> tuple[Any, Any]:
    """ComfyUI's own transformer, and the side branch, with the oracle's weights."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    sizes = {k: v for k, v in ORACLE["config"].items() if k != "patch_size"}
    backbone = WanModel(
        model_type="t2v",
        cross_attn_norm=True,
        operations=comfy.ops.disable_weight_init,
        dtype=torch.float32,
        **sizes,
    )
    backbone.load_state_dict(part(tensors, "denoiser.dit."))
    weights = part(tensors, "denoiser.vace.")
    config = kit.module("checkpoints.branch").infer_branch(
        {name: tuple(tensor.shape) for name, tensor in weights.items()},
        {
            "mirage.heads": str(ORACLE["config"]["num_heads"]),
            "mirage.layers": ",".join(map(str, ORACLE["vace_layers"])),
        },
        form="mirage",
    )
    return backbone, kit.models.make_branch(config, weights, named_layers=True)


@pytest.mark.parametrize(("strength", "name"), [(1.0, "out"), (0.5, "out_scale0.5")])
@pytest.mark.parametrize("case", ORACLE["cases"], ids=lambda case: case["prefix"])
def test_released_numbers(
    kit: Kit, released: Any, tensors: dict[str, Tensor], case: dict, strength: float, name: str
) -> None:
    backbone, branch = released
    found = part(tensors, case["prefix"])
    before, target = case["num_ref"], case["num_target"]
    latents, own = found["latents"], slice(before, before + target)
    empty = torch.zeros_like(latents[0, :, own.stop :])
    condition = kit.module("conditioning.condition").Condition(
        projection=torch.zeros_like(latents[0, :, own]),
        visible=torch.zeros(target, *latents.shape[3:]).bool(),
        references=latents[0, :, :before],
        preceding=latents[0, :, own.stop :],
        preceding_projection=empty,
        preceding_visible=empty[0].bool(),
    )
    planes = found["vace_context"][0]
    side = kit.sampling.Side(branch.patcher, branch.fitted(backbone), planes, strength, 0.0, 1.0)
    guide = kit.sampling.ChunkGuide(condition, latents[0, :, own][:, :1], side)
    options = {"wrappers": {"diffusion_model": {"mirage": [guide.diffusion_model]}}}
    velocity = backbone(
        latents[:, :, own],
        found["frame_timestep"][None, own],
        found["context"],
        transformer_options=options,
    )
    assert float((velocity - found[name][:, :, own]).abs().max()) < 1e-5


# --- library --------------------------------------------------------------------------------------


def transformer(kit: Kit, features: str | None, shared: bool = False) -> Any:
    """The library's transformer with the weights of `Kit.model` and `Kit.branch`."""
    key = ("transformer", features, shared)
    if key not in kit.kept:
        kit.kept[key] = _transformer(kit, features, shared)
    return kit.kept[key]


def _transformer(kit: Kit, features: str | None, shared: bool) -> Any:
    rename = kit.module("checkpoints.names").to_diffusers
    weights, options = video_model(), {}
    if features is not None:
        weights |= side_branch(kit.config(features, shared), seed=5)
        options = {
            "side_layers": (0, 2, 4),
            "side_features": features,
            "side_shared_embedding": shared,
        }
    model = kit.module("models.transformer").MirageTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=128,
        text_dim=4096,
        freq_dim=256,
        ffn_dim=512,
        num_layers=5,
        **options,
    )
    model.load_state_dict({rename(name): tensor for name, tensor in weights.items()})
    return model.eval()


def by_library(
    kit: Kit, condition: Any, latent: dict[str, Tensor], model: Any, **settings: Any
) -> Tensor:
    """The chunk's latents in model space, as the library samples them."""
    first = kit.vae_border.latent_tokens(latent, "x")[:, : condition.clean]
    denoise = kit.module("models.denoiser").MirageDenoiser(
        model, condition, conditioning(10)[0][0], conditioning(11)[0][0], **settings
    )
    shape = tuple(latent["samples"].shape[1:])
    return kit.module("sampling.solve").sample(
        denoise,
        kit.module("sampling.noise").chunk_noise(shape, SEED),
        first,
        kit.module("sampling.schedule").sigma_schedule(STEPS, SHIFT),
    )


def by_graph(kit: Kit, model: Any, latent: dict[str, Tensor], cfg: float | None = None) -> Tensor:
    sampler, sigmas = kit.nodes.MirageUniPC.execute(STEPS, SHIFT).args
    samples = kit.custom(model, latent, sampler, sigmas, cfg=cfg, seed=SEED)
    return kit.vae_border.to_model_space(samples)[0]


@pytest.mark.parametrize("preceding", range(3))
@pytest.mark.parametrize("references", range(5))
def test_every_number_of_clean_frames(kit: Kit, references: int, preceding: int) -> None:
    condition = kit.condition(references, preceding)
    model, latent = kit.guided(condition, kit.branch())
    expected = by_library(kit, condition, latent, transformer(kit, "scene,visible"))
    found = by_graph(kit, model, latent)
    assert float((found - expected).abs().max()) < 1e-4
    if references or preceding:
        alone = by_graph(kit, *kit.guided(kit.condition(), kit.branch()))
        assert float((found - alone).abs().max()) > 1e-3, "the clean frames change nothing"


@pytest.mark.parametrize(
    ("features", "shared"),
    [("scene", True), ("scene,visible", True), ("scene,holes", False), ("scene", False)],
)
def test_every_kind_of_branch(kit: Kit, features: str, shared: bool) -> None:
    condition = kit.condition(1, 1)
    model, latent = kit.guided(condition, kit.branch(features, shared))
    expected = by_library(kit, condition, latent, transformer(kit, features, shared))
    assert float((by_graph(kit, model, latent) - expected).abs().max()) < 1e-4


def test_branch_that_sees_where_points_fall(kit: Kit) -> None:
    features = "scene,visible,offset,depth_ratio"
    model, latent = kit.apply(branch=kit.branch(features))
    condition = kit.module("conditioning.condition").Condition.of_readout(kit.readout())
    expected = by_library(kit, condition, latent, transformer(kit, features))
    assert float((by_graph(kit, model, latent) - expected).abs().max()) < 1e-4


def test_branch_of_96_channels(kit: Kit) -> None:
    vae, codec = kit.vae_border.DctVAE(), kit.module("codecs.dct").CODEC_NAME
    readout = kit.readout(codec=codec)
    branch = kit.branch("scene,white")
    model, latent = kit.apply(readout=readout, branch=branch, vae=vae)
    white = branch.white_latent(vae, FRAMES, *readout.visible.shape[1:])
    condition = kit.module("conditioning.condition").Condition.of_readout(readout)
    side = transformer(kit, "scene,white")
    expected = by_library(kit, condition, latent, side, white=white)
    assert float((by_graph(kit, model, latent) - expected).abs().max()) < 1e-4


def test_clean_frames_without_a_branch(kit: Kit) -> None:
    condition = kit.condition(2, 2)
    model, latent = kit.guided(condition)
    expected = by_library(kit, condition, latent, transformer(kit, None), side_scale=0.0)
    assert float((by_graph(kit, model, latent) - expected).abs().max()) < 1e-4


@pytest.mark.parametrize("strength", [0.35, 1.7])
def test_guidance_and_strength(kit: Kit, strength: float) -> None:
    condition = kit.condition(1, 2)
    model, latent = kit.guided(condition, kit.branch(), strength)
    expected = by_library(
        kit, condition, latent, transformer(kit, "scene,visible"),
        guidance=2.5, side_scale=strength,
    )  # fmt: skip
    found = by_graph(kit, model, latent, cfg=2.5)
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("overlap", [1, 5, 9])
def test_chunk_of_a_rollout(kit: Kit, overlap: int) -> None:
    """Mirage Apply takes clean frames from the state as the library does."""
    state = kit.second_chunk(overlap)
    readout = kit.module("readout.readout").read(state.cache, state.frame_cameras)
    first = kit.vae_border.make_clean_latent(state.overlap_latent)
    model, latent = kit.apply(readout=readout, first_latent=first, state=state)
    condition = kit.module("rollout.context").chunk_condition(state, readout)
    assert (condition.segments.references, condition.segments.preceding) == (4, 2)
    assert condition.segments.clean == 1 + overlap // 4
    expected = by_library(kit, condition, latent, transformer(kit, "scene,visible"))
    assert float((by_graph(kit, model, latent) - expected).abs().max()) < 1e-4


def test_lora_of_the_released_code(kit: Kit, tmp_path: Path) -> None:
    """ComfyUI's loader knows none of its names until they are written again."""
    pytest.importorskip("peft", reason="needs peft for the library's LoRAs")
    named = {name.replace("diffusion_model.", "pipe.dit."): t for name, t in lora().items()}
    path = write(tmp_path / "step_lora.safetensors", named)
    model, latent = kit.guided(kit.condition(1, 1), kit.branch())
    load, bare = kit.comfy.sd.load_lora_for_models, by_graph(kit, model, latent)
    form = kit.module("checkpoints.lora_format")
    written = form.write_for_comfyui(form.read_lora(path), tmp_path / "comfyui.safetensors")
    found = by_graph(kit, load(model, None, load_file(written), 0.7, 0.0)[0], latent)
    side = _transformer(kit, "scene,visible", False)
    kit.module("models.lora").apply_lora(side, path, 0.7)
    expected = by_library(kit, kit.condition(1, 1), latent, side)
    assert float((found - expected).abs().max()) < 1e-4
    assert float((found - bare).abs().max()) > 1e-3
    assert not load(model, None, named, 0.7, 0.0)[0].patches, "then nothing needs to be written"
