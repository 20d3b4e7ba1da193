"""Video files: one clip per chunk, and the whole shot without encoding again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import torch
from av.error import FFmpegError
from av.video.reformatter import Colorspace
from torch import Tensor

from ..constants import WHITE_8
from ..errors import CacheFormatError, StorageError
from ..files import atomic_path
from ..validate import expect_shape

CODEC: Final = "libx264"
CODING: Final = "h264"
"""What that encoder writes."""
PIXELS: Final = "yuv420p"
BT709: Final = 1
"""Number of BT.709 in the tables of H.264 for matrix, primaries and transfer."""
LIMITED_RANGE: Final = 1
CRF: Final = 12
"""Constant rate factor of the clips: visually lossless."""

OPTIONS: Final = {"crf": str(CRF), "preset": "fast", "threads": "1", "bf": "0", "mbtree": "0"}
"""One thread and no B-frames: the same bytes on every run, and clips that join. x264's
macroblock tree is off because its AVX-512 code now and then decides differently."""

BROADCAST_TOLERANCE: Final = 1e-3
"""Frames per second by which people round the rates 24000/1001, 30000/1001 and 60000/1001."""

MAX_PIXELS: Final = 8192 * 8192
"""Most pixels of a picture that is decoded: a damaged header may promise any size."""

_TIME_BASE: Final = 90_000
_SHOWN: Final = 200
"""Characters of a decoder's message that an error repeats."""


def exact_rate(fps: float) -> Fraction:
    """Frames per second as a fraction that a container can hold; 23.976 means 24000/1001."""
    broadcast = Fraction(round(fps * 1.001) * 1000, 1001)
    if abs(broadcast - Fraction(fps)) < BROADCAST_TOLERANCE:
        return broadcast
    return Fraction(fps).limit_denominator(1001)


def to_bytes(frames: Tensor) -> Tensor:
    """Frames (..., H, W, 3) in 0..1 as uint8 on the CPU."""
    return (frames.detach().float().cpu().clamp(0, 1) * WHITE_8).round().to(torch.uint8)


def write_clip(
    path: Path,
    frames: Tensor,
    fps: float,
    on_frame: Callable[[int, int], None] | None = None,
) -> None:
    """Encode frames as an MP4 that every player opens; appears only when complete.

    Args:
        path: Target file.
        frames: (F, H, W, 3) in 0..1; H and W even.
        fps: Frames per second.
        on_frame: Called with (done, total) after each frame; may raise to cancel.

    Raises:
        StorageError: The file could not be written.
    """
    expect_shape("The video frames", frames, "F H W 3")
    rate = exact_rate(fps)
    with _writing(path) as temporary, av.open(str(temporary), "w", format="mp4") as output:
        stream = output.add_stream(CODEC, rate=rate)
        stream.height, stream.width = int(frames.shape[1]), int(frames.shape[2])
        stream.pix_fmt = PIXELS
        stream.options = dict(OPTIONS)
        _tag_colours(stream.codec_context)
        for number, picture in enumerate(frames, start=1):
            frame = av.VideoFrame.from_ndarray(to_bytes(picture).numpy(), format="rgb24")
            output.mux(
                stream.encode(frame.reformat(format=PIXELS, dst_colorspace=Colorspace.ITU709))
            )
            if on_frame is not None:
                on_frame(number, len(frames))
        output.mux(stream.encode(None))


def _tag_colours(codec: av.VideoCodecContext) -> None:
    """Say BT.709 in the file: players guess otherwise, and guess wrong colours."""
    codec.colorspace = BT709
    codec.color_primaries = BT709
    codec.color_trc = BT709
    codec.color_range = LIMITED_RANGE


def join_clips(
    path: Path,
    clips: Sequence[Path],
    fps: float,
    *,
    tags: Mapping[str, str] | None = None,
    on_clip: Callable[[int, int], None] | None = None,
) -> None:
    """Join clips that `write_clip` made into one file without encoding them again.

    Args:
        path: Target file.
        clips: The clips, in order.
        fps: Frames per second.
        tags: Texts by name that the file carries beside the video.
        on_clip: Called with (done, total) before each clip; may raise to cancel.

    Raises:
        CacheFormatError: A clip is missing or damaged.
        StorageError: The file could not be written.
    """
    step = 1 / exact_rate(fps)
    # Without the option a container keeps the names that it knows, and drops all others.
    options = {"movflags": "use_metadata_tags"} if tags else {}
    with (
        _writing(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options=options) as output,
    ):
        output.metadata.update(tags or {})
        stream = None
        # Read by a generator, so that an error of writing is not told as one of reading.
        for count, packet in enumerate(_packets_of(clips, on_clip)):
            if stream is None:
                stream = output.add_stream_from_template(packet.stream)
                stream.time_base = Fraction(1, _TIME_BASE)
            packet.time_base = Fraction(1, _TIME_BASE)
            packet.pts = packet.dts = round(count * step * _TIME_BASE)
            packet.duration = round(step * _TIME_BASE)
            packet.stream = stream
            output.mux(packet)


def expect_clip(path: Path, frames: int, width: int, height: int) -> None:
    """Raise `CacheFormatError` unless a file is a clip of so many frames of this size.

    Frames are counted, not decoded.
    """
    count, size = 0, (width, height)
    for packet in _packets(path):
        size = (packet.stream.codec_context.width, packet.stream.codec_context.height)
        count += 1
    if (count, *size) != (frames, width, height):
        raise CacheFormatError(
            f"The clip {path.name} is not the one that belongs there",
            got=f"{count} frames of {size[0]} x {size[1]}",
            expected=f"{frames} frames of {width} x {height}",
            fix="Run the rollout again: its chunk is made again",
        )


def _packets_of(
    clips: Sequence[Path], on_clip: Callable[[int, int], None] | None
) -> Iterator[av.Packet]:
    for number, clip in enumerate(clips):
        if on_clip is not None:
            on_clip(number, len(clips))
        yield from _packets(clip)


def _packets(clip: Path) -> Iterator[av.Packet]:
    """The encoded frames of a clip that `write_clip` made, as long as it is read."""
    with open_video(clip) as (source, video):
        codec = video.codec_context.codec.canonical_name
        if codec != CODING:
            raise CacheFormatError(
                f"{clip.name} is not a clip of a rollout", got=codec, expected=CODING
            )
        yield from (packet for packet in source.demux(video) if packet.size)


def read_frames(
    path: Path, on_frame: Callable[[int, int], None] | None = None, total: int = 0
) -> Iterator[Tensor]:
    """Frames of a video, one by one, as (H, W, 3) uint8.

    Args:
        path: The video file.
        on_frame: Called with (done, total) for each frame; may raise to cancel.
        total: Frames that are expected, for ``on_frame``.

    Raises:
        CacheFormatError: The file is missing or damaged.
    """
    for _, pixels in _pixels(path, None, on_frame, total):
        yield pixels


def pick_frames(
    path: Path,
    wanted: Collection[int],
    on_frame: Callable[[int, int], None] | None = None,
    total: int = 0,
) -> dict[int, Tensor]:
    """Frames of a video by number, from 0, as (H, W, 3) uint8; those beyond its end are not there.

    All are decoded, which is a fifth of the work: only the wanted ones are converted.

    Args:
        path: The video file.
        wanted: Numbers of the frames.
        on_frame: Called with (done, total) for each frame decoded; may raise to cancel.
        total: Frames that are expected, for ``on_frame``.

    Raises:
        CacheFormatError: The file is missing or damaged.
    """
    return dict(_pixels(path, wanted, on_frame, total))


def _pixels(
    path: Path,
    wanted: Collection[int] | None,
    on_frame: Callable[[int, int], None] | None,
    total: int,
) -> Iterator[tuple[int, Tensor]]:
    with open_video(path) as (source, stream):
        for number, frame in enumerate(source.decode(stream)):
            if on_frame is not None:
                on_frame(number + 1, max(number + 1, total))
            if wanted is None or number in wanted:
                yield number, torch.from_numpy(frame.to_ndarray(format="rgb24"))


@contextmanager
def open_video(
    path: Path,
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A video file that is open for reading, and its first video stream.

    Args:
        path: The video file.

    Yields:
        The container and the stream. Pictures of more than `MAX_PIXELS` are refused before
        memory is taken for them.

    Raises:
        CacheFormatError: The file is missing or damaged, holds no video, or one that cannot be
            decoded. What is found while the block reads is raised at its end.
    """
    try:
        # Titles and the like may be in any encoding, and none of them is looked at.
        with av.open(str(path), metadata_errors="replace") as source:
            if not source.streams.video:
                raise CacheFormatError(f"{path.name} holds no video", fix="Choose a video file")
            stream = source.streams.video[0]
            if stream.codec_context is None:
                raise CacheFormatError(
                    f"The video {path.name} is of a kind that cannot be decoded",
                    fix="The file is damaged, or needs to be converted to H.264 first",
                )
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            yield source, stream
    except (FFmpegError, OSError, ValueError) as error:
        raise CacheFormatError(
            f"The video {path.name} cannot be read",
            got=str(error)[:_SHOWN] or type(error).__name__,
            expected="a whole file with a video stream",
            fix="The file is missing or damaged: copy or make it again",
        ) from error


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except FFmpegError as error:
        raise StorageError(
            f"The video {path.name} could not be written",
            got=str(error),
            fix="Free disk space, or choose another folder",
        ) from error
