"""The tables that ``mirage evaluate`` knows, and the options of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from . import rollout, ways
from .inputs import parse_path

WHOLE: Final = (1280, 704)
TINY_SIZE: Final = (320, 192)
KINECT: Final = (640, 480)
FRAMES: Final = 97
TINY_FRAMES: Final = 65
EVERY: Final = 20
TINY_EVERY: Final = 8
TINY_RECORDING: Final = 41
"""Frames of a room that is recorded."""

FOOTAGE: Final = (
    "videos, or folders with a picture a frame, with cameras beside them: RealEstate10K's txt "
    "files (https://google.github.io/realestate10k) under the names of the footage, or any other "
    "camera file; and geometry files, or --depth-model"
)


RECORDINGS: Final = (
    "a recording of a depth camera or a folder of them, as TUM, 7-Scenes, ScanNet, Redwood and "
    "ARKitScenes lay them out, or color_1.png, depth_1.png and pose.txt"
)


SCORING: Final = (
    "The videos are in worldscore_output. --evaluator starts WorldScore's evaluator on them. Or "
    "put that folder where WorldScore looks for those of your model (MODEL_PATH of its "
    "config/model_configs/NAME.yaml), and run in its own environment:\n"
    "  python worldscore/run_evaluate.py --model_name NAME"
)


@dataclass(frozen=True)
class TaskKind:
    """A table, before its options are known.

    Attributes:
        name: Of the command.
        help: What it says of itself.
        data: What ``--data`` takes.
        add_options: Adds its own options to a parser.
        size: (width, height) of pictures where none is given.
        after: What is left to do when all is measured.
    """

    name: str
    help: str
    data: str
    add_options: Callable[[Any], None]
    size: tuple[int, int] = WHOLE
    after: str = ""


def add_model(parser: Any) -> None:
    """Add the choice of the system, and its options, to a parser."""
    group = parser.add_argument_group("models")
    group.add_argument(
        "--model", default="bundled", metavar="MODEL",
        help="what makes the shots: preview (no network), bundled (the small model that ships, the "
        "default), videos (another program, see --videos), or the path of Wan2.2-TI2V-5B with the "
        "options below, as for mirage rollout. With --side-scale 0 the model is not shown the "
        "memory",
    )  # fmt: skip
    group.add_argument(
        "--videos", type=parse_path,
        help="with --model videos: folder in which the shots are asked for, and where another "
        "program, such as a graph of ComfyUI, puts its videos; it names them in results",
    )
    rollout.add_models(group, required=False)
    ways.add_lengths(parser.add_argument_group("chunks"))
    rollout.add_settings(parser.add_argument_group("generation"))


def _add_footage(parser: Any) -> None:
    group = parser.add_argument_group("footage")
    group.add_argument(
        "--frames", type=int,
        help=f"frames of a shot, 32n + 1; the first shot of each item is taken (default: {FRAMES}; "
        f"{TINY_FRAMES} with --tiny)",
    )  # fmt: skip
    group.add_argument(
        "--cameras", type=parse_path, help="folder of camera files (default: next to the footage)"
    )
    group.add_argument(
        "--geometry", type=parse_path, help="folder of geometry files (default: as for --cameras)"
    )
    group.add_argument(
        "--exact-depth", action="store_true", help="geometry files are those of a renderer"
    )
    group.add_argument("--stride", type=int, default=1, help="use every n-th frame of the footage")
    group.add_argument(
        "--movers", type=int, default=0, help="with --tiny: things that move in each room"
    )
    group.add_argument(
        "--depth-noise", type=float, nargs=2, metavar=("SMOOTH", "WHITE"),
        help="with --tiny: largest relative errors of depth, those that change slowly over the "
        "picture and those from cell to cell (default: 0.02 0.01)",
    )  # fmt: skip


def _add_depth(parser: Any) -> None:
    """Options of depth, for tasks whose models do not bring them."""
    group = parser.add_argument_group("depth")
    group.add_argument("--depth-model", type=parse_path, help="folder of a geometry estimator")
    group.add_argument(
        "--depth-kind", default="transformers", help="transformers, MapAnything or UniDepth V2"
    )
    group.add_argument("--device", default="cpu", help="where it computes")


def _add_captures(parser: Any) -> None:
    group = parser.add_argument_group("frames")
    group.add_argument(
        "--every", type=int,
        help=f"every so many frames one is written (default: {EVERY}; {TINY_EVERY} with --tiny)",
    )
    group.add_argument(
        "--held-back", type=int, default=25, help="most frames that are drawn (default: 25)"
    )
    group.add_argument("--device", default="cpu", help="where LPIPS computes")


def _add_ablation(parser: Any) -> None:
    add_model(parser)
    _add_footage(parser)
    parser.add_argument(
        "--variations", type=parse_path,
        help="JSON file with the rows (default: latent, colours, upsampled features, forgetting, "
        "no filter, append)",
    )  # fmt: skip


def _add_efficiency(parser: Any) -> None:
    add_model(parser)
    _add_footage(parser)
    parser.add_argument("--runs", type=int, default=5, help="of every read (default: 5)")


def _add_depth_study(parser: Any) -> None:
    add_model(parser)
    _add_footage(parser)
    parser.add_argument(
        "--estimator", action="append", default=[], metavar="NAME=KIND:FOLDER",
        help="an estimator to judge; can be repeated. KIND is transformers, MapAnything or "
        "UniDepth V2. With --tiny alone: stand-ins",
    )  # fmt: skip


def _add_re10k(parser: Any) -> None:
    add_model(parser)
    _add_footage(parser)


def _add_holes(parser: Any) -> None:
    _add_footage(parser)
    _add_depth(parser)


def _add_worldscore(parser: Any) -> None:
    add_model(parser)
    parser.add_argument(
        "--frames", type=int, help=f"with --tiny: frames of a world (default: {TINY_FRAMES})"
    )
    group = parser.add_argument_group("scores")
    group.add_argument(
        "--evaluator", type=parse_path, metavar="FOLDER",
        help="copy of WorldScore's repository: its evaluator is started when the videos are made",
    )  # fmt: skip
    group.add_argument(
        "--evaluator-python", type=parse_path, metavar="FILE",
        help="Python of the evaluator's environment (default: the one that runs this)",
    )
    group.add_argument(
        "--evaluator-model", default="mirage", metavar="NAME",
        help="name of its config/model_configs/NAME.yaml, whose runs_root is --out (default: "
        "mirage)",
    )  # fmt: skip


TASKS: Final = (
    TaskKind(
        "re10k", "novel views from a first frame and poses, and closed loops (Table 2)", FOOTAGE,
        _add_re10k,
    ),
    TaskKind(
        "ablation", "one thing changed at a time (Table 3)", FOOTAGE, _add_ablation
    ),
    TaskKind(
        "depth", "the depth of several estimators, and shots with it (Table 4)", FOOTAGE,
        _add_depth_study,
    ),
    TaskKind(
        "holes", "hole rates of four downsamplings of depth (Table 5)", FOOTAGE, _add_holes,
    ),
    TaskKind(
        "efficiency", "seconds and bytes, tokens beside colours (Figure 5)", FOOTAGE,
        _add_efficiency,
    ),
    TaskKind(
        "worldscore", "videos for WorldScore's evaluator, in the layout that it takes (Table 1)",
        "worlds that WorldScore's helpers have prepared: folders with input_image.png, "
        "image_data.json and camera_data.json", _add_worldscore, after=SCORING,
    ),
    TaskKind(
        "captures", "memories of RGB-D recordings, read between the frames that were written",
        RECORDINGS, _add_captures, KINECT,
    ),
)  # fmt: skip
