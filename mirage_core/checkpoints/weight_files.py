"""Weights of one model in one or more safetensors files, read tensor by tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..errors import ModelMismatchError
from ..tensor_files import expect_tensors, read_header, read_tensors
from .branch import Shape

INDEX_SUFFIX: Final = ".safetensors.index.json"
PLAIN_NAMES: Final = ("diffusion_pytorch_model.safetensors", "model.safetensors")
"""Weights of a folder that are in one file."""

PICKLED: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_SCALE: Final = re.compile(r"^(.+)\.(?:scale_weight|weight_scale)$")
_INPUT_SCALE: Final = re.compile(r"(^|\.)(scale_input|input_scale|scaled_fp8)$")
_FORMAT: Final = re.compile(r"^(.+)\.comfy_quant$")
_READABLE_FORMATS: Final = ("float8_e4m3fn", "float8_e5m2")
_LONGEST_FORMAT: Final = 4096
"""Most bytes of the tensor that names a weight's format."""
_LONGEST_SHOWN: Final = 60


@dataclass(frozen=True)
class WeightFiles:
    """Where every tensor of a model is.

    Attributes:
        name: How error messages call the whole.
        shapes: Shape of every tensor by its name in the model.
        sources: File, and name in that file, of every tensor.
        scales: The same for the factor of a tensor that was stored in fewer bits.
        metadata: Free text entries of all headers.
    """

    name: str
    shapes: dict[str, Shape]
    sources: dict[str, tuple[Path, str]]
    scales: dict[str, tuple[Path, str]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        """One tensor as it was before it was scaled down, float32 if it was scaled."""
        tensor = _read(*self.sources[name])
        if name not in self.scales:
            return tensor
        scale = _read(*self.scales[name]).float()
        # A scalar, or one factor for each row.
        return tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1))


def open_weights(
    paths: Iterable[Path],
    rename: Callable[[str], str],
    name: str,
    keep: Callable[[str], bool] | None = None,
) -> WeightFiles:
    """Look at the headers of weight files; nothing else is read.

    Scales of ComfyUI's 8-bit files are told apart from the weights that they belong to.

    Args:
        paths: ``.safetensors`` files whose tensors make up one model.
        rename: From a tensor's name in the file to its name in the model.
        name: How error messages call the model.
        keep: Which tensors of the files belong to the model, by their names there; all by
            default.

    Raises:
        ModelMismatchError: A file is missing, damaged or pickled, holds a tensor twice, or
            uses a number format that cannot be read here.
    """
    found = WeightFiles(name, {}, {})
    factors: dict[str, tuple[Path, str]] = {}
    factor_sizes: dict[str, Shape] = {}
    for path in paths:
        header = read_header(path)
        found.metadata.update(header.metadata)
        for own, shape in header.shapes.items():
            if keep is not None and not keep(own):
                continue
            if match := _SCALE.match(own):
                plain = rename(f"{match[1]}.weight")
                factors[plain], factor_sizes[plain] = (path, own), shape
            elif match := _FORMAT.match(own):
                _expect_readable_format(path, own)
            elif not _INPUT_SCALE.search(own):
                _add(found, rename(own), path, own, shape)
    for plain, source in factors.items():
        weight = found.shapes.get(plain)
        if weight is not None and _count(factor_sizes[plain]) in (1, *weight[:1]):
            found.scales[plain] = source
            continue
        raise ModelMismatchError(
            f"{name} is stored in an unsupported format",
            got=f"{source[1]} of shape {factor_sizes[plain]}",
            expected="one scale per weight, or one per row of it",
            fix="Use the bf16, fp16 or fp8_scaled version of the file",
        )
    return found


def load_into(
    model: nn.Module,
    files: WeightFiles,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    *,
    keep_float32: Collection[str] = (),
    tied: Mapping[str, str] | None = None,
    part: Callable[[str], bool] | None = None,
) -> None:
    """Fill a model that was made without memory (``accelerate.init_empty_weights``).

    Args:
        model: Its parameters are replaced.
        files: Has every tensor of the model, and nothing else.
        dtype: Type of the parameters.
        device: Where they go.
        keep_float32: Words; a parameter stays float32 if a part of its name is one of them.
        tied: Names that the files leave out, and the names they share a tensor with.
        part: Which of the model's parameters the files hold, by their names; all by default.

    Raises:
        ModelMismatchError: A tensor is missing, unexpected or of another shape.
    """
    tied = dict(tied or {})
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name not in tied and (part is None or part(name))
    }
    expect_tensors(
        files.name,
        files.shapes,
        expected,
        "Download the file again, or choose the file for this model",
    )
    weights = {
        name: files.read(name).to(device, parameter_type(name, dtype, keep_float32))
        for name in expected
    }
    weights |= {name: weights[other] for name, other in tied.items()}
    model.load_state_dict(weights, strict=part is None, assign=True)


def weight_paths(path: Path, what: str) -> list[Path]:
    """The files that hold a model's weights: the file itself, or those of a folder.

    Raises:
        ModelMismatchError: The folder holds none, pickled ones only, or a damaged index.
    """
    if not path.is_dir():
        return [path]
    indices = sorted(path.glob(f"*{INDEX_SUFFIX}"), key=lambda index: len(index.name))
    if indices:
        return _indexed(indices[0])
    for name in PLAIN_NAMES:
        if (path / name).is_file():
            return [path / name]
    single = sorted(path.glob("*.safetensors"))
    if len(single) == 1:
        return single
    pickled = any(entry.suffix in PICKLED for entry in path.iterdir())
    raise ModelMismatchError(
        f"The folder does not contain the weights of {what}",
        got=f"{len(single)} safetensors files without an index in {path}"
        + (", and pickled files" if pickled else ""),
        expected=f"{PLAIN_NAMES[0]}, or parts with a {INDEX_SUFFIX}",
        fix="Choose the folder of the model in diffusers' layout, saved as safetensors",
    )


def read_config(folder: Path, what: str) -> dict[str, Any]:
    """The ``config.json`` of a model folder.

    Raises:
        ModelMismatchError: It is missing or damaged.
    """
    return _read_json(folder / "config.json", f"The folder of {what}")


def keep_float32_words(model: nn.Module) -> tuple[str, ...]:
    """Parts of names whose parameters the model wants in float32."""
    return tuple(getattr(model, "_keep_in_fp32_modules", None) or ())


def parameter_type(name: str, dtype: torch.dtype, keep_float32: Collection[str]) -> torch.dtype:
    """The type of a parameter: float32 if a part of its name is one of the words."""
    return torch.float32 if any(part in keep_float32 for part in name.split(".")) else dtype


def _read(path: Path, name: str) -> Tensor:
    return read_tensors(path, [name])[name]


def _add(found: WeightFiles, plain: str, path: Path, own: str, shape: Shape) -> None:
    if plain in found.shapes:
        raise ModelMismatchError(
            f"{found.name} contains a tensor twice", got=f"{plain}, the second time as {own}"
        )
    found.shapes[plain] = shape
    found.sources[plain] = (path, own)


def _expect_readable_format(path: Path, name: str) -> None:
    stored = _read(path, name)
    if stored.dtype != torch.uint8 or stored.numel() > _LONGEST_FORMAT:
        text = f"{name}, which is no short text"
    else:
        text = bytes(stored.flatten().tolist()).decode("utf-8", "replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = text
    kind = content.get("format") if isinstance(content, dict) else content
    if kind not in _READABLE_FORMATS:
        raise ModelMismatchError(
            f"{path.name} is stored in an unsupported number format",
            got=str(kind)[:_LONGEST_SHOWN],
            expected=" or ".join(_READABLE_FORMATS),
            fix="Use the bf16, fp16 or fp8_scaled version of the file",
        )


def _indexed(index: Path) -> list[Path]:
    listed = _read_json(index, "The index of the weights").get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(v, str) for v in listed.values()):
        listed = None
    if not listed:
        raise ModelMismatchError(
            f"{index.name} does not say which files hold the weights", fix="Download it again"
        )
    # Names only: an index has no business outside of its folder.
    return [index.parent / Path(name).name for name in sorted(set(listed.values()))]


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelMismatchError(
            f"{what} cannot be used",
            got=f"{path.name}: {getattr(error, 'strerror', None) or error}",
            expected=f"a readable {path.name} in {path.parent}",
            fix="Download the folder again, with all its files",
        ) from error
    if not isinstance(content, dict):
        raise ModelMismatchError(f"{what} cannot be used", got=f"{path.name} is not a JSON object")
    return content


def _count(shape: Shape) -> int:
    return torch.Size(shape).numel()
