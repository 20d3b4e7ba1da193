"""Released names, diffusers' names, and what frameworks put before them."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.checkpoints.branch import BranchConfig
from mirage_core.checkpoints.branch_file import expected_shapes
from mirage_core.checkpoints.names import is_branch, strip_wrappers, to_diffusers, without_wrappers
from mirage_core.conditioning.features import SCENE_AND_WHITE
from mirage_core.errors import ModelMismatchError

WRAPPERS = [
    "module.", "model.", "generator.", "base_model.", "diffusion_model.", "transformer.",
    "pipe.vace.", "pipe.dit.", "vace.", "dit.", "_fsdp_wrapped_module.",
]  # fmt: skip

BRANCH = tuple(expected_shapes(BranchConfig((0, 2), SCENE_AND_WHITE, False, 48, 64, 2)))


def plain_names(released) -> list[str]:
    prefixes = ("denoiser.dit.", "denoiser.vace.")
    return [name.split(".", 2)[2] for name in released.tensors if name.startswith(prefixes)]


def test_names_are_those_of_diffusers_own_conversion(released) -> None:
    for name in plain_names(released):
        (expected,) = convert_wan_transformer_to_diffusers({name: torch.empty(0)})
        assert to_diffusers(name) == expected


def test_no_two_names_become_one(released) -> None:
    names = plain_names(released)
    assert len({to_diffusers(name) for name in names}) == len(names) > 100


def test_diffusers_names_stay(released) -> None:
    for name in plain_names(released):
        assert to_diffusers(to_diffusers(name)) == to_diffusers(name)


@given(st.sampled_from(BRANCH), st.lists(st.sampled_from(WRAPPERS), max_size=4))
def test_wrappers_come_off(name: str, wrappers: list[str]) -> None:
    assert strip_wrappers("".join(wrappers) + name) == name


def test_fsdp_wraps_inner_modules_too() -> None:
    wrapped = "module._fsdp_wrapped_module.vace_blocks.0._fsdp_wrapped_module.ffn.0.weight"
    assert strip_wrappers(wrapped) == "vace_blocks.0.ffn.0.weight"


def test_names_without_wrappers_stay(released) -> None:
    names = plain_names(released)
    assert [strip_wrappers(name) for name in names] == names


def test_a_file_with_wrappers_is_the_file_without(released) -> None:
    names = plain_names(released)
    wrapped = {f"pipe.dit.{name}": number for number, name in enumerate(names)}
    assert without_wrappers(wrapped) == {name: number for number, name in enumerate(names)}


def test_one_tensor_under_two_names() -> None:
    twice = {"vace_blocks.0.ffn.0.bias": 1, "module.vace_blocks.0.ffn.0.bias": 2}
    with pytest.raises(ModelMismatchError, match="twice"):
        without_wrappers(twice)


def test_which_tensors_are_the_branchs(released) -> None:
    branch = [name for name in plain_names(released) if is_branch(name)]
    assert set(branch) == set(BRANCH)
    assert is_branch("vace_mask_embedding.weight")
    assert not is_branch("vace_other.weight")
