"""Files that nobody vouches for: a typed error, at once and in little memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import tiny_training
import tiny_weights
from mirage_core.cache.io import load_cache
from mirage_core.checkpoints.branch_file import load_branch
from mirage_core.checkpoints.lora_format import read_lora
from mirage_core.checkpoints.transformer_format import open_transformer, plain_name, read_format
from mirage_core.errors import (
    CacheFormatError,
    GeometryError,
    MirageError,
    ModelMismatchError,
    ResumeError,
    ValueRangeError,
)
from mirage_core.models.gguf_file import read_gguf_header
from mirage_core.rollout import video
from mirage_core.rollout.video import join_clips, read_frames, write_clip
from mirage_core.training.checkpoint import STATE, load_state
from mirage_core.training.data.dataset import ClipDataset
from mirage_core.training.data.footage_files import Footage
from mirage_core.training.data.manifest import read_empty_text, read_manifest
from mirage_core.training.data.shards import map_shard, read_index
from mirage_core.training.optimiser import Ema, Optimiser
from mirage_core.training.settings import TrainingSettings
from mirage_core.trajectories.exchange.load3d import camera_of_frame, keyframes_of_cameras
from shared_material import SHARED

pytest.importorskip("resource", reason="this system does not bound a process's memory")

from reliability import fuzz  # noqa: E402
from reliability.formats import FORMATS  # noqa: E402
from reliability.kinds import move, pictures  # noqa: E402
from reliability.worker import GIB, UNTYPED, Reader  # noqa: E402

INPUTS = 25
"""Damaged files of each format; `tools/reliability/fuzz.py` reads thousands."""

HOSTILE = SHARED / "data" / "hostile"
LONG = "9" * 5000
"""Digits beyond what Python turns into a number."""

HALF = "\ud800"
"""Half of a character, as JSON can hold it."""


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_refused_with_typed_errors(name: str, tmp_path: Path) -> None:
    reader = Reader(name, tmp_path / "files")
    reader.warm_up()
    results = [reader.read(number) for number in range(INPUTS)]
    assert [result for result in results if result.outcome == UNTYPED] == []
    assert max(result.grown for result in results) < GIB
    assert {result.outcome for result in results} >= {"read", "refused"}


@pytest.mark.skipif(not HOSTILE.is_dir(), reason="needs shared/data/hostile")
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("clip_018c8e.mp4", lambda path: sum(1 for _ in read_frames(path))),
        ("clip_7b3fda.mp4", lambda path: sum(1 for _ in read_frames(path))),
        ("clip_ef60cb.mp4", lambda path: sum(1 for _ in read_frames(path))),
        ("branch_bd9bb9.safetensors", lambda path: load_branch(path, 3)),
        ("lora_20d402.safetensors", read_lora),
        ("memory_637554.safetensors", load_cache),
        ("shard_9331ae.json", read_index),
    ],
)
def test_files_that_failed_once(name: str, read: Callable[[Path], object]) -> None:
    try:
        read(HOSTILE / name)
    except MirageError as error:
        assert str(error)


def test_messages_hold_no_halves_of_characters() -> None:
    error = CacheFormatError(f"The file {HALF} is damaged", got=HALF, fix=f"Rename {HALF}")
    assert str(error).encode()
    assert "\\ud800" in str(error)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "a.mp4", pictures(3), 24)
    return tmp_path / "a.mp4"


def patch(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new))


def test_titles_of_a_video_may_be_in_any_encoding(clip: Path) -> None:
    before = torch.stack(list(read_frames(clip)))
    patch(clip, b"VideoHandler", b"\xb2\xff" * 6)
    assert torch.equal(torch.stack(list(read_frames(clip))), before)
    assert Footage(clip).measure() == (3, 64, 64)


def test_a_video_of_an_unknown_codec_is_refused(clip: Path) -> None:
    patch(clip, b"avc1", b"zzzz")
    for use in (
        lambda: next(read_frames(clip)),
        Footage(clip).measure,
        lambda: join_clips(clip.with_name("b.mp4"), [clip], 24),
    ):
        with pytest.raises(CacheFormatError, match=r"a\.mp4"):
            use()


def test_pictures_larger_than_the_limit_are_not_decoded(clip: Path, monkeypatch) -> None:
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 63)
    with pytest.raises(CacheFormatError, match="cannot be read"):
        list(read_frames(clip))


def lora_file(path: Path, meta: dict[str, str] | None = None, **changes: Any) -> Path:
    tensors = {
        "blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 8),
        "blocks.0.attn1.to_q.lora_B.weight": torch.ones(8, 2),
        "blocks.0.attn1.to_q.alpha": torch.tensor(4.0),
    }
    tensors |= {f"blocks.0.attn1.to_q.{name}": tensor for name, tensor in changes.items()}
    save_file(tensors, str(path), metadata=meta)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": torch.ones(2)},
        {"alpha": torch.ones(0)},
        {"alpha": torch.tensor(math.inf)},
        {"alpha": torch.tensor(1j)},
        {"lora_A.weight": torch.ones(2, 8, dtype=torch.int64)},
        {"lora_A.weight": torch.ones(0, 8), "lora_B.weight": torch.ones(8, 0)},
    ],
)
def test_tensors_that_no_lora_holds(changes: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(ModelMismatchError):
        read_lora(lora_file(tmp_path / "a.safetensors", **changes))


@pytest.mark.parametrize(
    "config",
    [
        "[1]", "7", "null", "{", "[" * 5000, '{"alpha_pattern": [1]}', '{"lora_alpha": "4"}',
        '{"lora_alpha": true}', '{"lora_alpha": NaN}', '{"lora_alpha": 1' + "0" * 400 + "}",
    ],
)  # fmt: skip
def test_configurations_that_no_lora_has(config: str, tmp_path: Path) -> None:
    path = lora_file(tmp_path / "a.safetensors", {"lora_adapter_metadata": config})
    with pytest.raises(ModelMismatchError):
        read_lora(path)


def test_alphas_may_be_whole_numbers_with_an_axis(tmp_path: Path) -> None:
    """Some trainers write them so."""
    path = lora_file(tmp_path / "a.safetensors", alpha=torch.tensor([16]))
    assert read_lora(path).scale("blocks.0.attn1.to_q") == 8


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("vace_patch_embedding.weight", torch.ones(5)),
        ("vace_patch_embedding.weight", torch.ones(())),
        ("vace_blocks.0.ffn.0.weight", torch.ones(())),
        (f"vace_blocks.{LONG}.ffn.0.weight", torch.ones(2, 2)),
    ],
)
def test_tensors_that_no_branch_holds(name: str, tensor: torch.Tensor, tmp_path: Path) -> None:
    config = tiny_weights.branch_config()
    tensors = tiny_weights.branch_tensors(config) | {name: tensor}
    path = tiny_weights.write(tmp_path / "a.safetensors", tensors, config.metadata())
    with pytest.raises(ModelMismatchError):
        load_branch(path, 3)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [(f"blocks.{LONG}.ffn.0.weight", torch.ones(2, 2)), ("x", torch.ones([1] * 70))],
)
def test_what_does_not_belong_to_a_branch_is_left_alone(
    name: str, tensor: torch.Tensor, tmp_path: Path
) -> None:
    config = tiny_weights.branch_config()
    tensors = tiny_weights.branch_tensors(config) | {name: tensor}
    path = tiny_weights.write(tmp_path / "a.safetensors", tensors, config.metadata())
    assert name not in load_branch(path, 3).tensors


@pytest.mark.parametrize("key", ["mirage.heads", "mirage.layers"])
def test_numbers_of_a_branch_beyond_all_measure(key: str, tmp_path: Path) -> None:
    config = tiny_weights.branch_config()
    meta = config.metadata() | {key: LONG}
    path = tiny_weights.write(tmp_path / "a.safetensors", tiny_weights.branch_tensors(config), meta)
    with pytest.raises(ModelMismatchError):
        load_branch(path, 3)


def model_folder(folder: Path, index: str | None = None, config: str | None = None) -> Path:
    tensors = tiny_weights.backbone_tensors()
    tiny_weights.write_folder(folder, tensors, {"num_attention_heads": 2}, 2)
    if index is not None:
        next(folder.glob("*.index.json")).write_text(index)
    if config is not None:
        (folder / "config.json").write_text(config)
    return folder


@pytest.mark.parametrize(
    "places",
    ["[1]", '{"a": 1, "b": "x"}', '{"a": ["x"]}', '{"a": "\\ud800"}', '{"a": "\\u0000"}',
     '{"a": "' + "y" * 5000 + '"}', "[" * 5000],
)  # fmt: skip
def test_indices_of_weights_that_are_none(places: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", index=f'{{"weight_map": {places}}}')
    with pytest.raises(ModelMismatchError):
        open_transformer(folder)


@pytest.mark.parametrize("layers", ["7", '"x"', "[[]]", "{}", "[null]", f"[{'9' * 4000}]"])
def test_configurations_that_no_model_has(layers: str, tmp_path: Path) -> None:
    config = f'{{"num_attention_heads": 2, "side_layers": {layers}}}'
    files = open_transformer(model_folder(tmp_path / "model", config=config))
    assert read_format(files.shapes, files.metadata, files.name).branch is None


def test_heads_of_a_model_beyond_all_measure(tmp_path: Path) -> None:
    config = f'{{"num_attention_heads": {"9" * 4000}}}'
    files = open_transformer(model_folder(tmp_path / "model", config=config))
    with pytest.raises(ModelMismatchError, match="attention heads"):
        read_format(files.shapes, files.metadata, files.name)


@pytest.mark.parametrize(
    "extra",
    [
        {"x.weight": torch.ones(()), "x.scale_weight": torch.ones(3)},
        {"x.comfy_quant": torch.ones(3)},
        {"x.comfy_quant": torch.tensor(list(b"[" * 3000), dtype=torch.uint8)},
        {"x.comfy_quant": torch.zeros(1 << 20, dtype=torch.uint8)},
    ],
)
def test_formats_of_weights_that_are_none(extra: dict[str, torch.Tensor], tmp_path: Path) -> None:
    tensors = tiny_weights.backbone_tensors() | extra
    with pytest.raises(ModelMismatchError, match="unsupported"):
        open_transformer(tiny_weights.write(tmp_path / "a.safetensors", tensors))


def test_an_entry_of_a_gguf_file_that_is_no_text(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (path,) = FORMATS["gguf"].make(tmp_path)
    key = b"mirage.heads" + (8).to_bytes(4, "little") + (1).to_bytes(8, "little")
    patch(path, key + b"2", key + b"\x80")
    with pytest.raises(ModelMismatchError, match="as GGUF"):
        read_gguf_header(path, plain_name)


def many_axes(path: Path, name: str) -> None:
    """Give a tensor of a file more axes than torch counts."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[name]["shape"] = [1] * 70 + header[name]["shape"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def test_a_tensor_of_a_memory_with_too_many_axes(tmp_path: Path) -> None:
    path = FORMATS["memory"].make(tmp_path)[0]
    many_axes(path, "block.0.points")
    with pytest.raises(CacheFormatError, match="73 axes|72 axes"):
        load_cache(path)


def test_a_tensor_of_a_shard_with_too_many_axes(tmp_path: Path) -> None:
    index, shard = FORMATS["shard"].make(tmp_path)
    many_axes(shard, "target")
    document = json.loads(index.read_text()) | {"bytes": shard.stat().st_size}
    index.write_text(json.dumps(document))
    with pytest.raises(CacheFormatError, match="71 axes"):
        map_shard(read_index(index))


def test_a_caption_with_half_a_character(tmp_path: Path) -> None:
    index, _ = FORMATS["shard"].make(tmp_path)
    document = json.loads(index.read_text())
    document["clips"][0][1] = HALF
    index.write_text(json.dumps(document))
    with pytest.raises(CacheFormatError) as caught:
        ClipDataset(tmp_path)
    assert str(caught.value).encode()


@pytest.mark.parametrize("size", [1 << 17, 1 << 40, 1 << 70, -1, True, 2.0])
def test_sizes_that_no_clip_has(size: float, tmp_path: Path) -> None:
    """With a size of 0 beside it, a huge one needs no values."""
    index, _ = FORMATS["shard"].make(tmp_path)
    document = json.loads(index.read_text())
    document["clips"][0][5:7] = [size, 0]
    index.write_text(json.dumps(document))
    with pytest.raises(CacheFormatError, match="sizes of the clip"):
        read_index(index)


@pytest.mark.parametrize(
    "text", [{}, {"text": torch.ones(3)}, {"text": torch.ones(2, 3, dtype=torch.int64)}]
)
def test_prompts_that_are_none(text: dict[str, torch.Tensor], tmp_path: Path) -> None:
    _, path = FORMATS["data"].make(tmp_path)
    header = {"format": "mirage-text", "version": 1}
    save_file(text, str(path), metadata={"mirage": json.dumps(header)})
    with pytest.raises(CacheFormatError):
        read_empty_text(tmp_path)


@pytest.mark.parametrize("change", [{"width": "64"}, {"height": -1}, {"codec": 5}, {"text": None}])
def test_data_sets_of_no_size_or_codec(change: dict[str, Any], tmp_path: Path) -> None:
    path, _ = FORMATS["data"].make(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CacheFormatError):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        '"step": true', '"step": -1', f'"step": {"9" * 400}', '"step": 1e999',
        '"position": {"epoch": Infinity, "batch": 0, "clips": 4, "shards": []}',
        '"position": {"epoch": 0, "batch": 0, "clips": 4, "shards": "abc"}',
        '"position": {"epoch": 0, "batch": 0, "clips": 4, "shards": [1]}',
        '"position": {"epoch": "0", "batch": 0, "clips": 4, "shards": []}',
    ],
)  # fmt: skip
def test_states_that_no_training_leaves(change: str, tmp_path: Path) -> None:
    path = next(file for file in FORMATS["state"].make(tmp_path) if file.name == STATE)
    document = json.loads(path.read_text())
    document.pop(change.split('"')[1])
    path.write_text(f"{{{change}, {json.dumps(document)[1:]}")
    with pytest.raises(ResumeError, match="No state"):
        load_state(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"exp_avg.a": torch.ones(2, 3)},
        {"exp_avg.a": torch.ones(2, 3), "exp_avg_sq.a": torch.ones(3, 2)},
        {"exp_avg.z": torch.ones(2), "exp_avg_sq.z": torch.ones(2)},
    ],
)
def test_moments_that_do_not_fit_the_parameters(change: dict[str, torch.Tensor]) -> None:
    parameters = {"a": torch.nn.Parameter(torch.ones(2, 3))}
    optimiser = Optimiser(parameters, TrainingSettings(stage="single", **tiny_training.SETTINGS))
    with pytest.raises(ModelMismatchError, match="moments"):
        optimiser.load(change, 3)


@pytest.mark.parametrize("average", [{}, {"a": torch.ones(3, 2)}])
def test_averages_that_do_not_fit_the_parameters(average: dict[str, torch.Tensor]) -> None:
    ema = Ema({"a": torch.nn.Parameter(torch.ones(2, 3))}, 0.9)
    with pytest.raises(ModelMismatchError, match="average"):
        ema.load(average)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"position": {"x": 1e308, "y": 1e308, "z": 1e308}}, ValueRangeError),
        ({"quaternion": None, "target": {"x": 1e300, "y": 0, "z": 0}}, ValueRangeError),
        ({"quaternion": None, "target": {"x": 1e-200, "y": 0, "z": 0}}, GeometryError),
        ({"quaternion": {"x": 1e-300, "y": 0, "z": 0, "w": 0}}, GeometryError),
        ({"quaternion": 5}, CacheFormatError),
        ({"position": {"x": "1"}}, CacheFormatError),
    ],
)
def test_cameras_beyond_all_measure(change: dict[str, Any], error: type[MirageError]) -> None:
    camera = camera_of_frame(move(1), 0) | change
    with pytest.raises(error):
        keyframes_of_cameras([camera], 5, width=64, height=64)


def test_a_rotation_of_any_length_is_one() -> None:
    camera = camera_of_frame(move(1), 0)
    camera["quaternion"] = {name: 1e300 * value for name, value in camera["quaternion"].items()}
    (key,) = keyframes_of_cameras([camera], 5, width=64, height=64)
    (plain,) = keyframes_of_cameras([camera_of_frame(move(1), 0)], 5, width=64, height=64)
    assert key.quaternion == pytest.approx(plain.quaternion)


@pytest.mark.parametrize("cameras", [[5], ["x"], [[{}]], [None]])
def test_literals_in_the_place_of_cameras(cameras: list[Any]) -> None:
    with pytest.raises(CacheFormatError, match="Camera 1"):
        keyframes_of_cameras(cameras, 5, width=64, height=64)


@pytest.mark.processes
def test_the_program_reads_in_processes_of_their_own(tmp_path: Path, capsys) -> None:
    assert fuzz.main(["--formats", "settings", "--count", "30", "--out", str(tmp_path)]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[:2] == ["settings", "30"]
    assert row[3:7] == ["0"] * 4
    assert not list(tmp_path.iterdir())
