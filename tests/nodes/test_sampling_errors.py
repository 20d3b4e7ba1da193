"""Bad input to the sampling nodes: a typed error with the remedy, before the model runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import SIZE, conditioning, lora, side_branch, video_model
from tiny_weights import Backbone, truncate, write

from .sampling_kit import FRAMES, GRID, Kit, packed_operations

Refuse = Callable[..., str]


pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture
def refuse(kit: Kit) -> Refuse:
    """Call what must fail with an error of a kind whose message holds all words."""

    def run(kind: str, *words: str, call: Callable[[], object]) -> str:
        with pytest.raises(getattr(kit.errors, kind)) as caught:
            call()
        message = str(caught.value)
        missing = [word for word in words if word not in message]
        assert not missing, f"{missing} not in: {message}"
        assert caught.value.fix, "no remedy"
        return message

    return run


def free(kit: Kit, **changes: Any) -> Any:
    inputs = {
        "model": kit.model,
        "readout": kit.readout(),
        "first_latent": kit.first_latent(),
        "until": 0.5,
        "softness": 1.0,
    }
    return kit.nodes.MirageTrainingFree.execute(**inputs | changes)


# --- models ---------------------------------------------------------------------------------------


def test_model_of_wan21(kit: Kit, refuse: Refuse) -> None:
    """Wan2.1 and the 14B models have 16 latent channels and 5120 or other widths."""
    other = kit.fresh_model(video_model(Backbone(256, 2, 512, 2, 4096, 256, channels=16)))
    words = ("Wan2.2-TI2V-5B", "WAN21", "16 latent channels", "wan2.2_ti2v_5B")
    for call in (kit.apply, lambda model: free(kit, model=model)):
        refuse("ModelMismatchError", *words, call=lambda call=call: call(model=other))


def test_branch_merged_into_the_model(kit: Kit, refuse: Refuse) -> None:
    merged = kit.fresh_model(video_model() | side_branch())
    refuse(
        "ModelMismatchError",
        "merged into the video model's file",
        "Mirage Split Checkpoint",
        "python -m mirage_core split",
        call=lambda: kit.apply(model=merged),
    )


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (Backbone(384, 3, 768, 5, 4096, 256), ("width 384", "width 256")),
        (Backbone(256, 2, 768, 5, 4096, 256), ("another video model",)),
    ],
    ids=["width", "feed-forward"],
)
@pytest.mark.parametrize("named", [True, False])
def test_branch_for_another_model(
    kit: Kit, refuse: Refuse, size: Backbone, words: tuple[str, ...], named: bool
) -> None:
    sizes = {"dim": size.dim, "ffn_dim": size.ffn_dim, "heads": size.heads}
    config = kit.config("scene,visible", False, **sizes)
    branch = kit.models.make_branch(config, side_branch(config), named_layers=named)
    refuse("ModelMismatchError", *words, call=lambda: kit.apply(branch=branch))
    refuse("ModelMismatchError", *words, call=lambda: kit.apply(branch=branch, strength=0.0))


def test_branch_for_more_layers(kit: Kit, refuse: Refuse) -> None:
    config = kit.config("scene,visible", False, layers=(0, 2, 28))
    branch = kit.models.make_branch(config, side_branch(config), named_layers=True)
    words = ("layers up to 28", "5 layers")
    refuse("ModelMismatchError", *words, call=lambda: kit.apply(branch=branch))


def test_branch_whose_layers_cannot_be_told(kit: Kit, refuse: Refuse) -> None:
    config = kit.config("scene,visible", False, layers=(0, 1))
    branch = kit.models.make_branch(config, side_branch(config), named_layers=False)
    refuse("ModelMismatchError", "cannot be determined", call=lambda: kit.apply(branch=branch))


WIDTH = 384
QUERY = "diffusion_model.blocks.0.self_attn.q"
LORAS: dict[str, Callable[[], dict[str, Tensor]]] = {
    "pairs": lambda: lora(Backbone(dim=WIDTH, layers=SIZE.layers)),
    "whole matrix": lambda: {f"{QUERY}.diff": torch.ones(WIDTH, WIDTH)},
    "LoHa": lambda: {
        f"{QUERY}.hada_{name}": torch.ones(shape)
        for name, shape in {
            "w1_a": (WIDTH, 2), "w1_b": (2, WIDTH), "w2_a": (WIDTH, 2), "w2_b": (2, WIDTH)
        }.items()
    },
    "LoKr": lambda: {
        f"{QUERY}.lokr_w1": torch.ones(4, 4),
        f"{QUERY}.lokr_w2_a": torch.ones(WIDTH // 4, 2),
        f"{QUERY}.lokr_w2_b": torch.ones(2, WIDTH // 4),
    },
}  # fmt: skip


def with_lora(kit: Kit, model: Any, tensors: dict[str, Tensor]) -> Any:
    loaded, _ = kit.comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    assert loaded.patches, "ComfyUI knows none of its names"
    return loaded


@pytest.mark.parametrize("kind", LORAS)
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_lora_for_another_model(kit: Kit, refuse: Refuse, late: bool, kind: str) -> None:
    """ComfyUI itself leaves such a LoRA out and only logs it."""

    def call() -> None:
        if late:
            model, latent = kit.apply()
            kit.ksampler(with_lora(kit, model, LORAS[kind]()), latent)
        else:
            kit.apply(model=with_lora(kit, kit.model, LORAS[kind]()))

    refuse("ModelMismatchError", "LoRA was made for another model", "(384, 384)", call=call)


def test_lora_for_another_model_on_packed_weights(kit: Kit, refuse: Refuse) -> None:
    model = kit.fresh_model(custom_operations=packed_operations())
    loaded = with_lora(kit, model, LORAS["pairs"]())
    words = ("LoRA was made for another model", "(384, 384)", "(256, 256)")
    refuse("ModelMismatchError", *words, call=lambda: kit.apply(model=loaded))


def test_loras_for_this_model_pass(kit: Kit) -> None:
    width = SIZE.dim
    small = {
        f"{QUERY}.lokr_w1": torch.ones(4, 4), f"{QUERY}.lokr_w2": torch.ones([width // 4] * 2)
    }  # fmt: skip
    hada = {f"{QUERY}.hada_{part}": torch.ones(width, 2) for part in ("w1_a", "w2_a")}
    hada |= {f"{QUERY}.hada_{part}": torch.ones(2, width) for part in ("w1_b", "w2_b")}
    for tensors in (lora(), {f"{QUERY}.diff": torch.ones(width, width)}, small, hada):
        kit.apply(model=with_lora(kit, kit.model, tensors))


# --- latents --------------------------------------------------------------------------------------


def test_latent_of_the_wan21_vae(kit: Kit, refuse: Refuse) -> None:
    other = {"samples": torch.zeros(1, 16, 1, 8, 12)}
    words = ("16 channels", "Wan2.1 VAE", "wan2.2_vae.safetensors")
    refuse("ModelMismatchError", *words, call=lambda: kit.apply(first_latent=other))
    refuse("ModelMismatchError", *words, call=lambda: free(kit, first_latent=other))


def test_vae_of_wan21(kit: Kit, refuse: Refuse) -> None:
    class Other:
        latent_channels = 16

    inputs = {"branch": kit.branch("scene,white"), "vae": Other()}
    refuse("ModelMismatchError", "Wan2.1 VAE", call=lambda: kit.apply(**inputs))


def test_branch_of_96_channels_without_a_vae(kit: Kit, refuse: Refuse) -> None:
    inputs = {"branch": kit.branch("scene,white")}
    refuse("ShapeError", "white video", "Connect the VAE", call=lambda: kit.apply(**inputs))


def test_vae_that_did_not_make_the_memory(kit: Kit, refuse: Refuse) -> None:
    inputs = {"branch": kit.branch("scene,white"), "vae": kit.vae_border.DctVAE()}
    refuse("ModelMismatchError", "another VAE", call=lambda: kit.apply(**inputs))


def test_first_latent_of_another_size(kit: Kit, refuse: Refuse) -> None:
    other = kit.first_latent((1, 6, 6))
    for call in (kit.apply, lambda first_latent: free(kit, first_latent=first_latent)):
        refuse(
            "ShapeError", "6 x 6 cells", "4 x 6 cells",
            call=lambda call=call: call(first_latent=other),
        )  # fmt: skip


def test_readout_of_another_chunk(kit: Kit, refuse: Refuse) -> None:
    state = kit.second_chunk()
    with pytest.raises(kit.errors.ShapeError, match="chunk's readout"):
        kit.apply(state=state)


@pytest.fixture
def ready(kit: Kit) -> list[tuple[Any, dict[str, Tensor]]]:
    """Models of both ways of guiding, which must never run."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model ran")

    models = []
    for model, latent in (kit.apply(), free(kit).args):
        model.add_wrapper_with_key("diffusion_model", "never", never)
        models.append((model, latent))
    return models


def other_sizes() -> list[tuple[int, ...]]:
    return [(1, 48, FRAMES + 1, *GRID[1:]), (1, 48, FRAMES, 8, 8), (1, 48, 1, *GRID[1:])]


@pytest.mark.parametrize("shape", other_sizes())
def test_latent_of_another_size(
    kit: Kit, refuse: Refuse, ready: list, shape: tuple[int, ...]
) -> None:
    for model, _ in ready:
        latent = {"samples": torch.ones(shape)}
        words = ("have different sizes", str(shape), "(batch, 48, 3, 4, 6)")
        refuse("ShapeError", *words, call=lambda m=model, x=latent: kit.ksampler(m, x))


def test_guidance_without_a_negative(kit: Kit, refuse: Refuse, ready: list) -> None:
    words = ("no negative conditioning", "cfg 3", "set cfg to 1")
    for model, latent in ready:
        refuse(
            "ModelMismatchError", *words,
            call=lambda m=model, x=latent: kit.ksampler(m, x, cfg=3.0, negative=[]),
        )  # fmt: skip


def test_no_guidance_needs_no_negative(kit: Kit) -> None:
    model, latent = kit.apply()
    assert bool(kit.ksampler(model, latent, cfg=1.0, negative=[]).isfinite().all())


def test_context_windows(kit: Kit, refuse: Refuse, ready: list) -> None:
    from comfy_extras.nodes_context_windows import WanContextWindowsManualNode

    for model, latent in ready:
        (cut,) = WanContextWindowsManualNode.execute(
            model, 5, 1, "standard_static", 1, False, "pyramid", False
        ).args
        words = ("Context windows", "Remove the context window node", "sampled whole")
        refuse("ModelMismatchError", *words, call=lambda m=cut, x=latent: kit.ksampler(m, x))


@pytest.mark.parametrize("name", ["time_dim_concat", "context_latents"])
def test_conditioning_with_frames_of_its_own(
    kit: Kit, refuse: Refuse, ready: list, name: str
) -> None:
    frames = torch.zeros(1, 48, 1, *GRID[1:])
    value = frames if name == "time_dim_concat" else [frames]
    positive = [[conditioning(10)[0][0], {name: value}]]
    for model, latent in ready:
        guider = kit.comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, conditioning(11))
        sigmas, samples = torch.tensor([1.0, 0.0]), latent["samples"]
        euler = kit.comfy.samplers.sampler_object("euler")
        call = partial(guider.sample, samples, samples, euler, sigmas, disable_pbar=True)
        refuse("ModelMismatchError", name, "Remove the node", call=call)


def test_frames_that_another_node_adds_are_noticed(kit: Kit, refuse: Refuse) -> None:
    model, latent = kit.apply()
    model.wrappers["diffusion_model"] = {
        "more": [lambda executor, x, *args, **options: executor(x[:, :, :2], *args, **options)],
        **model.wrappers["diffusion_model"],
    }
    refuse("ShapeError", "(1, 48, 2, 4, 6)", call=lambda: kit.ksampler(model, latent))


# --- files ----------------------------------------------------------------------------------------


def without(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}


def branch_with(name: str, *shape: int) -> dict[str, Tensor]:
    return side_branch() | {name: torch.zeros(shape)}


BRANCH_FILES = {
    "backbone": (video_model, ("a video model", "Load Diffusion Model")),
    "merged": (
        lambda: video_model() | side_branch(),
        ("merged into it", "python -m mirage_core split"),
    ),
    "lora": (lora, ("a LoRA", "LoRA loader")),
    "missing tensor": (
        lambda: without(side_branch(), "vace_blocks.1.ffn.2.bias"),
        ("vace_blocks.1.ffn.2.bias is missing",),
    ),
    "extra tensor": (
        lambda: branch_with("vace_blocks.1.odd", 1),
        ("vace_blocks.1.odd is not part of it",),
    ),
    "other shape": (
        lambda: branch_with("vace_blocks.1.norm3.bias", 7),
        ("vace_blocks.1.norm3.bias is (7,) instead of (256,)",),
    ),
    "missing block": (
        lambda: without(side_branch(), "vace_blocks.1."),
        ("not contain a complete Mirage side branch", "[0, 2]"),
    ),
    "16 channels": (
        lambda: branch_with("vace_patch_embedding.weight", 256, 80, 1, 2, 2),
        ("80 channels",),
    ),
}


@pytest.mark.parametrize("kind", BRANCH_FILES)
def test_branch_files(kit: Kit, refuse: Refuse, tmp_path: Path, kind: str) -> None:
    make, words = BRANCH_FILES[kind]
    path = write(tmp_path / "mirage.safetensors", make())
    refuse("ModelMismatchError", *words, call=lambda: kit.models.branch_from_file(path))


def test_damaged_branch_files(kit: Kit, refuse: Refuse, tmp_path: Path) -> None:
    cut = truncate(write(tmp_path / "cut.safetensors", side_branch()))
    pointer = tmp_path / "pointer.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1")
    for path in (cut, pointer):
        words = (path.name, "cannot be read", "Fetch the file anew")
        refuse("ModelMismatchError", *words, call=partial(kit.models.branch_from_file, path))


def test_files_that_are_gone(kit: Kit, refuse: Refuse) -> None:
    words = ("does not exist", "gone.safetensors", "models/model_patches")
    call = lambda: kit.nodes.MirageLoadBranch.execute("gone.safetensors")  # noqa: E731
    refuse("ModelMismatchError", *words, call=call)


def test_splitting_what_is_not_merged(kit: Kit, refuse: Refuse, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", video_model())
    split = kit.module("checkpoints.branch_file").split_merged
    refuse("ModelMismatchError", "a video model", call=lambda: split(path, *[tmp_path / "x"] * 2))
