"""Measures of pictures against plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import correlate1d
from torch import Tensor

from mirage_core.errors import CacheFormatError
from mirage_core.evaluation.quality import LAYERS, NETWORK, WEIGHTS, Quality, load_lpips


def pictures(count: int = 2, size: tuple[int, int] = (40, 48)) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    truth = torch.rand(count, *size, 3, generator=rng)
    made = (truth + 0.2 * torch.randn(truth.shape, generator=rng)).clamp(0, 1)
    return made, truth


def plain_ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Of one colour (H, W) by its definition, where the whole window fits."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(values: np.ndarray) -> np.ndarray:
        blurred = correlate1d(correlate1d(values, window, axis=0), window, axis=1)
        return blurred[5:-5, 5:-5]

    a, b = mean(one), mean(other)
    va, vb, ab = mean(one**2) - a**2, mean(other**2) - b**2, mean(one * other) - a * b
    c1, c2 = 0.01**2, 0.03**2
    return float(
        (((2 * a * b + c1) * (2 * ab + c2)) / ((a**2 + b**2 + c1) * (va + vb + c2))).mean()
    )


def test_psnr_and_ssim_against_their_definitions() -> None:
    made, truth = pictures()
    found = Quality(Path("nowhere"))(made, truth)
    gaps = [float(((a - b) ** 2).mean()) for a, b in zip(made, truth, strict=True)]
    each = [-10 * math.log10(gap) for gap in gaps]
    assert found["psnr"] == pytest.approx(sum(each) / 2, abs=1e-4)
    values = [
        plain_ssim(made[n, ..., c].double().numpy(), truth[n, ..., c].double().numpy())
        for n in range(2)
        for c in range(3)
    ]
    assert found["ssim"] == pytest.approx(sum(values) / 6, abs=1e-5)
    assert found["lpips"] is None


def test_large_pictures_are_not_made_smaller_for_ssim() -> None:
    made, truth = pictures(1, (400, 416))
    values = [plain_ssim(*(x[0, ..., c].double().numpy() for x in (made, truth))) for c in range(3)]
    assert Quality()(made, truth)["ssim"] == pytest.approx(sum(values) / 3, abs=1e-5)


def test_a_mask_counts_for_psnr_alone_and_empty_frames_do_not_count() -> None:
    made, truth = pictures()
    mask = torch.zeros(2, 40, 48, dtype=torch.bool)
    mask[0, :20] = True
    found, whole = Quality()(made, truth, mask), Quality()(made, truth)
    expected = -10 * math.log10(float(((made[0, :20] - truth[0, :20]) ** 2).mean()))
    assert found["psnr"] == pytest.approx(expected, abs=1e-4)
    assert found["ssim"] == whole["ssim"]
    assert Quality()(made, truth, torch.zeros_like(mask))["psnr"] is None


def test_what_is_not_at_hand_is_said(tmp_path, monkeypatch) -> None:
    columns = {column.name: column for column in Quality(tmp_path).columns("_c", " C")}
    assert columns["psnr_c"].missing == columns["ssim_c"].missing == ""
    assert NETWORK in columns["lpips_c"].missing
    assert "--download" in columns["lpips_c"].missing
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert Quality(tmp_path)(*pictures())["ssim"] is None
    assert "piq" in Quality(tmp_path).no_ssim


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> Path:
    """Random weights under the names of the real ones; the narrow end of the network is enough."""
    vgg16 = pytest.importorskip("torchvision.models").vgg16
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    network = vgg16(weights=None)
    state = {n: v.half() for n, v in network.state_dict().items() if n.startswith("features.")}
    torch.save(state, folder / NETWORK)
    torch.save([torch.rand(1, count, 1, 1) for count in LAYERS.values()], folder / WEIGHTS)
    return folder


def test_lpips_against_a_plain_loop(networks) -> None:
    made, truth = pictures()
    state = torch.load(networks / NETWORK, weights_only=True)
    factors = torch.load(networks / WEIGHTS, weights_only=True)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    blocks = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))

    def features(picture: Tensor) -> list[Tensor]:
        x, found = ((picture - mean) / deviation).permute(2, 0, 1)[None], []
        for number, block in enumerate(blocks):
            x = F.max_pool2d(x, 2) if number else x
            for layer in block:
                weight, bias = (state[f"features.{layer}.{n}"].float() for n in ("weight", "bias"))
                x = F.conv2d(x, weight, bias, padding=1).relu()
            found.append(x[0])
        return found

    total = 0.0
    for one, other in zip(made, truth, strict=True):
        for a, b, w in zip(features(one), features(other), factors, strict=True):
            a, b = (x / (x.square().sum(0).sqrt() + 1e-10) for x in (a, b))
            for row in range(a.shape[1]):
                for column in range(a.shape[2]):
                    gap = (a[:, row, column] - b[:, row, column]).square()
                    total += float((gap * w.flatten()).sum()) / (a.shape[1] * a.shape[2])
    quality = Quality(networks)
    assert quality.no_lpips == ""
    assert quality(made, truth)["lpips"] == pytest.approx(total / 2, rel=1e-4)


def test_damaged_networks_are_refused(networks, tmp_path) -> None:
    (tmp_path / NETWORK).write_bytes((networks / NETWORK).read_bytes())
    torch.save([torch.rand(1, 64, 1, 1)], tmp_path / WEIGHTS)
    with pytest.raises(CacheFormatError, match="belong together"):
        load_lpips(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"PK\x03\x04")
    with pytest.raises(CacheFormatError, match="cannot be read"):
        load_lpips(tmp_path)
