"""Mirage VACE Control through the real WanVaceToVideo, and known pixels put back."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import conditioning

from .vace_kit import HEIGHT, LENGTHS, WIDTH, VaceKit

pytestmark = pytest.mark.usefixtures("inference")

FINE = (HEIGHT // 8, WIDTH // 8)
OVERLAP = LENGTHS["overlap_frames"]


@pytest.fixture(scope="module")
def shot(pack: ModuleType) -> VaceKit:
    with torch.inference_mode():
        return VaceKit(pack)


@pytest.fixture(scope="module")
def wan() -> ModuleType:
    """ComfyUI's own nodes for VACE."""
    return importlib.import_module("comfy_extras.nodes_wan")


def control(shot: VaceKit, state: Any, **changes: Any) -> tuple[Any, ...]:
    images, holes = shot.render(state)
    given = {
        "state": state, "images": images, "holes": holes, "reference": "best",
        "frame_rate": "16", "picture": shot.picture,
    }  # fmt: skip
    return shot.nodes.MirageVaceControl.execute(**given | changes).args


def to_video(wan: ModuleType, shot: VaceKit, made: tuple[Any, ...]) -> tuple[Any, ...]:
    """WanVaceToVideo with all that Mirage VACE Control gives."""
    video, masks, reference, width, height, length = made
    return wan.WanVaceToVideo.execute(
        conditioning(1), conditioning(2), shot.wan21, width, height, length, 1, 1.0,
        control_video=video, control_masks=masks, reference_image=reference,
    ).args  # fmt: skip


def planes(positive: list[Any]) -> tuple[Tensor, Tensor]:
    """The encoded video (1, 32, T, h, w) and the mask (1, 64, T, h, w)."""
    (frames,), (mask,) = (positive[0][1][name] for name in ("vace_frames", "vace_mask"))
    return frames, mask


def test_the_first_chunk_begins_with_the_picture(shot: VaceKit, tmp_path: Path) -> None:
    state = shot.begin(tmp_path)
    images, holes = shot.render(state)
    video, masks, reference, *size = control(shot, state)
    assert size == [WIDTH, HEIGHT, 9]
    assert video.shape == (9, HEIGHT, WIDTH, 3)
    assert torch.equal(video[:1], shot.picture)
    assert torch.equal(reference, shot.picture)
    assert not masks[0].any()
    assert torch.equal(masks[1:], holes[1:])
    assert float(masks[-1].mean()) > 0
    assert torch.equal(video[1:][masks[1:] > 0].unique(), torch.tensor([0.5]))
    known = masks[1:] == 0
    assert torch.equal(video[1:][known], images[1:][known])


def test_without_a_picture_all_is_the_render(shot: VaceKit) -> None:
    state = shot.begin()
    images, holes = shot.render(state)
    video, masks, reference, *_ = control(shot, state, picture=None)
    assert torch.equal(masks, holes)
    assert torch.equal(video, images)
    assert reference is None


def test_a_later_chunk_begins_with_the_saved_frames(shot: VaceKit, tmp_path: Path) -> None:
    state = shot.advance(shot.begin(tmp_path))
    core = shot.module("mirage_core.rollout.video")
    clip = torch.stack(list(core.read_frames(tmp_path / "chunk_0000.mp4"))).float() / 255
    video, masks, reference, *size = control(shot, state)
    assert size == [WIDTH, HEIGHT, 13]
    assert torch.equal(video[:OVERLAP], clip[-OVERLAP:])
    assert not masks[:OVERLAP].any()
    assert masks[OVERLAP:].any()
    # Of latents 0, 1, 2 the chunk begins with 1 and 2; frame 0 is the given picture.
    assert torch.equal(reference, shot.picture)
    assert control(shot, state, reference="none")[2] is None
    again = control(shot, shot.begin(tmp_path))
    for one, other in zip((video, masks, reference), again[:3], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("done", [0, 1])
def test_kept_frames_come_out_as_kept(
    shot: VaceKit, wan: ModuleType, tmp_path: Path, done: int
) -> None:
    """The trap: masks are of pixel frames, and 1 is to be made.

    ComfyUI gives each latent the mask of one pixel frame, as VACE's own code does.
    """
    state = shot.advance(shot.begin(tmp_path), done)
    made = control(shot, state)
    positive, _, latent, trim = to_video(wan, shot, made)
    frames, mask = planes(positive)
    long = state.chunk.latent_frames
    assert trim == 1
    assert latent["samples"].shape == (1, 16, long + 1, *FINE)
    assert frames.shape == (1, 32, long + 1, *FINE)
    assert mask.shape == (1, 64, long + 1, *FINE)
    assert not mask[:, :, 0].any(), "the reference"
    taken = [int((t + 0.5) * state.chunk.model_frames / long) for t in range(long)]
    # Each cell's channels are the pixels of its 8 x 8 block.
    blocks = made[1].view(-1, FINE[0], 8, FINE[1], 8).permute(2, 4, 0, 1, 3).flatten(0, 1)
    assert torch.equal(mask[0, :, 1:], blocks[:, taken])
    kept = [t for t, number in enumerate(taken) if number < state.chunk.shared_frames]
    assert len(kept) == state.chunk.shared_latents
    assert not mask[:, :, [1 + t for t in kept]].any()
    assert mask[:, :, 1 + len(kept) :].any()
    assert not mask[:, :, 1 + len(kept) :].all()
    encoded = shot.wan21.encode(made[2])
    assert torch.allclose(frames[:, :16, :1], encoded, atol=1e-4)
    inactive = made[0].clone()
    inactive[made[1] > 0] = 0.5
    assert torch.allclose(frames[:, :16, 1:], shot.wan21.encode(inactive), atol=1e-4)


def test_no_reference_adds_no_latent(shot: VaceKit, wan: ModuleType) -> None:
    state = shot.begin()
    positive, _, latent, trim = to_video(wan, shot, control(shot, state, reference="none"))
    assert trim == 0
    assert latent["samples"].shape[2] == planes(positive)[1].shape[2] == 3


def test_too_few_masks_are_padded_without_a_word(shot: VaceKit, wan: ModuleType) -> None:
    """Why Mirage VACE Control counts them: ComfyUI's node does not."""
    made = control(shot, shot.begin(), reference="none")
    masks = torch.zeros_like(made[1])
    kept = planes(to_video(wan, shot, (made[0], masks, *made[2:]))[0])[1]
    padded = planes(to_video(wan, shot, (made[0], masks[::4], *made[2:]))[0])[1]
    assert not kept.any()
    assert padded[:, :, 1:].all()


class TestRefusals:
    """Before any clip is read."""

    @pytest.mark.parametrize("count", [1, 3, 8, 10])
    def test_one_mask_and_one_picture_for_every_frame(self, shot: VaceKit, count: int) -> None:
        state = shot.begin()
        images, holes = (part[:1].repeat(count, *[1] * (part.ndim - 1)) for part in
                         shot.render(state))  # fmt: skip
        with pytest.raises(shot.errors.ShapeError) as caught:
            control(shot, state, holes=holes)
        for words in (f"{count} masks", "9, one for each pixel frame", "without a word"):
            assert words in str(caught.value)
        with pytest.raises(shot.errors.ShapeError, match=f"{count} pictures"):
            control(shot, state, images=images)

    @pytest.mark.parametrize("what", ["images", "holes"])
    def test_pictures_of_another_size(self, shot: VaceKit, what: str) -> None:
        state = shot.begin()
        images, holes = shot.render(state)
        small = {"images": images, "holes": holes}[what][:, : HEIGHT // 2]
        with pytest.raises(shot.errors.ShapeError, match=rf"64 x 16.*{WIDTH} x {HEIGHT}"):
            control(shot, state, **{what: small})
        with pytest.raises(shot.errors.ShapeError, match="The picture has the wrong shape"):
            control(shot, state, picture=shot.picture[:, 8:])

    def test_another_frame_rate_is_told_and_taken_on_request(self, shot: VaceKit) -> None:
        state = shot.begin(path=shot.path(49, fps=24.0))
        with pytest.raises(shot.errors.PlanError) as caught:
            control(shot, state)
        for words in ("Got: 24 frames", "Expected: 16", "fps = 16", "49 frames into 33", "any"):
            assert words in str(caught.value)
        assert len(control(shot, state, frame_rate="any")[0]) == 9
        assert len(control(shot, shot.begin(path=shot.path(49, fps=16.0)))[0]) == 9

    def test_memories_of_tokens(self, shot: VaceKit) -> None:
        state = shot.begin(vae=shot.embedded, what="tokens")
        with pytest.raises(shot.errors.ModelMismatchError, match="what = colours"):
            control(shot, state)

    def test_shots_of_the_wan22_vae(self, shot: VaceKit) -> None:
        state = shot.begin(vae=shot.embedded)
        with pytest.raises(shot.errors.ModelMismatchError, match=r"wan_2\.1_vae"):
            control(shot, state)

    def test_a_plan_that_no_loop_has_begun(self, shot: VaceKit, tmp_path: Path) -> None:
        plan = shot.module("nodes.shot").PlannedShot(shot.begin(), tmp_path, True, "1")
        with pytest.raises(shot.errors.MirageError, match="Rollout Start"):
            shot.nodes.MirageVaceControl.execute(
                plan, torch.zeros(9, 1, 1, 3), torch.zeros(9, 1, 1), "none", "16"
            )


class TestPaste:
    """Mirage Paste Known over what a model made."""

    def paste(self, shot: VaceKit, *args: Any) -> Tensor:
        return shot.nodes.MiragePasteKnown.execute(*args).args[0]

    def test_known_pixels_and_kept_frames_are_back(self, shot: VaceKit, tmp_path: Path) -> None:
        state = shot.advance(shot.begin(tmp_path))
        video, masks, *_ = control(shot, state)
        frames = torch.rand(video.shape, generator=torch.Generator().manual_seed(0))
        found = self.paste(shot, frames, video, masks, 0, 1.0)
        assert torch.allclose(found[:OVERLAP], video[:OVERLAP], atol=1e-6)
        unknown = masks > 0
        assert torch.equal(found[unknown], frames[unknown])
        assert torch.allclose(found[~unknown], video[~unknown], atol=1e-6)
        soft = self.paste(shot, frames, video, masks, 8, 1.0)
        assert torch.equal(soft[unknown], frames[unknown])
        assert not torch.allclose(soft, found)

    def test_strength_nothing_gives_the_frames_themselves(self, shot: VaceKit) -> None:
        frames = torch.zeros(2, 4, 4, 3)
        assert self.paste(shot, frames, frames + 1, torch.zeros(2, 4, 4), 8, 0.0) is frames

    def test_masks_of_other_frames_are_refused(self, shot: VaceKit) -> None:
        frames = torch.zeros(5, 4, 4, 3)
        with pytest.raises(shot.errors.ShapeError, match="masks of holes"):
            self.paste(shot, frames, frames, torch.zeros(2, 4, 4), 8, 1.0)


class TestColours:
    """Mirage Match Colours before a chunk is written."""

    def match(self, shot: VaceKit, *args: Any) -> tuple[Tensor, str]:
        return shot.nodes.MirageMatchColours.execute(*args).args

    def test_drift_is_taken_back(self, shot: VaceKit, tmp_path: Path) -> None:
        video, masks, *_ = control(shot, shot.advance(shot.begin(tmp_path)))
        drifted = 0.9 * video + 0.05
        kept = drifted.clone()
        found, report = self.match(shot, drifted, video, masks, 1.0)
        assert torch.equal(drifted, kept)
        assert torch.allclose(found, video, atol=1e-3)
        assert "colours moved" in report

    def test_strength_nothing_gives_the_frames_themselves(self, shot: VaceKit) -> None:
        frames = torch.full((2, 4, 4, 3), 0.4)
        found, report = self.match(shot, frames, frames + 0.1, torch.zeros(2, 4, 4), 0.0)
        assert found is frames
        assert "+10.0, +10.0, +10.0" in report

    def test_masks_of_other_frames_are_refused(self, shot: VaceKit) -> None:
        frames = torch.zeros(5, 4, 4, 3)
        with pytest.raises(shot.errors.ShapeError, match="masks of holes"):
            self.match(shot, frames, frames, torch.zeros(2, 4, 4), 1.0)
