"""What the side branch gets to see of the memory, as planes of latent size."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from ..constants import LATENT_CHANNELS
from ..errors import ModelMismatchError, ShapeError
from ..ops.best_view import BestView
from ..validate import expect_shape


class SideFeature(enum.Enum):
    """One group of input planes of the side branch.

    Attributes:
        SCENE: What the memory shows, 0 where nothing is known.
        DRAWN: In place of `SCENE`: what the memory shows with every token drawn at its place
            inside its cell and encoded again, holes filled smoothly. Preceding frames, which are
            finished, are shown themselves. Needs a codec whose tokens stand alone, see
            `mirage_core.preview.drawn.drawn_latents`. An addition to the paper.
        DRAWN_BEST: As `DRAWN`, of the best views in place of the nearest points.
        RENDER: In place of `SCENE`: latent of a colour render of remembered points, black where
            there is none, of every pixel frame (Spatia). Takes points with colours and not tokens,
            see `mirage_core.conditioning.renders`.
        SCORE: Latent of a video of where nothing is known: 0 known, 1 hole, softly in between, in
            the range in which pictures are -1..1. Spatia's score.
        WHITE: Latent of an all-white video of the same size. The released code feeds it as a
            score that says "all of this is valid"; it is the same for every chunk.
        HOLES: 1 where nothing is known, 0 elsewhere (released training code).
        VISIBLE: 1 where something is known, 0 elsewhere (the paper's m).
        OFFSET: Twice the offset of the winning point from the middle of its cell, x then y:
            -1..1, 0 where nothing is known. An addition to the paper.
        DEPTH_RATIO: Twice the logarithm of the point's depth now over its depth when it was
            seen, 0 where nothing is known. An addition to the paper.
    """

    SCENE = "scene"
    DRAWN = "drawn"
    DRAWN_BEST = "drawn_best"
    RENDER = "render"
    SCORE = "score"
    WHITE = "white"
    HOLES = "holes"
    VISIBLE = "visible"
    OFFSET = "offset"
    DEPTH_RATIO = "depth_ratio"

    @property
    def channels(self) -> int:
        """Planes of this group."""
        if self in _WHOLE_LATENTS:
            return LATENT_CHANNELS
        return 2 if self is SideFeature.OFFSET else 1


_WHOLE_LATENTS: Final = frozenset(
    {
        SideFeature.SCENE,
        SideFeature.DRAWN,
        SideFeature.DRAWN_BEST,
        SideFeature.RENDER,
        SideFeature.SCORE,
        SideFeature.WHITE,
    }
)

DRAWINGS: Final[Mapping[SideFeature, BestView | None]] = {
    SideFeature.DRAWN: None,
    SideFeature.DRAWN_BEST: BestView(),
}
"""Features that are drawings of the memory, and how the memory is looked at for each."""

FIRST: Final = (SideFeature.SCENE, *DRAWINGS, SideFeature.RENDER)
"""What the first planes of a side branch can be."""

Features = tuple[SideFeature, ...]
"""Groups in the order of the channels."""

SCENE_AND_WHITE: Final[Features] = (SideFeature.SCENE, SideFeature.WHITE)
"""96 channels: what the released inference code takes."""

RENDER_AND_SCORE: Final[Features] = (SideFeature.RENDER, SideFeature.SCORE)
"""96 channels that mean something else: what Spatia's branch takes."""

SCENE_AND_HOLES: Final[Features] = (SideFeature.SCENE, SideFeature.HOLES)
"""49 channels as the released training code makes them."""

SCENE_AND_VISIBLE: Final[Features] = (SideFeature.SCENE, SideFeature.VISIBLE)
"""49 channels as the paper has them."""

SCENE_ONLY: Final[Features] = (SideFeature.SCENE,)
"""48 channels."""

PLANE_SCALE: Final = 2.0
"""Factor on offsets and depth ratios, which brings them to the scale of the tokens."""


def channel_count(features: Sequence[SideFeature]) -> int:
    """Input channels of a side branch with these features."""
    return sum(feature.channels for feature in features)


def features_of_channels(channels: int) -> Features:
    """Features of a branch whose file does not name them, as the released code means them.

    Raises:
        ModelMismatchError: No branch of the released code has this number of channels.
    """
    known: Mapping[int, Features] = {
        channel_count(features): features
        for features in (SCENE_AND_WHITE, SCENE_AND_HOLES, SCENE_ONLY)
    }
    if channels not in known:
        raise ModelMismatchError(
            "The side branch has an unknown kind of input",
            got=f"{channels} channels",
            expected=" or ".join(f"{count}" for count in sorted(known, reverse=True)),
            fix="Use a branch made for 48-channel latents (Wan2.2-TI2V-5B), or one whose file "
            "names its features",
        )
    return known[channels]


def parse_features(text: str) -> Features:
    """Features from their names, comma separated, as a branch file holds them.

    Raises:
        ModelMismatchError: A name is unknown, or the first is not one of `FIRST`.
    """
    names = [name.strip() for name in text.split(",")]
    known = {feature.value: feature for feature in SideFeature}
    first = [feature.value for feature in FIRST]
    beside = set(known) - set(first)
    if names[0] not in first or not set(names[1:]) <= beside:
        raise ModelMismatchError(
            "The side branch uses features that this version does not know",
            got=text,
            expected=f"{', '.join(first[:-1])} or {first[-1]}, then any of "
            f"{', '.join(sorted(beside))}",
            fix="Update Mirage, or use another branch",
        )
    return tuple(known[name] for name in names)


def format_features(features: Sequence[SideFeature]) -> str:
    """The inverse of `parse_features`."""
    return ",".join(feature.value for feature in features)


def drawing_of(features: Sequence[SideFeature]) -> SideFeature | None:
    """Which of `DRAWINGS` is among the features, if any."""
    return next((feature for feature in features if feature in DRAWINGS), None)


def stack_features(
    features: Sequence[SideFeature],
    projection: Tensor,
    visible: Tensor,
    white: Tensor | None = None,
    offset: Tensor | None = None,
    log_depth: Tensor | None = None,
    render: Tensor | None = None,
    score: Tensor | None = None,
) -> Tensor:
    """Input of the side branch.

    Args:
        features: What the branch was made for, in its order.
        projection: (C, T, h, w) model-space tokens that the memory shows, 0 where it knows nothing;
            for `DRAWINGS` their drawing.
        visible: (T, h, w) bool, True where it shows something.
        white: (C, T, h, w) model-space latent of a white video; needed with `WHITE` only.
        offset: (2, T, h, w) offset of the winning point from its cell's middle, in cells;
            needed with `OFFSET` only.
        log_depth: (T, h, w) ln(depth now / depth when seen); needed with `DEPTH_RATIO` only.
        render: (C, T, h, w) model-space latent of a colour render; needed with `RENDER` only.
        score: (C, T, h, w) model-space latent of its holes; needed with `SCORE` only.

    Returns:
        (channels, T, h, w) in the type of ``projection``.

    Raises:
        ModelMismatchError: The features need a render, and there is none.
        ShapeError: Sizes differ, or another tensor that the features need is missing.
    """
    sizes = expect_shape("The projection", projection, "C T h w")
    grid = {name: sizes[name] for name in ("T", "h", "w")}
    expect_shape("The visibility", visible, "T h w", **grid)
    planes: dict[SideFeature, Tensor] = {
        SideFeature.SCENE: projection,
        **dict.fromkeys(DRAWINGS, projection),
        SideFeature.VISIBLE: visible[None].to(projection),
        SideFeature.HOLES: ~visible[None],
    }
    if SideFeature.WHITE in features:
        planes[SideFeature.WHITE] = _white(white, sizes)
    if SideFeature.OFFSET in features:
        given = _plane("the sub-cell offset", offset)
        expect_shape("The sub-cell offset", given, "2 T h w", **grid)
        planes[SideFeature.OFFSET] = PLANE_SCALE * given
    if SideFeature.DEPTH_RATIO in features:
        given = _plane("the depth ratio", log_depth)
        expect_shape("The depth ratio", given, "T h w", **grid)
        planes[SideFeature.DEPTH_RATIO] = PLANE_SCALE * given[None]
    for feature, latent in ((SideFeature.RENDER, render), (SideFeature.SCORE, score)):
        if feature in features:
            if latent is None:
                raise no_render()
            expect_shape(f"The latent of the {feature.value}", latent, "C T h w", **sizes)
            planes[feature] = latent
    return torch.cat([planes[feature].to(projection) for feature in features])


def no_render() -> ModelMismatchError:
    """The error for a branch that is steered by a render where there is none."""
    return ModelMismatchError(
        "This side branch is steered by a colour render of points and by its holes",
        got="a memory that gives neither",
        expected="a memory of colours, whose drawing is encoded",
        fix="Make a memory of colours (what = colours of Mirage Cache Init, --way spatia on the "
        "command line), or use a side branch that takes what a memory of tokens shows; if this "
        "is not a branch of Spatia's, load it as mirage",
    )


def no_render_branch(features: Features | None) -> ModelMismatchError:
    """The error for a render where the branch takes something else.

    Args:
        features: What the branch takes; None without a branch.
    """
    return ModelMismatchError(
        "A memory of colours steers side branches that take drawings only",
        got="no side branch" if features is None else f"one that takes {format_features(features)}",
        expected=f"{format_features(RENDER_AND_SCORE)}, or {SideFeature.DRAWN}",
        fix="Load Spatia's branch (step-8500.safetensors); if this is it, load it as spatia; or "
        "make a memory of tokens",
    )


def _white(white: Tensor | None, sizes: Mapping[str, int]) -> Tensor:
    if white is None:
        raise ShapeError(
            "This side branch also takes the latent of a white video",
            got="none",
            fix="Connect the VAE that made the memory, so that it can be encoded",
        )
    expect_shape("The white latent", white, "C T h w", **sizes)
    return white


def _plane(name: str, plane: Tensor | None) -> Tensor:
    if plane is None:
        raise ShapeError(
            f"This side branch also takes {name} of what the memory shows",
            got="none",
            fix="Make the readout, or the training clips, with this version of Mirage",
        )
    return plane
