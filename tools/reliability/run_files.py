"""Memories, shots, data sets and trainings: small valid files, and what reads them."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open

import tiny_training
from mirage_core.cache.actor import Actor
from mirage_core.cache.io import load_cache, save_cache
from mirage_core.cache.track import Behaviour, Track
from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.codecs.dct import DctCodec
from mirage_core.digests import PREFIX
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.readout.readout import read
from mirage_core.rollout.memory import begin_memory
from mirage_core.rollout.run_folder import chunk_path, commit, load_record, open_folder
from mirage_core.rollout.saved_frames import saved_frames
from mirage_core.rollout.state import RolloutState, rollout_id
from mirage_core.tensor_files import HEADER_KEY, write_tensors
from mirage_core.training.checkpoint import PARTS, STATE, TrainingState, load_state, save_state
from mirage_core.training.data.dataset import ClipDataset
from mirage_core.training.data.manifest import (
    DataManifest,
    claim,
    read_empty_text,
    read_manifest,
    write_empty_text,
)
from mirage_core.training.data.released.lmdb_import import (
    PRECEDING,
    PRECEDING_SCENE,
    SCENE,
    TARGET,
    convert_sample,
)
from mirage_core.training.data.shards import index_path
from mirage_core.training.optimiser import MOMENTS, Ema, Optimiser
from mirage_core.training.sampler import ClipSampler, Position
from mirage_core.training.settings import TrainingSettings
from reliability.kinds import HEIGHT, WIDTH, Format, each, move, pictures, random_numbers


def _without_digests(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kept = {name: _without_digests(item) for name, item in value.items() if name != "digests"}
    return {
        name: item
        for name, item in kept.items()
        if not (isinstance(item, str) and item.startswith(PREFIX))
    }


def unseal(*paths: Path) -> None:
    """Take the digests out of files, as earlier versions wrote them.

    Otherwise every damage ends at the digest, and no check behind it is tried.
    """
    for path in paths:
        if path.suffix == ".json":
            document = json.loads(path.read_bytes())
            path.write_text(json.dumps(_without_digests(document)))
            continue
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = dict(file.metadata())
        header = _without_digests(json.loads(metadata[HEADER_KEY]))
        write_tensors(path, tensors, {**metadata, HEADER_KEY: json.dumps(header)})


def _memory() -> LatentCache:
    cache = LatentCache(channels=8)
    for number in range(2):
        rng = random_numbers(number)
        block = CacheBlock(
            points=torch.randn(7, 3, generator=rng) + 3,
            tokens=torch.randn(7, 8, generator=rng),
            source=torch.randint(0, 2, (7,), generator=rng),
            slope=0.1 * torch.randn(7, 2, generator=rng),
            world_to_camera=torch.eye(4, dtype=torch.float64).repeat(2, 1, 1),
            intrinsics=intrinsics_from_fov(12, 8, 60).repeat(2, 1, 1),
            frames=torch.arange(2),
            mask=torch.full((7,), 3, dtype=torch.int16) if number else None,
        )
        cache = cache.append(block)
    return cache


def _memories(folder: Path) -> list[Path]:
    cache = _memory()
    way = Track(torch.tensor([0, 4]), torch.eye(2, 3), torch.zeros(2))
    moving = Actor("dog", cache, way, Behaviour.PATH, way, (3,))
    files = [
        save_cache(folder / "a", cache),
        save_cache(folder / "b", cache.to("cpu", torch.int8)),
        save_cache(folder / "c", cache.with_actors([moving])),
    ]
    unseal(*files)
    return files


@lru_cache(maxsize=1)
def _begun() -> tuple[Trajectory, LatentCache, torch.Tensor, str]:
    codec = DctCodec()
    cameras = move(37)
    tokens = codec.encode_images(pictures(1))
    depth = 2 + torch.rand(1, HEIGHT, WIDTH, generator=random_numbers())
    cache = begin_memory(tokens, FrameGeometry(depth, cameras.intrinsics[:1]), "test")
    return cameras, cache, tokens, rollout_id(cameras, cache, tokens, 1, "test")


def _shot(folder: Path) -> RolloutState:
    cameras, cache, tokens, run_id = _begun()
    return RolloutState(cameras, cache, tokens, 1, run_id, folder)


def _chunks(folder: Path) -> list[Path]:
    state = open_folder(_shot(folder))
    while not state.complete:
        readout = read(state.cache, state.frame_cameras)
        count, (height, width) = state.chunk.latent_frames, state.latent_grid
        latents = torch.randn(state.channels, count, height, width, generator=random_numbers())
        cache = state.cache.append(state.cache.blocks[0].take(torch.arange(3)))
        frames = torch.zeros(state.chunk.model_frames, HEIGHT, WIDTH, 3)
        state = commit(state, latents=latents, frames=frames, readout=readout, cache=cache)
    files = [chunk_path(folder, 1), chunk_path(folder, 0), folder / "rollout.json"]
    unseal(*files)
    return files


def _read_chunk(path: Path) -> None:
    state = open_folder(_shot(path.parent))
    each(
        *(lambda index=index: load_record(state, index) for index in range(state.done)),
        lambda: saved_frames(state, [0] if state.done else []),
    )


def _shards(folder: Path) -> list[Path]:
    tiny_training.write_clips(folder, range(4), grid=(2, 3))
    return [folder / "clips-a-00000.json", folder / "clips-a-00000.safetensors"]


def _settle_shard(path: Path) -> None:
    shard = path.with_suffix(".safetensors")
    _note(index_path(shard), lambda document: document.update(bytes=shard.stat().st_size))


def _note(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    try:
        document = json.loads(path.read_bytes())
        change(document)
        path.write_text(json.dumps(document))
    except (ValueError, RecursionError, KeyError, AttributeError, TypeError):
        return  # the damaged file itself


def _read_shard(path: Path) -> None:
    data = ClipDataset(path.parent)
    ClipSampler(data, 1, 0)
    for number in range(len(data)):
        _ = data[number]


def _data(folder: Path) -> list[Path]:
    claim(folder, DataManifest("dct", WIDTH, HEIGHT, "test"))
    write_empty_text(folder, torch.ones(3, 4))
    return [folder / "data.json", folder / "empty_text.safetensors"]


def _read_data(path: Path) -> None:
    each(lambda: read_manifest(path.parent), lambda: read_empty_text(path.parent))


_PARAMETERS: Final = {"a": (2, 3), "b": (3,)}


def _states(folder: Path) -> list[Path]:
    weights = {name: torch.ones(shape) for name, shape in _PARAMETERS.items()}
    moments = {f"{moment}.{name}": weights[name] for moment in MOMENTS for name in weights}
    position = Position(1, 2, 4, ("clips-a-00000",))
    saved = save_state(folder, TrainingState(5, position, weights, weights, moments), 2)
    unseal(saved / STATE)
    return [saved / STATE, saved / STATE, *(saved / f"{part}.safetensors" for part in PARTS)]


def _settle_state(path: Path) -> None:
    sizes = {part: (path.parent / f"{part}.safetensors").stat().st_size for part in PARTS}
    _note(path.parent / STATE, lambda document: document.update(lengths=sizes))


def _read_state(path: Path) -> None:
    state = load_state(path.parents[2])
    if state is not None:
        settings = TrainingSettings(stage="single", **tiny_training.SETTINGS)
        parameters = {
            name: torch.nn.Parameter(torch.ones(shape)) for name, shape in _PARAMETERS.items()
        }
        state.expect_fits(parameters)
        Optimiser(parameters, settings).load(state.moments, state.step)
        Ema(parameters, 0.9).load(state.average)


def _settings(folder: Path) -> list[Path]:
    TrainingSettings(stage="single", **tiny_training.SETTINGS).save(folder)
    return [path for path in folder.iterdir()]


def _samples(folder: Path) -> list[Path]:
    def saved(tensor: torch.Tensor) -> bytes:
        written = io.BytesIO()
        torch.save({"latent": tensor}, written)
        return written.getvalue()

    names = (TARGET, SCENE, PRECEDING, PRECEDING_SCENE)
    content = {name: saved(torch.ones(1, 48, 2, 2)) for name in names}
    (folder / "a.bin").write_bytes(pickle.dumps(content, protocol=4))
    return [folder / "a.bin"]


def _read_sample(path: Path) -> None:
    convert_sample(path.read_bytes(), "a")


RUN_FILES: Final[dict[str, Format]] = {
    "memory": Format(_memories, load_cache),
    "chunk": Format(_chunks, _read_chunk),
    "shard": Format(_shards, _read_shard, _settle_shard),
    "data": Format(_data, _read_data),
    "state": Format(_states, _read_state, _settle_state),
    "settings": Format(_settings, TrainingSettings.load),
    "sample": Format(_samples, _read_sample),
}
