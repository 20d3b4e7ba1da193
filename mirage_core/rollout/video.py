"""Video files: one clip per chunk, and the whole shot without encoding again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import torch
from av.error import FFmpegError
from av.video.reformatter import Colorspace
from torch import Tensor

from ..errors import CacheFormatError, StorageError
from ..files import atomic_path
from ..validate import expect_shape

CODEC: Final = "libx264"
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

_TIME_BASE: Final = 90_000


def exact_rate(fps: float) -> Fraction:
    """Frames per second as a fraction that a container can hold; 23.976 means 24000/1001."""
    broadcast = Fraction(round(fps * 1.001) * 1000, 1001)
    if abs(broadcast - Fraction(fps)) < BROADCAST_TOLERANCE:
        return broadcast
    return Fraction(fps).limit_denominator(1001)


def to_bytes(frames: Tensor) -> Tensor:
    """Frames (..., H, W, 3) in 0..1 as uint8 on the CPU."""
    return (frames.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


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
        stream, count = None, 0
        for number, clip in enumerate(clips):
            if on_clip is not None:
                on_clip(number, len(clips))
            with _reading(clip) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(video)
                    stream.time_base = Fraction(1, _TIME_BASE)
                for packet in source.demux(video):
                    if packet.size == 0:
                        continue
                    packet.time_base = Fraction(1, _TIME_BASE)
                    packet.pts = packet.dts = round(count * step * _TIME_BASE)
                    packet.duration = round(step * _TIME_BASE)
                    packet.stream = stream
                    output.mux(packet)
                    count += 1


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
    with _reading(path) as source:
        for number, frame in enumerate(source.decode(video=0), start=1):
            if on_frame is not None:
                on_frame(number, max(number, total))
            yield torch.from_numpy(frame.to_ndarray(format="rgb24"))


@contextmanager
def _reading(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        with av.open(str(path)) as source:
            if not source.streams.video:
                raise CacheFormatError(f"{path.name} holds no video", fix="Choose a video file")
            yield source
    except FFmpegError as error:
        raise CacheFormatError(
            f"The video {path.name} cannot be read",
            got=str(error),
            fix="The file is missing or damaged: run the rollout again",
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
