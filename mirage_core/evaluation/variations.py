"""What is changed of a system in an ablation, from a settings file or by name."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ..codecs.colours import ColourCodec
from ..errors import CacheFormatError, ValueRangeError
from ..geometry.depth import DEPTH_MODES
from ..ops.best_view import BestView
from ..rollout.settings import GenerationSettings
from ..writing.policy import WRITE_POLICIES

PIXEL_MEMORIES: Final = ("colours", "features")
MEMORIES: Final = ("tokens", *PIXEL_MEMORIES, "anew")
"""``tokens`` is the method's. ``colours`` are drawn for every latent frame and encoded again,
``features`` are tokens brought to every pixel, ``anew`` forgets all but the last frame before
every chunk."""

LOOKS: Final[dict[str, BestView | None]] = {"nearest": None, "best_view": BestView()}


@dataclass(frozen=True)
class Variation:
    """One row of an ablation.

    Attributes:
        name: Of the row.
        memory: One of `MEMORIES`.
        policy: How the memory is written; the system's own when None.
        view: How it is looked at, one of `LOOKS`; the system's own when None.
        filtered: Keep out what the geometry's exclusion mask says: what moves, and the sky.
        depth_mode: How depth comes to the latent grid; the system's own when None.
        branch: Another side branch, such as one of a single stage.
        step: For colours: they have so many pixels along each side, and are drawn as tokens are,
            patch by patch. By default there is one for each pixel, read pixel by pixel.

    Raises:
        ValueRangeError: A word is unknown, or a step is given of what holds no colours.
    """

    name: str
    memory: str = "tokens"
    policy: str | None = None
    view: str | None = None
    filtered: bool = True
    depth_mode: str | None = None
    branch: Path | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if self.step is not None:
            ColourCodec(self.step)
            if self.memory != "colours":
                raise ValueRangeError(
                    f"The variation {self.name} has a step, and no colours",
                    got=f"step {self.step} of the memory {self.memory!r}",
                    fix="Leave step out, or set memory to colours",
                )
        for what, value, known in (
            ("memory", self.memory, MEMORIES),
            ("policy", self.policy, (None, *WRITE_POLICIES)),
            ("view", self.view, (None, *LOOKS)),
            ("depth_mode", self.depth_mode, (None, *DEPTH_MODES)),
        ):
            if value not in known:
                raise ValueRangeError(
                    f"The {what} of the variation {self.name} is unknown",
                    got=value,
                    expected=", ".join(word for word in known if word is not None),
                )

    @property
    def drawn_view(self) -> BestView | Literal["default"] | None:
        """How the preview looks at the memory."""
        return "default" if self.view is None else LOOKS[self.view]

    def applied(self, loop: GenerationSettings) -> GenerationSettings:
        """The settings of a loop, changed as the variation says."""
        changes: dict[str, Any] = {}
        if self.policy is not None:
            changes["rules"] = dataclasses.replace(loop.memory.rules, policy=self.policy)
        if self.view is not None:
            changes["view"] = LOOKS[self.view]
        if self.depth_mode is not None:
            changes["write"] = dataclasses.replace(loop.memory.write, depth_mode=self.depth_mode)
        return loop.remembering(**changes) if changes else loop

    def describe(self) -> dict[str, Any]:
        """As JSON can hold it."""
        branch = None if self.branch is None else self.branch.name
        return {**dataclasses.asdict(self), "branch": branch}


DEFAULT_VARIATIONS: Final = (
    Variation("latent"),
    Variation("colours", memory="colours"),
    Variation("upsampled features", memory="features"),
    Variation("forgetting", memory="anew"),
    Variation("no filter", filtered=False),
    Variation("append", policy="append"),
)
"""The rows of an ablation where no settings file is given; a single stage needs its own branch."""

PREVIEW_VARIATIONS: Final = (
    Variation("latent"),
    Variation("colours", memory="colours"),
    Variation("no filter", filtered=False),
    Variation("append", policy="append"),
    Variation("nearest", view="nearest"),
)
"""The same for the preview, which needs a memory and looks at the best views by itself."""


def read_variations(path: Path) -> tuple[Variation, ...]:
    """The rows of an ablation from a settings file.

    Args:
        path: JSON: ``{"latent": {}, "one stage": {"branch": "one.safetensors"}}`` with the
            attributes of `Variation` by the name of the row; paths are relative to the file.

    Raises:
        CacheFormatError: The file is missing or malformed.
        ValueRangeError: A word or a step is unknown.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or not document:
            raise ValueError("no rows")
        rows = []
        for name, given in document.items():
            if given.get("branch") is not None:
                given = {**given, "branch": path.parent / given["branch"]}
            rows.append(Variation(name, **given))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        known = [f.name for f in dataclasses.fields(Variation) if f.name != "name"]
        raise CacheFormatError(
            f"{path.name} cannot be read",
            got=str(error)[:200],
            expected=f"rows by name, each with some of {', '.join(known)}",
            fix="Correct the file: docs/evaluation/README.md has an example",
        ) from error
    return tuple(rows)
