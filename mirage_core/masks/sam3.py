"""What moves, by name: a language model that sees pictures names it, SAM3 tracks it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from ..checkpoints.pretrained import load_pretrained
from ..conditioning.entities import QUESTION, noun_phrases
from ..constants import WHITE_8
from ..errors import ModelMismatchError
from ..validate import expect_shape
from .tracks import Tracks
from .types import FrameMasks

SKY_NAME: Final = "sky"
MOST_KINDS: Final = 8
"""Most kinds of things that are looked for."""

SHOWN_FRAMES: Final = 4
"""Frames that the language model is shown."""

SHOWN_PIXELS: Final = 1 << 18
ANSWER_TOKENS: Final = 128

Namer = Callable[[Tensor], str]
"""An answer that names what moves in frames (F, H, W, 3) in 0..1."""


@dataclass(frozen=True)
class Sam3Masks:
    """Masks of named things by SAM3.

    Attributes:
        network: ``transformers.Sam3VideoModel``.
        processor: ``transformers.Sam3VideoProcessor``.
        names: Things to look for in any case.
        namer: Names more of them; None where the names are all.
        device: Where the network computes.
        rest: Where it waits between chunks.
    """

    network: Any
    processor: Any
    names: tuple[str, ...]
    namer: Namer | None = None
    device: torch.device = torch.device("cpu")
    rest: torch.device = torch.device("cpu")

    def __call__(self, frames: Tensor, numbers: Sequence[int]) -> FrameMasks:
        """Name what moves, and track it and the sky through all frames.

        Tracks are numbered from 1 in every call anew.
        """
        expect_shape("The frames", frames, "F H W 3")
        answer = "" if self.namer is None else self.namer(frames)
        named = noun_phrases(", ".join((*self.names, answer)), MOST_KINDS)
        wanted = tuple(name for name in named if name != SKY_NAME)
        network = self.network.to(self.device)
        try:
            return self._track(network, frames, wanted)
        finally:
            network.to(self.rest)

    def _track(self, network: Any, frames: Tensor, wanted: tuple[str, ...]) -> FrameMasks:
        video = (frames.detach().cpu().clamp(0, 1) * WHITE_8).round().to(torch.uint8)
        session = self.processor.init_video_session(
            video=video.permute(0, 3, 1, 2), inference_device=self.device,
            video_storage_device="cpu", dtype=network.dtype,
        )  # fmt: skip
        self.processor.add_text_prompt(session, [*wanted, SKY_NAME])
        shape = tuple(frames.shape[:3])
        ids = torch.zeros(shape, dtype=torch.int32)
        sky = torch.zeros(shape, dtype=torch.bool)
        names: dict[int, str] = {}
        with torch.inference_mode():
            for output in network.propagate_in_video_iterator(session):
                found = self.processor.postprocess_outputs(session, output)
                name_of = {
                    number: name
                    for name, numbers in found["prompt_to_obj_ids"].items()
                    for number in numbers
                }
                for number, mask in zip(found["object_ids"].tolist(), found["masks"], strict=True):
                    seen = mask.cpu()
                    if name_of[number] == SKY_NAME:
                        sky[output.frame_idx] |= seen
                        continue
                    # Numbers of SAM3 begin at 0, which stands for nothing in a map.
                    names[number + 1] = name_of[number]
                    ids[output.frame_idx][seen] = number + 1
        return FrameMasks(ids > 0, sky & (ids == 0), Tracks(ids, names))


@dataclass(frozen=True)
class PictureNamer:
    """Asks a language model that sees pictures, such as Qwen3-VL, what moves.

    Attributes:
        network: A model of transformers that writes text about pictures.
        processor: What prepares its input.
        device: Where the network computes.
        rest: Where it waits between questions.
    """

    network: Any
    processor: Any
    device: torch.device = torch.device("cpu")
    rest: torch.device = torch.device("cpu")

    def __call__(self, frames: Tensor) -> str:
        """What moves in frames (F, H, W, 3), in the model's words."""
        count = min(SHOWN_FRAMES, len(frames))
        spread = torch.linspace(0, len(frames) - 1, count).round().long().tolist()
        parts: list[dict[str, Any]] = [
            {"type": "image", "image": _small(frames[number])} for number in spread
        ]
        parts.append({"type": "text", "text": QUESTION})
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True,
            return_dict=True, return_tensors="pt",
        ).to(self.device)  # fmt: skip
        network = self.network.to(self.device)
        try:
            with torch.inference_mode():
                written = network.generate(
                    **inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False
                )
        finally:
            network.to(self.rest)
        answer = written[:, inputs["input_ids"].shape[1] :]
        return str(self.processor.batch_decode(answer, skip_special_tokens=True)[0])


def _small(frame: Tensor) -> Image.Image:
    """A frame (H, W, 3) of at most `SHOWN_PIXELS`: names need no detail, and pixels cost time."""
    values = (frame.detach().cpu().clamp(0, 1) * WHITE_8).round().to(torch.uint8).numpy()
    picture = Image.fromarray(values)
    side = math.sqrt(min(1.0, SHOWN_PIXELS / (picture.width * picture.height)))
    size = (max(1, round(picture.width * side)), max(1, round(picture.height * side)))
    return picture.resize(size, Image.Resampling.BOX)


def load_sam3(
    folder: Path,
    *,
    names: str = "",
    language: Path | None = None,
    device: torch.device | str = "cpu",
    rest: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Sam3Masks:
    """Read SAM3, and a language model that names what moves, from folders on this machine.

    Args:
        folder: SAM3 in the format of transformers, such as a copy of facebook/sam3.
        names: What to look for in any case, comma separated.
        language: Such as a copy of Qwen3-VL-8B-Instruct; None where the names are all.
        device: Where both compute.
        rest: Where they wait in between; the device itself by default.
        dtype: Type of their parameters.

    Raises:
        ModelMismatchError: A folder holds no such model, nothing says what to look for, or
            transformers is not installed.
    """
    wanted = expect_named(names, language)
    try:
        from transformers import (
            AutoModelForImageTextToText,
            AutoProcessor,
            Sam3VideoModel,
            Sam3VideoProcessor,
        )
    except ImportError as error:
        raise ModelMismatchError(
            "SAM3 needs transformers 5", got=str(error), fix="Run pip install -U transformers"
        ) from error
    device = torch.device(device)
    waiting = device if rest is None else torch.device(rest)
    network, processor = _load(
        folder, Sam3VideoModel, Sam3VideoProcessor, dtype,
        "SAM3 for videos, such as a copy of facebook/sam3",
    )  # fmt: skip
    namer = None
    if language is not None:
        asked, prepared = _load(
            language, AutoModelForImageTextToText, AutoProcessor, dtype,
            "a language model that sees pictures, such as a copy of Qwen3-VL-8B-Instruct",
        )  # fmt: skip
        namer = PictureNamer(asked.to(waiting), prepared, device, waiting)
    return Sam3Masks(network.to(waiting), processor, wanted, namer, device, waiting)


def expect_named(names: str, language: Path | None) -> tuple[str, ...]:
    """Names in a list with commas; raise `ModelMismatchError` where nothing says what to find."""
    wanted = noun_phrases(names, MOST_KINDS)
    if not wanted and language is None:
        raise ModelMismatchError(
            "Nothing tells SAM3 what moves",
            got="neither names nor a language model",
            expected="one of them",
            fix='Name what moves (--names "person, dog"), or give the folder of Qwen3-VL '
            "(--language-model)",
        )
    return wanted


def _load(
    folder: Path, kind: Any, processor: Any, dtype: torch.dtype, what: str
) -> tuple[Any, Any]:
    if not (folder / "config.json").is_file():
        raise ModelMismatchError(
            f"The folder {folder.name} contains no model",
            got="no config.json",
            expected=what,
            fix=f"Put a complete copy of the model into {folder}; nothing is downloaded",
        )
    network, prepared = load_pretrained(
        folder, kind, processor, dtype, what="another model, or not all of it", expected=what
    )
    return network.eval().requires_grad_(False), prepared
