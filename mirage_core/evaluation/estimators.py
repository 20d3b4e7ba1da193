"""Estimators and data of an evaluation: which they are is part of what results depend on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..digests import PREFIX, listing_digest, sampled_digest
from ..errors import CacheFormatError
from ..rollout.depth_source import EstimatedDepth

if TYPE_CHECKING:
    from ..models.geometry_estimators import GeometryEstimator

DIGITS: Final = 16
"""Of a digest that settings show."""


@dataclass(frozen=True)
class EstimatorFolder:
    """Loads an estimator when it is called; is sent to the workers.

    Attributes:
        kind: ``transformers``, ``MapAnything`` or ``UniDepth V2``.
        folder: Of the model.
        device: Where it computes.
    """

    kind: str
    folder: Path
    device: str

    def __call__(self) -> GeometryEstimator:
        """The estimator.

        Raises:
            ModelMismatchError: The folder is gone, its package is not installed, or it holds
                something else.
        """
        from ..models.geometry_estimators import load_estimator

        return load_estimator(self.kind, self.folder, device=self.device)

    def describe(self) -> str:
        """Kind, name and content: a copy is the same, another model of that name is not."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(self.folder).as_posix()
                digest.update(f"{name}\0{sampled_digest(path)}\0".encode())
        return f"{self.kind}, {self.folder.name}, {digest.hexdigest()[:DIGITS]}"


@dataclass(frozen=True)
class DepthByEstimator:
    """Makes what estimates the depth of made frames.

    Attributes:
        estimator: Does it.
    """

    estimator: EstimatorFolder

    def __call__(self) -> EstimatedDepth:
        """The source of depth; raises as the estimator does."""
        return EstimatedDepth(self.estimator())

    def describe(self) -> str:
        """The estimator's words."""
        return self.estimator.describe()


def described(made: object, otherwise: str) -> str:
    """What settings say of something that makes depth; of a plain function there is no more."""
    return made.describe() if isinstance(made, EstimatorFolder | DepthByEstimator) else otherwise


def described_data(folder: Path) -> str:
    """What settings say of a folder of data: its name, and a digest of its files and their sizes.

    Raises:
        CacheFormatError: The folder cannot be listed.
    """
    try:
        listing = listing_digest(folder)
    except OSError as error:
        raise CacheFormatError(
            f"The folder {folder.name} cannot be listed",
            got=str(error),
            expected="a folder that this program may read",
        ) from error
    return f"{folder.name}, {listing.removeprefix(PREFIX)[:DIGITS]}"
