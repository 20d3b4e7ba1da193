"""How alike pictures are: PSNR, SSIM and LPIPS, as far as their libraries and networks are here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from ..errors import CacheFormatError, ModelMismatchError, StorageError
from ..metrics import psnr
from ..training.data.released.safe_load import read_weights
from .task import Choice, Column, Value

INSTALL: Final = 'piq is not installed (`pip install "mirage[evaluate]"`)'
NETWORK: Final = "vgg16-397923af.pth"
"""VGG16 of torchvision, under the name that it has in torch's cache."""

WEIGHTS: Final = "lpips_weights.pt"
"""What LPIPS weighs the layers of VGG16 with, under the name that piq gives it in torch's cache."""

LAYERS: Final = {"3": 64, "8": 128, "15": 256, "22": 512, "29": 512}
"""Layers of VGG16 that LPIPS looks at, and their channels."""

TOGETHER: Final = 8
"""Frames that a network looks at in one go."""

Distance = Callable[[Tensor, Tensor], Tensor]
"""Of pictures (N, 3, H, W) in 0..1, one number each."""


@dataclass(frozen=True)
class Quality:
    """Measures of pictures against the true ones, frame by frame.

    Attributes:
        networks: Folder with `NETWORK` and `WEIGHTS`; torch's cache when None.
        device: Where LPIPS computes.
    """

    networks: Path | None = None
    device: str = "cpu"

    @property
    def folder(self) -> Path:
        """Where the networks are looked for."""
        return self.networks or Path(torch.hub.get_dir()) / "checkpoints"

    @property
    def no_ssim(self) -> str:
        """Why SSIM is not measured; empty when it is."""
        return "" if importlib.util.find_spec("piq") else INSTALL

    @property
    def no_lpips(self) -> str:
        """Why LPIPS is not measured; empty when it is."""
        missing = [name for name in (NETWORK, WEIGHTS) if not (self.folder / name).is_file()]
        if self.no_ssim or not missing:
            return self.no_ssim
        where = "the folder of --lpips" if self.networks else "torch's cache"
        return f"{where} has no {' and no '.join(missing)}; --download fetches them"

    def columns(self, suffix: str = "", heading: str = "") -> tuple[Column, ...]:
        """PSNR, SSIM and LPIPS, with something added to their names and headings."""
        return (
            Column(f"psnr{suffix}", f"PSNR{heading}, dB"),
            Column(f"ssim{suffix}", f"SSIM{heading}", 4, missing=self.no_ssim),
            Column(f"lpips{suffix}", f"LPIPS{heading}", 4, "lower", missing=self.no_lpips),
        )

    @cached_property
    def _lpips(self) -> Distance | None:
        return None if self.no_lpips else load_lpips(self.folder, self.device)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_lpips"}

    def prepare(self) -> None:
        """Load the networks.

        Raises:
            CacheFormatError: They are damaged.
        """
        _ = self._lpips

    def settings(self) -> dict[str, bool]:
        """What results depend on."""
        return {"ssim": not self.no_ssim, "lpips": not self.no_lpips}

    def __call__(
        self, made: Tensor, truth: Tensor, mask: Tensor | None = None, suffix: str = ""
    ) -> dict[str, Value]:
        """Compare frames; each number is the mean over the frames of that of a frame.

        Args:
            made: (F, H, W, 3) in 0..1.
            truth: (F, H, W, 3) in 0..1.
            mask: (F, H, W) bool; the pixels that count for PSNR. SSIM and LPIPS look at whole
                pictures. Frames without any do not count for PSNR.
            suffix: Added to the names.

        Returns:
            By name; None for what is not measured.
        """
        made, truth = made.float().cpu().clamp(0, 1), truth.float().cpu().clamp(0, 1)
        kept = range(len(made)) if mask is None else mask.flatten(1).any(1).nonzero()[:, 0].tolist()
        each = [psnr(made[n], truth[n], None if mask is None else mask[n].cpu()) for n in kept]
        return {
            f"psnr{suffix}": sum(each) / len(each) if each else None,
            f"ssim{suffix}": None if self.no_ssim else _mean(_ssim, made, truth),
            f"lpips{suffix}": None if self._lpips is None else _mean(self._lpips, made, truth),
        }


def _mean(distance: Distance, made: Tensor, truth: Tensor) -> float:
    parts = [
        distance(*(x[n : n + TOGETHER].movedim(-1, 1).contiguous() for x in (made, truth)))
        for n in range(0, len(made), TOGETHER)
    ]
    return float(torch.cat(parts).double().mean())


def _ssim(made: Tensor, truth: Tensor) -> Tensor:
    import piq

    # Pictures are not made smaller first, so that the numbers are those of other papers.
    found: Tensor = piq.ssim(made, truth, downsample=False, reduction="none")
    return found


def load_lpips(folder: Path, device: str = "cpu") -> Distance:
    """LPIPS on VGG16, from weights on this machine.

    Args:
        folder: With `NETWORK` and `WEIGHTS`.
        device: Where it computes.

    Raises:
        CacheFormatError: A file is missing or damaged.
        ModelMismatchError: piq or torchvision is not installed.
    """
    try:
        from piq.perceptual import ContentLoss
        from torchvision.models import vgg16
    except ImportError as error:
        raise ModelMismatchError(
            "LPIPS needs piq", got=str(error), fix='Run `pip install "mirage[evaluate]"`'
        ) from error
    network: Any = vgg16(weights=None).features
    state = _read(folder / NETWORK)
    own = {name.removeprefix("features."): value for name, value in state.items()}
    weights = list(_read(folder / WEIGHTS).values())
    try:
        network.load_state_dict({name: own[name] for name in network.state_dict()})
        # ``zip`` would drop what is too much, and a factor of another layer would go unnoticed.
        factors = [w.reshape(1, n, 1, 1) for w, n in zip(weights, LAYERS.values(), strict=True)]
    except (KeyError, RuntimeError, ValueError) as error:
        raise CacheFormatError(
            "The networks of LPIPS do not belong together",
            got=str(error)[:300],
            expected=f"{NETWORK} of torchvision and {WEIGHTS} of piq",
            fix="Fetch both again",
        ) from error
    loss: Any = ContentLoss(
        feature_extractor=network.to(device).eval(), layers=list(LAYERS), weights=factors,
        normalize_features=True, reduction="none",
    )  # fmt: skip

    def distance(made: Tensor, truth: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = loss(made.to(device), truth.to(device))
        return found.cpu()

    return distance


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return read_weights(path.read_bytes())
    except OSError as error:
        raise CacheFormatError(
            f"{path.name} cannot be read", got=error.strerror, fix="Check the folder of --lpips"
        ) from error


def download_lpips(folder: Path) -> None:
    """Fetch what is missing of the networks of LPIPS.

    Args:
        folder: Where to.

    Raises:
        ModelMismatchError: piq is not installed.
        StorageError: The network or the disk refuses.
    """
    try:
        from piq import LPIPS
        from torchvision.models import VGG16_Weights
    except ImportError as error:
        raise ModelMismatchError("LPIPS needs piq", got=str(error), fix=INSTALL) from error
    for name, address in (
        (NETWORK, VGG16_Weights.IMAGENET1K_V1.url),
        (WEIGHTS, LPIPS._weights_url),
    ):
        if (folder / name).is_file():
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(folder / name), progress=False)
        except (OSError, RuntimeError) as error:
            raise StorageError(
                f"{name} could not be fetched",
                got=str(error)[:300],
                expected=f"an answer from {address}",
                fix=f"Put the file into {folder} by other means",
            ) from error


PROTOCOL: Final = (
    Choice(
        "PSNR",
        "10 log10(1 / MSE) over the pixels and colours of a frame, in 0..1, at most 100 dB; mean "
        "over the frames, then over the items",
        "usual definition; the order of the means is our choice, the paper's is not known to us",
    ),
    Choice(
        "SSIM",
        "piq, Gaussian window of 11 pixels and 1.5, K 0.01 and 0.03, each colour by itself, "
        "pictures not made smaller first",
        "Wang et al. 2004; which implementation the paper took is not known to us",
    ),
    Choice(
        "LPIPS",
        "piq, VGG16, pictures as they are, normalised as for ImageNet",
        "Zhang et al. 2018; which network the paper took is not known to us",
    ),
)
