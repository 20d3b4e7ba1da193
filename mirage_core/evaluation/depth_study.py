"""``depth``: the same shots with the depth of several estimators."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from ..constants import TEMPORAL_STRIDE
from ..errors import ValueRangeError
from ..geometry.depth import valid_depth
from ..geometry.frame_geometry import FrameGeometry
from ..geometry.trajectory import Trajectory
from ..rollout.depth_source import DepthSource
from ..training.data.build_clip import DepthNoise, Shot
from .estimators import described
from .novel_views import LOOP_PROTOCOL, SHOT_PROTOCOL, judge, strip
from .quality import PROTOCOL, Quality
from .shots import Shots, first_shot
from .systems import System
from .task import Choice, Column, Outcome, Value

DepthMaker = Callable[[], DepthSource]
CLOSE: Final = 1.25
"""Depth counts as right up to this factor (delta 1)."""

MOST: Final = 0.1
"""Relative error that has the full colour on the pictures."""

ERROR_COLOURS: Final = f"red: {MOST:.0%} too far, blue: {MOST:.0%} too near"


@dataclass(frozen=True)
class StandIn:
    """Errors of an estimator, added to the true depth of a shot, for data that has it.

    Attributes:
        smooth: Relative error that changes slowly over the picture.
        white: Relative error from cell to cell.
        drift: Relative error of the scale of every frame, one deviation.
    """

    smooth: float = 0.0
    white: float = 0.0
    drift: float = 0.0

    def of(self, shot: Shot) -> DepthSource:
        """What stands in for the estimator on one shot."""
        return _Mistaken(self, shot)


@dataclass(frozen=True, eq=False)
class _Mistaken:
    errors: StandIn
    shot: Shot
    scaled: bool = False

    def __call__(
        self, frames: Tensor, cameras: Trajectory, numbers: Sequence[int]
    ) -> FrameGeometry:
        chosen = [_nearest(self.shot.cameras, camera) for camera in cameras.world_to_camera]
        step = 1 if len(self.shot.geometry) == len(self.shot.frames) else TEMPORAL_STRIDE
        true = self.shot.geometry.select([number // step for number in chosen])
        height, width = true.size
        grid = (max(1, height // 16), max(1, width // 16))
        noise = DepthNoise(self.errors.smooth, self.errors.white)
        depth = noise.apply(true.depth, grid, self.shot.seed() + numbers[0])
        rng = torch.Generator().manual_seed(numbers[0] + 1)
        scale = (self.errors.drift * torch.randn(len(chosen), generator=rng)).exp()
        resized = cameras.resized(width, height)
        return dataclasses.replace(
            true, depth=depth * scale[:, None, None].to(depth.device),
            intrinsics=resized.intrinsics, world_to_camera=resized.world_to_camera,
        )  # fmt: skip


def _nearest(cameras: Trajectory, pose: Tensor) -> int:
    """Number of the frame whose camera this is."""
    return int((cameras.world_to_camera - pose).abs().amax(dim=(1, 2)).argmin())


TINY: Final = {
    "as given": StandIn(),
    "small errors": StandIn(0.03, 0.01),
    "large errors": StandIn(0.12, 0.05),
    "scale drifts": StandIn(0.03, 0.01, 0.1),
}
"""Stand-ins for estimators, for data with true depth."""


@dataclass(frozen=True)
class DepthStudy:
    """The depth of several estimators: how right it is, how its scale drifts, what shots become.

    Attributes:
        shots: The footage, with true depth.
        system: What makes the shots.
        estimators: By name: what loads it, or a stand-in.
        quality: How pictures are compared.
    """

    shots: Shots
    system: System
    estimators: dict[str, DepthMaker | StandIn] = field(hash=False)
    quality: Quality = field(default_factory=Quality)

    name: ClassVar[str] = "depth"
    title: ClassVar[str] = "The depth of several estimators"
    about: ClassVar[str] = (
        "Each estimator's depth is compared with that of the footage; then the same shots are "
        "made with it, and closed loops (C). Table 4 of the paper."
    )

    def __post_init__(self) -> None:
        if not self.estimators:
            raise ValueRangeError(
                "There is no estimator to judge",
                expected="at least one --estimator NAME=KIND:FOLDER",
                fix="Name some, or use --tiny for stand-ins",
            )

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is measured."""
        return (
            Column("abs_rel", "relative error", 4, "lower"),
            Column("delta_1", "within 1.25", 4),
            Column("drift", "drift of scale", 4, "lower"),
            *self.quality.columns(), *self.quality.columns("_c", " C"),
            Column("known", "shown by the memory", 3, ""),
            Column("points", "points", 0, ""),
        )  # fmt: skip

    @property
    def protocol(self) -> tuple[Choice, ...]:
        """How it is measured."""
        ours = "our choice; the paper's is not known to us"
        return (
            Choice(
                "relative error, within 1.25",
                "of every fourth true frame against the footage's depth, estimates multiplied by "
                "one number for the shot: the median ratio over all its pixels", ours,
            ),
            Choice(
                "drift of scale", "standard deviation over these frames of the logarithm of the "
                "median ratio of a frame", ours,
            ),
            Choice(
                "shots", "depth of frames that were made is estimated from them and brought to "
                "the memory's scale; that of the given frame is the footage's", ours,
            ),
            Choice(
                "stand-ins", "the footage's depth of the frame with the same camera, with errors: "
                "they do not look at the frames", ours,
            ),
            *SHOT_PROTOCOL[:2], SHOT_PROTOCOL[3], LOOP_PROTOCOL, *PROTOCOL,
        )  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        named = {
            name: dataclasses.asdict(made)
            if isinstance(made, StandIn)
            else described(made, "a network")
            for name, made in self.estimators.items()
        }
        own = {**self.shots.settings(), **self.system.settings(), "estimators": named}
        return {**own, **self.quality.settings()}

    def items(self) -> Sequence[str]:
        """The footage."""
        return self.shots.items()

    def prepare(self) -> None:
        """Load the model, the estimators, and the networks of the metrics."""
        self.quality.prepare()
        self.system.prepare()
        _ = self._loaded

    @cached_property
    def _loaded(self) -> dict[str, DepthSource | StandIn]:
        return {
            name: made if isinstance(made, StandIn) else made()
            for name, made in self.estimators.items()
        }

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}

    def run(self, item: str) -> Outcome:
        """Judge all estimators on one item.

        Raises:
            MirageError: The item cannot be read, or a shot cannot be made.
        """
        shot = first_shot(self.shots, item)
        ways: dict[str, dict[str, Value]] = {}
        pictures: dict[str, Tensor] = {}
        maps: dict[str, Tensor] = {}
        for name, loaded in self._loaded.items():
            depth = loaded.of(shot) if isinstance(loaded, StandIn) else loaded
            made, strips = judge(self.system, shot, self.quality, depth=depth)
            compared = Compared.of(shot, depth)
            ways[name] = {**compared.errors(), **made}
            pictures["truth"] = strips["truth"]
            pictures[f"made with {name}"] = strips[self.system.name]
            maps["depth of the footage (near is white)"] = strip(_near_white(compared.true))
            maps[f"error of {name} ({ERROR_COLOURS})"] = strip(compared.error_map())
        return Outcome(ways, pictures | maps)


@dataclass(frozen=True, eq=False)
class Compared:
    """An estimator's depth of a shot's true frames, every fourth from the first.

    Attributes:
        true: (T, H, W) depth of the footage.
        found: (T, H, W) that of the estimator.
        both: (T, H, W) bool, where both are known.
        scale: By which all that was found is multiplied: the median ratio.
    """

    true: Tensor
    found: Tensor
    both: Tensor
    scale: Tensor

    @classmethod
    def of(cls, shot: Shot, depth: DepthSource) -> Compared:
        """Estimate the depth of a shot's frames."""
        numbers = list(range(0, len(shot.frames), TEMPORAL_STRIDE))
        step = 1 if len(shot.geometry) == len(shot.frames) else TEMPORAL_STRIDE
        true = shot.geometry.select([number // step for number in numbers]).depth
        found = depth(shot.frames[numbers], shot.cameras.select(numbers), numbers).depth
        if found.shape != true.shape:
            size = (int(true.shape[1]), int(true.shape[2]))
            whole = torch.nn.functional.interpolate(found[:, None], size, mode="nearest-exact")
            found = whole[:, 0]
        both = valid_depth(true) & valid_depth(found)
        ratios = (true / found)[both]
        return cls(true, found, both, ratios.median() if len(ratios) else true.new_ones(()))

    def errors(self) -> dict[str, Value]:
        """How right the estimator is; None where nothing can be compared."""
        frames = zip(self.true, self.found, self.both, strict=True)
        ratios = [(true / found)[both].median() for true, found, both in frames if both.any()]
        if not ratios:
            return {"abs_rel": None, "delta_1": None, "drift": None}
        off = (self.found[self.both] * self.scale / self.true[self.both]).double()
        drift = torch.stack(ratios).double().log().std(correction=0)
        return {
            "abs_rel": float((off - 1).abs().mean()),
            "delta_1": float((torch.maximum(off, 1 / off) < CLOSE).double().mean()),
            "drift": float(drift),
        }

    def error_map(self) -> Tensor:
        """(T, H, W, 3) pictures: white where the depth is right, see `ERROR_COLOURS`."""
        off = (self.found * self.scale / self.true - 1).nan_to_num().clamp(-MOST, MOST) / MOST
        far, near = off.clamp_min(0), (-off).clamp_min(0)
        map_ = torch.stack([1 - near, 1 - far - near, 1 - far], dim=-1)
        return torch.where(self.both[..., None], map_, 0.0)


def _near_white(depth: Tensor) -> Tensor:
    """(T, H, W, 3) pictures of inverse depth; black where it is not known."""
    known = valid_depth(depth)
    inverse = torch.where(known, 1 / depth, 0.0)
    return (inverse / inverse.amax().clamp_min(torch.finfo(inverse.dtype).tiny))[..., None].expand(
        *depth.shape, 3
    )
