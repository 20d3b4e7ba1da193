"""The transformer against the released code and against diffusers' own."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_wan import (
    WanRotaryPosEmbed,
    WanTransformer3DModel,
)
from torch import Tensor

from mirage_core.conditioning.segments import Segments
from mirage_core.errors import MirageError, ModelMismatchError, ShapeError
from mirage_core.models.rope import SegmentRope
from mirage_core.models.timesteps import DoubleTimesteps
from mirage_core.models.transformer import MirageTransformer3DModel

TOLERANCE = 1e-5
CASES = range(4)


@pytest.fixture(scope="module")
def model(released) -> MirageTransformer3DModel:
    return released.model()


@pytest.fixture(scope="module")
def stock(released) -> WanTransformer3DModel:
    plain = WanTransformer3DModel(in_channels=48, out_channels=48, **released.SIZES).eval()
    plain.load_state_dict(released.weights("dit"))
    return plain


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@torch.no_grad()
def run(model: torch.nn.Module, **inputs) -> Tensor:
    return model(**inputs, return_dict=False)[0]


# --- the released code ----------------------------------------------------------------------


@pytest.mark.parametrize("number", CASES)
@pytest.mark.parametrize(("scale", "name"), [(1.0, "out"), (0.5, "out_scale0.5")])
def test_output_is_the_released_codes(released, model, number: int, scale: float, name) -> None:
    output = run(model, **released.inputs(number), side_scale=scale)
    assert difference(output, released.output(number, name)) < TOLERANCE


@pytest.mark.parametrize("number", CASES)
def test_hints_are_the_released_codes(released, model, number: int) -> None:
    hints = []
    hooks = [
        block.register_forward_hook(lambda _block, _inputs, outputs: hints.append(outputs[0]))
        for block in model.vace_blocks
    ]
    run(model, **released.inputs(number))
    for hook in hooks:
        hook.remove()
    found = torch.stack([hint.flatten(1, 2) for hint in hints])
    assert difference(found, released.output(number, "hints")) < TOLERANCE


def test_rotary_angles_are_the_released_codes(released) -> None:
    rope = SegmentRope(24)
    cos, sin = rope(Segments(5, references=2, preceding=2), 4, 6, torch.device("cpu"))
    assert cos.shape == sin.shape == (1, 9, 24, 24)
    pairs = cos.reshape(-1, 12, 2), sin.reshape(-1, 12, 2)
    for found, name in zip(pairs, ("rope_cos", "rope_sin"), strict=True):
        assert torch.equal(found[..., 0], found[..., 1])
        assert difference(found[..., 0], released.output(0, name)) < 1e-6


# --- the stock model ------------------------------------------------------------------------


@pytest.mark.parametrize("head_dim", [12, 24, 128])
def test_rotary_angles_without_references_are_the_stock_ones(head_dim: int) -> None:
    stock = WanRotaryPosEmbed(head_dim, (1, 2, 2), 1024)(torch.empty(1, 1, 7, 8, 12))
    found = SegmentRope(head_dim)(Segments(4, preceding=3), 4, 6, torch.device("cpu"))
    for ours, theirs in zip(found, stock, strict=True):
        assert torch.equal(ours.reshape(theirs.shape), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", ["no branch", "no side input", "scale 0"])
def test_plain_model_is_bit_equal_to_the_stock_one(released, make, dtype, given: str) -> None:
    stock = WanTransformer3DModel(in_channels=48, out_channels=48, **released.SIZES).eval()
    stock.load_state_dict(released.weights("dit"))
    stock.to(dtype)
    # The cast rounds the stock model's table of angles; ours has none that it could round.
    stock.rope = WanRotaryPosEmbed(24, (1, 2, 2), 1024)
    # Computed in 32 bits, the stock sinusoids are some 1e-5 off.
    stock.condition_embedder.timesteps_proj = DoubleTimesteps(released.SIZES["freq_dim"])
    model = released.model(branch=given != "no branch")
    extra = {"side_hidden_states": make.noise(2, 96, 3, 8, 12).to(dtype), "side_scale": 0.0}
    inputs = {
        "hidden_states": make.noise(2, 48, 3, 8, 12).to(dtype),
        "timestep": torch.tensor([900.0, 37.0]),
        "encoder_hidden_states": make.noise(2, 7, 32).to(dtype),
    }
    expected = run(stock, **inputs)
    found = run(model.to(dtype), **inputs, **(extra if given == "scale 0" else {}))
    assert found.dtype == dtype
    assert torch.equal(found, expected)


def test_one_timestep_for_each_frame_is_one_for_each_token(make, released, model, stock) -> None:
    timestep = torch.tensor([[0.0, 999.0, 500.5, 3.0], [20.0, 10.0, 0.0, 700.0]])
    inputs = {
        "hidden_states": make.noise(2, 48, 4, 8, 12),
        "encoder_hidden_states": make.noise(2, 7, 32),
    }
    expected = run(stock, **inputs, timestep=timestep.repeat_interleave(24, dim=1))
    assert difference(run(model, **inputs, timestep=timestep), expected) < TOLERANCE


def test_one_timestep_for_all_frames_is_the_same_for_each(released, model) -> None:
    inputs = released.inputs(0)
    frames = inputs["hidden_states"].shape[2]
    single = run(model, **inputs | {"timestep": torch.tensor([250.0])})
    each = run(model, **inputs | {"timestep": torch.full((1, frames), 250.0)})
    assert difference(single, each) < TOLERANCE


# --- what the branch may touch --------------------------------------------------------------


def test_hints_never_touch_reference_tokens(released, make) -> None:
    """With one layer no later attention can carry a hint over to the reference frames."""
    sizes = released.SIZES | {"num_layers": 1}
    model = MirageTransformer3DModel(**sizes, side_layers=(0,)).eval()
    torch.nn.init.normal_(model.vace_blocks[0].proj_out.weight)
    inputs = released.inputs(0)
    steered = run(model, **inputs)
    plain = run(model, **inputs | {"side_scale": 0.0})
    references = inputs["num_reference_frames"]
    assert torch.equal(steered[:, :, :references], plain[:, :, :references])
    changed = (steered - plain)[:, :, references:].abs().amax(dim=(0, 1, 3, 4))
    assert (changed > 1e-3).all()


def test_references_stand_elsewhere_than_the_target(released, model) -> None:
    """The same frames as references and as target frames are two things."""
    inputs = released.inputs(0) | {"side_scale": 0.0}
    frames = inputs["hidden_states"]
    tagged = run(model, **inputs)
    untagged = run(model, **inputs | {"num_reference_frames": 0, "side_hidden_states": None})
    assert frames.shape == tagged.shape
    assert difference(tagged, untagged) > 1e-2


def test_a_batch_is_its_samples(make, model) -> None:
    inputs = {
        "hidden_states": make.noise(2, 48, 6, 8, 12),
        "timestep": torch.tensor([[0.0, 0.0, 999.0, 998.0, 0.0, 0.0], [0.0, 0.0, 4.0, 5, 0, 0]]),
        "encoder_hidden_states": make.noise(2, 7, 32),
        "side_hidden_states": make.noise(2, 96, 5, 8, 12),
    }
    counts = {"num_reference_frames": 1, "num_preceding_frames": 2}
    both = run(model, **inputs, **counts)
    for index in range(2):
        alone = run(model, **{name: t[index : index + 1] for name, t in inputs.items()}, **counts)
        assert difference(both[index : index + 1], alone) < TOLERANCE


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_states", torch.zeros(1, 16, 9, 8, 12), "The latents"),
        ("hidden_states", torch.zeros(1, 48, 9, 7, 12), "divisible by 2"),
        ("hidden_states", torch.zeros(48, 9, 8, 12), "target"),
        ("timestep", torch.zeros(1, 8), "timestep"),
        ("timestep", torch.zeros(2), "timestep"),
        ("side_hidden_states", torch.zeros(1, 49, 7, 8, 12), "side input"),
        ("side_hidden_states", torch.zeros(1, 96, 9, 8, 12), "side input"),
        ("side_hidden_states", torch.zeros(1, 96, 7, 4, 12), "side input"),
        ("num_reference_frames", 9, "at least one target frame"),
        ("num_preceding_frames", -1, "at least one target frame"),
    ],
)
def test_sizes_that_do_not_fit(released, model, name: str, value, message: str) -> None:
    if name == "hidden_states" and value.ndim == 4:
        inputs = released.inputs(0) | {name: value, "num_preceding_frames": 48}
    else:
        inputs = released.inputs(0) | {name: value}
    with pytest.raises(ShapeError, match=message):
        run(model, **inputs)


def test_side_input_needs_a_branch(released) -> None:
    with pytest.raises(ModelMismatchError, match="no side branch"):
        run(released.model(branch=False), **released.inputs(3))


@pytest.mark.parametrize(
    "other",
    [
        {"in_channels": 16, "out_channels": 16},
        {"image_dim": 1280},
        {"added_kv_proj_dim": 48},
        {"patch_size": (2, 2, 2)},
        {"side_layers": (0, 4)},
    ],
)
def test_configurations_of_other_models(released, other: dict) -> None:
    with pytest.raises(MirageError, match=r"Wan2\.[12]"):
        MirageTransformer3DModel(**released.SIZES | other)
