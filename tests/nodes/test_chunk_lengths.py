"""Chunks of any length in the graph: what Rollout Start takes, and what is kept as it is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from .sampling_kit import GRID, Kit

SAMPLERS = ("uni_pc", "euler", "dpmpp_2m", "euler_ancestral")
OVERLAPS = pytest.mark.parametrize("overlap", [5, 9])

pytestmark = pytest.mark.usefixtures("inference")


def given_of(kit: Kit, overlap: int) -> dict[str, Any]:
    """State, readout and first latent of a later chunk, as Mirage Loop Open gives them."""
    state = kit.second_chunk(overlap)
    return {
        "state": state,
        "readout": kit.module("readout.readout").read(state.cache, state.frame_cameras),
        "first_latent": kit.vae_border.make_clean_latent(state.overlap_latent),
    }


def loop_open(kit: Kit, state: Any) -> list[Any]:
    """Outputs of Mirage Loop Open in a copy of a loop's body."""
    boxed = kit.nodes.comfy.loop_body.Boxed(state)
    node = type("Placed", (kit.nodes.MirageLoopOpen,), {"hidden": SimpleNamespace(
        unique_id="1", dynprompt=None
    )})  # fmt: skip
    return list(node.execute(boxed).args)


# --- Rollout Start --------------------------------------------------------------------------------


@pytest.fixture
def plan(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Mirage Rollout Start on a small memory; shots are saved in an empty folder."""
    paths = kit.models.folder_paths
    monkeypatch.setattr(paths, "output_directory", str(tmp_path / "output"))
    state = kit.second_chunk()
    latent = kit.vae_border.make_latent(state.first_latent)
    node = type(
        "Placed", (kit.nodes.MirageRolloutStart,), {"hidden": SimpleNamespace(unique_id="1")}
    )

    def run(trajectory: Any = state.trajectory, **lengths: Any) -> Any:
        (shot,) = node.execute(state.cache, trajectory, latent, 0, "shot", True, **lengths).args
        return shot

    return run


def test_lengths_come_into_the_plan(kit: Kit, plan) -> None:
    plain = plan()
    assert plain.state.lengths.are_default
    assert [chunk.model_frames for chunk in plain.state.plan] == [33, 33]
    chosen = plan(first_chunk_frames=21, chunk_frames=17, overlap_frames=9)
    assert [chunk.model_frames for chunk in chosen.state.plan] == [21] + [17] * 5 + [13]
    same = plan(first_chunk_frames=33, chunk_frames=33, overlap_frames=1)
    assert same.state.plan == plain.state.plan


def test_lengths_make_a_rollout_of_their_own(kit: Kit, plan, tmp_path: Path) -> None:
    """And the default ones the same as none at all."""
    shot = plan()
    state = shot.state
    old = kit.module("rollout.state").rollout_id(
        state.trajectory, state.cache, state.first_latent, 0, "settings"
    )
    ids = [kit.nodes.shot.rollout_id(
        s.trajectory, s.cache, s.first_latent, 0, "settings", s.lengths
    ) for s in (state, plan(overlap_frames=5).state, plan(chunk_frames=37).state)]  # fmt: skip
    assert ids[0] == old
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ({"first_chunk_frames": 120}, ("length of the first chunk", "120", "Use 117 or 121")),
        ({"chunk_frames": 80}, ("length of the later chunks", "80", "Use 77 or 81")),
        ({"overlap_frames": 8}, ("overlap of the chunks", "8", "Use 5 or 9")),
        ({"overlap_frames": 33}, ("not longer than the overlap", "at least 37", "lower")),
        ({"chunk_frames": 5, "overlap_frames": 9}, ("not longer than the overlap", "at least 13")),
    ],
)
def test_lengths_that_do_not_fit_are_refused_first(
    kit: Kit, plan, tmp_path: Path, lengths: dict[str, int], words: tuple[str, ...]
) -> None:
    with pytest.raises(kit.errors.PlanError) as caught:
        plan(**lengths)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "output").exists(), "a folder was made before the check"


def test_a_move_is_resampled_on_request(plan) -> None:
    """65 frames at 24 a second are 43 steps at 16, of which a shot takes 44."""
    kept, slower = plan(), plan(fps=16.0)
    assert (kept.state.trajectory.fps, len(kept.state.trajectory)) == (24, 65)
    assert (slower.state.trajectory.fps, len(slower.state.trajectory)) == (16, 45)
    for end in (0, -1):
        found = slower.state.trajectory.world_to_camera[end]
        assert torch.allclose(found, kept.state.trajectory.world_to_camera[end])
    for same in (plan(fps=0.0), plan(fps=24.0)):
        assert same.state.trajectory is kept.state.trajectory or (
            same.state.trajectory.fingerprint() == kept.state.trajectory.fingerprint()
        )


def test_a_shot_starts_as_its_picture_looks(plan, caplog: pytest.LogCaptureFixture) -> None:
    """A move through a longer lens takes that of the memory; its own can be kept."""
    caplog.set_level("INFO", "mirage")
    own = plan().state.trajectory
    lens = own.intrinsics.clone()
    lens[:, :2, :2] *= 1.6 * torch.linspace(1, 2, len(own)).double()[:, None, None]
    longer = dataclasses.replace(own, intrinsics=lens)
    begun = plan(longer).state.trajectory.intrinsics
    torch.testing.assert_close(begun[0], own.intrinsics[0])
    torch.testing.assert_close(begun[-1, 0, 0], 2 * own.intrinsics[0, 0, 0])
    assert "the move begins with the picture's" in caplog.text
    for kept in (plan(longer, lens="file"), plan(dataclasses.replace(longer, own_lens=True))):
        assert torch.equal(kept.state.trajectory.intrinsics, longer.intrinsics)
    assert "1.60 times" in caplog.text
    assert plan(own).state.trajectory is own


# --- the first latent -----------------------------------------------------------------------------


@OVERLAPS
def test_loop_open_gives_all_clean_latents(kit: Kit, overlap: int) -> None:
    state = kit.second_chunk(overlap)
    latent = loop_open(kit, state)[4]
    found = kit.vae_border.clean_tokens(latent, "x")
    assert torch.allclose(found, state.overlap_latent, atol=1e-5)
    assert found.shape[1] == 1 + overlap // 4


def test_one_clean_latent_comes_as_ever(kit: Kit) -> None:
    state = kit.second_chunk()
    latent = loop_open(kit, state)[4]
    expected = kit.vae_border.make_latent(state.overlap_latent)
    assert latent.keys() == expected.keys() == {"samples"}
    assert torch.equal(latent["samples"], expected["samples"])


def test_only_what_a_mask_keeps_is_clean(kit: Kit) -> None:
    """A latent without a mask of frames gives its first one, however long it is."""
    tokens = torch.randn(48, 4, *GRID[1:], generator=torch.Generator().manual_seed(1))
    latent = kit.vae_border.make_latent(tokens)
    clean = kit.vae_border.clean_tokens
    assert clean(latent, "x").shape[1] == 1
    flat = latent | {"noise_mask": torch.zeros(1, 64, 96)}
    assert clean(flat, "x").shape[1] == 1
    short = latent | {"noise_mask": torch.zeros(1, 1, 3, *GRID[1:])}
    assert clean(short, "x").shape[1] == 1
    mask = torch.zeros(1, 1, 4, *GRID[1:])
    mask[:, :, 1, 0, 0] = 1
    assert clean(latent | {"noise_mask": mask}, "x").shape[1] == 1
    mask[:, :, 1, 0, 0], mask[:, :, 2] = 0, 1
    found = clean(latent | {"noise_mask": mask}, "x")
    assert torch.allclose(found, tokens[:, :2], atol=1e-5), "the last frame stands alone"
    assert clean(latent | {"noise_mask": mask + 1}, "x").shape[1] == 1


@pytest.mark.samplers
@OVERLAPS
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_clean_latents_come_out_bit_for_bit(kit: Kit, overlap: int, sampler: str) -> None:
    given, count = given_of(kit, overlap), 1 + overlap // 4
    model, latent = kit.apply(**given)
    first = given["first_latent"]["samples"]
    times: list[Tensor] = []

    def look(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **options: Any) -> Tensor:
        times.append(timestep)
        return executor(x, timestep, *args, **options)

    looking = model.clone()
    # Wrappers run in the order they were added: this one sees what the model itself is given.
    looking.add_wrapper_with_key("diffusion_model", "look", look)
    samples = kit.ksampler(looking, latent, sampler, steps=3)
    assert torch.equal(samples[:, :, :count], latent["samples"][:, :, :count])
    assert torch.allclose(samples[:, :, :count], first, atol=1e-5)
    assert torch.equal(latent["noise_mask"][0, 0, :, 0, 0], torch.arange(9).ge(count).float())
    segments = kit.module("rollout.context").chunk_condition(
        given["state"], given["readout"], references=4, preceding=2
    ).segments
    for time in times:
        moving = time[0, segments.target_frames]
        assert (moving[:count] == 0).all() and (moving[count:] > 0).all()
        assert int(time.count_nonzero()) == 9 - count


@pytest.mark.samplers
@OVERLAPS
def test_any_latent_of_the_right_size_will_do(kit: Kit, overlap: int) -> None:
    """Clean frames are put in, whether the latent has them, lacks them or has no mask."""
    model, latent = kit.apply(**given_of(kit, overlap))
    expected = kit.ksampler(model, latent)
    without_mask = {"samples": latent["samples"]}
    empty = {"samples": torch.zeros_like(latent["samples"])}
    white = latent | {"noise_mask": torch.ones_like(latent["noise_mask"])}
    for other in (without_mask, empty, white):
        assert torch.equal(kit.ksampler(model, other), expected)


@pytest.mark.samplers
@OVERLAPS
def test_training_free_keeps_them_too(kit: Kit, overlap: int) -> None:
    given, count = given_of(kit, overlap), 1 + overlap // 4
    model, latent = kit.nodes.MirageTrainingFree.execute(
        kit.model, given["readout"], given["first_latent"], 0.5, 1.0
    ).args
    samples = kit.ksampler(model, latent, steps=2)
    assert torch.equal(samples[:, :, :count], latent["samples"][:, :, :count])
    assert torch.allclose(samples[:, :, :count], given["first_latent"]["samples"], atol=1e-5)
    tokens = kit.vae_border.to_model_space(latent["samples"])[0, :, count:]
    assert torch.allclose(tokens, given["readout"].tokens[:, count:].float(), atol=1e-4)


@pytest.mark.samplers
@OVERLAPS
def test_the_librarys_sampler_holds_them(kit: Kit, overlap: int) -> None:
    count = 1 + overlap // 4
    model, latent = kit.apply(**given_of(kit, overlap))
    sampler, sigmas = kit.nodes.MirageUniPC.execute(3, 5.0).args
    seen: list[Tensor] = []
    samples = kit.custom(
        model, latent, sampler, sigmas, callback=lambda _, clean, *__: seen.append(clean)
    )
    clean = kit.vae_border.to_model_space(latent["samples"])[:, :, :count]
    assert torch.equal(samples[:, :, :count], latent["samples"][:, :, :count])
    for estimate in seen:
        assert torch.allclose(estimate[:, :, :count].cpu(), clean, atol=1e-5)


def test_preview_fill_keeps_them(kit: Kit) -> None:
    given = given_of(kit, 9)
    readout = dataclasses.replace(given["readout"], cache=dataclasses.replace(
        given["readout"].cache, codec=kit.module("codecs.dct").CODEC_NAME
    ))  # fmt: skip
    latent, _, _ = kit.nodes.MiragePreviewFill.execute(
        readout, kit.vae_border.DctVAE(), given["first_latent"]
    ).args
    assert torch.allclose(latent["samples"][:, :, :3], given["first_latent"]["samples"], atol=1e-5)
    alone, _, _ = kit.nodes.MiragePreviewFill.execute(readout, kit.vae_border.DctVAE()).args
    assert torch.equal(latent["samples"][:, :, 3:], alone["samples"][:, :, 3:])
    assert not torch.allclose(latent["samples"][:, :, :3], alone["samples"][:, :, :3], atol=0.1)


def test_a_first_latent_that_is_not_the_loops(kit: Kit) -> None:
    given = given_of(kit, 9)
    given["first_latent"] = kit.first_latent((9, *GRID[1:]))
    with pytest.raises(kit.errors.ShapeError, match="shares.*1 clean latent frames.*Expected: 3"):
        kit.apply(**given)


def test_more_clean_latents_than_the_chunk_has(kit: Kit) -> None:
    first = kit.vae_border.make_clean_latent(torch.randn(48, 4, *GRID[1:]))
    with pytest.raises(kit.errors.ShapeError, match="longer than the chunk.*Loop Open"):
        kit.apply(first_latent=first)


# --- decoding -------------------------------------------------------------------------------------


@OVERLAPS
def test_chunk_decode_decodes_them_alone(
    kit: Kit, overlap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were encoded as a clip of their own, which begins with a picture."""
    state, vae = kit.second_chunk(overlap), kit.vae_border.DctVAE()
    monkeypatch.setattr(kit.nodes.sampling, "expect_same_codec", lambda *_: None)
    chunk = torch.randn(48, 9, *GRID[1:], generator=torch.Generator().manual_seed(4))
    latent = kit.vae_border.make_latent(chunk)
    images, _ = kit.nodes.MirageChunkDecode.execute(latent, vae, state, 2).args
    assert len(images) == 33
    assert torch.allclose(images, vae.decode(latent["samples"])[0], atol=1e-5)
