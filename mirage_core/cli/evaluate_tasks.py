"""The tasks of ``mirage evaluate``, from the options of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..errors import CacheFormatError, ModelMismatchError, ValueRangeError
from ..evaluation.ablation import Ablation
from ..evaluation.captures import Captures
from ..evaluation.depth_study import TINY, DepthMaker, DepthStudy, StandIn
from ..evaluation.efficiency import Efficiency
from ..evaluation.estimators import DepthByEstimator, EstimatorFolder
from ..evaluation.holes import Holes
from ..evaluation.novel_views import NovelViews
from ..evaluation.quality import Quality
from ..evaluation.rgbd import Recordings
from ..evaluation.rgbd_layouts import LAYOUTS, RecordingFolder
from ..evaluation.rooms import NOISE, Rooms
from ..evaluation.shots import FootageShots, Shots
from ..evaluation.task import Task
from ..evaluation.variations import (
    DEFAULT_VARIATIONS,
    PREVIEW_VARIATIONS,
    read_variations,
)
from ..evaluation.worldscore import LAYOUT, PreparedFolder, RoomInstances, WorldScore
from ..evaluation.worldscore_scores import OUTPUT
from ..training.data.build_clip import DepthNoise
from ..training.data.footage import FootageSource
from .evaluate_models import system_of
from .evaluate_options import (
    EVERY,
    FOOTAGE,
    FRAMES,
    KINECT,
    TINY_EVERY,
    TINY_FRAMES,
    TINY_RECORDING,
    TINY_SIZE,
    WHOLE,
)
from .evaluate_scores import evaluator_of
from .inputs import parse_path
from .work import device_of


def shots_of(arguments: argparse.Namespace, movers: int | None = None) -> Shots:
    """The footage that arguments name, or rooms.

    Raises:
        CacheFormatError: There is no such folder.
        ShapeError, ValueRangeError: A size or a length is none that works.
    """
    if arguments.tiny:
        frames = arguments.frames or TINY_FRAMES
        count = arguments.movers if movers is None else movers
        width, height = arguments.size or TINY_SIZE
        noise = NOISE if arguments.depth_noise is None else DepthNoise(*arguments.depth_noise)
        return Rooms(arguments.rooms, frames, width, height, movers=count, noise=noise)
    root = expect_data(arguments, FOOTAGE)
    estimator = None
    if arguments.depth_model is not None:
        estimator = _estimator(arguments)
    width, height = arguments.size or WHOLE
    source = FootageSource(
        root, width, height,
        cameras=_absolute(arguments.cameras), geometry=_absolute(arguments.geometry),
        estimator=estimator, shot_frames=arguments.frames or FRAMES, stride=arguments.stride,
        exact_depth=arguments.exact_depth, caption=getattr(arguments, "prompt", ""),
    )  # fmt: skip
    return FootageShots(source)


def expect_data(arguments: argparse.Namespace, layout: str) -> Path:
    """The folder of the data.

    Raises:
        CacheFormatError: None is named, or there is none; the message has the layout.
    """
    folder: Path | None = arguments.data
    if folder is None or not folder.is_dir():
        raise CacheFormatError(
            "There is no data",
            got="no --data" if folder is None else f"no folder {folder}",
            expected=layout,
            fix="Name a folder with --data, or use --tiny",
        )
    return folder.absolute()


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _quality(arguments: argparse.Namespace) -> Quality:
    return Quality(_absolute(arguments.lpips), device_of(arguments))


def _estimator(arguments: argparse.Namespace) -> EstimatorFolder:
    """The one of ``--depth-model``.

    Raises:
        CacheFormatError: There is no such folder.
    """
    folder: Path = arguments.depth_model.absolute()
    if not folder.is_dir():
        raise CacheFormatError(
            "The depth model does not exist",
            got=folder,
            expected="a folder on this machine; nothing is downloaded",
            fix="Check the path of --depth-model",
        )
    return EstimatorFolder(arguments.depth_kind, folder, device_of(arguments))


def _novel_views(
    arguments: argparse.Namespace, movers: int | None = None, *, videos: bool = False
) -> NovelViews:
    depth = None
    if arguments.depth_model is not None:
        depth = DepthByEstimator(_estimator(arguments))
    shots = shots_of(arguments, movers)
    system = system_of(arguments, videos=videos)
    return NovelViews(shots, system, _quality(arguments), depth)


def _captures(arguments: argparse.Namespace) -> Captures:
    every = arguments.every
    if arguments.tiny:
        every = every or TINY_EVERY
        size = arguments.size or TINY_SIZE
        data: Recordings = Rooms(arguments.rooms, TINY_RECORDING, *size)
    else:
        size = arguments.size or KINECT
        known = "; ".join(f"{x.name}: {x.looks} ({x.source})" for x in LAYOUTS)
        data = RecordingFolder(expect_data(arguments, known), *size)
    return Captures(data, every or EVERY, arguments.held_back, _quality(arguments))


def _ablation(arguments: argparse.Namespace) -> Ablation:
    # Without anything that moves, a filter changes nothing.
    movers = (arguments.movers or 1) if arguments.tiny else None
    base = _novel_views(arguments, movers)
    if arguments.variations is not None:
        return Ablation(base, read_variations(arguments.variations))
    return Ablation(
        base, PREVIEW_VARIATIONS if arguments.model == "preview" else DEFAULT_VARIATIONS
    )


def _efficiency(arguments: argparse.Namespace) -> Efficiency:
    system, device = system_of(arguments), device_of(arguments)
    codec: Any = None
    if arguments.vae is not None:
        from ..models.vae import load_vae

        codec = partial(load_vae, arguments.vae.absolute(), device=device)
    found = Efficiency(shots_of(arguments), system, arguments.runs, device=device)
    if codec is None:
        return found
    return Efficiency(found.shots, system, arguments.runs, codec, device)


def _depth(arguments: argparse.Namespace) -> DepthStudy:
    device = device_of(arguments)
    made: dict[str, DepthMaker | StandIn] = {}
    for text in arguments.estimator:
        name, kind, folder = parse_estimator(text)
        made[name] = DepthByEstimator(EstimatorFolder(kind, folder.absolute(), device))
    if arguments.tiny and not made:
        made = dict(TINY)
    return DepthStudy(shots_of(arguments), system_of(arguments), made, _quality(arguments))


def parse_estimator(text: str) -> tuple[str, str, Path]:
    """Name, kind and folder of ``NAME=KIND:FOLDER``.

    Raises:
        ValueRangeError: It has another form.
    """
    name, equals, rest = text.partition("=")
    kind, colon, folder = rest.partition(":")
    if not (name and equals and kind and colon and folder):
        raise ValueRangeError(
            "An estimator is not named as it should be",
            got=text,
            expected="NAME=KIND:FOLDER, such as DA=transformers:Depth-Anything-V2-Small-hf",
        )
    return name, kind, parse_path(folder)


def _worldscore(arguments: argparse.Namespace) -> WorldScore:
    run: Path = arguments.out.absolute()
    videos = run / OUTPUT
    evaluator = evaluator_of(arguments)
    if evaluator is not None:
        evaluator.expect_ready(run)
    if arguments.tiny:
        size = arguments.size or TINY_SIZE
        rooms = Rooms(arguments.rooms, arguments.frames or TINY_FRAMES, *size)
        return WorldScore(RoomInstances(rooms), system_of(arguments), videos)
    root = expect_data(arguments, LAYOUT)
    if arguments.depth_model is None:
        raise ModelMismatchError(
            "WorldScore's pictures have no depth",
            got="no --depth-model",
            expected="the folder of a geometry estimator",
            fix="Set --depth-model and --depth-kind",
        )
    estimate = _estimator(arguments)
    width, height = arguments.size or WHOLE
    worlds = PreparedFolder(root, width, height, estimate)
    return WorldScore(worlds, system_of(arguments), videos)


MAKERS: Final[dict[str, Callable[[argparse.Namespace], Task]]] = {
    "re10k": partial(_novel_views, videos=True),
    "ablation": _ablation,
    "depth": _depth,
    "holes": lambda arguments: Holes(shots_of(arguments)),
    "efficiency": _efficiency,
    "worldscore": _worldscore,
    "captures": _captures,
}
"""What makes each task from its arguments."""
