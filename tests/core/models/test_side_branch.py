"""The side branch as modules: which there are, how they begin, what they are made of."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mirage_core.checkpoints.branch import BranchConfig
from mirage_core.checkpoints.branch_file import expected_shapes
from mirage_core.checkpoints.names import is_branch, to_diffusers
from mirage_core.conditioning.features import channel_count, parse_features
from mirage_core.errors import ModelMismatchError, ValueRangeError
from mirage_core.models.transformer import MirageTransformer3DModel

FORMS = [
    ("scene,white", False),
    ("scene,holes", False),
    ("scene,visible", False),
    ("scene", False),
    ("scene,white", True),
    ("scene,visible", True),
    ("scene", True),
]


def config_of(features: str = "scene,white", shared: bool = False, **other) -> BranchConfig:
    known = {"layers": (0, 2), "dim": 48, "ffn_dim": 64, "heads": 2} | other
    return BranchConfig(features=parse_features(features), shared_embedding=shared, **known)


def branch_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if is_branch(name)}


def inputs_for(make, features: str) -> dict:
    return {
        "hidden_states": make.noise(1, 48, 5, 8, 12),
        "timestep": torch.tensor([[0.0, 0.0, 700.0, 650.0, 0.0]]),
        "encoder_hidden_states": make.noise(1, 7, 32),
        "side_hidden_states": make.noise(1, channel_count(parse_features(features)), 4, 8, 12),
        "num_reference_frames": 1,
        "num_preceding_frames": 1,
    }


@torch.no_grad()
def run(model: torch.nn.Module, **inputs) -> Tensor:
    return model(**inputs, return_dict=False)[0]


def wake(model: MirageTransformer3DModel) -> None:
    """Give the branch projections out that are not zero."""
    torch.manual_seed(5)
    for block in model.vace_blocks:
        torch.nn.init.normal_(block.proj_out.weight, std=0.2)


@pytest.mark.parametrize(("features", "shared"), FORMS)
@pytest.mark.parametrize("layers", [(0,), (1, 3), (0, 1, 2, 3)])
def test_every_form_has_the_tensors_of_its_files(released, features, shared, layers) -> None:
    config = config_of(features, shared, layers=layers)
    sizes = {"side_layers": layers, "side_features": features, "side_shared_embedding": shared}
    model = MirageTransformer3DModel(**released.SIZES, **sizes)
    assert model.branch_config == config
    expected = {to_diffusers(name): shape for name, shape in expected_shapes(config).items()}
    assert {name: tuple(t.shape) for name, t in branch_tensors(model).items()} == expected


@pytest.mark.parametrize(("features", "shared"), FORMS)
@pytest.mark.parametrize("mode", ["zero", "copy"])
def test_a_new_branch_changes_nothing_until_it_learns(released, make, features, shared, mode):
    model = released.model(branch=False)
    inputs = inputs_for(make, features)
    plain = run(model, **inputs | {"side_hidden_states": None})
    model.add_branch(config_of(features, shared))
    model.init_branch(mode)
    assert torch.equal(run(model, **inputs), plain)
    wake(model)
    assert not torch.allclose(run(model, **inputs), plain, atol=1e-3)


def test_a_copied_branch_has_the_backbones_blocks(released) -> None:
    model = released.model(branch=False)
    model.add_branch(config_of(layers=(1, 3)))
    fresh = branch_tensors(model)
    model.init_branch("copy")
    for layer, block in zip((1, 3), model.vace_blocks, strict=True):
        for name, parameter in model.blocks[layer].named_parameters():
            assert torch.equal(block.get_parameter(name), parameter), name
            assert block.get_parameter(name) is not parameter
    model.init_branch("zero")
    name = "vace_blocks.0.attn1.to_q.weight"
    again = branch_tensors(model)[name]
    assert not torch.equal(again, model.blocks[1].attn1.to_q.weight)
    assert fresh[name].std() > 0


@pytest.mark.parametrize("features", ["scene,visible", "scene,white", "scene"])
def test_a_shared_embedding_is_one_embedding_of_all_planes(released, make, features) -> None:
    """The backbone's weights for the scene, own weights for the other planes, one bias."""
    shared = released.model(branch=False)
    shared.add_branch(config_of(features, shared=True))
    wake(shared)
    separate = released.model(branch=False)
    separate.add_branch(config_of(features))
    weights = [shared.patch_embedding.weight]
    if features != "scene":
        weights.append(shared.vace_mask_embedding.weight)
    separate.vace_blocks.load_state_dict(shared.vace_blocks.state_dict())
    separate.vace_patch_embedding.load_state_dict(
        {"weight": torch.cat(weights, dim=1), "bias": shared.patch_embedding.bias}
    )
    inputs = inputs_for(make, features)
    assert torch.allclose(run(shared, **inputs), run(separate, **inputs), atol=1e-5)


def test_a_branch_can_come_after_the_model(released) -> None:
    """Built on no device, then filled from a file, it is the branch of a whole model."""
    model = released.model(branch=False)
    model.add_branch(config_of(), device="meta")
    assert all(tensor.is_meta for tensor in branch_tensors(model).values())
    found = model.load_state_dict(released.weights("vace"), strict=False, assign=True)
    assert not found.unexpected_keys
    assert not any(is_branch(name) for name in found.missing_keys)
    inputs = released.inputs(0)
    assert torch.equal(run(model, **inputs), run(released.model(), **inputs))


@pytest.mark.parametrize("mode", ["zero", "copy"])
def test_a_plain_folder_can_be_loaded_with_a_branch(released, tmp_path, mode: str) -> None:
    """Its tensors, which no file has, are on no device until the branch is set up."""
    plain = released.model(branch=False)
    plain.save_pretrained(tmp_path)
    model = MirageTransformer3DModel.from_pretrained(tmp_path, side_layers=(0, 2))
    assert model.branch_config == config_of()
    assert any(tensor.is_meta for tensor in branch_tensors(model).values())
    model.init_branch(mode)
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    inputs = released.inputs(0)
    steered, alone = run(model, **inputs), run(model, **inputs | {"side_hidden_states": None})
    assert torch.equal(steered, alone)


def test_a_branch_takes_the_models_type(released) -> None:
    model = released.model(branch=False).to(torch.bfloat16)
    model.add_branch(config_of())
    block = model.vace_blocks[0]
    assert block.attn1.to_q.weight.dtype == block.proj_out.weight.dtype == torch.bfloat16
    assert model.vace_patch_embedding.weight.dtype == torch.bfloat16
    assert block.scale_shift_table.dtype == block.norm2.weight.dtype == torch.float32


def test_a_model_has_one_branch(released) -> None:
    with pytest.raises(ModelMismatchError, match="already has"):
        released.model().add_branch(config_of())


@pytest.mark.parametrize("other", [{"dim": 96}, {"layers": (0, 4)}, {"ffn_dim": 128}, {"heads": 4}])
def test_a_branch_of_another_model_is_refused(released, other: dict) -> None:
    model = released.model(branch=False)
    with pytest.raises(ModelMismatchError, match="another video model"):
        model.add_branch(config_of(**other))
    assert model.branch_config is None
    assert not branch_tensors(model)


@pytest.mark.parametrize("layers", [(2, 0), (0, 0), (-2, 0)])
def test_layers_out_of_order(released, layers: tuple) -> None:
    with pytest.raises(ModelMismatchError, match="not in order"):
        MirageTransformer3DModel(**released.SIZES, side_layers=layers)
    model = released.model(branch=False)
    with pytest.raises(ModelMismatchError, match="not in order"):
        model.add_branch(config_of(layers=layers))
    assert model.branch_config is None


def test_there_must_be_a_branch_to_set_up(released) -> None:
    with pytest.raises(ModelMismatchError, match="no side branch"):
        released.model(branch=False).init_branch("zero")


def test_ways_to_set_a_branch_up(released) -> None:
    with pytest.raises(ValueRangeError, match="zero or copy"):
        released.model().init_branch("random")


def test_weights_that_cannot_be_copied(released) -> None:
    model = released.model()
    before = branch_tensors(model)
    model.blocks[2].ffn.to(torch.float32).to("meta")
    with pytest.raises(ModelMismatchError, match=r"blocks\.2\.ffn"):
        model.init_branch("copy")
    assert all(torch.equal(before[name], t) for name, t in branch_tensors(model).items())
