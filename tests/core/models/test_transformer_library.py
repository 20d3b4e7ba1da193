"""What diffusers, PEFT and torch.compile do with a model works with the side branch as well."""

from __future__ import annotations

import logging

import pytest
import torch
from diffusers.models.transformers.transformer_wan import (
    WanTransformer3DModel,
    WanTransformerBlock,
)
from peft import LoraConfig
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mirage_core.checkpoints.branch import BranchConfig
from mirage_core.checkpoints.names import is_branch
from mirage_core.conditioning.features import SCENE_AND_VISIBLE
from mirage_core.errors import ModelMismatchError
from mirage_core.models.blocks import FrameBlock
from mirage_core.models.timesteps import DoubleTimesteps
from mirage_core.models.transformer import BACKBONE_ATTENTION, MirageTransformer3DModel


@pytest.fixture(autouse=True)
def quiet() -> None:
    """diffusers warns of every cast that it does on request."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)


def run(model: torch.nn.Module, **inputs) -> Tensor:
    with torch.no_grad():
        return model(**inputs, return_dict=False)[0]


# --- memory ---------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.size = max(self.size, leaf.untyped_storage().nbytes())
        return result


def largest_tensor(block: torch.nn.Module, *inputs: object) -> int:
    with torch.no_grad(), LargestTensor() as largest:
        block(*inputs)
    return largest.size


def test_modulation_is_by_frame_and_not_by_token() -> None:
    """The stock block makes a float32 tensor of six vectors for each token, ours makes none."""
    frames, tokens, dim = 3, 40, 96
    sizes = {"dim": dim, "ffn_dim": dim, "num_heads": 4}
    x = torch.zeros(1, frames * tokens, dim)
    text = torch.zeros(1, 4, dim)
    each = torch.zeros(1, frames, 6, dim)
    angles = torch.zeros(1, frames * tokens, 1, dim // 4)
    stock = largest_tensor(
        WanTransformerBlock(**sizes),
        x,
        text,
        each.repeat_interleave(tokens, dim=1),
        (angles, angles),
    )
    ours = largest_tensor(
        FrameBlock(**sizes), x.unflatten(1, (frames, tokens)), text, each, (angles, angles)
    )
    by_token = x.numel() * 4
    assert stock == 6 * by_token
    assert ours == by_token


def test_only_one_hint_is_alive_at_a_time(released) -> None:
    """With as many side blocks as layers, the memory of a step does not grow with them."""
    import weakref

    model = released.model(branch=False)
    layers = tuple(range(4))
    model.add_branch(BranchConfig(layers, SCENE_AND_VISIBLE, False, 48, 64, 2))
    alive: list[weakref.ref] = []
    most = []

    def note(_block, _inputs, outputs) -> None:
        alive.append(weakref.ref(outputs[0]))
        most.append(sum(ref() is not None for ref in alive))

    for block in model.vace_blocks:
        block.register_forward_hook(note)
    inputs = released.inputs(0)
    run(model, **inputs | {"side_hidden_states": inputs["side_hidden_states"][:, :49]})
    assert most == [1, 1, 1, 1]


# --- training -------------------------------------------------------------------------------


def gradients(model: torch.nn.Module, inputs: dict) -> dict[str, Tensor]:
    model.train()
    model(**inputs, return_dict=False)[0].square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_are_equal_with_and_without_checkpointing(released) -> None:
    inputs = released.inputs(0)
    kept = gradients(released.model(), inputs)
    model = released.model()
    model.enable_gradient_checkpointing()
    recomputed = gradients(model, inputs)
    assert kept.keys() == recomputed.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)
    assert all(gradient.abs().max() > 0 for gradient in kept.values())


def test_a_new_branch_learns_from_the_first_step(released) -> None:
    model = released.model()
    model.init_branch("copy")
    found = gradients(model, released.inputs(0))
    for number in range(2):
        assert found[f"vace_blocks.{number}.proj_out.weight"].abs().max() > 0


def test_adapters_reach_the_backbones_self_attention_alone(released) -> None:
    model = released.model()
    inputs = released.inputs(0)
    before = run(model, **inputs)
    model.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=BACKBONE_ATTENTION))
    assert torch.equal(run(model, **inputs), before)
    added = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert len(added) == 4 * 4 * 2
    assert all(name.startswith("blocks.") and ".attn1." in name for name in added)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    full = run(model, **inputs)
    assert not torch.allclose(full, before, atol=1e-3)
    assert torch.equal(run(model, **inputs, attention_kwargs={"scale": 0.0}), before)
    with pytest.raises(ModelMismatchError, match="before adapters"):
        model.init_branch("copy")


# --- files ----------------------------------------------------------------------------------


def test_a_saved_model_comes_back_with_its_branch(released, tmp_path) -> None:
    model = released.model()
    model.save_pretrained(tmp_path)
    again = MirageTransformer3DModel.from_pretrained(tmp_path)
    assert again.branch_config == model.branch_config
    inputs = released.inputs(0)
    assert torch.equal(run(again, **inputs), run(model, **inputs))


def test_a_branch_that_was_added_is_saved_too(released, tmp_path) -> None:
    config = BranchConfig((1, 3), SCENE_AND_VISIBLE, True, 48, 64, 2)
    model = released.model(branch=False)
    model.add_branch(config)
    model.save_pretrained(tmp_path)
    again = MirageTransformer3DModel.from_pretrained(tmp_path)
    assert again.branch_config == config
    saved = model.state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in again.state_dict().items())


def test_a_stock_folder_is_a_plain_model(released, tmp_path) -> None:
    stock = WanTransformer3DModel(in_channels=48, out_channels=48, **released.SIZES).eval()
    stock.load_state_dict(released.weights("dit"))
    stock.save_pretrained(tmp_path)
    # Both from the file: where in memory the weights lie decides about the last bit.
    stock = WanTransformer3DModel.from_pretrained(tmp_path)
    # Computed in 32 bits, the stock sinusoids are some 1e-5 off.
    stock.condition_embedder.timesteps_proj = DoubleTimesteps(released.SIZES["freq_dim"])
    model = MirageTransformer3DModel.from_pretrained(tmp_path)
    assert model.branch_config is None
    inputs = released.inputs(3) | {"side_hidden_states": None}
    inputs["timestep"] = torch.tensor([300.0])
    plain = {name: inputs[name] for name in ("hidden_states", "timestep")}
    plain["encoder_hidden_states"] = inputs["encoder_hidden_states"]
    assert torch.equal(run(model, **inputs), run(stock, **plain))
    half = MirageTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.dtype == half.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert half.blocks[0].scale_shift_table.dtype == torch.float32
    rough = run(half, **{name: t.bfloat16() for name, t in plain.items()})
    assert torch.allclose(rough.float(), run(stock, **plain), atol=0.05)


# --- placement and speed --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_offloading_by_groups(released, kind: str) -> None:
    inputs = released.inputs(0)
    expected = run(released.model(), **inputs)
    model = released.model()
    model.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type=kind, num_blocks_per_group=1
    )
    assert torch.equal(run(model, **inputs), expected)


def test_weights_kept_in_eight_bits(released) -> None:
    inputs = released.inputs(0)
    expected = run(released.model(), **inputs)
    model = released.model()
    model.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    small = {n for n, p in model.named_parameters() if p.dtype == torch.float8_e4m3fn}
    assert "vace_blocks.1.attn1.to_q.weight" in small
    assert not any("embedding" in name for name in small)
    found = run(model, **inputs)
    # Three bits of mantissa: the weights are off by up to 6 %.
    assert torch.allclose(found, expected, atol=0.15)
    assert (found - expected).square().mean() < 0.01 * expected.square().mean()


@pytest.mark.compiler
def test_one_graph_for_the_whole_model(released) -> None:
    """torch.compile sees one graph, and new frames and timesteps need no other one."""
    model = released.model()
    inputs = released.inputs(0)
    graphs = []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=count, dynamic=False)
    assert torch.equal(run(compiled, **inputs), run(model, **inputs))
    changed = inputs | {"timestep": inputs["timestep"] * 0.5}
    assert torch.equal(run(compiled, **changed), run(model, **changed))
    assert len(graphs) == 1
    torch._dynamo.reset()


def test_names_of_the_branch_are_the_released_ones(released) -> None:
    state = released.model().state_dict()
    assert {name for name in state if is_branch(name)} == set(released.weights("vace"))
    assert {name for name in state if not is_branch(name)} == set(released.weights("dit"))
