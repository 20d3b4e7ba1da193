"""Typed errors that say what is wrong, what was got, what is expected and what to do."""

from __future__ import annotations


def plain_text(text: str) -> str:
    """The text with what is no character escaped, so that it can be shown, sent and stored.

    Names of files whose bytes are no UTF-8, and JSON, bring halves of characters.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class MirageError(Exception):
    """Base of every error that Mirage raises on purpose.

    Args:
        what: What is wrong, as one sentence.
        got: The offending value, described.
        expected: What would have been accepted.
        fix: What the user can do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        got: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.fix = fix
        super().__init__(plain_text(self._message()))

    def _message(self) -> str:
        parts = [self.what.rstrip(".") + "."]
        if self.got is not None:
            parts.append(f"Got: {self.got}.")
        if self.expected is not None:
            parts.append(f"Expected: {self.expected}.")
        if self.fix:
            parts.append(self.fix.rstrip(".") + ".")
        return " ".join(parts)


class ShapeError(MirageError):
    """A tensor has the wrong shape, or two tensors do not fit together."""


class ValueRangeError(MirageError):
    """A number lies outside the range in which it has a meaning."""


class GeometryError(MirageError):
    """Depth, intrinsics or poses cannot describe a scene."""


class TrajectoryError(MirageError):
    """A camera path is malformed, or cannot be parsed."""


class PlanError(MirageError):
    """A frame count cannot be cut into chunks."""


class ModelMismatchError(MirageError):
    """A model, codec or latent does not belong to the family that Mirage drives."""


class CacheFormatError(MirageError):
    """A memory, trajectory or state file is damaged, foreign or from a newer version."""


class LinkError(MirageError):
    """A node's input holds a value where it needs what another node makes."""


class StorageError(MirageError):
    """A file could not be written: the disk is full, or the folder is not writable."""


class ResumeError(MirageError):
    """A saved rollout cannot be continued."""


class FolderInUseError(ResumeError):
    """Another program works in the folder."""


class KernelError(MirageError):
    """The CUDA kernels cannot be compiled, loaded or started."""


class PackageError(MirageError):
    """A package that only some tasks need is not installed, or too old."""
