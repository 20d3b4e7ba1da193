"""The video model that an evaluation judges, from the options of the command line."""

from __future__ import annotations

import argparse
import copy
import dataclasses
from functools import partial
from pathlib import Path
from typing import Final

from ..checkpoints.transformer_format import knows_text
from ..errors import ModelMismatchError, ValueRangeError
from ..evaluation.elsewhere import Elsewhere
from ..evaluation.novel_views import NovelViews
from ..evaluation.systems import BUNDLED, ModelSystem, NoDepth, Parts, PreviewSystem, System
from ..rollout.models import DenoiserFactory
from . import inputs, rollout, ways
from .work import device_of

VIDEOS: Final = "videos"
"""Of ``--model``: another program makes the shots."""

USED_BY_ALL: Final = ("depth_model", "depth_kind", "device", "prompt", "vae")
"""Options of models that mean something whichever the model is: of depth, of metrics, the caption
of footage without one, and the codec that `efficiency` measures."""


def system_of(arguments: argparse.Namespace, *, videos: bool = False) -> System:
    """What makes the shots.

    Args:
        arguments: Of the command line.
        videos: Whether the task can measure shots that another program makes.

    Raises:
        ModelMismatchError: A model lacks its VAE or its text encoder.
        CacheFormatError: A file does not exist.
        ValueRangeError: An option means nothing for this model, or in the way that was chosen.
    """
    if arguments.videos is not None and arguments.model != VIDEOS:
        raise ValueRangeError(
            "--videos is where another program puts its videos",
            got=f"--model {arguments.model}",
            fix=f"Use --model {VIDEOS}, or leave --videos out",
        )
    if arguments.model in ("preview", "bundled", VIDEOS):
        _expect_own_settings(arguments)
        if arguments.model == VIDEOS:
            return _elsewhere(arguments, videos)
        return PreviewSystem() if arguments.model == "preview" else BUNDLED
    given = copy.copy(arguments)
    given.device = device_of(arguments)
    given.transformer = inputs.parse_path(arguments.model)
    missing = [
        option
        for option, there in (
            ("--vae or --embedded-codec", given.vae or given.embedded_codec),
            ("--text-encoder", given.text_encoder or _knows_no_text(given.transformer)),
        )
        if not there
    ]
    if missing:
        raise ModelMismatchError(
            "The video model needs more files",
            got=f"--model {given.transformer} without {' and '.join(missing)}",
            expected="preview, bundled, or a model with its VAE and text encoder",
        )
    rollout.expect_files(given)
    from . import models

    way = ways.way_of(given)
    given.guidance = way.guidance if given.guidance is None else given.guidance
    settings, setup = rollout.settings_of(given), models.DeviceSetup.from_arguments(given)
    about = {
        "weights": models.describe_models(given, setup),
        "generation": settings.describe(),
        "chunks": ways.lengths_of(given).describe(),
        "steps": settings.steps,
    }
    return ModelSystem(given.transformer.stem, partial(load_parts, given), about)


def _elsewhere(arguments: argparse.Namespace, possible: bool) -> Elsewhere:
    if not possible:
        raise ValueRangeError(
            "This table makes its shots itself",
            got=f"--model {VIDEOS}",
            expected="preview, bundled, or the path of a video model",
            fix=f"Shots of other programs are measured by mirage evaluate {NovelViews.name}",
        )
    if arguments.videos is None:
        raise ValueRangeError(
            f"--model {VIDEOS} needs a folder for the videos",
            fix="Name one with --videos; what to make is written there",
        )
    folder = arguments.videos.absolute()
    return Elsewhere(folder, folder.name)


def _knows_no_text(model: Path) -> bool:
    return model.exists() and not knows_text(model)


def _expect_own_settings(arguments: argparse.Namespace) -> None:
    """Refuse options that a model with settings of its own would not look at."""
    parser = argparse.ArgumentParser()
    rollout.add_models(parser, required=False)
    ways.add_lengths(parser)
    rollout.add_settings(parser)
    plain = vars(parser.parse_args([]))
    given = [
        f"--{name.replace('_', '-')}"
        for name, default in plain.items()
        if name not in USED_BY_ALL and getattr(arguments, name) != default
    ]
    if given:
        raise ValueRangeError(
            f"--model {arguments.model} is made with settings of its own",
            got=", ".join(given),
            expected="options of the data and of the metrics, or --depth-model",
            fix="Leave them out, or name the path of a video model with --model",
        )


def load_parts(arguments: argparse.Namespace, branch: Path | None = None) -> Parts:
    """Read a video model and all that goes with it.

    Args:
        arguments: Those of the command line, with the path of the transformer.
        branch: Another side branch than theirs.

    Raises:
        ModelMismatchError: A file is none of what it should be.
    """
    from . import models

    given = copy.copy(arguments)
    given.branch = branch or given.branch
    setup = models.DeviceSetup.from_arguments(given)
    codec = models.load_codec(given, setup)
    known = {given.prompt: models.encode_prompts(given, setup, given.prompt)}
    loaded = models.with_texts(given, codec, NoDepth(), setup, known[given.prompt])

    def texts(prompt: str) -> DenoiserFactory:
        wanted = prompt or given.prompt
        if wanted not in known:
            known[wanted] = models.encode_prompts(given, setup, wanted)
        text, negative = known[wanted]
        made: DenoiserFactory = dataclasses.replace(
            loaded.denoiser, text=text, negative=negative  # type: ignore[type-var]
        )
        return made

    return Parts(
        loaded,
        rollout.settings_of(given),
        ways.lengths_of(given),
        ways.colours_of(given),
        texts,
    )
