"""The video model from every kind of file: the same weights, or an error that says why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny_weights as tiny
from mirage_core.checkpoints.branch_file import expected_shapes, load_branch, save_branch
from mirage_core.checkpoints.names import is_branch, to_diffusers
from mirage_core.conditioning.features import (
    SCENE_AND_HOLES,
    SCENE_AND_VISIBLE,
    SCENE_AND_WHITE,
    SCENE_ONLY,
)
from mirage_core.errors import ModelMismatchError
from mirage_core.models.load import load_transformer
from mirage_core.models.transformer import MirageTransformer3DModel

SIZE = tiny.Backbone()
CONFIG = tiny.branch_config()
FOLDER_CONFIG = {
    "_class_name": "WanTransformer3DModel",
    "num_attention_heads": SIZE.heads,
    "attention_head_dim": SIZE.dim // SIZE.heads,
}


@pytest.fixture(scope="module")
def backbone() -> dict[str, Tensor]:
    return tiny.backbone_tensors()


@pytest.fixture(scope="module")
def branch() -> dict[str, Tensor]:
    return tiny.branch_tensors(CONFIG)


def single(folder: Path, tensors: dict[str, Tensor], prefix: str = "") -> Path:
    return tiny.write(folder / "model.safetensors", tensors, tiny.metadata(), prefix)


def load(path: Path, **kwargs) -> MirageTransformer3DModel:
    return load_transformer(path, dtype=torch.float32, **kwargs)


def expect_weights(model: MirageTransformer3DModel, *released: dict[str, Tensor]) -> None:
    """The model has these tensors, and no other."""
    wanted = {to_diffusers(name): tensor for part in released for name, tensor in part.items()}
    state = model.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert not model.training


def in_folder(folder: Path, tensors: dict[str, Tensor], parts: int) -> Path:
    named = {to_diffusers(name): tensor for name, tensor in tensors.items()}
    tiny.write_folder(folder / "transformer", named, FOLDER_CONFIG, parts)
    return folder


def among_others(folder: Path, tensors: dict[str, Tensor]) -> Path:
    """A checkpoint that holds the autoencoder as well."""
    named = {f"model.diffusion_model.{name}": tensor for name, tensor in tensors.items()}
    named |= {f"first_stage_model.{name}": t for name, t in tiny.vae_tensors().items()}
    return tiny.write(folder / "all.safetensors", named, tiny.metadata())


def renamed(folder: Path, tensors: dict[str, Tensor]) -> Path:
    return single(folder, {to_diffusers(name): tensor for name, tensor in tensors.items()})


FORMATS: dict[str, Callable[[Path, dict[str, Tensor]], Path]] = {
    "released names": single,
    "comfy names": lambda folder, tensors: single(folder, tensors, "model.diffusion_model."),
    "diffusers names": renamed,
    "whole checkpoint": among_others,
    "folder": lambda folder, tensors: in_folder(folder, tensors, 1),
    "folder in parts": lambda folder, tensors: in_folder(folder, tensors, 3),
    "transformer folder": lambda folder, tensors: in_folder(folder, tensors, 3) / "transformer",
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_weights(tmp_path: Path, backbone, branch, form: str) -> None:
    path = FORMATS[form](tmp_path, backbone)
    plain = load(path)
    assert plain.branch_config is None
    expect_weights(plain, backbone)
    file = save_branch(tmp_path / "branch", branch, CONFIG)
    for source in (file, load_branch(file)):
        model = load(path, branch=source)
        assert model.branch_config == CONFIG
        expect_weights(model, backbone, branch)


@pytest.mark.parametrize("form", [name for name in FORMATS if "folder" not in name])
def test_a_merged_branch_comes_along(tmp_path: Path, backbone, branch, form: str) -> None:
    path = FORMATS[form](tmp_path, {**backbone, **branch})
    with pytest.raises(ModelMismatchError, match="96 input planes mean"):
        load(path)
    model = load(path, branch_format="mirage")
    assert model.branch_config == CONFIG
    expect_weights(model, backbone, branch)


def test_a_saved_model_comes_back_with_its_branch(tmp_path: Path, backbone) -> None:
    """A folder's configuration says what shapes do not: layers (0, 1), the paper's mask."""
    config = tiny.branch_config(layers=(0, 1), features=SCENE_AND_VISIBLE)
    model = load(single(tmp_path, backbone), branch=config)
    model.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.branch_config == config
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "features", [SCENE_AND_WHITE, SCENE_AND_HOLES, SCENE_AND_VISIBLE, SCENE_ONLY]
)
def test_files_and_model_agree_on_every_form_of_branch(
    tmp_path: Path, backbone, features: tuple, shared: bool
) -> None:
    config = tiny.branch_config(features=features, shared_embedding=shared)
    model = load(single(tmp_path, backbone), branch=config)
    own = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if is_branch(name)
    }
    assert own == {to_diffusers(name): shape for name, shape in expected_shapes(config).items()}


@pytest.mark.parametrize("mode", ["zero", "copy"])
def test_a_new_branch(tmp_path: Path, backbone, mode: str) -> None:
    path = single(tmp_path, backbone)
    model = load_transformer(path, branch=CONFIG, side_init=mode, dtype=torch.bfloat16)
    assert model.branch_config == CONFIG
    block, layer = model.vace_blocks[1], model.blocks[2]
    assert not block.proj_out.weight.any()
    assert torch.equal(block.attn1.to_q.weight, layer.attn1.to_q.weight) == (mode == "copy")
    assert block.attn1.to_q.weight.dtype == torch.bfloat16
    assert block.scale_shift_table.dtype == layer.scale_shift_table.dtype == torch.float32


def test_side_init_needs_a_new_branch(tmp_path: Path, backbone, branch) -> None:
    path = single(tmp_path, backbone)
    file = save_branch(tmp_path / "branch", branch, CONFIG)
    for source in (None, file):
        with pytest.raises(ModelMismatchError, match="Only a new side branch"):
            load(path, branch=source, side_init="zero")


def test_types(tmp_path: Path, backbone, branch) -> None:
    """Norms and modulation stay exact, as diffusers keeps them; the backbone and branch alike."""
    file = save_branch(tmp_path / "branch", branch, CONFIG)
    model = load_transformer(single(tmp_path, backbone), branch=file, dtype=torch.bfloat16)
    exact = {"time_embedder", "scale_shift_table", "norm1", "norm2", "norm3"}
    for name, parameter in model.named_parameters():
        expected = torch.float32 if exact & set(name.split(".")) else torch.bfloat16
        assert parameter.dtype == expected, name


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_scaled_8_bit_files_are_widened(
    tmp_path: Path, backbone, prefix: str, newer: bool
) -> None:
    stored = tiny.fp8_scaled(backbone, newer=newer)
    model = load(single(tmp_path, stored, prefix))
    for name, tensor in backbone.items():
        read = model.state_dict()[to_diffusers(name)]
        # Four mantissa bits, the leading one not stored.
        bound = tensor.abs() / 16 + tensor.abs().max() / 448 * 2**-9
        exact = tensor.ndim != 2
        assert torch.equal(read, tensor) if exact else ((read - tensor).abs() <= bound).all()


def test_plain_8_bit_files_are_widened(tmp_path: Path, backbone) -> None:
    stored = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in backbone.items()}
    expect_weights(
        load(single(tmp_path, stored)), {name: tensor.float() for name, tensor in stored.items()}
    )


def test_other_number_formats_are_refused(tmp_path: Path, backbone) -> None:
    stored = tiny.fp8_scaled(backbone, newer=True)
    name = "blocks.0.ffn.0.comfy_quant"
    stored[name] = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    with pytest.raises(ModelMismatchError, match="nvfp4"):
        load(single(tmp_path, stored))
    stored = tiny.fp8_scaled(backbone)
    stored["blocks.0.ffn.0.scale_weight"] = torch.ones(7)
    with pytest.raises(ModelMismatchError, match=r"scale_weight of shape \(7,\)"):
        load(single(tmp_path, stored))


@pytest.fixture(scope="module")
def gguf_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    pytest.importorskip("gguf", reason="needs the package gguf")
    size = tiny.Backbone(dim=96, heads=4, ffn_dim=128, text_dim=32, freq_dim=32)
    tensors = tiny.backbone_tensors(size)
    path = tmp_path_factory.mktemp("gguf") / "model-Q8_0.gguf"
    return tiny.write_gguf(path, tensors, tiny.metadata(size)), tensors


def test_gguf_files_stay_quantised(tmp_path: Path, gguf_model) -> None:
    path, tensors = gguf_model
    size = tiny.Backbone(dim=96, heads=4, ffn_dim=128, text_dim=32, freq_dim=32)
    config = tiny.branch_config(size)
    file = save_branch(tmp_path / "branch", tiny.branch_tensors(config), config)
    model = load(path, branch=file)
    assert model.branch_config == config
    assert type(model.blocks[0].attn1.to_q).__name__ == "GGUFLinear"
    assert not any(tensor.is_meta for tensor in model.parameters())

    exact = load(tiny.write(tmp_path / "m.safetensors", tensors, tiny.metadata(size)), branch=file)
    rng = torch.Generator().manual_seed(5)
    inputs = {
        "hidden_states": torch.randn(1, 48, 3, 4, 4, generator=rng),
        "timestep": torch.tensor([[0.0, 700.0, 700.0]]),
        "encoder_hidden_states": torch.randn(1, 5, 32, generator=rng),
        "side_hidden_states": torch.randn(1, 96, 3, 4, 4, generator=rng),
    }
    with torch.no_grad():
        wanted, got = exact(**inputs).sample, model(**inputs).sample
    assert 0 < (got - wanted).abs().max() < 0.02 * wanted.std()


def test_damaged_gguf_files(tmp_path: Path, gguf_model) -> None:
    content = gguf_model[0].read_bytes()
    for keep in (0, 10, 2000, len(content) // 2):
        path = tmp_path / f"cut{keep}.gguf"
        path.write_bytes(content[:keep])
        with pytest.raises(ModelMismatchError, match="cannot be read as GGUF"):
            load(path)
    with pytest.raises(ModelMismatchError, match="does not exist"):
        load(tmp_path / "none.gguf")


@pytest.mark.parametrize(("channels", "said"), [(16, "14B or Wan2.1"), (36, "14B"), (32, "32")])
def test_models_for_other_latents(tmp_path: Path, channels: int, said: str) -> None:
    tensors = tiny.backbone_tensors(tiny.Backbone(channels=channels))
    with pytest.raises(ModelMismatchError, match=f"different latent space.*{said}"):
        load(single(tmp_path, tensors))


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
@pytest.mark.parametrize("form", ["comfy names", "folder in parts"])
def test_a_wrong_tensor_is_named(tmp_path: Path, backbone, form: str, change: str) -> None:
    tensors, name = dict(backbone), "blocks.1.cross_attn.v.weight"
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        name = "blocks.1.cross_attn.k_img.weight"
        tensors[name] = torch.zeros(2)
    else:
        tensors[name] = torch.zeros(3, 3)
    with pytest.raises(ModelMismatchError) as caught:
        load(FORMATS[form](tmp_path, tensors))
    assert to_diffusers(name) in str(caught.value)


def test_files_of_another_kind(tmp_path: Path, branch) -> None:
    kinds = {
        "a side branch without": branch,
        "a VAE": tiny.vae_tensors(),
        "a text encoder": tiny.noise(tiny.text_shapes(20)),
        "a LoRA": {"blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 2)},
        "no tensor": {"x": torch.zeros(1)},
    }
    for said, tensors in kinds.items():
        with pytest.raises(ModelMismatchError, match=f"is not the video model.*{said}"):
            load(tiny.write(tmp_path / "m.safetensors", tensors))


def test_damaged_files_and_folders(tmp_path: Path, backbone) -> None:
    with pytest.raises(ModelMismatchError, match="cut short"):
        load(tiny.truncate(single(tmp_path, backbone)))
    with pytest.raises(ModelMismatchError, match="does not exist"):
        load(tmp_path / "none.safetensors")
    folder = in_folder(tmp_path / "a", backbone, 3) / "transformer"
    part = sorted(folder.glob("*-00002-of-*"))[0]
    part.rename(folder / "elsewhere")
    with pytest.raises(ModelMismatchError, match="does not exist"):
        load(folder)
    folder = in_folder(tmp_path / "b", backbone, 1) / "transformer"
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelMismatchError, match=r"config\.json"):
        load(folder)
    (tmp_path / "c").mkdir()
    torch.save(backbone, tmp_path / "c" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelMismatchError, match="pickled files"):
        load(tmp_path / "c")


def test_an_index_stays_in_its_folder(tmp_path: Path, backbone) -> None:
    folder = in_folder(tmp_path / "a", backbone, 3) / "transformer"
    index = next(folder.glob("*.index.json"))
    index.write_text(index.read_text().replace("diffusion_", "../../other/diffusion_"))
    expect_weights(load(folder), backbone)


def test_a_branch_for_another_model(tmp_path: Path, backbone, branch) -> None:
    wide = tiny.Backbone(dim=48)
    config = tiny.branch_config(wide)
    file = save_branch(tmp_path / "wide", tiny.branch_tensors(config), config)
    path = single(tmp_path, backbone)
    with pytest.raises(ModelMismatchError, match="a branch of width 48.*of width 24"):
        load(path, branch=file)
    deep = tiny.branch_config(layers=(0, 7))
    file = save_branch(tmp_path / "deep", tiny.branch_tensors(deep), deep)
    with pytest.raises(ModelMismatchError, match="layers up to 7"):
        load(path, branch=file)
    heads = tiny.branch_config(heads=1)
    file = save_branch(tmp_path / "heads", tiny.branch_tensors(heads), heads)
    with pytest.raises(ModelMismatchError, match="1 attention heads"):
        load(path, branch=file)
    own = save_branch(tmp_path / "own", branch, CONFIG)
    merged = tiny.write(tmp_path / "mirage.safetensors", {**backbone, **branch}, tiny.metadata())
    with pytest.raises(ModelMismatchError, match="already contains a side branch"):
        load(merged, branch=own)
