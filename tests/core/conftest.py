"""Small clouds, cameras, memories and pictures that many tests start from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from safetensors.torch import load_file
from torch import Tensor

from mirage_core.cache.build import Observation
from mirage_core.cache.types import CacheBlock, LatentCache
from mirage_core.checkpoints.names import to_diffusers
from mirage_core.codecs.dct import DctCodec
from mirage_core.geometry.camera import PixelConvention
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.trajectory import Trajectory, intrinsics_from_fov
from mirage_core.geometry.transform import invert_rigid, rigid, rotation_about
from mirage_core.preview.fill import fill_readout
from mirage_core.readout.readout import read
from mirage_core.rollout import run_folder
from mirage_core.rollout.chain import shot_start
from mirage_core.rollout.decode import encode_overlap
from mirage_core.rollout.memory import begin_memory, write_chunk
from mirage_core.rollout.plan import ChunkLengths
from mirage_core.rollout.run_folder import commit, open_folder
from mirage_core.rollout.settings import MemorySettings
from mirage_core.rollout.state import RolloutState, rollout_id
from mirage_core.writing.policy import WriteRules

# No deadline, since machines are busy; derandomised, since a failure must show again.
settings.register_profile("mirage", deadline=None, derandomize=True)
settings.register_profile("quick", settings.get_profile("mirage"), max_examples=20)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "mirage"))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Make:
    """Factories; equal arguments give equal results."""

    @staticmethod
    def noise(*shape: int, seed: int = 0) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    @staticmethod
    def uniform(*shape: int, seed: int = 0) -> Tensor:
        """Numbers between 0 and 1."""
        return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))

    @staticmethod
    def poses(count: int, *, reach: float = 0.5, seed: int = 0) -> Tensor:
        """(count, 4, 4) float64 world_to_camera near the origin, looking about."""
        numbers = Make.noise(count, 5, seed=seed).double()
        turn = rotation_about("y", 0.3 * numbers[:, 0]) @ rotation_about("x", 0.2 * numbers[:, 1])
        return invert_rigid(rigid(turn, reach * numbers[:, 2:]))

    @staticmethod
    def lens(height: int, width: int, count: int = 1, focal: float = 0.9) -> Tensor:
        """(count, 3, 3) float64 intrinsics of a grid, principal point in the middle."""
        matrix = torch.tensor(
            [[focal * width, 0, width / 2], [0, focal * width, height / 2], [0, 0, 1]],
            dtype=torch.float64,
        )
        return matrix.repeat(count, 1, 1)

    @staticmethod
    def trajectory(
        frames: int, width: int = 64, height: int = 64, step: float = 0.02
    ) -> Trajectory:
        """A sideways move."""
        poses = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
        poses[:, 0, 3] = -step * torch.arange(frames)
        lens = intrinsics_from_fov(width, height, 60).repeat(frames, 1, 1)
        return Trajectory(poses, lens, width, height)

    @staticmethod
    def block(
        count: int,
        channels: int = 48,
        *,
        cameras: int = 2,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> CacheBlock:
        """A cloud in front of the origin."""
        spread = torch.tensor([1.5, 1.0, 1.0])
        points = Make.noise(count, 3, seed=seed) * spread + torch.tensor([0.0, 0.0, 3.0])
        rng = torch.Generator().manual_seed(seed)
        return CacheBlock(
            points=points,
            tokens=Make.noise(count, channels, seed=seed + 1).to(dtype),
            source=torch.randint(0, cameras, (count,), generator=rng),
            slope=0.2 * Make.noise(count, 2, seed=seed + 2),
            world_to_camera=Make.poses(cameras, seed=seed),
            intrinsics=Make.lens(8, 12, cameras),
            frames=torch.arange(cameras) * 4,
        )

    @staticmethod
    def cache(*counts: int, channels: int = 48, **kwargs: Any) -> LatentCache:
        """A memory with one block per count."""
        cache = LatentCache(channels=channels)
        for number, count in enumerate(counts):
            cache = cache.append(Make.block(count, channels, seed=10 * number, **kwargs))
        return cache

    @staticmethod
    def cloud(points: Tensor, tokens: Tensor | None = None, **kwargs: Any) -> LatentCache:
        """A memory that holds just these points."""
        count = len(points)
        tokens = torch.zeros(count, 8) if tokens is None else tokens
        block = CacheBlock(
            points=points,
            tokens=tokens,
            source=torch.zeros(count),
            slope=torch.zeros(count, 2),
            world_to_camera=torch.eye(4)[None],
            intrinsics=torch.eye(3)[None],
            frames=torch.zeros(1),
        )
        return LatentCache((block,), channels=tokens.shape[1], **kwargs)

    @staticmethod
    def observation(
        depth: Tensor, *, channels: int = 48, pose: Tensor | None = None, seed: int = 0
    ) -> Observation:
        """Latent frames with this (F, h, w) depth, all seen from one pose."""
        frames, height, width = depth.shape
        pose = torch.eye(4, dtype=torch.float64) if pose is None else pose
        return Observation(
            tokens=Make.noise(channels, frames, height, width, seed=seed),
            depth=depth,
            world_to_camera=pose.repeat(frames, 1, 1),
            intrinsics=Make.lens(height, width, frames),
            frames=torch.arange(frames) * 4,
        )


class Shot:
    """A small rollout of three chunks (33, 32 and 4 frames) with a stand-in for the model."""

    FRAMES = 69
    CODEC = DctCodec()

    @staticmethod
    def begin(
        folder: Path | None = None,
        frames: int = FRAMES,
        seed: int = 3,
        lengths: ChunkLengths | None = None,
    ) -> RolloutState:
        """A textured wall, seen by a camera that moves sideways; 64 x 64 pixels."""
        lengths = lengths or ChunkLengths()
        cameras = Make.trajectory(frames, step=0.03)
        picture = (0.5 + 0.2 * Make.noise(1, 64, 64, 3)).clamp(0, 1)
        geometry = FrameGeometry(2 + Make.uniform(1, 64, 64), cameras.intrinsics[:1])
        tokens = Shot.CODEC.encode_images(picture)
        cache = begin_memory(tokens, geometry, "test")
        run_id = rollout_id(cameras, cache, tokens, seed, "test", lengths)
        start = shot_start(cache, tokens, seed, "test")
        return RolloutState(
            cameras, cache, tokens, seed, run_id, folder, lengths=lengths, start=start
        )

    @staticmethod
    def parts(state: RolloutState, policy: str = "novelty") -> dict[str, Any]:
        """A stand-in for the video model: the filled readout with noise of (seed, chunk)."""
        readout = read(state.cache, state.frame_cameras)
        filled, depth = fill_readout(readout)
        noise = torch.Generator().manual_seed(1000 * state.seed + state.done)
        free = filled[:, state.chunk.clean_latents :]
        made = free + 0.1 * torch.randn(free.shape, generator=noise)
        latents = torch.cat([state.overlap_latent, made], dim=1)
        frames = Shot.CODEC.decode(latents)
        geometry = FrameGeometry(depth, readout.latent_cameras.resized(4, 4).intrinsics)
        settings = MemorySettings(rules=WriteRules(policy), align=None)
        cache = write_chunk(
            state, latents, frames, geometry, settings, encode=Shot.CODEC.encode_images
        ).cache
        overlap = encode_overlap(Shot.CODEC, state, frames)
        return {
            "latents": latents, "frames": frames, "readout": readout, "cache": cache,
            "overlap": overlap,
        }  # fmt: skip

    @staticmethod
    def advance(state: RolloutState, chunks: int = 100) -> RolloutState:
        """The state some chunks later."""
        for _ in range(min(chunks, state.remaining)):
            state = commit(state, **Shot.parts(state))
        return state


@pytest.fixture(scope="session")
def make() -> type[Make]:
    """The factories."""
    return Make


@pytest.fixture(params=list(PixelConvention), ids=lambda value: value.value)
def convention(request: pytest.FixtureRequest) -> PixelConvention:
    """Both pixel conventions, one after the other."""
    return request.param


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Files that tests compare with."""
    return Path(__file__).resolve().parents[1] / "data"


@pytest.fixture
def file_size_limit() -> Callable[[int], AbstractContextManager[None]]:
    """A context in which the system refuses to let any file grow beyond some bytes."""
    resource = pytest.importorskip("resource", reason="this system has no file size limits")

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit


@pytest.fixture(scope="session")
def shot() -> type[Shot]:
    """The small rollout."""
    return Shot


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RolloutState:
    """The small rollout after an uninterrupted run, with its folder; look, do not touch."""
    return Shot.advance(open_folder(Shot.begin(tmp_path_factory.mktemp("rollout") / "shot")))


@pytest.fixture
def copied(finished: RolloutState, tmp_path: Path) -> RolloutState:
    """A fresh state before the first chunk, whose folder holds the finished rollout."""
    shutil.copytree(finished.folder, tmp_path / "shot")
    return Shot.begin(tmp_path / "shot")


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Equal shots in folders side by side are each made by themselves, so as to be compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "take_from_others", lambda _, state: state)
        yield


class ReleasedDenoiser:
    """Tiny random weights of the released code, with what it makes of them.

    Attributes:
        tensors: Weights under their released names, inputs and outputs.
        cases: Frame counts of each case, and what its tensors' names begin with.
    """

    SIZES = {
        "num_attention_heads": 2,
        "attention_head_dim": 24,
        "text_dim": 32,
        "freq_dim": 64,
        "ffn_dim": 64,
        "num_layers": 4,
    }

    def __init__(self, folder: Path) -> None:
        self.tensors = load_file(folder / "denoiser_oracle.safetensors")
        numbers = json.loads((folder / "denoiser_oracle.json").read_text(encoding="utf-8"))
        self.cases = numbers["cases"]
        self.side_layers = tuple(numbers["vace_layers"])

    def weights(self, part: str) -> dict[str, Tensor]:
        """Tensors of ``dit`` (the backbone) or ``vace`` (the branch), as diffusers calls them."""
        prefix = f"denoiser.{part}."
        return {
            to_diffusers(name.removeprefix(prefix)): tensor.clone()
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }

    def model(self, branch: bool = True) -> Any:
        """A new transformer with these weights."""
        from mirage_core.models.transformer import MirageTransformer3DModel

        side = {"side_layers": self.side_layers} if branch else {}
        model = MirageTransformer3DModel(**self.SIZES, **side)
        weights = self.weights("dit") | (self.weights("vace") if branch else {})
        model.load_state_dict(weights)
        return model.eval()

    def inputs(self, number: int) -> dict[str, Any]:
        """Arguments of the transformer for one case."""
        case = self.cases[number]
        latents, timestep, text, side = (
            self.tensors[case["prefix"] + name]
            for name in ("latents", "frame_timestep", "context", "vace_context")
        )
        return {
            "hidden_states": latents,
            "timestep": timestep[None],
            "encoder_hidden_states": text,
            "side_hidden_states": side,
            "num_reference_frames": case["num_ref"],
            "num_preceding_frames": case["num_preceding"],
        }

    def output(self, number: int, name: str) -> Tensor:
        """What the released code returns for one case."""
        return self.tensors[self.cases[number]["prefix"] + name]


@pytest.fixture(scope="session")
def released(data_folder: Path) -> ReleasedDenoiser:
    """The released code's denoiser in numbers."""
    return ReleasedDenoiser(data_folder)
