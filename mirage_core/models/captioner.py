"""What pictures show, in a sentence or two: any picture-to-text model of transformers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image

from ..checkpoints.pretrained import load_pretrained
from ..errors import ModelMismatchError

INSTRUCTION: Final = (
    "These pictures are from one video, in order. Describe in one paragraph the place, the things "
    "in it, the light and the style, as a prompt for a video model. Do not mention the camera, the "
    "pictures or the video."
)
"""What models that follow instructions are asked."""

MAX_TOKENS: Final = 160
_LICENCE: Final = re.compile(r"^license(?:_name)?:\s*[\"']?([\w.+ -]+)", re.MULTILINE)
_CARD: Final = "README.md"
_CARD_BYTES: Final = 1 << 16


class Captioner:
    """Writes captions.

    Args:
        network: A model of transformers that turns pictures into text.
        processor: What prepares its input. One with a chat template is shown all pictures and
            the instruction, any other the middle picture alone.
        instruction: What to write.
    """

    def __init__(self, network: Any, processor: Any, instruction: str = INSTRUCTION) -> None:
        self._network = network.eval().requires_grad_(False)
        self._processor = processor
        self._instruction = instruction

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image]) -> str:
        """The caption of pictures of one video; the same every time.

        Args:
            pictures: At least one, in order.
        """
        inputs = self._inputs(pictures).to(self._network.device)
        inputs = {name: self._typed(value) for name, value in inputs.items()}
        written = self._network.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        # Models that go on with a text give that text back first.
        told = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        (text,) = self._processor.batch_decode(written[:, told:], skip_special_tokens=True)
        return " ".join(text.split())

    def _inputs(self, pictures: Sequence[Image.Image]) -> Any:
        if not getattr(self._processor, "chat_template", None):
            middle = pictures[len(pictures) // 2]
            return self._processor(images=middle, return_tensors="pt")
        content: list[dict[str, Any]] = [{"type": "image", "image": one} for one in pictures]
        content.append({"type": "text", "text": self._instruction})
        return self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip

    def _typed(self, value: Any) -> Any:
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(self._network.dtype) if floats else value


def load_captioner(
    folder: Path,
    *,
    instruction: str = INSTRUCTION,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Captioner:
    """Read a captioning model from a folder on this machine; nothing is fetched.

    Args:
        folder: With ``config.json``, safetensors weights and what its processor needs, such as a
            copy of Qwen3-VL-4B-Instruct or blip-image-captioning-base.
        instruction: What models that follow instructions are asked.
        device: Where it computes.
        dtype: Type of its parameters.

    Raises:
        ModelMismatchError: The folder holds no such model, or transformers is not installed.
    """
    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError as error:
        raise ModelMismatchError(
            "Captioning models need transformers",
            got=str(error),
            fix="Run pip install transformers",
        ) from error
    network, processor = load_pretrained(
        folder, AutoModelForImageTextToText, AutoProcessor, dtype,
        what="no captioning model that can be loaded",
        expected="an image-text-to-text model of transformers, with safetensors weights",
        fix="Download the complete folder, for example Qwen3-VL-4B-Instruct",
    )  # fmt: skip
    return Captioner(network.to(device), processor, instruction)


def licence_of(folder: Path) -> str:
    """The licence that a model's card names; empty where there is no card, or it names none."""
    card = folder / _CARD
    if not card.is_file():
        return ""
    with open(card, encoding="utf-8", errors="replace") as file:
        found = _LICENCE.search(file.read(_CARD_BYTES))
    return "" if found is None else found[1].strip()
