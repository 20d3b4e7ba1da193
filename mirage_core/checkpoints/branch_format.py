"""Which of two meanings 96 input planes of a side branch have, where its file does not say.

The method's released code feeds what the memory shows, and a constant white latent that says "all
of it is valid". Spatia feeds a colour render, and a score in which white says "nothing is known".
Both files hold the same tensors. Taken for the other, a branch is steered by noise, or is told
that the whole picture is unknown, and no error shows it.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from ..conditioning.features import (
    RENDER_AND_SCORE,
    Features,
    channel_count,
    features_of_channels,
    format_features,
)
from ..errors import ModelMismatchError, ValueRangeError
from ..log import logger

BranchFormat = Literal["auto", "mirage", "spatia"]
FORMATS: Final[tuple[str, ...]] = get_args(BranchFormat)
"""``auto``: by the file's name. ``mirage``: as the method's released code. ``spatia``: as
Spatia's code. What the file itself says comes first in any case."""

_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "mirage": ("mirage",),
    "spatia": ("spatia", "step-8500", "vace_point"),
}
"""Parts of file names, in lower case, that tell a format; the last two are of Spatia's release."""


def unnamed_features(channels: int, form: BranchFormat | str, name: str) -> Features:
    """Input planes of a branch whose file does not name them.

    Args:
        channels: How many planes its embedding takes.
        form: One of `FORMATS`.
        name: The file's name.

    Raises:
        ModelMismatchError: No such branch has so many planes, or neither ``form`` nor ``name``
            tells what 96 of them mean.
        ValueRangeError: ``form`` is unknown.
    """
    if form not in FORMATS:
        raise ValueRangeError(
            "The format of a side branch is unknown", got=form, expected=", ".join(FORMATS)
        )
    ambiguous = channels == channel_count(RENDER_AND_SCORE)
    if form == "spatia" and not ambiguous:
        raise ModelMismatchError(
            f"{name or 'The side branch'} is not a branch of Spatia's",
            got=f"{channels} input planes",
            expected=f"{channel_count(RENDER_AND_SCORE)}",
            fix="Set the format to auto",
        )
    if form == "auto" and ambiguous:
        form = _told_by(name)
    return RENDER_AND_SCORE if form == "spatia" else features_of_channels(channels)


def note_metadata(features: Features, form: BranchFormat | str, name: str) -> None:
    """Say so where the file names other planes than the chosen format has."""
    spatia = not set(RENDER_AND_SCORE).isdisjoint(features)
    if form != "auto" and spatia != (form == "spatia"):
        logger.warning(
            "%s says that it takes the planes %s: format %s is ignored",
            name or "The side branch", format_features(features), form,
        )  # fmt: skip


def _told_by(name: str) -> str:
    found = [form for form, words in _WORDS.items() if any(w in name.lower() for w in words)]
    if len(found) == 1:
        logger.info("%s is taken for a side branch of %s, by its file name", name, found[0])
        return found[0]
    raise ModelMismatchError(
        f"{name or 'The side branch'} does not say what its 96 input planes mean",
        got="no metadata, no format chosen, and a file name that tells "
        + ("both formats" if found else "neither format"),
        expected="mirage (what a memory of tokens shows, and a white latent) or spatia (a colour "
        "render of points, and its holes, where white means that nothing is known)",
        fix="Choose the format: the input format of the node, or --branch-format on the command "
        "line. Spatia's own file is called step-8500.safetensors",
    )
