"""Side-branch files: strict reading, whole writing, and files that are something else."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny_weights as tiny
from mirage_core.checkpoints.branch import FEATURES_KEY, HEADS_KEY, LAYERS_KEY, BranchConfig
from mirage_core.checkpoints.branch_file import (
    expected_shapes,
    inspect,
    load_branch,
    save_branch,
    split_merged,
)
from mirage_core.conditioning.features import (
    RENDER_AND_SCORE,
    SCENE_AND_HOLES,
    SCENE_AND_VISIBLE,
    SCENE_AND_WHITE,
    SCENE_ONLY,
)
from mirage_core.errors import MirageError, ModelMismatchError
from mirage_core.tensor_files import read_header, read_tensors

CONFIG = tiny.branch_config()
FEATURES = (RENDER_AND_SCORE, SCENE_AND_WHITE, SCENE_AND_HOLES, SCENE_AND_VISIBLE, SCENE_ONLY)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return tiny.branch_tensors(CONFIG)


def released(blocks: int, step: int, features: tuple) -> BranchConfig:
    layers = tuple(range(0, blocks * step, step))
    return BranchConfig(layers, features, False, dim=3072, ffn_dim=14336, heads=24)


@pytest.mark.parametrize(
    ("config", "count", "parameters"),
    [
        (released(15, 2, SCENE_AND_WHITE), 439, 2_607_077_376),
        (released(8, 4, SCENE_AND_VISIBLE), 236, 1_394_821_120),
        (released(8, 4, SCENE_ONLY), 236, 1_394_808_832),
    ],
)
def test_full_size_branches_have_their_known_size(
    config: BranchConfig, count: int, parameters: int
) -> None:
    shapes = expected_shapes(config)
    assert len(shapes) == count
    assert sum(prod(shape) for shape in shapes.values()) == parameters


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("features", FEATURES, ids=lambda f: f"{len(f)}-{f[-1].value}")
def test_what_is_saved_comes_back(tmp_path: Path, features: tuple, shared: bool) -> None:
    config = tiny.branch_config(features=features, shared_embedding=shared, layers=(1, 2))
    tensors = tiny.branch_tensors(config)
    path = save_branch(tmp_path / "branch", tensors, config)
    assert path.name == "branch.safetensors"
    loaded = load_branch(path)
    assert loaded.config == config
    assert loaded.path == path
    assert loaded.tensors.keys() == tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "pipe.vace.", "vace.", "generator.vace.", "_fsdp_wrapped_module."]
)
def test_released_files_say_nothing_of_their_layers(tmp_path: Path, tensors, prefix: str) -> None:
    """Layers come from the model then; the tiny model's heads have to be named all the same."""
    path = tiny.write(tmp_path / "step_0001000_vace.safetensors", tensors, tiny.metadata(), prefix)
    assert load_branch(path, backbone_layers=3, form="mirage").config == CONFIG
    with pytest.raises(ModelMismatchError, match="depend on the video model"):
        load_branch(path, form="mirage")
    # 2 blocks on 4 layers could be 0, 2 or 0, 3.
    with pytest.raises(ModelMismatchError, match="2 spacings fit"):
        load_branch(path, backbone_layers=4, form="mirage")


@given(st.data())
def test_one_wrong_tensor_is_named(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    tensors = tiny.branch_tensors(CONFIG)
    # Those from which the sizes are told are wrong in themselves, and named by other tensors.
    telling = {"vace_blocks.0.ffn.0.weight", "vace_patch_embedding.weight"}
    name = data.draw(st.sampled_from(sorted(set(tensors) - telling)))
    change = data.draw(st.sampled_from(["missing", "shape", "extra"]))
    wrong = name
    if change == "missing":
        del tensors[name]
    elif change == "shape":
        tensors[name] = torch.cat([tensors[name], tensors[name]])
    else:
        wrong = f"vace_blocks.1.{data.draw(st.sampled_from(['gate', 'before_proj.weight']))}"
        tensors[wrong] = torch.zeros(2)
    path = tiny.write(
        tmp_path_factory.mktemp("branch") / "b.safetensors", tensors, CONFIG.metadata()
    )
    with pytest.raises(ModelMismatchError) as caught:
        load_branch(path)
    said = {"missing": "is missing", "shape": "instead of", "extra": "is not part of it"}[change]
    assert wrong in str(caught.value)
    assert said in str(caught.value)


def test_many_wrong_tensors_are_counted(tmp_path: Path, tensors) -> None:
    gone = [name for name in tensors if name.startswith("vace_blocks.1.cross_attn.")]
    for name in gone:
        del tensors[name]
    path = tiny.write(tmp_path / "b.safetensors", tensors, CONFIG.metadata())
    with pytest.raises(ModelMismatchError) as caught:
        load_branch(path)
    assert f"and {len(gone) - 5} more" in str(caught.value)
    assert sum(name in str(caught.value) for name in gone) == 5


def test_a_gap_between_blocks_is_noticed(tmp_path: Path, tensors) -> None:
    odd = {name.replace("vace_blocks.1.", "vace_blocks.2."): t for name, t in tensors.items()}
    path = tiny.write(tmp_path / "b.safetensors", odd, CONFIG.metadata())
    with pytest.raises(ModelMismatchError, match=r"blocks \[0, 2\]"):
        load_branch(path)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({FEATURES_KEY: "scene,holes"}, "is inconsistent"),
        ({FEATURES_KEY: "scene,colour"}, "does not know"),
        ({LAYERS_KEY: "0,2,4"}, "is inconsistent"),
        ({LAYERS_KEY: "2,0"}, "is inconsistent"),
        ({LAYERS_KEY: "-1,0"}, "is inconsistent"),
        ({LAYERS_KEY: "0,two"}, "is inconsistent"),
        ({HEADS_KEY: "two"}, "0 heads"),
        ({HEADS_KEY: "5"}, "5 heads"),
        ({HEADS_KEY: "0"}, "0 heads"),
    ],
)
def test_a_header_that_makes_no_sense(tmp_path: Path, tensors, entry: dict, said: str) -> None:
    path = tiny.write(tmp_path / "b.safetensors", tensors, {**CONFIG.metadata(), **entry})
    with pytest.raises(ModelMismatchError, match=said):
        load_branch(path)


def test_damaged_files(tmp_path: Path, tensors) -> None:
    cut = tiny.truncate(tiny.write(tmp_path / "cut.safetensors", tensors, CONFIG.metadata()))
    with pytest.raises(ModelMismatchError, match="cut short"):
        load_branch(cut)
    with pytest.raises(ModelMismatchError, match="does not exist"):
        load_branch(tmp_path / "none.safetensors")
    pickled = tmp_path / "step_0001000_vace.pt"
    torch.save(tensors, pickled)
    with pytest.raises(ModelMismatchError, match="Convert it to safetensors"):
        load_branch(pickled)


def test_saving_checks_first_and_leaves_nothing_behind(tmp_path: Path, tensors) -> None:
    del tensors["vace_blocks.1.norm3.bias"]
    with pytest.raises(ModelMismatchError, match=r"vace_blocks\.1\.norm3\.bias is missing"):
        save_branch(tmp_path / "b.safetensors", tensors, CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_merged_file_is_refused_and_can_be_split(tmp_path: Path, tensors, prefix: str) -> None:
    backbone = tiny.backbone_tensors()
    path = tiny.write(
        tmp_path / "merged.safetensors", {**backbone, **tensors},
        {**tiny.metadata(), "author": "someone"}, prefix,
    )  # fmt: skip
    with pytest.raises(ModelMismatchError, match=r"merged into it.*Split it"):
        load_branch(path)
    before = path.read_bytes()
    targets = (tmp_path / "model", tmp_path / "branch.safetensors")
    with pytest.raises(ModelMismatchError, match="96 input planes mean"):
        split_merged(path, *targets)
    model, branch = split_merged(path, *targets, form="mirage")
    assert path.read_bytes() == before
    assert (inspect(path), inspect(model), inspect(branch)) == ("merged", "backbone", "branch")
    loaded = load_branch(branch)
    assert loaded.config == CONFIG
    assert all(torch.equal(loaded.tensors[name], tensors[name]) for name in tensors)
    rest = read_tensors(model)
    assert rest.keys() == {f"{prefix}{name}" for name in backbone}
    assert all(torch.equal(rest[f"{prefix}{name}"], backbone[name]) for name in backbone)
    kept = read_header(model).metadata
    assert kept["author"] == "someone"
    assert not {LAYERS_KEY, FEATURES_KEY} & kept.keys()


def test_only_merged_files_can_be_split(tmp_path: Path, tensors) -> None:
    backbone = tiny.write(tmp_path / "m.safetensors", tiny.backbone_tensors(), tiny.metadata())
    branch = tiny.write(tmp_path / "b.safetensors", tensors, CONFIG.metadata())
    for path in (backbone, branch):
        with pytest.raises(MirageError):
            split_merged(path, tmp_path / "1", tmp_path / "2")
    assert {path.name for path in tmp_path.iterdir()} == {backbone.name, branch.name}


def test_every_kind_of_file_is_told_apart(tmp_path: Path, tensors) -> None:
    lora = {"pipe.dit.blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 2)}
    kohya = {"lora_unet_blocks_0_self_attn_q.lora_down.weight": torch.zeros(2, 2)}
    files = {
        "branch": tensors,
        "backbone": tiny.backbone_tensors(),
        "vae": tiny.vae_tensors(),
        "text": tiny.noise(tiny.text_shapes(20)),
        "unknown": {"x": torch.zeros(1)},
        "lora": lora,
    }
    assert inspect(tiny.write(tmp_path / "kohya.safetensors", kohya)) == "lora"
    for kind, content in files.items():
        path = tiny.write(tmp_path / f"{kind}.safetensors", content)
        assert inspect(path) == kind
        if kind != "branch":
            with pytest.raises(ModelMismatchError, match="is not a side-branch file"):
                load_branch(path, backbone_layers=3)
