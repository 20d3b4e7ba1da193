"""ComfyUI's own estimators, its real classes with random weights, into the pack's nodes.

Depth Anything 3 and MoGe 2 are read by ComfyUI's loaders from files of the real format. SAM3.1
has one size only in its loader, so its network is made small by hand; its nodes are ComfyUI's.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tiny_moge import write_moge
from tiny_weights import noise

pytestmark = pytest.mark.estimators

HEIGHT, WIDTH = 96, 160
WIDTH_OF_VITS = 384


def module(pack: ModuleType, name: str) -> ModuleType:
    return importlib.import_module(f"{pack.__name__}.{name}")


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def estimators(pack: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which ComfyUI's loaders look for geometry estimators."""
    import folder_paths

    folder = tmp_path_factory.mktemp("geometry_estimation")
    paths, kinds = folder_paths.folder_names_and_paths["geometry_estimation"]
    folder_paths.folder_names_and_paths["geometry_estimation"] = ([str(folder)], kinds)
    yield folder
    folder_paths.folder_names_and_paths["geometry_estimation"] = (paths, kinds)


def write_da3(path: Path, kind: str) -> None:
    """Depth Anything 3 with the small backbone; ``mono`` finds sky, ``multiview`` cameras."""
    import comfy.ops
    from comfy.ldm.depth_anything_3.model import DepthAnything3Net

    views = kind == "multiview"
    start = 4 if views else -1
    network = DepthAnything3Net(
        backbone_name="vits", out_layers=(5, 7, 9, 11), alt_start=start, qknorm_start=start,
        rope_start=start, cat_token=views, head_type="dualdpt" if views else "dpt",
        head_dim_in=WIDTH_OF_VITS * (1 + views), head_output_dim=1 + views, head_features=8,
        head_out_channels=(8, 8, 8, 8), head_use_sky_head=not views, has_cam_dec=views,
        dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    tensors = noise(shapes, 3, 0.05)
    for name in tensors:
        if "norm" in name and name.endswith("weight"):
            tensors[name] += 1
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)


def run_da3(
    folder: Path, kind: str, images: torch.Tensor, pose_method: str = "cam_dec"
) -> dict[str, Any]:
    from comfy_extras.nodes_depth_anything_3 import DA3Inference, LoadDA3Model

    name = f"{kind}.safetensors"
    if not (folder / name).exists():
        write_da3(folder / name, kind)
    model = LoadDA3Model.execute(name, "fp32").result[0]
    mode = {"mode": kind, "ref_view_strategy": "first", "pose_method": pose_method}
    return DA3Inference.execute(model, images, 140, "upper_bound_resize", mode).result[0]


def test_depth_anything_of_single_pictures(pack: ModuleType, estimators: Path) -> None:
    da3 = run_da3(estimators, "mono", torch.rand(2, HEIGHT, WIDTH, 3))
    assert {"depth", "sky", "mode"} <= set(da3)
    # Random weights call all of it sky or nothing; a threshold between keeps some.
    middle = float(da3["sky"].median().clamp(0.01, 1))
    geometry, report = module(pack, "nodes.geometry").MirageGeometryDA3.execute(
        da3, 60.0, True, middle, 0.0
    ).result
    assert geometry.size == (HEIGHT, WIDTH) and len(geometry) == 2
    assert geometry.exclude is not None and geometry.exclude.shape == geometry.depth.shape
    assert torch.equal(geometry.exclude, (da3["sky"] >= middle) | ~(da3["depth"] > 0))
    assert "field of view 60 degrees" in report
    # The same sky as a MASK, for depth of another source: through Render Depth Anything 3.
    from comfy_extras.nodes_depth_anything_3 import DA3Render

    drawn = DA3Render.execute(da3, {"output": "sky_mask", "colored": False}).result[0]
    torch.testing.assert_close(drawn[..., 0], da3["sky"].clamp(0, 1), atol=1e-5, rtol=0)


def test_depth_anything_of_several_views(pack: ModuleType, estimators: Path) -> None:
    da3 = run_da3(estimators, "multiview", torch.rand(3, HEIGHT, WIDTH, 3))
    assert da3["extrinsics"].shape == (1, 3, 3, 4)
    geometry, report = module(pack, "nodes.geometry").MirageGeometryDA3.execute(
        da3, 60.0, False, 0.5, 0.0
    ).result
    assert geometry.world_to_camera.shape == (3, 4, 4)
    centre = geometry.intrinsics[:, :2, 2]
    expected = torch.tensor([WIDTH / 2, HEIGHT / 2], dtype=torch.float64).expand(3, 2)
    torch.testing.assert_close(centre, expected, atol=1.0, rtol=0)
    # ComfyUI states focal lengths for the network's input, not for the picture.
    network = da3["intrinsics"][0, :, 0, 0] / (2 * da3["intrinsics"][0, :, 0, 2])
    torch.testing.assert_close(
        geometry.intrinsics[:, 0, 0] / WIDTH, network.double(), atol=1e-6, rtol=1e-6
    )
    assert "with camera poses" in report


def test_depth_anything_of_several_views_by_rays(pack: ModuleType, estimators: Path) -> None:
    """Fitted principal points are beside the middle, unlike those of the camera decoder."""
    da3 = run_da3(estimators, "multiview", torch.rand(2, HEIGHT, WIDTH, 3), "ray_pose")
    middle = 2 * da3["intrinsics"][0, :, :2, 2]
    assert not torch.allclose(middle, middle.round(), atol=1e-3)
    geometry, report = module(pack, "nodes.geometry").MirageGeometryDA3.execute(
        da3, 60.0, False, 0.5, 0.0
    ).result
    poses = geometry.world_to_camera
    torch.testing.assert_close(
        poses[:, :3], da3["extrinsics"][0].double(), atol=1e-3, rtol=0
    )
    assert "with camera poses" in report


def test_depth_anything_of_one_picture_as_several_views(
    pack: ModuleType, estimators: Path
) -> None:
    da3 = run_da3(estimators, "multiview", torch.rand(1, HEIGHT, WIDTH, 3))
    geometry, report = module(pack, "nodes.geometry").MirageGeometryDA3.execute(
        da3, 75.0, False, 0.5, 0.0
    ).result
    assert geometry.world_to_camera is None
    assert "1 frame" in report and "field of view 75 degrees" in report


def test_moge(
    pack: ModuleType, estimators: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy.cli_args import args
    from comfy_extras.nodes_moge import LoadMoGeModel, MoGeInference

    # ComfyUI runs MoGe in the text encoder's type, and in 16 bits it cannot on a CPU.
    monkeypatch.setattr(args, "fp32_text_enc", True)
    write_moge(estimators / "moge.safetensors")
    model = LoadMoGeModel.execute("moge.safetensors").result[0]
    result = MoGeInference.execute(
        model, torch.rand(2, HEIGHT, WIDTH, 3), resolution_level=0, fov_x_degrees=50.0,
        batch_size=4, force_projection=True, apply_mask=True,
    ).result[0]  # fmt: skip
    geometry, report = module(pack, "nodes.geometry").MirageGeometryMoGe.execute(
        result
    ).result
    assert len(geometry) == 2 and geometry.size == (HEIGHT, WIDTH)
    assert geometry.metric
    assert "field of view 50 degrees" in report


class Holder(torch.nn.Module):
    """What ComfyUI wraps networks into, as far as SAM3's nodes look at it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.diffusion_model = network

    def get_dtype(self) -> torch.dtype:
        return torch.float32


def small_sam(monkeypatch: pytest.MonkeyPatch) -> Any:
    """SAM3.1's own network with few channels."""
    import comfy.ops
    from comfy.ldm.modules import attention
    from comfy.ldm.sam3 import detector, sam, tracker
    from comfy.model_patcher import ModelPatcher

    # As with --use-pytorch-cross-attention: the default for a CPU takes ten times as long.
    for part in (detector, sam, tracker):
        if hasattr(part, "optimized_attention"):
            monkeypatch.setattr(part, "optimized_attention", attention.attention_pytorch)
    network = detector.SAM3Model(
        image_model="SAM31", embed_dim=64, d_model=32, mem_dim=32, depth=1, global_att_blocks=(),
        num_queries=4, dtype=torch.float32, device="cpu",
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(noise(shapes, 1, 0.05), strict=False)
    place = torch.device("cpu")
    return ModelPatcher(Holder(network.eval()), load_device=place, offload_device=place)


def test_sam3_tracks_into_a_mask(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy_extras.nodes_sam3 import SAM3_TrackToMask, SAM3_VideoTrack

    text = {"cond": torch.randn(1, 32, 64), "attention_mask": torch.ones(1, 32)}
    conditioning = [[text["cond"], {"sam3_multi_cond": [text | {"max_detections": 2}]}]]
    images = torch.rand(1, HEIGHT, WIDTH, 3)
    with torch.inference_mode():
        track = SAM3_VideoTrack.execute(
            images, small_sam(monkeypatch), conditioning=conditioning, detection_threshold=0.0,
            max_objects=2,
        ).result[0]  # fmt: skip
        mask = SAM3_TrackToMask.execute(track).result[0]
    assert mask.shape == (1, HEIGHT, WIDTH)
    kept = module(pack, "nodes.dynamics").MirageDynamicMask.execute("dog: 2", images, mask)
    assert torch.equal(kept.result[0], mask)


class Detected(torch.nn.Module):
    """In place of SAM3's detector: two things, in its layout, in every frame but the black ones."""

    def forward(self, frame: torch.Tensor, **settings: Any) -> dict[str, torch.Tensor]:
        height, width = settings["orig_size"]
        seen = 4.0 if float(frame.mean()) > 0.1 else -4.0
        masks = torch.full((1, 2, 36, 36), -5.0)
        masks[0, 0, :12, :12] = 5
        masks[0, 1, 24:, 24:] = 5
        boxes = torch.tensor([[[0, 0, width / 3, height / 3], [60, 60, width, height]]])
        return {"scores": torch.full((1, 2), seen), "boxes": boxes, "masks": masks}


def test_sam3_detects_into_masks_by_its_layout(pack: ModuleType) -> None:
    from comfy.model_patcher import ModelPatcher
    from comfy_extras.nodes_sam3 import SAM3_Detect

    place = torch.device("cpu")
    model = ModelPatcher(Holder(Detected()), load_device=place, offload_device=place)
    text = {"cond": torch.randn(1, 32, 64), "attention_mask": None, "max_detections": 2}
    conditioning = [[text["cond"], {"sam3_multi_cond": [text]}]]
    images = torch.zeros(9, HEIGHT, WIDTH, 3)
    images[3] = 1
    masks = [
        SAM3_Detect.execute(
            model, images, conditioning, refine_iterations=0, individual_masks=each
        ).result[0]
        for each in (False, True)
    ]
    grid = module(pack, "mirage_core.geometry.masks").mask_to_grid
    size = (HEIGHT // 16, WIDTH // 16)
    cells = grid(masks[0], size, 9, [(HEIGHT, WIDTH)])
    assert cells.any((1, 2)).tolist() == [number == 3 for number in range(9)]
    assert cells[3, 0, 0] and cells[3, -1, -1] and not cells[3, 0, -1]
    # One mask for each thing is not one for each frame.
    errors = module(pack, "mirage_core.errors")
    with pytest.raises(errors.ShapeError, match="2 masks.*Run detection or tracking"):
        grid(masks[1], size, 9, [(HEIGHT, WIDTH)])


def test_sam3_s_track_data_by_its_layout(pack: ModuleType) -> None:
    """Packed as the tracker packs: a mask of the picture's size, any object of any frame."""
    from comfy.ldm.sam3.tracker import pack_masks
    from comfy_extras.nodes_sam3 import SAM3_TrackToMask

    seen = torch.zeros(33, 2, HEIGHT, WIDTH)
    seen[5, 0, 32:48, 32:48] = 1
    seen[7, 1, 0:16, 0:16] = 1
    track = {"packed_masks": pack_masks(seen), "n_frames": 33, "orig_size": (HEIGHT, WIDTH)}
    mask = SAM3_TrackToMask.execute(track).result[0]
    cells = module(pack, "mirage_core.geometry.masks").mask_to_grid(
        mask, (HEIGHT // 16, WIDTH // 16), 9, [(HEIGHT, WIDTH)]
    )
    assert cells.nonzero().tolist() == [[2, 0, 0], [2, 2, 2]]
    nothing = {"packed_masks": None, "n_frames": 33, "orig_size": (HEIGHT, WIDTH)}
    assert not SAM3_TrackToMask.execute(nothing).result[0].any()
