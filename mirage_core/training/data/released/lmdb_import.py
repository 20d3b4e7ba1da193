"""Import of training samples in the format of the released code: LMDB shards of pickled files.

What is in them is not trusted: shards are verified before they are opened, and pickles and tensor
files can run nothing. Pictures and JSON of a sample are not read.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from einops import rearrange
from torch import Tensor

from ....conditioning.condition import Condition
from ....constants import LATENT_CHANNELS, PATCH_SIZE, SPATIAL_STRIDE, WAN_CODEC
from ....errors import CacheFormatError, MirageError, ShapeError, StorageError
from ....log import logger
from ..captions import CaptionEncoder, Captions
from ..clip import TrainingClip
from ..dataset import ClipDataset, ClipWriter
from ..manifest import MANIFEST, DataManifest, claim, read_manifest, read_skipped, write_skipped
from ..pipeline import DataProgress
from .lmdb_file import LmdbFile
from .safe_load import read_plain, read_tensors

SHARDS: Final = "shard_*.lmdb"
"""Names of the shards in their folder; each is a file, or a folder with ``data.mdb``."""

SETTINGS: Final = "released samples: projections of the first target frame"
"""How the clips of the released code were made, as the data set remembers it."""

STORED: Final = torch.bfloat16
"""Type of the released latents, and so of the stored ones."""

MAX_SAMPLE: Final = 256 << 20
"""Most bytes of a sample; one of 1280 x 704 with 8 references has latents of 10 MB."""

MAX_CAPTION: Final = 1 << 16
"""Most bytes of a caption."""

LATENT: Final = "latent"
TARGET: Final = "train_target_rgb.pt"
SCENE: Final = "train_target_scene_proj_rgb.pt"
PRECEDING: Final = "train_preceding_rgb.pt"
PRECEDING_SCENE: Final = "train_preceding_scene_proj_rgb.pt"
REFERENCES: Final = "train_reference_rgb.pt"
CAPTIONS: Final = ("train_target_rgb.txt", "clip.txt")
"""Files of a sample. The first caption that is there counts."""

_FRAMES: Final = (TARGET, SCENE, PRECEDING, PRECEDING_SCENE)
_NAME: Final = re.compile(rb"[0-9A-Za-z_.-]{1,64}")


@dataclass(frozen=True)
class _Sample:
    """Where a sample is.

    Attributes:
        key: Key of its clip: names of the folder, the shard and the sample.
        shard: The shard.
        name: Its key there.
    """

    key: str
    shard: Path
    name: bytes


def import_lmdb(
    folder: Path,
    out: Path,
    *,
    text: Callable[[], CaptionEncoder] | None = None,
    text_name: str = "",
    retry: bool = False,
    on_progress: Callable[[DataProgress], None] | None = None,
) -> DataProgress:
    """Turn released samples into clips of a data set, those that it lacks.

    Whatever ends the call early loses the clips of the last minute at most; call again to go
    on. Shards and samples that cannot be read are reported, remembered and skipped. A folder is
    known by its name, and so are its shards and samples.

    Args:
        folder: Holds the shards.
        out: The data set.
        text: Makes the text encoder, for clips with embedded captions.
        text_name: Name of that encoder; empty without one.
        retry: Try samples again that were skipped before. Shards always are.
        on_progress: Called after each sample; may raise to stop.

    Returns:
        How far the data set is; shards that cannot be read count as skipped.

    Raises:
        CacheFormatError: The folder holds no shards, or no sample that can be read.
        PackageError: The package lmdb is not installed.
        ResumeError: The data set holds clips that were made in another way.
        StorageError: The disk is full, or the data set cannot be written.
    """
    samples, broken = find_samples(folder)
    manifest = _manifest(out, samples, broken, text_name)
    claim(out, manifest)
    captions = None if text is None else Captions(out, text())
    skipped = _skipped(out, folder, broken, retry)
    write_skipped(out, skipped)
    stored = _stored(out)
    left = [s for s in samples if s.key not in stored and s.key not in skipped]
    total, clips, since = len(samples), 0, time.monotonic()
    progress = DataProgress(total - len(left), total, 0, _count(skipped, folder), None)
    with ClipWriter(out, dtype=STORED) as writer:
        for number, (sample, data) in enumerate(_read(left), 1):
            try:
                clip = convert_sample(data(), sample.key, captions)
                _expect_size(clip, manifest)
                writer.add(clip)
                clips += 1
            except StorageError:
                raise
            except MirageError as error:
                logger.warning("Skipped %s: %s", sample.key, error)
                skipped[sample.key] = str(error)
                write_skipped(out, skipped)
            done = total - len(left) + number
            seconds = (time.monotonic() - since) / number * (total - done)
            progress = DataProgress(done, total, clips, _count(skipped, folder), seconds)
            if on_progress is not None:
                on_progress(progress)
    return progress


def find_samples(folder: Path) -> tuple[list[_Sample], dict[str, str]]:
    """All samples of a folder in order, and why which shards cannot be read.

    Raises:
        CacheFormatError: The folder holds no shards.
        PackageError: The package lmdb is not installed.
    """
    shards = sorted(folder.glob(SHARDS))
    if not shards:
        raise CacheFormatError(
            "The folder holds no released samples",
            got=folder,
            expected=f"shards with names as {SHARDS}",
            fix="Check the path",
        )
    samples: list[_Sample] = []
    broken: dict[str, str] = {}
    for shard in shards:
        name = f"{_prefix(folder)}{shard.stem}"
        try:
            with LmdbFile(shard) as file:
                samples += [_located(name, shard, key) for key in file.keys()]
        except CacheFormatError as error:
            logger.warning("Skipped %s: %s", name, error)
            broken[name] = str(error)
    return samples, broken


def _prefix(folder: Path) -> str:
    """Beginning of the keys of a folder's samples and shards."""
    return f"{folder.resolve().name}/"


def _skipped(out: Path, folder: Path, broken: Mapping[str, str], retry: bool) -> dict[str, str]:
    """What is skipped from the beginning; what is known of other folders stays known."""
    prefix = _prefix(folder)
    known = read_skipped(out)
    others = {name: why for name, why in known.items() if not name.startswith(prefix)}
    samples = {
        name: why
        for name, why in known.items()
        if name.startswith(prefix) and name.count("/") > prefix.count("/") and not retry
    }
    return {**others, **samples, **broken}


def _count(skipped: Mapping[str, str], folder: Path) -> int:
    return sum(name.startswith(_prefix(folder)) for name in skipped)


def _located(name: str, shard: Path, key: bytes) -> _Sample:
    if not _NAME.fullmatch(key):
        raise CacheFormatError(
            f"A sample of {shard.name} has a name that is none",
            got=repr(key[:64]),
            expected="letters, digits, dots and lines",
        )
    return _Sample(f"{name}/{key.decode('ascii')}", shard, key)


def _manifest(
    out: Path, samples: list[_Sample], broken: Mapping[str, str], text_name: str
) -> DataManifest:
    """What the clips have in common: the size is the data set's, or the first good sample's."""
    manifest = DataManifest(WAN_CODEC, 0, 0, SETTINGS, text_name)
    if (out / MANIFEST).exists():
        there = read_manifest(out)
        return dataclasses.replace(manifest, width=there.width, height=there.height)
    reasons = list(broken.values())
    for sample, data in _read(samples):
        try:
            height, width = convert_sample(data(), sample.key).target.shape[2:]
        except MirageError as error:
            reasons = reasons or [str(error)]
            continue
        return dataclasses.replace(
            manifest, width=width * SPATIAL_STRIDE, height=height * SPATIAL_STRIDE
        )
    raise CacheFormatError(
        "None of the samples can be read",
        got=reasons[0] if reasons else "shards without samples",
        expected="samples of the released code",
    )


def _expect_size(clip: TrainingClip, manifest: DataManifest) -> None:
    grid = (manifest.height // SPATIAL_STRIDE, manifest.width // SPATIAL_STRIDE)
    if clip.target.shape[2:] != grid:
        raise ShapeError(
            f"The sample {clip.key} is of another size than the data set",
            got=tuple(clip.target.shape[2:]),
            expected=grid,
        )


def _stored(out: Path) -> set[str]:
    try:
        return set(ClipDataset(out).keys())
    except CacheFormatError:
        return set()


def _read(samples: list[_Sample]) -> Iterator[tuple[_Sample, Callable[[], bytes]]]:
    """Each sample with what reads its bytes; one shard is open at a time."""
    file: LmdbFile | None = None
    path: Path | None = None
    try:
        for sample in samples:

            def data(sample: _Sample = sample) -> bytes:
                nonlocal file, path
                if file is None or path != sample.shard:
                    if file is not None:
                        file.close()
                    file, path = LmdbFile(sample.shard), sample.shard
                return file.read(sample.name, MAX_SAMPLE)

            yield sample, data
    finally:
        if file is not None:
            file.close()


def convert_sample(data: bytes, key: str, captions: Captions | None = None) -> TrainingClip:
    """The training clip of one pickled sample.

    The released samples do not say where the memory shows something: cells whose channels are
    all 0 are those where it does not.

    Args:
        data: A pickled dictionary of file names and contents.
        key: Key of the clip.
        captions: Embeds the caption; without it the clip holds the text only.

    Raises:
        CacheFormatError: The sample is damaged, lacks a file, or holds anything that could run.
        ShapeError: Its tensors do not fit together.
    """
    files = _files(read_plain(data))
    target, projection, preceding, shown = (
        rearrange(_latent(files, name), "T C h w -> C T h w") for name in _FRAMES
    )
    _, _, height, width = target.shape
    if not target.numel() or height % PATCH_SIZE or width % PATCH_SIZE:
        raise ShapeError(
            "The target of a sample cannot be generated",
            got=tuple(target.shape),
            expected=f"frames with sides that are multiples of {PATCH_SIZE}",
        )
    references = torch.zeros(LATENT_CHANNELS, 0, height, width)
    if REFERENCES in files:
        references = _latent(files, REFERENCES)
    caption = _caption(files)
    return TrainingClip(
        target=target,
        condition=Condition(
            projection=projection,
            visible=(projection != 0).any(dim=0),
            references=references,
            preceding=preceding,
            preceding_projection=shown,
            preceding_visible=(shown != 0).any(dim=0),
        ),
        text=None if captions is None else captions.encode(caption),
        caption=caption,
        key=key,
    )


def _files(content: Any) -> dict[str, bytes]:
    plain = type(content) is dict and all(
        type(name) is str and type(value) is bytes for name, value in content.items()
    )
    if not plain:
        raise _incomplete("something else than files")
    return content


def _latent(files: Mapping[str, bytes], name: str) -> Tensor:
    """A tensor of four axes, float32."""
    if name not in files:
        raise _incomplete(f"no {name}")
    tensor = read_tensors(files[name]).get(LATENT)
    if tensor is None or tensor.ndim != 4:
        raise _incomplete(f"no {LATENT} of four axes in {name}")
    return tensor.float()


def _caption(files: Mapping[str, bytes]) -> str:
    text = next((files[name] for name in CAPTIONS if name in files), b"")
    if len(text) > MAX_CAPTION:
        raise _incomplete(f"a caption of {len(text)} bytes")
    try:
        return text.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise _incomplete(f"a caption that is no UTF-8: {error.reason}") from error


def _incomplete(got: str) -> CacheFormatError:
    return CacheFormatError(
        "A released sample cannot be used",
        got=got,
        expected=f"a dictionary of file contents with {', '.join(_FRAMES)}",
    )
