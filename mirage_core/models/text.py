"""UMT5-xxl: prompts to the text tokens of the video model."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import init_empty_weights
from torch import Tensor

from ..checkpoints.branch import Shape
from ..checkpoints.weight_files import (
    WeightFiles,
    load_into,
    open_weights,
    read_config,
    weight_paths,
)
from ..errors import MirageError, ModelMismatchError
from ..tensor_files import read_tensors

MAX_TOKENS: Final = 512
"""Tokens of a prompt; longer ones are cut, shorter ones are followed by zeros."""

SPIECE: Final = "spiece_model"
"""Tensor of ComfyUI's single files that holds the sentencepiece model, byte by byte."""

Tokenize = Callable[[str], list[int]]
"""From a cleaned prompt to at most `MAX_TOKENS` ids, the end mark included."""

_PREFIXES: Final = re.compile(r"^(?:text_encoder\.|text_encoders\.umt5xxl\.transformer\.|model\.)+")
_BLOCK: Final = re.compile(r"^encoder\.block\.(\d+)\.")
_TIED: Final = {"encoder.embed_tokens.weight": "shared.weight"}
_ATTENTION: Final = "encoder.block.0.layer.0.SelfAttention"
_FEED_FORWARD: Final = "encoder.block.0.layer.1.DenseReluDense"
_FIX: Final = (
    "Use umt5_xxl_fp16.safetensors or umt5_xxl_fp8_e4m3fn_scaled.safetensors as ComfyUI uses "
    "them, or the folder of Wan2.2-TI2V-5B-Diffusers"
)


class TextEncoder:
    """Encodes prompts; large, and needed only once per prompt.

    Attributes:
        device: Where it computes.
    """

    def __init__(
        self, model: Any, tokenize: Tokenize, device: torch.device | str | None = None
    ) -> None:
        self._model = model.eval().requires_grad_(False)
        self._tokenize = tokenize
        self.device = torch.device(device) if device is not None else model.device

    @property
    def model(self) -> Any:
        """The network.

        Raises:
            MirageError: It was released.
        """
        if self._model is None:
            raise MirageError(
                "The text encoder was released",
                fix="Load it again, or keep the encoded prompts",
            )
        return self._model

    def encode(self, prompt: str) -> Tensor:
        """Text tokens of a prompt, as the released code makes them.

        Only the prompt's own tokens pass through the network, without padding; the result is
        padded with zeros to 512 tokens.

        Args:
            prompt: Any text; the empty one stands for "no prompt".

        Returns:
            (1, 512, width) on the CPU in the network's type, zero after the prompt's length.

        Raises:
            MirageError: The encoder was released.
        """
        network = self.model
        ids = torch.tensor([self._tokenize(clean(prompt))], device=self.device)
        with torch.no_grad():
            known = network(ids, torch.ones_like(ids)).last_hidden_state
        padding = MAX_TOKENS - ids.shape[1]
        return torch.nn.functional.pad(known, (0, 0, 0, padding)).cpu()

    def release(self) -> None:
        """Give the memory back; the encoder cannot be used afterwards."""
        self._model = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def clean(prompt: str) -> str:
    """A prompt as diffusers' Wan pipelines clean it: entities resolved, white space collapsed."""
    # Imported late: the module brings the whole pipeline with it.
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    return str(prompt_clean(prompt))


def load_text_encoder(
    path: Path | str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
) -> TextEncoder:
    """Read UMT5-xxl with its tokenizer.

    Args:
        path: ComfyUI's single file (which holds the tokenizer too), the folder of a model with
            ``text_encoder`` and ``tokenizer``, or such a ``text_encoder`` folder.
        dtype: Type of the parameters; 8-bit files are widened to it.
        device: Where it computes.

    Raises:
        ModelMismatchError: The files are damaged or pickled, hold another encoder, or come
            without a tokenizer.
    """
    path = Path(path)
    folder = path / "text_encoder" if (path / "text_encoder").is_dir() else path
    name = f"The text encoder {path.name}"
    files = open_weights(weight_paths(folder, "a text encoder"), _plain, name)
    files.shapes.pop("encoder.embed_tokens.weight", None)
    if folder.is_dir():
        tokenize = _folder_tokenizer(folder.parent / "tokenizer")
    else:
        tokenize = _file_tokenizer(files)
    sizes = infer_sizes(files.shapes)
    if folder.is_dir():
        sizes |= _relative_attention(read_config(folder, "a text encoder"))
    model = _empty_model(sizes)
    # In half precision the last projection of a block overflows.
    wide = ("wo",) if dtype == torch.float16 else ()
    load_into(model, files, dtype, device, keep_float32=wide, tied=_TIED)
    return TextEncoder(model, tokenize, device)


def infer_sizes(shapes: Mapping[str, Shape]) -> dict[str, int]:
    """Sizes of a UMT5 encoder from the shapes of its tensors, as `transformers` calls them.

    Raises:
        ModelMismatchError: This is not a UMT5 encoder.
    """
    # Each layer of UMT5 has a position bias of its own; T5 has one for all.
    biases = [name for name in shapes if name.endswith("relative_attention_bias.weight")]
    layers = {int(match[1]) for name in shapes if (match := _BLOCK.match(name))}
    needed = ("shared.weight", f"{_ATTENTION}.q.weight", f"{_FEED_FORWARD}.wi_0.weight")
    if not layers or len(biases) != len(layers) or any(name not in shapes for name in needed):
        missing = [name for name in needed if name not in shapes]
        found = f"no {missing[0]}" if missing else f"{len(biases)} position biases in {len(layers)}"
        raise ModelMismatchError(
            "This is not the text encoder of Wan2.2",
            got=f"{found} layers" if not missing else found,
            expected="UMT5-xxl, with a position bias in each layer",
            fix=_FIX,
        )
    vocabulary, width = shapes["shared.weight"]
    buckets, heads = shapes[f"{_ATTENTION}.relative_attention_bias.weight"]
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": shapes[f"{_ATTENTION}.q.weight"][0] // heads,
        "d_ff": shapes[f"{_FEED_FORWARD}.wi_0.weight"][0],
        "num_layers": len(layers),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
    }


def _empty_model(sizes: Mapping[str, Any]) -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(**sizes, feed_forward_proj="gated-gelu", is_encoder_decoder=False)
    with init_empty_weights():
        return UMT5EncoderModel(config)


def _relative_attention(config: Mapping[str, Any]) -> dict[str, int]:
    """The one size that shapes do not tell."""
    key = "relative_attention_max_distance"
    return {key: int(config[key])} if isinstance(config.get(key), int) else {}


def _plain(name: str) -> str:
    return _PREFIXES.sub("", name)


def _folder_tokenizer(folder: Path) -> Tokenize:
    spiece = folder / "spiece.model"
    # transformers reads a bare sentencepiece model only with yet another package.
    if spiece.is_file() and not (folder / "tokenizer.json").is_file():
        return _sentencepiece(spiece.read_bytes(), str(spiece))
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelMismatchError(
            "The tokenizer of the text encoder cannot be read",
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            expected=f"a tokenizer folder beside text_encoder, in {folder.parent}",
            fix=_FIX,
        ) from error

    def tokenize(text: str) -> list[int]:
        return list(tokenizer(text, truncation=True, max_length=MAX_TOKENS).input_ids)

    return tokenize


def _file_tokenizer(files: WeightFiles) -> Tokenize:
    if files.shapes.pop(SPIECE, None) is None:
        raise ModelMismatchError(
            f"{files.name} does not contain a tokenizer",
            got=f"no tensor named {SPIECE}",
            expected="a file as ComfyUI uses it",
            fix=_FIX,
        )
    path, own = files.sources[SPIECE]
    model = read_tensors(path, [own])[own].to(torch.uint8)
    return _sentencepiece(model.numpy().tobytes(), path.name)


def _sentencepiece(model: bytes, name: str) -> Tokenize:
    try:
        import sentencepiece
    except ImportError as error:
        raise ModelMismatchError(
            "This text encoder requires the package sentencepiece",
            got="it is not installed",
            fix="Install it with: pip install sentencepiece",
        ) from error
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise ModelMismatchError(
            f"The tokenizer in {name} is damaged", fix="Download the file again"
        ) from error

    def tokenize(text: str) -> list[int]:
        return [*processor.encode(text)[: MAX_TOKENS - 1], processor.eos_id()]

    return tokenize
