"""Guidance without a side branch, the library's sampler as a node, decoding without a seam."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import SIZE, side_branch, video_model
from tiny_weights import branch_config, write

from .sampling_kit import GRID, Kit

FIRST = (slice(None), slice(None), slice(0, 1))
SAMPLERS = ("euler", "uni_pc", "lcm", "dpmpp_2m", "euler_ancestral", "heun", "res_multistep")


pytestmark = [pytest.mark.samplers, pytest.mark.usefixtures("inference")]


def free(kit: Kit, **changes: Any) -> tuple[Any, dict[str, Tensor]]:
    inputs = {
        "model": kit.model,
        "readout": kit.readout(),
        "first_latent": kit.first_latent(),
        "until": 1.0,
        "softness": 0.0,
    }
    return kit.nodes.MirageTrainingFree.execute(**inputs | changes).args


def shown(kit: Kit, samples: Tensor) -> Tensor:
    """Largest distance between samples and readout in visible cells after the first frame."""
    readout = kit.readout()
    difference = kit.vae_border.to_model_space(samples)[0] - readout.tokens.float()
    return difference[:, 1:].abs()[:, readout.visible[1:]].max()


# --- training-free --------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_held_to_the_end_visible_cells_are_the_readout(kit: Kit, sampler: str) -> None:
    model, latent = free(kit)
    samples = kit.ksampler(model, latent, sampler, steps=4, cfg=2.0)
    assert torch.equal(samples[FIRST], latent["samples"][FIRST])
    # ComfyUI's uni_pc ends at a noise level of 0.001.
    assert float(shown(kit, samples)) < (1e-2 if sampler == "uni_pc" else 1e-3)
    plain = kit.ksampler(kit.model, kit.apply(strength=0.0)[1], sampler, steps=4, cfg=2.0)
    assert float(shown(kit, plain)) > 1.0
    holes = ~kit.readout().visible
    assert float((samples - plain)[0][:, holes].abs().max()) > 1e-2, "holes know of nothing"


@pytest.mark.parametrize("denoise", [1.0, 0.6])
def test_cells_are_renoised_to_the_present_level(kit: Kit, denoise: float) -> None:
    """What the model sees in visible cells is (1 - sigma) readout + sigma noise at every step."""
    model, latent = free(kit)
    noise = kit.comfy.sample.prepare_noise(latent["samples"], 7)[0]
    readout, seen = kit.readout(), []

    def look(executor: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
        sigma = float(args[-1]["sigmas"][0])
        expected = torch.lerp(readout.tokens.float(), noise, sigma)[:, 1:, :, :]
        difference = (x[0, :, 1:] - expected).abs()[:, readout.visible[1:]]
        seen.append((sigma, float(difference.max())))
        return executor(x, *args, **options)

    looking = model.clone()
    looking.add_wrapper_with_key("diffusion_model", "look", look)
    kit.ksampler(looking, latent, "dpmpp_2m", steps=4, denoise=denoise)
    assert len(seen) == 4
    assert max(difference for _, difference in seen) < 1e-4


def test_until_is_a_share_of_the_steps(kit: Kit) -> None:
    def held(until: float, steps: int) -> int:
        model, latent = free(kit, until=until)
        found: list[bool] = []

        def look(executor: Any, *args: Any) -> Tensor:
            clean = executor(*args)
            raw = kit.vae_border.from_model_space(clean)
            found.append(bool(shown(kit, raw) < 1e-3))
            return clean

        looking = model.clone()
        # Wrappers run in the order they were added: this one sees what Mirage's returns.
        looking.wrappers["predict_noise"] = {
            "look": [look], **looking.wrappers["predict_noise"]
        }  # fmt: skip
        kit.ksampler(looking, latent, steps=steps)
        assert len(found) == steps
        assert found == sorted(found, reverse=True), "held after it was free"
        return sum(found)

    assert [held(until, 5) for until in (0.2, 0.4, 0.5, 0.99, 1.0)] == [1, 2, 3, 5, 5]
    assert held(0.5, 2) == 1


def test_until_0_is_the_plain_model(kit: Kit) -> None:
    model, latent = free(kit, until=0.0)
    assert not any(model.wrappers.values())
    plain = kit.ksampler(kit.model, kit.apply(strength=0.0)[1])
    assert torch.equal(kit.ksampler(model, latent), plain)


def test_softness_frees_the_edge(kit: Kit) -> None:
    hard, latent = free(kit)
    soft, _ = free(kit, softness=3.0)
    assert float(shown(kit, kit.ksampler(hard, latent, steps=4))) < 1e-3
    assert float(shown(kit, kit.ksampler(soft, latent, steps=4))) > 1e-2


def test_it_leaves_nothing_behind_and_gives_way_to_apply(kit: Kit) -> None:
    plain = kit.ksampler(kit.model, kit.apply(strength=0.0)[1])
    model, latent = free(kit)
    first = kit.ksampler(model, latent)
    assert torch.equal(kit.ksampler(kit.model, kit.apply(strength=0.0)[1]), plain)
    assert torch.equal(kit.ksampler(model, latent), first)
    applied, own = kit.apply()
    over, _ = kit.apply(model=model)
    assert torch.equal(kit.ksampler(over, own), kit.ksampler(applied, own))


# --- UniPC ----------------------------------------------------------------------------------------


def test_released_schedule(kit: Kit) -> None:
    sampler, sigmas = kit.nodes.MirageUniPC.execute(40, 5.0).args
    assert torch.equal(sigmas, kit.module("sampling.schedule").sigma_schedule())
    assert isinstance(sampler, kit.comfy.samplers.Sampler)


def test_unipc_on_a_batch_with_previews(kit: Kit) -> None:
    model, latent = kit.guided(kit.condition(2, 1), kit.branch())
    sampler, sigmas = kit.nodes.MirageUniPC.execute(3, 5.0).args
    alone = kit.custom(model, latent, sampler, sigmas)
    double = {name: tensor.repeat(2, 1, 1, 1, 1) for name, tensor in latent.items()}
    both = kit.custom(model, double, sampler, sigmas, cfg=1.0)
    assert torch.allclose(both[:1], alone, atol=1e-4)
    assert torch.equal(both[1][:, :1], latent["samples"][0][:, :1])
    seen: list[tuple[int, tuple[int, ...], int]] = []
    kit.custom(model, latent, sampler, sigmas, callback=lambda step, clean, x, total: seen.append(
        (step, tuple(clean.shape), total)
    ))  # fmt: skip
    assert seen == [(step, (1, 48, *GRID), 3) for step in range(3)]


def test_unipc_stops_within_one_step(kit: Kit) -> None:
    management = kit.comfy.model_management
    model, latent = kit.guided(kit.condition(), kit.branch())
    sampler, sigmas = kit.nodes.MirageUniPC.execute(5, 5.0).args
    expected, steps = kit.custom(model, latent, sampler, sigmas), []

    def interrupt(step: int, *_: Any) -> None:
        steps.append(step)
        management.interrupt_current_processing(True)

    with pytest.raises(management.InterruptProcessingException):
        kit.custom(model, latent, sampler, sigmas, callback=interrupt)
    assert steps == [0]
    assert torch.equal(kit.custom(model, latent, sampler, sigmas), expected)


def test_unipc_from_a_finished_latent(kit: Kit) -> None:
    """A schedule that begins lower starts from the latent, as with ComfyUI's samplers."""
    model, latent = kit.guided(kit.condition(), kit.branch())
    sampler, sigmas = kit.nodes.MirageUniPC.execute(4, 5.0).args
    made = kit.custom(model, latent, sampler, sigmas)
    low = kit.module("sampling.schedule").sigma_schedule(30, 3.0)[-3:]
    tail = kit.custom(model, latent | {"samples": made}, sampler, low, seed=8)
    whole = kit.custom(model, latent | {"samples": made}, sampler, sigmas, seed=8)
    assert float((tail - made).abs().mean()) < 0.5 * float((whole - made).abs().mean())


def test_very_many_steps(kit: Kit) -> None:
    """The last of many timesteps are cut to 0, where velocity and estimate are hard to part."""
    model, latent = kit.guided(kit.condition(), kit.branch())
    sampler, sigmas = kit.nodes.MirageUniPC.execute(1000, 0.5).args
    tail = sigmas[-4:]
    assert int(1000 * float(tail[-2])) == 0
    samples = kit.custom(model, latent, sampler, tail)
    euler = kit.custom(model, latent, kit.comfy.samplers.sampler_object("euler"), tail)
    assert torch.allclose(samples, euler, atol=1e-2)


def test_missing_diffusers(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(kit.errors.ModelMismatchError, match="pip install diffusers.*uni_pc"):
        kit.nodes.MirageUniPC.execute(40, 5.0)


# --- decoding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("carried", [0, 1, 2, 8])
def test_chunk_decode(kit: Kit, carried: int, monkeypatch: pytest.MonkeyPatch) -> None:
    state = kit.second_chunk()
    vae, decoded = kit.vae_border.DctVAE(), []
    plain = vae.decode

    def look(samples: Tensor, *args: Any) -> Tensor:
        decoded.append(samples)
        return plain(samples, *args)

    monkeypatch.setattr(vae, "decode", look)
    monkeypatch.setattr(kit.nodes.sampling, "expect_same_codec", lambda *_: None)
    latent = kit.vae_border.make_latent(
        torch.cat([state.overlap_latent, torch.randn(48, 8, *GRID[1:])], dim=1)
    )
    images, some = kit.nodes.MirageChunkDecode.execute(latent, vae, state, carried).args
    assert images.shape == (33, 64, 96, 3) and torch.equal(some, images[::4])
    (samples,) = decoded
    count = min(carried, 8)
    assert samples.shape[2] == 9 + count
    known = kit.vae_border.from_model_space(state.last.latents[None])[:, :, 8 - count :]
    assert torch.allclose(samples[:, :, : count + 1], known, atol=1e-5)
    assert torch.equal(images, plain(samples)[0, 4 * count :])


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def folders(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Model folders and an output folder of a ComfyUI, empty."""
    paths = kit.models.folder_paths
    known = dict(paths.folder_names_and_paths)
    for name in ("diffusion_models", "model_patches"):
        (tmp_path / name).mkdir()
        known[name] = ([str(tmp_path / name)], {".safetensors"})
    monkeypatch.setattr(paths, "folder_names_and_paths", known)
    monkeypatch.setattr(paths, "filename_list_cache", {})
    monkeypatch.setattr(paths, "output_directory", str(tmp_path / "output"))
    return tmp_path


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_load_branch(kit: Kit, folders: Path, named: bool, dtype: torch.dtype) -> None:
    config = branch_config(SIZE)
    tensors = {
        name: tensor.to(dtype) if tensor.ndim == 2 or dtype != torch.float8_e4m3fn else tensor
        for name, tensor in side_branch(config).items()
    }
    meta = config.metadata() if named else None
    write(folders / "model_patches" / "b.safetensors", tensors, meta, prefix="pipe.vace.")
    if not named:
        with pytest.raises(kit.errors.ModelMismatchError, match="96 input planes mean"):
            kit.nodes.MirageLoadBranch.execute("b.safetensors")
    (branch,) = kit.nodes.MirageLoadBranch.execute("b.safetensors", "mirage").args
    assert branch.named_layers is named
    own = kit.models.Branch.fitted(branch, kit.model.model.diffusion_model)
    assert (own.layers, own.in_channels, own.dim) == ((0, 2, 4), 96, 256)
    for name, tensor in branch.patcher.model.state_dict().items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor.float(), tensors[name].float())
    vae, codec = kit.vae_border.DctVAE(), kit.module("codecs.dct").CODEC_NAME
    model, latent = kit.apply(readout=kit.readout(codec=codec), branch=branch, vae=vae)
    samples = kit.ksampler(model, latent)
    plain = kit.ksampler(*kit.apply(strength=0.0))
    assert bool(samples.isfinite().all()) and float((samples - plain).abs().max()) > 0.1


def test_a_branch_of_spatias_cannot_be_fed_from_tokens(kit: Kit, folders: Path) -> None:
    write(folders / "model_patches" / "step-8500.safetensors", side_branch())
    (branch,) = kit.nodes.MirageLoadBranch.execute("step-8500.safetensors").args
    assert branch.config.needs_render
    with pytest.raises(kit.errors.ModelMismatchError, match="colour render"):
        kit.apply(branch=branch)


def test_split_checkpoint(kit: Kit, folders: Path) -> None:
    backbone, branch = video_model(), side_branch()
    path = write(folders / "diffusion_models" / "both.safetensors", backbone | branch)
    merged = path.read_bytes()
    with pytest.raises(kit.errors.ModelMismatchError, match="96 input planes mean"):
        kit.nodes.MirageSplitCheckpoint.execute("both.safetensors")
    whole, side = kit.nodes.MirageSplitCheckpoint.execute("both.safetensors", "mirage").args
    assert Path(whole) == folders / "output" / "diffusion_models" / "both_model.safetensors"
    assert Path(side) == folders / "model_patches" / "both_vace.safetensors"
    assert path.read_bytes() == merged
    (loaded,) = kit.nodes.MirageLoadBranch.execute("both_vace.safetensors").args
    assert loaded.named_layers
    model = kit.comfy.sd.load_diffusion_model(whole)
    assert kit.models.expect_video_model(model).num_layers == SIZE.layers
    found = model.model.diffusion_model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in backbone.items())
    with pytest.raises(kit.errors.StorageError, match="already split"):
        kit.nodes.MirageSplitCheckpoint.execute("both.safetensors")
