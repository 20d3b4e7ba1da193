"""What looks at pictures for a shot: a depth model, and what finds and tracks moving things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy_extras.nodes_post_processing import ImageScaleToTotalPixels
from comfy_extras.nodes_sam3 import SAM3_TrackToMask, SAM3_VideoTrack
from comfy_extras.nodes_textgen import TextGenerate
from torch import Tensor

from ...mirage_core.conditioning.entities import QUESTION, detection_prompt, noun_phrases
from ...mirage_core.errors import ModelMismatchError
from ...mirage_core.masks.tracks import Tracks
from .depth_models import (
    AUTO,
    DepthModel,
    Kind,
    depth_files,
    find_depth_model,
    has_depth_model,
    load_depth_model,
)
from .model import model_files

NONE = "none"
"""Choice of no model."""

DEPTHS = {
    AUTO: (Kind.DA3, Kind.MOGE), Kind.MOGE.value: (Kind.MOGE,), Kind.DA3.value: (Kind.DA3,),
}  # fmt: skip
"""Choices of a depth model, and the families that each takes, the best first."""

LANGUAGE_FOLDER, SEGMENTER_FOLDER = "text_encoders", "checkpoints"

UNNAMED = "thing"
"""Name of what was found by any of several phrases."""

_SHOWN_FRAMES = 4
_SHOWN_MEGAPIXELS = 0.25
_ANSWER_TOKENS = 128
_PER_KIND = 8
_MOST_TRACKS = 16
_LEAST_SCORE = 0.5
_NAMES = {
    LANGUAGE_FOLDER: ("qwen3vl", "qwen3_vl", "qwen3-vl"), SEGMENTER_FOLDER: ("sam3",),
}  # fmt: skip
"""Parts of names by which `AUTO` knows a file in each folder."""

_FROM = {
    LANGUAGE_FOLDER: "qwen3vl_8b_fp8_scaled.safetensors from huggingface.co/Comfy-Org/Qwen3-VL",
    SEGMENTER_FOLDER: "sam3.1_multiplex_fp16.safetensors from huggingface.co/Comfy-Org/sam3.1",
}


@dataclass(frozen=True)
class MovingFiles:
    """Which files find what moves.

    Attributes:
        segmenter: SAM3, in models/checkpoints.
        language: Qwen3-VL, in models/text_encoders; None where names are enough.
        names: Things to look for in any case, comma separated.
        most: Most kinds of things to look for.
    """

    segmenter: str
    language: str | None
    names: str
    most: int


@dataclass(frozen=True, eq=False)
class MovingModels:
    """What finds and tracks moving things, loaded.

    Attributes:
        files: What was loaded.
        language: ComfyUI's CLIP of a language model that sees pictures, or None.
        segmenter: ComfyUI's patcher of SAM3.
        words: ComfyUI's CLIP of SAM3.
    """

    files: MovingFiles
    language: Any
    segmenter: Any
    words: Any


@dataclass(frozen=True, eq=False)
class SceneModels:
    """What looks at the pictures of a shot.

    Attributes:
        depth: A depth model and its network; None where none is there, or none is wanted.
        moving: What finds moving things; None where everything stands still.
    """

    depth: tuple[DepthModel, Any] | None = None
    moving: MovingModels | None = None


def choose_depth(depth: str, moge_file: str, da3_file: str) -> DepthModel | None:
    """The depth model of a choice of `DEPTHS`, by the named files where these are there.

    Returns:
        None for `NONE`, and for `AUTO` where there is no file.

    Raises:
        ModelMismatchError: The wanted model is not there, or a named file is of another kind.
    """
    if depth == NONE:
        return None
    there = depth_files()
    named = {Kind.MOGE: moge_file, Kind.DA3: da3_file}
    for kind in DEPTHS[depth]:
        if named[kind] in there:
            return _of_kind(find_depth_model(named[kind]), kind)
        if depth != AUTO or has_depth_model(kind):
            return find_depth_model(AUTO, (kind,))
    return None


def _of_kind(model: DepthModel, kind: Kind) -> DepthModel:
    if model.kind is kind:
        return model
    raise ModelMismatchError(
        f"{model.name} is another depth model than it is chosen for",
        got=model.kind.value,
        expected=f"a file of {kind.value}",
        fix="Choose the file in the other list, or auto",
    )


def choose_moving(segmenter: str, language: str, names: str, most: int) -> MovingFiles:
    """The files that find moving things.

    Args:
        segmenter: A file of models/checkpoints, or `AUTO`.
        language: A file of models/text_encoders, `AUTO`, or `NONE`. With `AUTO` names are enough
            where there is no file.
        names: Things to look for in any case, comma separated.
        most: Most kinds of things to look for.

    Raises:
        ModelMismatchError: A file is missing, or nothing says what to look for.
    """
    named = bool(noun_phrases(names, most))
    found = _file(SEGMENTER_FOLDER, segmenter)
    asked = None if language == NONE else _file(LANGUAGE_FOLDER, language)
    if found is None:
        raise _missing(SEGMENTER_FOLDER, segmenter, "what moves cannot be tracked")
    if asked is None and (not named or language not in (AUTO, NONE)):
        raise _missing(LANGUAGE_FOLDER, language, "nothing tells what moves")
    return MovingFiles(found, asked, names, most)


def taken_files(inputs: Mapping[str, Any]) -> dict[str, str]:
    """The files that Mirage Scene Models takes, by what for; what cannot be told is left out.

    Args:
        inputs: Of the node in a prompt; links stand for values that are not known.
    """
    found: dict[str, str] = {}
    known = {name: value for name, value in inputs.items() if isinstance(value, (str, int))}
    given: dict[str, Any] = known
    try:
        depth = choose_depth(given["depth"], given["moge_file"], given["depth_anything_file"])
        if depth is not None:
            found["depth file"] = depth.name
        if given["moving_things"]:
            moving = choose_moving(
                given["segmenter"], given["language_model"], given["names"], given["most"]
            )
            found |= {"segmenter file": moving.segmenter, "language file": moving.language or ""}
    except (KeyError, ModelMismatchError):
        # The node itself says what is missing, should it ever run.
        return found
    return found


def _file(folder: str, name: str) -> str | None:
    there = model_files(folder)
    if name != AUTO:
        return name if name in there else None
    parts = _NAMES[folder]
    return next((file for file in there if any(part in file.lower() for part in parts)), None)


def _missing(folder: str, name: str, why: str) -> ModelMismatchError:
    other = ", or write into names what moves" if folder == LANGUAGE_FOLDER else ""
    return ModelMismatchError(
        f"Moving things are to be masked, and {why}",
        got=f"no {_NAMES[folder][0] if name in (AUTO, NONE) else name} in models/{folder}",
        expected="its file",
        fix=f"Put {_FROM[folder]} there and press R{other}, or switch moving_things off",
    )


def load_scene_models(depth: DepthModel | None, moving: MovingFiles | None) -> SceneModels:
    """Load what was chosen, and nothing else."""
    return SceneModels(
        None if depth is None else (depth, load_depth_model(depth)),
        None if moving is None else _load_moving(moving),
    )


def _load_moving(files: MovingFiles) -> MovingModels:
    embeddings = folder_paths.get_folder_paths("embeddings")
    path = folder_paths.get_full_path_or_raise(SEGMENTER_FOLDER, files.segmenter)
    segmenter, words, *_ = comfy.sd.load_checkpoint_guess_config(
        path, output_vae=False, output_clip=True, embedding_directory=embeddings
    )
    if words is None or not hasattr(segmenter.model.diffusion_model, "forward_video"):
        raise ModelMismatchError(
            f"{files.segmenter} does not track things by name",
            got=type(segmenter.model).__name__,
            expected="a checkpoint of SAM3 with its text encoder",
            fix=f"Put {_FROM[SEGMENTER_FOLDER]} into models/{SEGMENTER_FOLDER} and choose it",
        )
    language = None
    if files.language is not None:
        path = folder_paths.get_full_path_or_raise(LANGUAGE_FOLDER, files.language)
        language = comfy.sd.load_clip(
            ckpt_paths=[path],
            embedding_directory=embeddings,
            clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION,
        )
        _expect_writing(language, files.language)
    return MovingModels(files, language, segmenter, words)


def _expect_writing(clip: Any, name: str) -> None:  # noqa: ANN401
    """Raise `ModelMismatchError` unless a text encoder can write an answer."""
    model = clip.cond_stage_model
    inner = getattr(model, getattr(model, "clip", ""), model)
    if hasattr(getattr(inner, "transformer", None), "generate"):
        return
    raise ModelMismatchError(
        f"{name} does not say what moves in pictures",
        got=f"{type(model).__name__}, which writes no text",
        expected="Qwen3-VL",
        fix=f"Put {_FROM[LANGUAGE_FOLDER]} into models/{LANGUAGE_FOLDER} and choose it, or set "
        "language_model = none and write into names what moves",
    )


@dataclass(frozen=True, eq=False)
class Moving:
    """What moves in frames.

    Attributes:
        mask: (F, H, W), 1 where something moves; of zeros (1, H, W) where nothing was named.
        named: What was looked for.
        tracks: Which thing moves where.
    """

    mask: Tensor
    named: str
    tracks: Tracks


def find_moving(models: MovingModels, frames: Tensor) -> Moving:
    """Name what moves in frames, and track it through all of them.

    Args:
        models: What does it.
        frames: (F, H, W, 3) all frames, in order.
    """
    answer = "" if models.language is None else _ask(models.language, frames)
    phrases = noun_phrases(f"{models.files.names}, {answer}", models.files.most)
    if not phrases:
        return Moving(no_mask(frames), "", tracks_of(frames, [], []))
    prompt = detection_prompt(phrases, _PER_KIND)
    words = models.words
    told = words.encode_from_tokens_scheduled(words.tokenize(prompt))
    tracked = SAM3_VideoTrack.execute(
        frames, models.segmenter, None, told, _LEAST_SCORE, _MOST_TRACKS, 1
    ).result[0]
    packed = tracked["packed_masks"]
    count = 0 if packed is None else int(packed.shape[1])
    each = [SAM3_TrackToMask.execute(tracked, str(number)).result[0] for number in range(count)]
    mask = SAM3_TrackToMask.execute(tracked).result[0]
    return Moving(mask, ", ".join(phrases), tracks_of(frames, each, phrases))


def tracks_of(frames: Tensor, masks: Sequence[Tensor], phrases: Sequence[str]) -> Tracks:
    """Tracks of frames (F, H, W, C) from the mask (F, H, W) of each thing.

    The tracker does not say by which of several phrases it found a thing.
    """
    tracks = Tracks(torch.zeros(frames.shape[:3], dtype=torch.int32))
    for mask in masks:
        tracks = tracks.with_thing(phrases[0] if len(phrases) == 1 else UNNAMED, mask.cpu())
    return tracks


def no_mask(frames: Tensor) -> Tensor:
    """A mask (1, H, W) of pictures (F, H, W, C) that marks nothing, for any number of frames."""
    return torch.zeros(1, *frames.shape[1:3])


def _ask(language: Any, frames: Tensor) -> str:  # noqa: ANN401
    spread = torch.linspace(0, len(frames) - 1, min(_SHOWN_FRAMES, len(frames))).round().long()
    few = ImageScaleToTotalPixels.execute(
        frames[spread.unique()], "area", _SHOWN_MEGAPIXELS, 1
    ).result[0]
    answer = TextGenerate.execute(
        language, QUESTION, _ANSWER_TOKENS, {"sampling_mode": "off"}, image=few
    ).result[0]
    return str(answer)
