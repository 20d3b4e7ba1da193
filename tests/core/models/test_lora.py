"""LoRA files of many programs on a tiny model: W + alpha / rank * B A, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny_weights as tiny
from mirage_core.checkpoints.lora_format import read_lora, write_for_comfyui
from mirage_core.checkpoints.names import to_diffusers
from mirage_core.errors import ModelMismatchError
from mirage_core.models.load import load_transformer
from mirage_core.models.lora import apply_lora, switch_lora
from mirage_core.models.transformer import MirageTransformer3DModel

SIZE = tiny.Backbone()
CONFIG = tiny.branch_config()
ATTENTION = tuple(f"{a}.{part}" for a in ("self_attn", "cross_attn") for part in "qkvo")
LAYERS = tuple(f"blocks.{n}.{part}" for n in range(SIZE.layers) for part in (*ATTENTION, "ffn.0"))


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a side branch, whose layers have the same names as the backbone's."""
    path = tmp_path_factory.mktemp("model") / "mirage.safetensors"
    tensors = tiny.backbone_tensors() | tiny.branch_tensors(CONFIG)
    return tiny.write(path, tensors, tiny.metadata())


@pytest.fixture
def model(model_file: Path) -> MirageTransformer3DModel:
    return load_transformer(model_file, dtype=torch.float32)


def matrices(rank: int = 2, layers: tuple[str, ...] = LAYERS, seed: int = 7) -> dict:
    """(A, B) of each layer, by its released name."""
    rng = torch.Generator().manual_seed(seed)
    sizes = {"ffn.0": (SIZE.dim, SIZE.ffn_dim)}
    pairs = {}
    for layer in layers:
        into, out = sizes.get(layer.partition(".")[2].partition(".")[2], (SIZE.dim, SIZE.dim))
        down = 0.3 * torch.randn(rank, into, generator=rng)
        pairs[layer] = (down, 0.3 * torch.randn(out, rank, generator=rng))
    return pairs


def named(pairs: dict, prefix: str, down: str, up: str, flat: bool = False) -> dict[str, Tensor]:
    tensors = {}
    for layer, (a, b) in pairs.items():
        own = f"{prefix}{layer.replace('.', '_') if flat else layer}"
        tensors |= {f"{own}.{down}.weight": a, f"{own}.{up}.weight": b}
    return tensors


FORMS = {
    "released": lambda pairs: named(pairs, "pipe.dit.", "lora_A", "lora_B"),
    "released, default": lambda pairs: named(pairs, "dit.", "lora_A.default", "lora_B.default"),
    "comfy": lambda pairs: named(pairs, "diffusion_model.", "lora_A", "lora_B"),
    "comfy, down": lambda pairs: named(pairs, "diffusion_model.", "lora_down", "lora_up"),
    "peft": lambda pairs: named(pairs, "base_model.model.", "lora_A", "lora_B"),
    "diffusers": lambda pairs: named(
        {to_diffusers(f"{layer}.")[:-1]: pair for layer, pair in pairs.items()},
        "transformer.", "lora_A", "lora_B",
    ),
    "kohya": lambda pairs: named(pairs, "lora_unet_", "lora_down", "lora_up", flat=True),
}  # fmt: skip


def changed(model: MirageTransformer3DModel, pairs: dict, factor: float = 1.0) -> dict:
    """What the model's weights have to be."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for layer, (a, b) in pairs.items():
        state[f"{to_diffusers(f'{layer}.')}weight"] += factor * (b @ a)
    return state


def effective(model: MirageTransformer3DModel) -> dict[str, Tensor]:
    """Weights with all adapters added in, under their plain names."""
    model.fuse_lora(lora_scale=1.0)
    state = {
        name.replace(".base_layer", ""): tensor.clone()
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
    model.unfuse_lora()
    return state


def run(model: MirageTransformer3DModel) -> Tensor:
    rng = torch.Generator().manual_seed(9)
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(1, 48, 3, 4, 4, generator=rng),
            timestep=torch.tensor([[0.0, 600.0, 600.0]]),
            encoder_hidden_states=torch.randn(1, 5, SIZE.text_dim, generator=rng),
            side_hidden_states=torch.randn(1, 96, 3, 4, 4, generator=rng),
        ).sample


def expect_same(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert got.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_changes_the_same_weights(
    tmp_path: Path, model: MirageTransformer3DModel, form: str, fuse: bool
) -> None:
    """The branch, whose layers have the same names, is not touched."""
    pairs = matrices()
    path = tiny.write(tmp_path / "step_0000100_lora.safetensors", FORMS[form](pairs))
    wanted = changed(model, pairs)
    before = run(model)
    info = apply_lora(model, path, fuse=fuse)
    assert info.ranks == (2,)
    assert info.scales == (1.0,)
    assert info.layers == tuple(sorted(to_diffusers(f"{layer}.")[:-1] for layer in pairs))
    assert info.name == ("" if fuse else "step_0000100_lora")
    after = run(model)
    assert (after - before).abs().max() > 1e-2
    expect_same(model.state_dict() if fuse else effective(model), wanted)
    if not fuse:
        model.unload_lora()
        torch.testing.assert_close(run(model), before)


def test_nothing_scales_what_diffsynths_trainers_write(tmp_path: Path) -> None:
    """Their loader adds B A as it is, whatever else the file holds."""
    tensors = FORMS["released, default"](matrices())
    tensors = {name.replace("dit.", "pipe.dit.", 1): tensor for name, tensor in tensors.items()}
    tensors |= {f"pipe.dit.{layer}.alpha": torch.tensor(64.0) for layer in LAYERS}
    lora = read_lora(tiny.write(tmp_path / "l.safetensors", tensors))
    assert {lora.scale(layer) for layer in lora.down} == {1.0}
    written = read_lora(write_for_comfyui(lora, tmp_path / "comfyui.safetensors"))
    assert {written.scale(layer) for layer in written.down} == {1.0}
    assert all(torch.equal(written.up[layer], lora.up[layer]) for layer in lora.up)


def test_adapter_and_fused_weights_agree(tmp_path: Path, model_file: Path) -> None:
    path = tiny.write(tmp_path / "l.safetensors", FORMS["released"](matrices()))
    outputs = []
    for fuse in (False, True):
        model = load_transformer(model_file, dtype=torch.float32)
        apply_lora(model, path, 0.7, fuse=fuse)
        outputs.append(run(model))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("form", ["comfy, down", "kohya"])
def test_alphas_ranks_and_strength(
    tmp_path: Path, model: MirageTransformer3DModel, form: str, fuse: bool
) -> None:
    """Two ranks, an alpha for one of them; the other counts in full."""
    half = len(LAYERS) // 2
    low, high = matrices(2, LAYERS[:half]), matrices(4, LAYERS[half:], seed=8)
    tensors = FORMS[form]({**low, **high})
    for name in list(FORMS[form](low)):
        layer = name.rpartition(".lora_")[0]
        tensors[f"{layer}.alpha"] = torch.tensor(1.0)
    scaled = {layer: (a, b * 0.5) for layer, (a, b) in low.items()}
    wanted = changed(model, {**scaled, **high}, factor=0.6)
    info = apply_lora(model, tiny.write(tmp_path / "l.safetensors", tensors), 0.6, fuse=fuse)
    assert (info.ranks, info.scales) == ((2, 4), (0.5, 1.0))
    expect_same(model.state_dict() if fuse else effective(model), wanted)


def test_alpha_in_the_metadata(tmp_path: Path, model: MirageTransformer3DModel) -> None:
    """diffusers keeps the adapter's configuration in the header."""
    pairs = matrices()
    first = next(iter(pairs))
    special = to_diffusers(f"{first}.")[:-1]
    config = {
        "transformer.r": 2,
        "transformer.lora_alpha": 4,
        "transformer.alpha_pattern": {special: 1},
    }
    meta = {"lora_adapter_metadata": json.dumps(config)}
    path = tiny.write(tmp_path / "l.safetensors", FORMS["diffusers"](pairs), meta)
    weighted = {
        layer: (a, b * (0.5 if layer == first else 2.0)) for layer, (a, b) in pairs.items()
    }
    wanted = changed(model, weighted)
    assert apply_lora(model, path).scales == (0.5, 2.0)
    expect_same(effective(model), wanted)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_two_loras_add_up(tmp_path: Path, model: MirageTransformer3DModel) -> None:
    one, two = matrices(seed=1), matrices(4, LAYERS[:5], seed=2)
    wanted = changed(model, one)
    for layer, (a, b) in two.items():
        wanted[f"{to_diffusers(f'{layer}.')}weight"] += 0.5 * (b @ a)
    path = tmp_path / "some.lora.safetensors"
    model.requires_grad_(False).vace_blocks.requires_grad_(True)
    names = [apply_lora(model, tiny.write(path, FORMS["released"](one))).name]
    names.append(apply_lora(model, tiny.write(path, FORMS["comfy"](two)), 0.5).name)
    assert names == ["some_lora", "some_lora_2"]
    # What was trainable stays so, and nothing else becomes it.
    for parameter, own in model.named_parameters():
        assert own.requires_grad == parameter.startswith("vace_blocks"), parameter
    expect_same(effective(model), wanted)


def test_the_branch_can_be_a_target(tmp_path: Path, model: MirageTransformer3DModel) -> None:
    pairs = matrices(layers=("vace_blocks.1.self_attn.q",))
    wanted = changed(model, pairs)
    path = tiny.write(tmp_path / "l.safetensors", FORMS["released"](pairs))
    assert apply_lora(model, path).layers == ("vace_blocks.1.attn1.to_q",)
    expect_same(effective(model), wanted)


def test_half_precision(tmp_path: Path, model_file: Path) -> None:
    """The adapter has the type of its layers, whatever the file has."""
    model = load_transformer(model_file, dtype=torch.bfloat16)
    path = tiny.write(tmp_path / "l.safetensors", FORMS["released"](matrices()))
    apply_lora(model, path)
    kinds = {p.dtype for name, p in model.named_parameters() if ".lora_" in name}
    assert kinds == {torch.bfloat16}


def test_whole_tensors_are_added_when_fused(
    tmp_path: Path, model: MirageTransformer3DModel
) -> None:
    pairs = matrices()
    tensors = FORMS["comfy, down"](pairs)
    tensors["diffusion_model.blocks.0.self_attn.q.diff_b"] = torch.full((SIZE.dim,), 0.5)
    tensors["diffusion_model.blocks.0.norm3.diff"] = torch.full((SIZE.dim,), 0.25)
    path = tiny.write(tmp_path / "l.safetensors", tensors)
    wanted = changed(model, pairs, 2.0)
    wanted["blocks.0.attn1.to_q.bias"] += 1.0
    wanted["blocks.0.norm2.weight"] += 0.5
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelMismatchError, match="fuse=True"):
        apply_lora(model, path)
    expect_same(model.state_dict(), before)
    apply_lora(model, path, 2.0, fuse=True)
    expect_same(model.state_dict(), wanted)


@pytest.mark.parametrize("fuse", [False, True])
def test_a_lora_for_another_model(
    tmp_path: Path, model: MirageTransformer3DModel, fuse: bool
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    deep = {"blocks.39.self_attn.q": (torch.zeros(2, SIZE.dim), torch.zeros(SIZE.dim, 2))}
    wide = {"blocks.1.cross_attn.k": (torch.zeros(2, 64), torch.zeros(64, 2))}
    norm = {"blocks.1.self_attn.norm_q": (torch.zeros(2, SIZE.dim), torch.zeros(SIZE.dim, 2))}
    for foreign, said in (
        (deep, "blocks.39.attn1.to_q, which this model does not have"),
        (wide, r"blocks.1.attn2.to_k of \(64, 64\) instead of \(24, 24\)"),
        (norm, "blocks.1.attn1.norm_q, which"),
    ):
        path = tiny.write(tmp_path / "l.safetensors", FORMS["comfy"]({**matrices(), **foreign}))
        with pytest.raises(ModelMismatchError, match=f"made for another model.*{said}"):
            apply_lora(model, path, fuse=fuse)
    expect_same(model.state_dict(), before)


def test_files_that_are_no_lora(tmp_path: Path, model: MirageTransformer3DModel) -> None:
    path = tmp_path / "l.safetensors"
    whole = FORMS["released"](matrices())
    first = next(iter(whole))
    alone = {name: tensor for name, tensor in whole.items() if name != first}
    bent = {**whole, first: torch.zeros(3, SIZE.dim)}
    twice = {**whole, **FORMS["comfy"](matrices())}
    dora = {**whole, "pipe.dit.blocks.0.self_attn.q.dora_scale": torch.zeros(1)}
    cases = {
        "is incomplete": alone,
        "do not fit together": bent,
        "contains a matrix twice": twice,
        "dora_scale": dora,
        "is not a LoRA": tiny.backbone_tensors(),
        "no matrices": {"blocks.0.norm3.diff": torch.zeros(SIZE.dim)},
    }
    for said, tensors in cases.items():
        with pytest.raises(ModelMismatchError, match=said):
            apply_lora(model, tiny.write(path, tensors))
    meta = {"lora_adapter_metadata": json.dumps({"transformer.use_rslora": True})}
    with pytest.raises(ModelMismatchError, match="rank-stabilised"):
        apply_lora(model, tiny.write(path, whole, meta))
    with pytest.raises(ModelMismatchError, match="cut short"):
        apply_lora(model, tiny.truncate(tiny.write(path, whole)))


def test_a_lora_that_comfyui_cannot_take(tmp_path: Path) -> None:
    branch = {"vace_blocks.0.self_attn.q": (torch.ones(2, SIZE.dim), torch.ones(SIZE.dim, 2))}
    path = tiny.write(tmp_path / "l.safetensors", FORMS["released"](matrices() | branch))
    target = tmp_path / "out.safetensors"
    with pytest.raises(ModelMismatchError, match=r"vace_blocks.0.*mirage rollout --lora"):
        write_for_comfyui(read_lora(path), target)
    assert not target.exists()


def test_narrow_weights_cannot_be_fused(tmp_path: Path, model: MirageTransformer3DModel) -> None:
    model.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    path = tiny.write(tmp_path / "l.safetensors", FORMS["released"](matrices()))
    with pytest.raises(ModelMismatchError, match="quantised format.*fuse=False"):
        apply_lora(model, path, fuse=True)


def test_quantised_models_take_adapters(tmp_path: Path) -> None:
    """Matrices of a GGUF file cannot be changed, and can have layers beside them."""
    pytest.importorskip("gguf", reason="needs the package gguf")
    size = tiny.Backbone(dim=96, heads=4, ffn_dim=128, text_dim=32, freq_dim=32)
    tensors = tiny.backbone_tensors(size)
    rng = torch.Generator().manual_seed(1)
    name = "blocks.1.self_attn.q"
    down, up = (torch.randn(shape, generator=rng) for shape in ((2, 96), (96, 2)))
    pair = {name: (down, up)}
    lora = tiny.write(tmp_path / "l.safetensors", FORMS["released"](pair))
    model = load_transformer(
        tiny.write_gguf(tmp_path / "m.gguf", tensors, tiny.metadata(size)), dtype=torch.float32
    )
    with pytest.raises(ModelMismatchError, match="quantised format"):
        apply_lora(model, lora, fuse=True)
    layer = model.blocks[1].attn1.to_q
    tokens = torch.randn(1, 3, 96, generator=rng)
    before = layer(tokens)
    apply_lora(model, lora, 0.5)
    change = model.blocks[1].attn1.to_q(tokens) - before
    wanted = 0.5 * tokens @ (up @ down).T
    assert (change - wanted).norm() < 0.02 * wanted.norm()


def test_a_lora_is_switched_without_touching_the_others(model_file: Path, tmp_path: Path) -> None:
    pairs = {seed: matrices(seed=seed) for seed in (7, 8)}
    paths = {
        seed: tiny.write(tmp_path / f"{seed}.safetensors", FORMS["released"](pairs[seed]))
        for seed in pairs
    }
    found = {}
    for kept in ((), (7,), (8,), (7, 8)):
        model = load_transformer(model_file, dtype=torch.float32)
        for seed in kept:
            apply_lora(model, paths[seed])
        found[kept] = _velocity(model)
    model = load_transformer(model_file, dtype=torch.float32)
    names = {7: apply_lora(model, paths[7]).name}
    switch_lora(model, names[7], on=False)
    assert torch.equal(_velocity(model), found[()])
    names[8] = apply_lora(model, paths[8]).name
    assert torch.allclose(_velocity(model), found[(8,)], atol=1e-6)
    trainable = [own.requires_grad for own in model.parameters()]
    for on in ((7, 8), (7,), (), (8,), (8, 7), ()):
        for seed, name in names.items():
            switch_lora(model, name, on=seed in on)
        expected = found[tuple(sorted(on))]
        assert torch.allclose(_velocity(model), expected, atol=1e-6)
        assert [own.requires_grad for own in model.parameters()] == trainable
    assert (found[(7, 8)] - found[(7,)]).abs().max() > 1e-3


@pytest.mark.parametrize("fuse", [True, False])
def test_a_lora_that_is_not_there_cannot_be_switched(model, tmp_path: Path, fuse: bool) -> None:
    if fuse:
        path = tiny.write(tmp_path / "own.safetensors", FORMS["released"](matrices()))
        name = apply_lora(model, path, fuse=True).name
    else:
        name = "other"
    with pytest.raises(ModelMismatchError, match=r"no such LoRA.*fuse=False"):
        switch_lora(model, name, on=True)


@torch.no_grad()
def _velocity(model: MirageTransformer3DModel) -> Tensor:
    rng = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 48, 2, 4, 4, generator=rng)
    side = torch.randn(1, CONFIG.in_channels, 2, 4, 4, generator=rng)
    text = torch.randn(1, 5, model.config.text_dim, generator=rng)
    timesteps = torch.full((1, 2), 500.0)
    return model(latents, timesteps, text, side, return_dict=False)[0]
