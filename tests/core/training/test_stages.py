"""What each stage trains, and that what it leaves behind loads everywhere."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import tiny_training
import tiny_weights
from mirage_core.checkpoints.branch_file import load_branch
from mirage_core.checkpoints.lora_format import read_lora
from mirage_core.checkpoints.names import to_diffusers, to_released
from mirage_core.conditioning.features import SideFeature
from mirage_core.errors import ModelMismatchError
from mirage_core.models.load import load_transformer
from mirage_core.models.lora import apply_lora
from mirage_core.models.transformer import MirageTransformer3DModel
from mirage_core.training.batch import BatchMaker
from mirage_core.training.forward import velocity
from mirage_core.training.settings import TrainingSettings
from mirage_core.training.stages import even_layers, exclude_from_autocast, prepare_model
from mirage_core.training.trainer import Trainer, TrainingData

SETTINGS = TrainingSettings(
    **tiny_training.SETTINGS | {"steps": 4, "lora_dropout": 0.0, "ema_decay": 0.0}
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    tiny_training.write_model(folder)
    tiny_training.write_branch(folder)
    tiny_training.write_clips(folder / "clips", range(8))
    tiny_training.write_clips(folder / "planes", range(8), planes=True)
    return folder


def load(place: Path, stage: str, dtype=torch.float32) -> Any:
    earlier = stage in ("joint", "lora")
    branch = place / "branch.safetensors" if earlier else None
    return load_transformer(place / "model.safetensors", branch=branch, dtype=dtype)


def train(place: Path, out: Path, stage: str, clips: str = "clips", **changes: object) -> Trainer:
    settings = replace(SETTINGS, stage=stage, **changes)
    dtype = torch.float32 if settings.trains_full_model else settings.compute_dtype
    white = torch.zeros(48, 5, *tiny_training.GRID)
    data = TrainingData(place / clips, torch.zeros(1, tiny_training.TEXT), white=white)
    trainer = Trainer(load(place, stage, dtype), settings, data, out)
    trainer.run()
    return trainer


@torch.no_grad()
def answer(model: Any) -> torch.Tensor:
    """What a model predicts for some input, with text, references and preceding frames."""
    model.eval()
    clip = tiny_training.clip(14, planes=True)
    condition = clip.condition
    frames = torch.cat([clip.condition.references, clip.target, clip.condition.preceding], dim=1)
    white = torch.zeros(48, 5, *tiny_training.GRID)
    side = condition.side_input(model.branch_config.features, white)
    text = torch.ones(1, 4, tiny_training.TEXT)
    times = condition.segments.timesteps(torch.tensor([600.0]))
    return model(
        frames[None], times, text, side[None], num_reference_frames=4, num_preceding_frames=2,
        return_dict=False,
    )[0]  # fmt: skip


@pytest.mark.training
@pytest.mark.parametrize(
    ("stage", "trained"),
    [
        ("branch", {"vace"}),
        ("joint", {"vace", "lora"}),
        ("single", {"vace", "lora"}),
        ("lora", {"lora"}),
        ("backbone", {"rest"}),
        ("full", {"vace", "rest"}),
    ],
)
def test_a_stage_changes_what_it_trains_and_nothing_else(
    place: Path, tmp_path: Path, stage: str, trained: set[str]
) -> None:
    before = {
        name.replace(".base_layer", ""): tensor.clone()
        for name, tensor in load(place, stage).state_dict().items()
    }
    model = train(place, tmp_path, stage).model
    changed = set()
    for name, tensor in model.state_dict().items():
        kind = "lora" if ".lora_" in name else "vace" if name.startswith("vace_") else "rest"
        old = before.get(name.replace(".base_layer", ""))
        if old is None or not torch.equal(old, tensor):
            changed.add(kind)
    assert changed == trained
    kinds = {"vace": "vace/*_vace", "lora": "lora/*_lora", "rest": "model/*_model"}
    files = {kind for kind, glob in kinds.items() if list(tmp_path.glob(f"{glob}.safetensors"))}
    assert files == trained


@pytest.mark.training
def test_a_stage_begins_where_the_one_before_ended(place: Path) -> None:
    """Neither a new branch nor a new LoRA changes the model at first."""
    plain = load_transformer(place / "model.safetensors", dtype=torch.float32)
    model = load(place, "single")
    prepare_model(model, replace(SETTINGS, stage="single"))
    with torch.no_grad():
        frames = tiny_training.clip(14).target[None]
        inputs = frames, torch.tensor([[0.0, 500, 500]]), torch.ones(1, 4, tiny_training.TEXT)
        side = torch.ones(1, 49, 3, *tiny_training.GRID)
        with_side = model(*inputs, side_hidden_states=side, return_dict=False)[0]
        assert torch.equal(with_side, plain(*inputs, return_dict=False)[0])


@pytest.mark.parametrize("init", ["copy", "zero"])
def test_how_a_new_branch_begins(place: Path, init: str) -> None:
    models = []
    for seed in (1, 1, 2):
        model = load(place, "branch")
        prepare_model(model, replace(SETTINGS, side_init=init, seed=seed))
        models.append(model)
    first = [model.vace_blocks[1].ffn.net[2].weight for model in models]
    embeddings = [model.vace_patch_embedding.weight for model in models]
    assert torch.equal(embeddings[0], embeddings[1])
    assert not torch.equal(embeddings[0], embeddings[2])
    assert torch.equal(first[0], models[0].blocks[2].ffn.net[2].weight) == (init == "copy")


def test_layers_of_the_lora(place: Path) -> None:
    counts = {}
    for layers in ("attention", "released"):
        model = load(place, "lora")
        names = prepare_model(model, replace(SETTINGS, stage="lora", lora_layers=layers))
        counts[layers] = sorted({re.sub(r"\.lora_.*", "", to_released(name)) for name in names})
    own = [f"blocks.{n}.self_attn.{part}" for n in range(3) for part in "kovq"]
    assert counts["attention"] == sorted(own)
    other = [f"blocks.{n}.cross_attn.{part}" for n in range(3) for part in "kovq"]
    inner = [f"blocks.{n}.ffn.{part}" for n in range(3) for part in (0, 2)]
    assert counts["released"] == sorted(own + other + inner)


@pytest.mark.training
@pytest.mark.parametrize("features", ["scene,visible", "scene,white", "scene"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_branch_file_is_the_branch(
    place: Path, tmp_path: Path, features: str, shared: bool
) -> None:
    trainer = train(
        place, tmp_path, "branch", side_features=features, side_shared_embedding=shared
    )
    path = tmp_path / "vace" / "step_0000004_vace.safetensors"
    loaded = load_transformer(place / "model.safetensors", branch=path, dtype=torch.float32)
    assert torch.equal(answer(loaded), answer(trainer.model))


@pytest.mark.training
def test_extra_planes_are_recorded_and_used(place: Path, tmp_path: Path) -> None:
    features = "scene,visible,offset,depth_ratio"
    trainer = train(place, tmp_path, "branch", clips="planes", side_features=features)
    path = tmp_path / "vace" / "step_0000004_vace.safetensors"
    config = load_branch(path).config
    assert config.features[2:] == (SideFeature.OFFSET, SideFeature.DEPTH_RATIO)
    assert config.in_channels == 52
    loaded = load_transformer(place / "model.safetensors", branch=path, dtype=torch.float32)
    assert torch.equal(answer(loaded), answer(trainer.model))


def released_rules(path: Path, strip: str) -> dict[str, torch.Tensor]:
    """Names as the released code's loader takes them: prefixes off, again and again."""
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    pattern = re.compile(strip)
    return {pattern.sub("", name): tensor for name, tensor in tensors.items()}


@pytest.mark.training
@pytest.mark.parametrize("layers", ["attention", "released"])
def test_a_lora_file_is_the_lora(place: Path, tmp_path: Path, layers: str) -> None:
    trainer = train(place, tmp_path, "joint", lora_layers=layers)
    branch = tmp_path / "vace" / "step_0000004_vace.safetensors"
    expected = answer(trainer.model)
    names = ("step_0000004_lora", "step_0000004_lora_comfyui")
    for name in names:
        for fuse in (False, True):
            loaded = load_transformer(
                place / "model.safetensors", branch=branch, dtype=torch.float32
            )
            apply_lora(loaded, tmp_path / "lora" / f"{name}.safetensors", fuse=fuse)
            assert torch.allclose(answer(loaded), expected, atol=2e-5), name
    # The released code adds alpha B A with alpha 1, and takes these names.
    rules = r"^(?:module\.|model\.|pipe\.dit\.|dit\.|base_model\.model\.|base_model\.)+"
    found = released_rules(tmp_path / "lora" / f"{names[0]}.safetensors", rules)
    model = load_transformer(place / "model.safetensors", branch=branch, dtype=torch.float32)
    state = model.state_dict()
    for name, down in found.items():
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            up = found[f"{layer}.lora_B.weight"]
            state[to_diffusers(f"{layer}.weight")] += up @ down
    assert torch.allclose(answer(model), expected, atol=2e-5)
    shown = released_rules(tmp_path / "lora" / f"{names[1]}.safetensors", r"^diffusion_model\.")
    assert shown.keys() == found.keys()


@pytest.mark.training
def test_the_branch_file_has_the_released_names_and_nothing_else(
    place: Path, tmp_path: Path
) -> None:
    train(place, tmp_path, "branch", side_features="scene,white")
    found = released_rules(tmp_path / "vace" / "step_0000004_vace.safetensors", "^$")
    config = tiny_weights.branch_config()
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        name: tuple(t.shape) for name, t in tiny_weights.branch_tensors(config).items()
    }


@pytest.mark.training
def test_a_whole_model_is_one_file(place: Path, tmp_path: Path) -> None:
    trainer = train(place, tmp_path, "full", dtype="bfloat16")
    path = tmp_path / "model" / "step_0000004_model.safetensors"
    loaded = load_transformer(path, dtype=torch.float32)
    assert torch.equal(answer(loaded), answer(trainer.model))
    with safe_open(str(path), framework="pt") as file:
        own = [name for name in file.keys() if not name.startswith("vace.")]  # noqa: SIM118
    assert set(own) == set(tiny_weights.backbone_tensors())


def test_names_go_there_and_back() -> None:
    size = tiny_weights.Backbone(layers=11)
    names = [*tiny_weights.backbone_shapes(size)]
    names += tiny_weights.branch_tensors(tiny_weights.branch_config(size))
    assert [to_released(to_diffusers(name)) for name in names] == names


def test_masters_are_float32_and_the_rest_is_not(place: Path) -> None:
    """In bfloat16 most steps of 1e-5 would round to nothing."""
    model = load(place, "joint", torch.bfloat16)
    trained = prepare_model(model, replace(SETTINGS, stage="joint", dtype="bfloat16"))
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    frozen = {p.dtype for n, p in model.named_parameters() if n.endswith("base_layer.weight")}
    assert frozen == {torch.bfloat16}


def test_training_computes_as_generation_does(place: Path) -> None:
    """Masters under autocast err as little as a model that is all bfloat16."""
    clips = [tiny_training.clip(14)]

    def predict(dtype: torch.dtype, masters: bool) -> torch.Tensor:
        model = load(place, "joint", dtype)
        settings = replace(SETTINGS, dtype=str(dtype).removeprefix("torch."))
        if masters:
            prepare_model(model, replace(settings, stage="branch"))
        features, empty = model.branch_config.features, torch.zeros(1, tiny_training.TEXT)
        white = torch.zeros(48, 5, *tiny_training.GRID)
        maker = BatchMaker(settings, features, empty, white)
        batch = maker.make(clips, 0, torch.tensor([[0, 0.6, 0.6]])).to(model.device, dtype)
        plain = settings if masters else replace(settings, dtype="float32")
        with torch.no_grad():
            return velocity(model.eval(), batch, plain).float()

    exact = predict(torch.float32, masters=False)
    coarse, trained = (predict(torch.bfloat16, masters) for masters in (False, True))
    errors = [float((found - exact).square().mean().sqrt()) for found in (coarse, trained)]
    assert 0 < errors[1] < 1.3 * errors[0]


def test_the_time_embedding_stays_exact_under_autocast(place: Path) -> None:
    model = load(place, "branch", torch.bfloat16)
    embedder = model.condition_embedder.time_embedder
    inputs = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    exact = embedder(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert embedder(inputs).dtype == torch.bfloat16
    exclude_from_autocast(embedder)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embedder(inputs), exact)
        assert torch.is_autocast_enabled("cpu")


def test_stages_that_do_not_fit(place: Path) -> None:
    for stage in ("joint", "lora"):
        with pytest.raises(ModelMismatchError, match="requires a trained side branch"):
            prepare_model(load(place, "branch"), replace(SETTINGS, stage=stage))
    with pytest.raises(ModelMismatchError, match="begins with a new side branch"):
        prepare_model(load(place, "joint"), replace(SETTINGS, stage="single"))
    eight = MirageTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, ffn_dim=32, num_layers=1, text_dim=16,
        freq_dim=8, side_layers=(0,),
    ).to(torch.float8_e4m3fn)  # fmt: skip
    with pytest.raises(ModelMismatchError, match="Quantised"):
        prepare_model(eight, replace(SETTINGS, stage="lora"))


def test_where_side_blocks_go() -> None:
    assert even_layers(8, 30) == tuple(range(0, 30, 4))
    assert even_layers(15, 30) == tuple(range(0, 30, 2))
    assert even_layers(2, 4) == (0, 2)
    with pytest.raises(ModelMismatchError, match=r"one of 1, 2, 3, 4, 5, 6, 8, 10, 15, 30"):
        even_layers(7, 30)


@pytest.mark.training
def test_a_run_begins_again_with_its_lora(place: Path, tmp_path: Path) -> None:
    """From the finished files alone a new run is where the last one ended."""
    trainer = train(place, tmp_path / "one", "joint")
    names = ("vace/step_0000004_vace", "lora/step_0000004_lora")
    branch, lora = (tmp_path / "one" / f"{name}.safetensors" for name in names)
    model = load_transformer(place / "model.safetensors", branch=branch, dtype=torch.float32)
    settings = replace(SETTINGS, stage="joint")
    prepare_model(model, settings, read_lora(lora))
    assert torch.equal(answer(model), answer(trainer.model))
    plain = load_transformer(place / "model.safetensors", branch=branch, dtype=torch.float32)
    prepare_model(plain, settings)
    assert not torch.equal(answer(plain), answer(trainer.model))


def test_loras_that_a_run_does_not_train(place: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "one", "joint")
    lora = read_lora(tmp_path / "one" / "lora" / "step_0000004_lora_comfyui.safetensors")
    for change in ({"lora_rank": 8}, {"lora_layers": "released"}, {"stage": "branch"}):
        settings = replace(SETTINGS, **{"stage": "joint"} | change)
        with pytest.raises(ModelMismatchError, match="not one that this run trains"):
            prepare_model(load(place, "joint"), settings, lora)
