"""Clips and their joining: same bytes, same frames, honest errors."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from torch import Tensor

from mirage_core.errors import CacheFormatError, ShapeError, StorageError
from mirage_core.rollout.video import (
    exact_rate,
    expect_clip,
    join_clips,
    pick_frames,
    read_frames,
    to_bytes,
    write_clip,
)


def clip(make, frames: int, seed: int = 0) -> Tensor:
    """Smooth moving colours, 48 x 64."""
    y, x = torch.meshgrid(torch.arange(48) / 48, torch.arange(64) / 64, indexing="ij")
    time = torch.arange(frames)[:, None, None] / 10 + seed
    waves = [0.5 + 0.4 * torch.sin(2 * x * k + 3 * y + time * k) for k in (1, 1.5, 2)]
    return torch.stack(waves, dim=-1)


def frames_of(path: Path) -> Tensor:
    return torch.stack(list(read_frames(path)))


def test_frames_survive_nearly_unchanged(make, tmp_path: Path) -> None:
    frames = clip(make, 7)
    write_clip(tmp_path / "a.mp4", frames, 24)
    found = frames_of(tmp_path / "a.mp4")
    assert found.shape == (7, 48, 64, 3)
    assert found.dtype == torch.uint8
    error = (found.float() / 255 - frames).square().mean()
    assert float(-10 * error.log10()) > 35


def test_some_frames_are_those_of_the_video(make, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", clip(make, 7), 24)
    seen: list[tuple[int, int]] = []
    found = pick_frames(tmp_path / "a.mp4", {0, 3, 6, 9}, lambda *step: seen.append(step), 7)
    whole = frames_of(tmp_path / "a.mp4")
    assert list(found) == [0, 3, 6]
    assert all(torch.equal(frame, whole[number]) for number, frame in found.items())
    assert seen == [(number, 7) for number in range(1, 8)]


def test_the_same_bytes_every_time(make, tmp_path: Path) -> None:
    """Often, since an encoder that is not quite deterministic differs in one run of thirty."""
    frames, contents = clip(make, 9), set()
    for _ in range(60):
        write_clip(tmp_path / "a.mp4", frames, 24)
        contents.add((tmp_path / "a.mp4").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize(
    ("fps", "exact"),
    [(24, Fraction(24)), (23.976, Fraction(24000, 1001)), (29.97, Fraction(30000, 1001)),
     (12.5, Fraction(25, 2)), (0.1, Fraction(1, 10))],
)  # fmt: skip
def test_rates(make, tmp_path: Path, fps: float, exact: Fraction) -> None:
    assert exact_rate(fps) == exact
    parts = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for number, part in enumerate(parts):
        write_clip(part, clip(make, 4 - number, number), fps)
    join_clips(tmp_path / "whole.mp4", parts, fps)
    with av.open(str(tmp_path / "whole.mp4")) as video:
        stream = video.streams.video[0]
        times = [
            float(packet.pts * packet.time_base) for packet in video.demux(stream) if packet.size
        ]
    assert times == pytest.approx([n / float(exact) for n in range(7)], abs=2e-5)


def test_joined_clips_show_the_same_pixels(make, tmp_path: Path) -> None:
    lengths = (33, 32, 4, 1)
    parts = [tmp_path / f"{number}.mp4" for number in range(len(lengths))]
    for number, (part, length) in enumerate(zip(parts, lengths, strict=True)):
        write_clip(part, clip(make, length, number), 24)
    join_clips(tmp_path / "whole.mp4", parts, 24)
    expected = torch.cat([frames_of(part) for part in parts])
    assert torch.equal(frames_of(tmp_path / "whole.mp4"), expected)
    with av.open(str(tmp_path / "whole.mp4")) as video:
        stream = video.streams.video[0]
        assert stream.frames == sum(lengths)
        assert stream.average_rate == 24
        assert float(stream.duration * stream.time_base) == pytest.approx(sum(lengths) / 24)
        assert (stream.width, stream.height, stream.pix_fmt) == (64, 48, "yuv420p")


def test_joining_makes_the_same_bytes(make, tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", clip(make, 5), 24)
    for name in ("x", "y"):
        join_clips(tmp_path / f"{name}.mp4", [tmp_path / "a.mp4"] * 2, 24)
    assert (tmp_path / "x.mp4").read_bytes() == (tmp_path / "y.mp4").read_bytes()


def test_bytes_are_rounded_and_clamped() -> None:
    values = torch.tensor([-1.0, 0.0, 0.5 / 255, 1.5 / 255, 0.999, 1.0, 7.0])
    assert to_bytes(values).tolist() == [0, 0, 0, 2, 255, 255, 255]
    assert to_bytes(torch.ones(2, dtype=torch.float16, requires_grad=True)).tolist() == [255, 255]


def test_damaged_and_missing_clips(make, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.mp4", tmp_path / "bad.mp4"
    write_clip(good, clip(make, 5), 24)
    bad.write_bytes(good.read_bytes()[:200])
    for wrong in (bad, tmp_path / "none.mp4"):
        with pytest.raises(CacheFormatError, match=wrong.name):
            list(read_frames(wrong))
        with pytest.raises(CacheFormatError, match=wrong.name):
            join_clips(tmp_path / "whole.mp4", [good, wrong], 24)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mp4", "good.mp4"]


def test_sounds_without_pictures_are_no_clips(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    header = b"RIFF" + (36 + 800).to_bytes(4, "little") + b"WAVEfmt " + bytes(
        [16, 0, 0, 0, 1, 0, 1, 0, 64, 31, 0, 0, 64, 31, 0, 0, 1, 0, 8, 0]
    )  # fmt: skip
    path.write_bytes(header + b"data" + (800).to_bytes(4, "little") + bytes(800))
    with pytest.raises(CacheFormatError, match="sound.wav"):
        list(read_frames(path))


def test_wrong_shapes(tmp_path: Path) -> None:
    for shape in ((2, 48, 64), (2, 3, 48, 64), (48, 64, 3)):
        with pytest.raises(ShapeError):
            write_clip(tmp_path / "a.mp4", torch.zeros(shape), 24)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_refuses_more_bytes(make, tmp_path: Path, file_size_limit) -> None:
    path = tmp_path / "a.mp4"
    write_clip(path, clip(make, 3), 24)
    before = path.read_bytes()
    with file_size_limit(2000), pytest.raises(StorageError):
        write_clip(path, make.uniform(30, 48, 64, 3), 24)
    with file_size_limit(2000), pytest.raises(StorageError):
        join_clips(path, [path] * 3, 24)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_folder_that_cannot_be(make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        write_clip(tmp_path / "file" / "a.mp4", clip(make, 1), 24)


def test_colours_are_tagged_and_come_back(tmp_path: Path) -> None:
    """Without a tag players take BT.709 for granted, and red drifts by more than ten levels."""
    colours = torch.tensor([[200, 40, 30], [30, 180, 60], [40, 60, 200], [220, 210, 90]])
    picture = colours.repeat_interleave(16, 0)[:, None].expand(64, 64, 3) / 255
    write_clip(tmp_path / "a.mp4", picture[None].repeat(3, 1, 1, 1), 24)
    join_clips(tmp_path / "b.mp4", [tmp_path / "a.mp4"], 24)
    with av.open(str(tmp_path / "b.mp4")) as video:
        frame = next(video.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (1, 1)
        seen = frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray()
    assert abs(seen[8::16, 32].astype(int) - colours.numpy()).max() <= 3


def test_words_in_no_known_encoding_do_no_harm(make, tmp_path: Path) -> None:
    """What a damaged clip says of itself is not looked at: its frames are there."""
    path = tmp_path / "a.mp4"
    write_clip(path, clip(make, 3), 24)
    frames, content = frames_of(path), path.read_bytes()
    assert content.count(b"Lavf") == 1
    path.write_bytes(content.replace(b"Lavf", b"Lav\xe6"))
    assert torch.equal(frames_of(path), frames)
    join_clips(tmp_path / "whole.mp4", [path], 24)
    assert torch.equal(frames_of(tmp_path / "whole.mp4"), frames)


def test_a_coding_that_nobody_knows(make, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_clip(path, clip(make, 3), 24)
    head, _, tail = path.read_bytes().rpartition(b"avc1")
    path.write_bytes(head + b"a?c1" + tail)
    for read in (frames_of, lambda path: join_clips(tmp_path / "whole.mp4", [path], 24)):
        with pytest.raises(CacheFormatError, match="a.mp4 is of a kind that cannot be decoded"):
            read(path)
    assert not (tmp_path / "whole.mp4").exists()


def test_a_clip_of_another_coding_is_not_joined(make, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in to_bytes(clip(make, 3)).numpy():
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    with pytest.raises(CacheFormatError, match="not a clip of a rollout.*mpeg4.*h264"):
        join_clips(tmp_path / "whole.mp4", [path], 24)


def test_a_clip_is_counted_without_decoding(make, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_clip(path, clip(make, 5), 24)
    expect_clip(path, 5, 64, 48)
    for frames, width, height in ((4, 64, 48), (6, 64, 48), (5, 48, 64)):
        with pytest.raises(CacheFormatError, match="5 frames of 64 x 48"):
            expect_clip(path, frames, width, height)
    path.write_bytes(b"")
    with pytest.raises(CacheFormatError, match="cannot be read"):
        expect_clip(path, 5, 64, 48)


def test_a_full_disk_at_the_joining_is_no_damaged_clip(
    make, tmp_path: Path, file_size_limit
) -> None:
    parts = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    for number, part in enumerate(parts):
        write_clip(part, clip(make, 9, number), 24)
    with file_size_limit(2000), pytest.raises(StorageError, match="whole.mp4"):
        join_clips(tmp_path / "whole.mp4", parts, 24)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_joined_video_carries_its_tags_and_the_same_pictures(tmp_path: Path, make) -> None:
    write_clip(tmp_path / "a.mp4", clip(make, 5), 24)
    parts, tags = [tmp_path / "a.mp4"] * 2, {"workflow": '{"nodes": "h\u00f6he"}', "prompt": "{}"}
    join_clips(tmp_path / "tagged.mp4", parts, 24, tags=tags)
    join_clips(tmp_path / "bare.mp4", parts, 24)
    assert tags.items() <= tags_of(tmp_path / "tagged.mp4").items()
    assert not tags.keys() & tags_of(tmp_path / "bare.mp4").keys()
    tagged, bare = (list(read_frames(tmp_path / f"{name}.mp4")) for name in ("tagged", "bare"))
    assert len(tagged) == 10 and all(map(torch.equal, tagged, bare))


def tags_of(path: Path) -> dict[str, str]:
    with av.open(str(path)) as video:
        return dict(video.metadata)


def test_joining_can_be_cancelled_between_clips(tmp_path: Path, make) -> None:
    write_clip(tmp_path / "a.mp4", clip(make, 1), 24)

    def stop(done: int, total: int) -> None:
        assert total == 3
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        join_clips(tmp_path / "b.mp4", [tmp_path / "a.mp4"] * 3, 24, on_clip=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
