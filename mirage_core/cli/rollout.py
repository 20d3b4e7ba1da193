"""``mirage rollout``: a whole shot on the command line."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from tqdm import tqdm

from ..cache.io import save_cache
from ..constants import DEFAULT_FPS
from ..errors import CacheFormatError
from ..files import make_unused_folder, make_way
from ..folder_lock import exclusive_folder
from ..geometry.align import ALIGN_MODES, AlignConfig
from ..geometry.depth import DEPTH_MODES
from ..geometry.sources import describe_geometry
from ..rollout.begin import begin
from ..rollout.generate import generate
from ..rollout.progress import Progress
from ..rollout.report import report
from ..rollout.run_folder import finish, open_folder
from ..rollout.settings import GenerationSettings, MemorySettings
from ..rollout.state import RolloutState
from ..rollout.takes import MEMORY, VIDEO
from ..sampling.solve import METHODS
from ..trajectories.lens import LENSES, PICTURE
from ..trajectories.presets import EASINGS, MAX_AMOUNT, PRESETS
from ..writing.consistency import ConsistencyConfig
from ..writing.policy import WRITE_POLICIES
from . import inputs, masks, ways
from .inputs import parse_path

OVERRIDES = {
    "steps": "steps", "shift": "shift", "method": "method", "references": "references",
    "preceding": "preceding", "min_overlap": "threshold", "carried": "decode_context",
}  # fmt: skip
"""Arguments that replace a setting when they are given, and the setting."""

Group = Any


def add_command(commands: Any) -> None:
    """Add ``rollout`` to the commands of a parser."""
    parser = commands.add_parser(
        "rollout",
        help="generate a shot from a picture, its depth and a camera move",
        description="Generates a shot chunk by chunk and saves every finished chunk. Run the same "
        "command again to resume after the last one. At the end the folder contains video.mp4 "
        f"and {MEMORY}.",
    )
    _add_inputs(parser.add_argument_group("picture and camera"))
    ways.add_lengths(parser.add_argument_group("chunks"))
    models = parser.add_argument_group("models")
    models.add_argument(
        "--transformer", type=parse_path, required=True,
        help="Wan2.2-TI2V-5B: a folder, or one .safetensors or .gguf file",
    )  # fmt: skip
    add_models(models)
    masks.add_masks(parser.add_argument_group("masks"))
    add_settings(parser.add_argument_group("generation"))
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=parse_path, required=True, help="folder for the shot")
    output.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True,
        help="resume from the chunks in the folder; --no-resume starts in a new folder next to it",
    )  # fmt: skip
    parser.set_defaults(run=run)


def _add_inputs(group: Group) -> None:
    group.add_argument("--image", type=parse_path, required=True, help="the picture")
    group.add_argument(
        "--size", type=inputs.parse_size, help="WIDTHxHEIGHT to resize to, multiples of 32"
    )
    depth = group.add_mutually_exclusive_group(required=True)
    depth.add_argument("--depth", type=parse_path, help="depth picture, or as for --geometry")
    depth.add_argument(
        "--geometry", type=parse_path,
        help="a geometry file (.safetensors, .npz, .exr, .tif) of the picture or of the full "
        "shot; name.####.exr for one file a frame",
    )  # fmt: skip
    group.add_argument(
        "--depth-encoding", choices=inputs.ENCODINGS, default=inputs.AUTO,
        help="how values become distances (default: %(default)s: scene units for floating-point "
        "numbers, millimetres for 16 bits that use a part of their range, else near-white, as "
        "1 / distance)",
    )  # fmt: skip
    group.add_argument(
        "--depth-black", choices=inputs.BLACKS, default=inputs.AUTO,
        help="what black means in --depth (default: %(default)s: no reading in millimetres, in "
        "scene units, and where it stands apart from the rest)",
    )  # fmt: skip
    group.add_argument(
        "--depth-channel", default="", metavar="NAME",
        help="channel or layer of an .exr file, or array of an .npz file, that is depth, where "
        "several may be",
    )  # fmt: skip
    group.add_argument(
        "--near", type=float, default=1.0, help="nearest distance of --depth (default: 1)"
    )
    group.add_argument(
        "--far", type=float, default=20.0, help="farthest distance of --depth (default: 20)"
    )
    group.add_argument(
        "--fov", type=float, default=60.0,
        help="horizontal field of view in degrees, where no file states it (default: 60)",
    )  # fmt: skip
    _add_move(group)


def _add_move(group: Group) -> None:
    move = group.add_mutually_exclusive_group(required=True)
    move.add_argument("--trajectory", type=parse_path, help="a camera file")
    move.add_argument("--move", choices=PRESETS, metavar="NAME", help=", ".join(PRESETS))
    group.add_argument(
        "--lens", choices=LENSES, default=PICTURE,
        help="of --trajectory: begin with the lens of the picture, or keep the file's "
        "(default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--camera", default="", metavar="NAME",
        help="which camera of --trajectory (default: its first, of glTF the first that moves)",
    )  # fmt: skip
    group.add_argument(
        "--animation", default="", metavar="NAME",
        help="of a glTF --trajectory: which animation (default: the first that moves the camera)",
    )  # fmt: skip
    group.add_argument(
        "--frames", type=int, default=97, help="frames of --move, 4n + 1 (default: 97)"
    )
    group.add_argument(
        "--amount", type=float, default=1.0, help=f"size of --move, up to {MAX_AMOUNT:g}"
    )
    group.add_argument("--easing", choices=EASINGS, default="smooth", help="of --move")
    group.add_argument(
        "--there-and-back",
        action="store_true",
        help="return to the start in the second half of --move",
    )
    group.add_argument("--fps", type=float, default=DEFAULT_FPS, help="frames per second")


def add_models(group: Group, *, required: bool = True) -> None:
    """Add all models but the video model itself to a group of arguments.

    Args:
        group: Of a parser.
        required: Whether there has to be a codec.
    """
    ways.add_way(group)
    group.add_argument("--branch", type=parse_path, help="side branch, if it is a separate file")
    inputs.add_branch_format(group)
    group.add_argument(
        "--lora", type=parse_path, action="append", default=[], help="a LoRA file; can be repeated"
    )
    group.add_argument(
        "--later-lora", type=parse_path, help="a LoRA file for every chunk but the first"
    )
    group.add_argument(
        "--lora-scale", type=float, default=1.0, help="strength of all LoRAs (default: 1)"
    )
    codec = group.add_mutually_exclusive_group(required=required)
    codec.add_argument("--vae", type=parse_path, help="Wan2.2 VAE: a folder or a .safetensors file")
    codec.add_argument(
        "--embedded-codec", action="store_true",
        help="use the embedded codec, for models that were trained with it",
    )  # fmt: skip
    group.add_argument(
        "--text-encoder", type=parse_path,
        help="UMT5-xxl: a folder or a .safetensors file; none for a model that knows no text",
    )  # fmt: skip
    group.add_argument("--depth-model", type=parse_path, help="folder of a depth model for frames")
    group.add_argument(
        "--depth-kind", default="transformers",
        help="transformers (default), MapAnything or UniDepth V2",
    )  # fmt: skip
    group.add_argument(
        "--depth-alignment", choices=ALIGN_MODES,
        help="how depth is aligned to the memory: scale (default for --depth-model), affine "
        "(scale and shift of 1 / depth), or none (default for depth of the full shot)",
    )  # fmt: skip
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    group.add_argument(
        "--offload", choices=("none", "8", "16", "24", "80"), default="none",
        help="fit the models on a GPU with this many GiB (default: keep all of them on the device)",
    )  # fmt: skip


def add_settings(group: Group) -> None:
    """Add the settings of generation and of the memory to a group of arguments."""
    group.add_argument("--prompt", default="", help="text prompt")
    group.add_argument("--negative", default="", help="negative prompt, with --guidance")
    group.add_argument(
        "--guidance", type=float, help="CFG scale (default: 1, off; spatia: 3.5)"
    )
    group.add_argument("--side-scale", type=float, default=1.0, help="strength of the side branch")
    group.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    group.add_argument(
        "--released", action="store_true",
        help="start from the settings of the released code, for its checkpoints",
    )  # fmt: skip
    group.add_argument("--steps", type=int, help="sampling steps (default: 40)")
    group.add_argument("--shift", type=float, help="shift of the noise levels (default: 5)")
    group.add_argument("--method", choices=METHODS, help="solver (default: unipc)")
    group.add_argument(
        "--references", type=int, help="maximum number of reference frames (default: 4; spatia: 7)"
    )
    group.add_argument(
        "--preceding", type=int, help="maximum number of preceding frames (default: 2; spatia: 0)"
    )
    group.add_argument(
        "--carried", type=int, help="preceding latents decoded with each chunk (default: 2)"
    )
    group.add_argument(
        "--policy", choices=WRITE_POLICIES, help="which cells are written to the memory"
    )
    group.add_argument(
        "--min-overlap", type=float, metavar="SHARE",
        help="least overlap of a reference frame with what comes next, 0 to 1 (default: 0.04)",
    )  # fmt: skip
    group.add_argument(
        "--max-points", type=int, help="most points of the memory (default: 0, no limit)"
    )
    group.add_argument(
        "--depth-mode", choices=DEPTH_MODES,
        help="how depth comes to the latent grid (default: bilinear)",
    )  # fmt: skip
    group.add_argument(
        "--reencode", action=argparse.BooleanOptionalAction, default=None,
        help="write tokens of decoded and re-encoded frames (default), or the latents themselves",
    )  # fmt: skip
    group.add_argument(
        "--hold-back", action=argparse.BooleanOptionalAction, default=None,
        help="do not write cells that other views contradict, such as moving objects",
    )  # fmt: skip


def settings_of(arguments: argparse.Namespace) -> GenerationSettings:
    """Settings from the arguments; those that are not given keep their defaults."""
    way = ways.way_of(arguments)
    base = GenerationSettings.released() if arguments.released else way.settings
    given = {setting: getattr(arguments, name) for name, setting in OVERRIDES.items()}
    return dataclasses.replace(base, memory=_memory_of(arguments, base.memory), **_set(given))


def _memory_of(arguments: argparse.Namespace, base: MemorySettings) -> MemorySettings:
    limits = dataclasses.replace(base.rules.limits, **_set({"max_points": arguments.max_points}))
    policy = _set({"policy": arguments.policy})
    given = {"reencode": arguments.reencode}
    if arguments.depth_alignment is not None:
        aligned = base.align or AlignConfig()
        given["align"] = dataclasses.replace(aligned, mode=arguments.depth_alignment)
    if arguments.hold_back is not None:
        base = dataclasses.replace(
            base, consistency=ConsistencyConfig() if arguments.hold_back else None
        )
    return dataclasses.replace(
        base,
        rules=dataclasses.replace(base.rules, limits=limits, **policy),
        write=dataclasses.replace(base.write, **_set({"depth_mode": arguments.depth_mode})),
        **_set(given),
    )


def _set(values: dict[str, Any]) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in values.items() if value is not None}


def run(arguments: argparse.Namespace) -> int:
    """Generate the shot; see `mirage_core.cli.main.main` for the exit codes."""
    settings = masks.with_growth(settings_of(arguments), arguments)
    lengths = ways.lengths_of(arguments)
    way, colours = ways.way_of(arguments), ways.colours_of(arguments)
    if arguments.guidance is None:
        arguments.guidance = way.guidance
    expect_files(arguments)
    masks.expect_masks(arguments)
    picture = inputs.load_picture(arguments.image, arguments.size)
    size = (int(picture.shape[1]), int(picture.shape[0]))
    geometry = inputs.read_geometry(arguments)
    trajectory = inputs.read_trajectory(arguments, geometry, size)
    way.expect_rate(trajectory)
    marked = masks.folder_masks(arguments, len(trajectory), size)
    # Imported late, so that help and typing errors do not wait for diffusers.
    from . import models

    models.expect_text_encoder(arguments)
    setup = models.DeviceSetup.from_arguments(arguments)
    depth = models.load_depth(arguments, geometry, len(trajectory), setup)
    found = masks.load_masks(arguments, marked, setup)
    if found is not None:
        geometry = found.of_picture(picture, geometry)
    codec = models.load_codec(arguments, setup)
    made_with = models.describe_models(arguments, setup) + masks.describe_masks(arguments, marked)
    folder = arguments.out if arguments.resume else make_unused_folder(arguments.out)
    state = begin(
        picture.to(setup.device), geometry, trajectory, codec,
        settings=settings, seed=arguments.seed, models=made_with,
        folder=folder, lengths=lengths, colours=colours,
        depth=models.describe_depth(depth, arguments.fov),
    )  # fmt: skip
    sys.stdout.write(f"depth: {describe_geometry(geometry)}\n")
    with exclusive_folder(folder):
        state = open_folder(state, anew=not arguments.resume)
        if state.taken_over is not None:
            sys.stdout.write(f"{state.taken_over.describe(len(state.plan))}\n")
        try:
            if state.complete:
                finish(state)
            else:
                parts = models.load_models(arguments, codec, depth, setup)
                parts = dataclasses.replace(parts, masks=found, cast=masks.cast_of(arguments))
                with Bar() as bar:
                    state = generate(state, parts, settings, bar)
        except KeyboardInterrupt:
            _print_resume_hint(state)
            raise
        _report(state)
    return 0


def expect_files(arguments: argparse.Namespace) -> None:
    """Refuse paths that lead nowhere before the first gigabyte is read."""
    named = (
        "transformer", "branch", "vae", "text_encoder", "depth_model", "later_lora",
        "tracker_model", "language_model",
    )  # fmt: skip
    paths = {name: getattr(arguments, name, None) for name in named}
    paths |= {f"lora {number}": path for number, path in enumerate(arguments.lora)}
    for name, path in paths.items():
        if path is not None and not path.exists():
            raise CacheFormatError(
                f"The {name.replace('_', ' ')} does not exist",
                got=path,
                expected="a file or folder on this machine; nothing is downloaded",
                fix="Check the path",
            )


def _print_resume_hint(state: RolloutState) -> None:
    saved = open_folder(state).done
    sys.stderr.write(
        f"\n{saved} of {len(state.plan)} chunks are saved in {state.folder}. Run the same "
        "command again to resume.\n"
    )


def _report(state: RolloutState) -> None:
    if state.folder is None:
        return
    video = state.folder / VIDEO
    save_cache(make_way(state.folder / MEMORY), state.cache)
    sys.stdout.write(f"{report(state, video)}\nvideo: {video}\n")


class Bar:
    """A progress bar over the whole shot, with the time that is left."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Show how far the shot is."""
        if self._bar is None:
            self._bar = tqdm(
                total=progress.total, file=sys.stderr, dynamic_ncols=True, smoothing=0,
                bar_format="{desc} |{bar}| {percentage:3.0f}%{postfix}",
            )  # fmt: skip
        left = progress.seconds_left
        self._bar.n = progress.done
        self._bar.set_description_str(
            f"chunk {progress.chunk + 1} of {progress.chunks}, {_stage(progress)}", refresh=False
        )
        self._bar.set_postfix_str(
            "" if left is None else f"{tqdm.format_interval(left)} left", refresh=False
        )
        self._bar.refresh()


def _stage(progress: Progress) -> str:
    if progress.stage == "sampling":
        return f"step {progress.step} of {progress.steps}"
    return progress.stage
