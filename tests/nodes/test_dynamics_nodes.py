"""What moves, by name: ComfyUI's own SAM3 prompt parser, and the lazy mask."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch


def module(pack: ModuleType, name: str) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.{name}")


def test_comfyui_reads_the_prompt_as_it_is_meant(pack: ModuleType) -> None:
    from comfy.text_encoders import sam3_clip

    parse = next(
        value for name, value in vars(sam3_clip).items() if "parse" in name and callable(value)
    )
    nodes = module(pack, "nodes.dynamics")
    (prompt,) = nodes.MirageEntities.execute("1. A red car\n2. two (small) dogs", 8, 3, "").result
    assert parse(prompt) == [("red car", 3), ("small dogs", 3)]


def test_what_is_always_looked_for_comes_first(pack: ModuleType) -> None:
    nodes = module(pack, "nodes.dynamics")
    (prompt,) = nodes.MirageEntities.execute("dog, cat", 2, 1, "sea").result
    assert prompt == "sea: 1, dog: 1"
    (prompt,) = nodes.MirageEntities.execute("none", 2, 1, "").result
    assert prompt == ""


def test_the_segmentation_runs_only_when_something_may_move(pack: ModuleType) -> None:
    nodes = module(pack, "nodes.dynamics")
    errors = module(pack, "mirage_core.errors")
    image = torch.zeros(5, 8, 12, 3)
    lazy = nodes.MirageDynamicMask.check_lazy_status
    assert lazy("", image) == []
    assert lazy("dog: 1", image) == ["mask"]
    assert lazy("dog: 1", image, torch.ones(5, 8, 12)) == []
    (empty,) = nodes.MirageDynamicMask.execute("", image).result
    assert empty.shape == (5, 8, 12)
    assert not bool(empty.any())
    (full,) = nodes.MirageDynamicMask.execute("dog: 1", image, torch.ones(5, 8, 12)).result
    assert bool(full.all())
    with pytest.raises(errors.ShapeError):
        nodes.MirageDynamicMask.execute("dog: 1", image, torch.ones(4, 8, 12))


def test_the_estimators_of_the_node_are_those_of_the_library(pack: ModuleType) -> None:
    from mirage_core.models.geometry_estimators import ESTIMATORS

    assert module(pack, "nodes.estimator").ESTIMATORS == ESTIMATORS


def test_an_estimator_from_a_folder(
    pack: ModuleType, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tiny Depth Anything model of transformers, through ComfyUI's memory management."""
    import folder_paths
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
        DPTImageProcessor,
    )

    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=28,
        out_features=["stage1", "stage2"], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, patch_size=14,
        reassemble_factors=[1, 0.5], neck_hidden_sizes=[8, 8], fusion_hidden_size=8,
        head_hidden_size=4, depth_estimation_type="metric", max_depth=20,
    )  # fmt: skip
    folder = tmp_path / "tiny"
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    DPTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda _: [str(tmp_path)])
    nodes = module(pack, "nodes.estimator")
    estimator = nodes.MirageLoadEstimator.execute("transformers", "tiny", 70.0).result[0]
    geometry, report = nodes.MirageEstimateGeometry.execute(
        estimator, torch.rand(2, 32, 64, 3)
    ).result
    assert len(geometry) == 2
    assert "metric" in report
    assert "field of view 70 degrees" in report
    errors = module(pack, "mirage_core.errors")
    with pytest.raises(errors.ModelMismatchError, match="does not exist"):
        nodes.MirageLoadEstimator.execute("transformers", "gone", 70.0)
