"""The parts of a training run, from the command line's arguments."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor

from ..checkpoints.branch_file import read_branch_config
from ..checkpoints.lora_format import read_lora
from ..checkpoints.transformer_format import open_transformer, read_format, transformer_folder
from ..codecs.base import LatentCodec
from ..codecs.dct import DctCodec
from ..conditioning.features import (
    DRAWINGS,
    SideFeature,
    drawing_of,
    format_features,
    parse_features,
)
from ..constants import MAX_CHUNK_FRAMES, TEMPORAL_STRIDE
from ..errors import ModelMismatchError, ValueRangeError
from ..folder_lock import exclusive_folder
from ..log import logger
from ..models.load import load_transformer
from ..models.transformer import MirageTransformer3DModel
from ..models.vae import load_vae
from ..training.cost_estimate import describe_cost, flops_of_step
from ..training.data.dataset import ClipDataset
from ..training.data.manifest import MANIFEST, read_empty_text, read_manifest
from ..training.distributed import Distributed
from ..training.flow import pixel_weights
from ..training.memory_estimate import MemoryPlan, describe_plan, plan_memory, unloaded_model
from ..training.new_planes import load_with_new_planes, planes_of
from ..training.presets import preset_values
from ..training.sampler import WEIGHTS_SEED, mixed_seed
from ..training.settings import TrainingSettings
from ..training.stages import new_branch, seeded
from ..training.trainer import Trainer, TrainingData
from ..training.validation import LoopTest

SIZES: Final = {
    "width": "dim", "heads": "num_attention_heads", "ffn": "ffn_dim", "layers": "num_layers",
    "text": "text_dim",
}  # fmt: skip
FREQ_DIM: Final = 256


@contextmanager
def deterministic() -> Iterator[None]:
    """Ask PyTorch for kernels that give the same bits each time; it warns where it has none.

    Otherwise sums on a GPU have no fixed order, and a resumed run gives different bits.
    """
    # cuBLAS reads this when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


@contextmanager
def own_folder(arguments: argparse.Namespace) -> Iterator[None]:
    """Keep other programs out of the run's folder; the processes of this run share it.

    Raises:
        FolderInUseError: Another run has the folder.
    """
    first = Distributed(cpu=arguments.device == "cpu").first
    with exclusive_folder(arguments.out) if first else nullcontext():
        yield


def make_trainer(arguments: argparse.Namespace, settings: TrainingSettings) -> Trainer:
    """Read what the arguments name.

    Raises:
        MirageError: Something does not exist or does not fit together.
    """
    processes = Distributed(cpu=arguments.device == "cpu")
    model = load_model(arguments, settings, processes.device)
    codec = _codec(arguments, processes.device)
    _expect_same_codec(arguments, codec)
    _expect_drawn(arguments, settings, model)
    _expect_own_branch(arguments, settings, model)
    settings = _of_own_branch(settings, model)
    if processes.first and settings.text_tokens > 1:
        _tell_missing_captions(arguments)
    width = int(model.config.text_dim)
    empty = read_empty_text(arguments.data)
    empty = torch.zeros(1, width) if empty is None else empty
    weights = None
    if settings.loss == "pixel":
        weights = pixel_weights(_expect_codec(codec, "The pixel loss"))
    data = TrainingData(
        folder=arguments.data,
        empty_text=empty,
        held_out=arguments.held_out,
        white=_white_latent(arguments, settings, model, codec),
        loss_weights=weights,
    )
    loops = None
    wanted = settings.with_branch and settings.validation_scenes and settings.validate_every
    if codec is not None and wanted:
        loops = LoopTest(codec, empty, settings, processes.device)
    lora = None if arguments.lora is None else read_lora(arguments.lora)
    return Trainer(model, settings, data, arguments.out, processes, loops, lora)


def load_model(
    arguments: argparse.Namespace, settings: TrainingSettings, device: torch.device
) -> Any:
    """The video model: loaded from a file, or new with random weights."""
    dtype = torch.float32 if settings.trains_full_model else settings.compute_dtype
    if arguments.new_transformer is None:
        return load_transformer(
            arguments.transformer,
            branch=_branch(arguments, settings),
            branch_format=arguments.branch_format,
            dtype=dtype,
            device=device,
        )
    if not settings.trains_full_model or arguments.branch is not None:
        raise ModelMismatchError(
            "A new video model requires training all of its weights",
            got=f"the stage {settings.stage}" + (" and a branch" if arguments.branch else ""),
            fix="Choose --stage backbone or full, without --branch",
        )
    with seeded(mixed_seed(settings.seed, WEIGHTS_SEED, 1), device):
        model: Any = MirageTransformer3DModel(**parse_sizes(arguments.new_transformer))
    # Without captions it never learns: at 0, prompts mean nothing, and the finished file says so.
    torch.nn.init.zeros_(model.condition_embedder.text_embedder.linear_1.weight)
    return model.to(device)


def _branch(arguments: argparse.Namespace, settings: TrainingSettings) -> Any:
    """The side branch to begin with: its file, or what is made of it where its planes are new."""
    if not settings.new_planes:
        return arguments.branch
    if arguments.branch is None or not settings.with_branch:
        raise ModelMismatchError(
            "New input planes are for a side branch that is trained on",
            got="no --branch" if arguments.branch is None else f"the stage {settings.stage}",
            expected="a branch whose blocks are kept, such as Spatia's step-8500.safetensors",
            fix="Set --branch, with --stage branch or joint",
        )
    return load_with_new_planes(
        arguments.branch, arguments.transformer, settings, arguments.branch_format
    )


def parse_sizes(text: str) -> dict[str, int]:
    """``width=256,heads=2,...`` as arguments of the transformer.

    Raises:
        ValueRangeError: A size is missing, unknown or no number.
    """
    found = dict(item.strip().partition("=")[::2] for item in text.split(","))
    numbers = {name: int(value) for name, value in found.items() if value.isdecimal()}
    if set(numbers) != set(SIZES) or not all(numbers.values()):
        raise ValueRangeError(
            "The sizes of the new model cannot be parsed",
            got=text,
            expected=f"a number above 0 for each of {', '.join(SIZES)}",
        )
    width, heads = numbers["width"], numbers["heads"]
    if width % heads or width // heads % 2:
        raise ValueRangeError(
            "The width is not divisible by the number of attention heads",
            got=f"{width} channels, {heads} heads",
            expected="an even number of channels for each head",
        )
    sizes = {SIZES[name]: value for name, value in numbers.items()}
    del sizes["dim"]
    return {**sizes, "attention_head_dim": width // heads, "freq_dim": FREQ_DIM}


def plan(arguments: argparse.Namespace, settings: TrainingSettings) -> str:
    """What each of ``--plan`` devices would hold, and what the run would cost, as text."""
    model = _planned_model(arguments, settings)
    # This gives the model the branch of its stage, whose work counts as well.
    table = describe_plan(plan_memory(model, settings, arguments.plan, arguments.plan_size))
    flops = flops_of_step(model, settings, arguments.plan_size)
    return f"{table}\n{describe_cost(flops, settings.steps, arguments.plan)}"


def planned(
    arguments: argparse.Namespace, settings: TrainingSettings, size: tuple[int, int]
) -> MemoryPlan:
    """What each of ``--plan`` devices would hold for pictures of a size, without any weights.

    Raises:
        MirageError: The model's file cannot be read, or does not fit the stage.
    """
    return plan_memory(_planned_model(arguments, settings), settings, arguments.plan, size)


def _planned_model(arguments: argparse.Namespace, settings: TrainingSettings) -> Any:
    """The model that would be trained, without its weights."""
    sizes: dict[str, Any] = {}
    if arguments.new_transformer is not None:
        sizes = dict(parse_sizes(arguments.new_transformer))
    elif arguments.transformer is not None:
        files = open_transformer(transformer_folder(arguments.transformer))
        form = read_format(
            files.shapes, files.metadata, files.name, arguments.branch_format
        )  # fmt: skip
        sizes = dict(form.arguments)
    model = unloaded_model(settings, **sizes)
    if arguments.branch is not None:
        own = read_branch_config(
            arguments.branch, model.config.num_layers, arguments.branch_format
        )
        model.add_branch(planes_of(own, settings) if settings.new_planes else own)
    elif settings.stage in ("joint", "lora"):
        # Their branch comes from the stage before; it has the sizes of a new one.
        model.add_branch(new_branch(model, settings))
    return model


def _codec(arguments: argparse.Namespace, device: torch.device) -> LatentCodec | None:
    if arguments.embedded_codec:
        return DctCodec()
    return None if arguments.vae is None else load_vae(arguments.vae, device=device)


def _expect_same_codec(arguments: argparse.Namespace, codec: Any) -> None:
    """Raise `ModelMismatchError` unless all clips were made with one codec, the given one."""
    folders = [arguments.data, arguments.held_out]
    made = [read_manifest(f).codec for f in folders if f is not None and (f / MANIFEST).exists()]
    wanted = made[0] if codec is None and made else getattr(codec, "name", None)
    for made_with in made:
        if made_with != wanted:
            raise ModelMismatchError(
                "The clips were made with a different codec",
                got=f"clips of {made_with!r}, and {wanted!r}",
                fix="Set the codec of the clips with --vae or --embedded-codec; held-out clips "
                "need the same codec as the others",
            )


def _expect_drawn(arguments: argparse.Namespace, settings: TrainingSettings, model: Any) -> None:
    """Raise `ModelMismatchError` unless the clips show what the branch takes."""
    if not settings.with_branch:
        return
    own = model.branch_config
    features = parse_features(settings.side_features) if own is None else own.features
    if not {SideFeature.RENDER, SideFeature.SCORE}.isdisjoint(features):
        raise ModelMismatchError(
            "The side branch is steered by a colour render of points, which clips do not hold",
            got=f"a branch of {format_features(features)}",
            expected="one that takes what a memory of tokens shows",
            fix="Teach its blocks to read tokens with --preset from-spatia, or leave --branch out",
        )
    if not (arguments.data / MANIFEST).exists():
        return
    stored = read_manifest(arguments.data).settings.split(";")
    drawn = next((feature for feature in DRAWINGS if feature.value in stored), None)
    if drawn is not drawing_of(features):
        raise ModelMismatchError(
            "The clips and the side branch use different forms of the readout",
            got=f"{'the tokens themselves' if drawn is None else drawn.value} in the clips",
            expected=f"clips for {format_features(features)}",
            fix="Make the clips with mirage data make --drawn for features that begin with drawn, "
            "with --drawn best_view for drawn_best, and without it for all others",
        )


def _expect_own_branch(
    arguments: argparse.Namespace, settings: TrainingSettings, model: Any
) -> None:
    """Raise `ModelMismatchError` when options or the preset describe another branch."""
    if arguments.branch is None:
        return
    for name, value in _own_branch(model).items():
        given = getattr(arguments, name)
        if given is None and name in preset_values(settings.preset):
            given = getattr(settings, name)
        if name == "side_features" and given is not None:
            given = format_features(parse_features(given))
        if given not in (None, value):
            option = f"--{name.replace('_', '-')}"
            raise ModelMismatchError(
                f"The branch was made with another {option}",
                got=f"{given}, and a branch of {value}",
                fix=f"Set {option} to the branch's own, or begin without --branch",
            )


def _own_branch(model: Any) -> dict[str, Any]:
    """What the settings of a new branch would be for the model's own one."""
    own = model.branch_config
    if own is None:
        return {}
    return {
        "side_blocks": len(own.layers),
        "side_features": format_features(own.features),
        "side_shared_embedding": own.shared_embedding,
    }


def _of_own_branch(settings: TrainingSettings, model: Any) -> TrainingSettings:
    """The settings with what the given branch is: the defaults describe another one."""
    return dataclasses.replace(settings, **_own_branch(model))


def _tell_missing_captions(arguments: argparse.Namespace) -> None:
    """Warn of clips without text, which teach a model to do without."""
    if not (arguments.data / MANIFEST).exists() or read_manifest(arguments.data).text:
        return
    logger.warning(
        "No caption of %s is embedded, so everything is trained with an empty prompt; "
        "mirage data make --text-encoder embeds them",
        arguments.data,
    )


def _expect_codec(codec: LatentCodec | None, what: str) -> LatentCodec:
    if codec is None:
        raise ModelMismatchError(
            f"{what} needs the codec of the training clips",
            got="none",
            fix="Set --vae, or --embedded-codec if the clips were made with it",
        )
    return codec


def _white_latent(
    arguments: argparse.Namespace,
    settings: TrainingSettings,
    model: Any,
    codec: LatentCodec | None,
) -> Tensor | None:
    """Latent of a white video that is long enough, for branches that take one."""
    own = model.branch_config
    features = parse_features(settings.side_features) if own is None else own.features
    if SideFeature.WHITE not in features:
        return None
    codec = _expect_codec(codec, "A side branch that takes the latent of a white video")
    sizes = ClipDataset(arguments.data).entry(0).sizes
    main = (MAX_CHUNK_FRAMES - 1) // TEMPORAL_STRIDE + 1 + settings.preceding
    frames = (max(main, sizes.target + settings.preceding) - 1) * TEMPORAL_STRIDE + 1
    stride = codec.spatial_stride
    white = codec.white_latent(frames, sizes.height * stride, sizes.width * stride)
    return white.float().cpu()
