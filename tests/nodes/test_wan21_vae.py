"""The Wan2.1 VAE: taken where a memory holds colours, refused wherever tokens are needed."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from .sampling_kit import Kit
from .vace_kit import FRAMES, HEIGHT, WIDTH, VaceKit

pytestmark = pytest.mark.usefixtures("inference")

FINE = (HEIGHT // 8, WIDTH // 8)


@pytest.fixture(scope="module")
def shot(pack: ModuleType) -> VaceKit:
    with torch.inference_mode():
        return VaceKit(pack)


def test_model_space_is_that_of_comfyui_s_format(shot: VaceKit) -> None:
    import comfy.latent_formats

    samples = torch.randn(1, 16, 3, *FINE, generator=torch.Generator().manual_seed(0))
    tokens = shot.border.to_model_space(samples)
    assert torch.equal(tokens, comfy.latent_formats.Wan21().process_in(samples))
    assert torch.allclose(shot.border.from_model_space(tokens), samples, atol=1e-5)


def test_the_codec_tells_its_sizes(shot: VaceKit) -> None:
    kind = shot.module("mirage_core.codecs.memory_kind").MemoryKind.COLOURS
    codec = shot.border.VaeCodec(shot.wan21, memory=kind)
    found = (codec.name, codec.channels, codec.spatial_stride, codec.drawable)
    assert found == ("wan2.1", 16, 8, False)
    video = shot.picture.repeat(5, 1, 1, 1)
    tokens = codec.encode(video)
    assert tokens.shape == (16, 2, *FINE)
    assert torch.allclose(codec.encode_images(video[:1]), tokens[:, :1], atol=1e-4)
    assert codec.decode(tokens).shape == (5, HEIGHT, WIDTH, 3)


def test_a_shot_is_decoded_written_and_resumed(shot: VaceKit, tmp_path: Path) -> None:
    state = shot.begin(tmp_path)
    cache, first = shot.begin_memory()
    assert first["samples"].shape == (1, 16, 1, *FINE)
    assert cache.codec == "rgb-2"
    assert (state.grid, state.latent_grid) == ((HEIGHT // 16, WIDTH // 16), FINE)
    after = shot.advance(state)
    assert after.overlap_latent.shape == (16, 2, *FINE)
    assert len(after.cache) > len(state.cache)
    whole = shot.advance(after, 2)
    assert whole.complete
    resumed = shot.begin(tmp_path)
    assert resumed.complete
    assert resumed.cache.fingerprint() == whole.cache.fingerprint()
    made = shot.module("mirage_core.rollout.run_folder").all_latents(resumed)
    assert made.shape == (16, (FRAMES + 3) // 4, *FINE)


def test_chunks_that_share_frames_are_decoded_alone(shot: VaceKit, tmp_path: Path) -> None:
    state = shot.advance(shot.begin(tmp_path))
    latent = shot.latent(state)
    alone = shot.wan21.decode(latent["samples"])[0]
    images, every_fourth = shot.decode(state, latent, carried=2)
    assert torch.allclose(images, alone, atol=1e-5)
    assert torch.equal(every_fourth, images[::4])


def test_preview_fill_encodes_a_drawing_of_colours_with_it(shot: VaceKit) -> None:
    state = shot.begin()
    readout = shot.nodes.MirageReadout.execute(state.cache, state.frame_cameras).args[0]
    first = shot.border.make_clean_latent(state.overlap_latent)
    latent, _, images = shot.nodes.MiragePreviewFill.execute(readout, shot.wan21, first).args
    assert latent["samples"].shape == (1, 16, 3, *FINE)
    assert torch.allclose(latent["samples"][:, :, :1], first["samples"], atol=1e-5)
    assert images.shape == (9, HEIGHT, WIDTH, 3)


def test_two_vaes_in_one_shot_are_named(shot: VaceKit, tmp_path: Path) -> None:
    state = shot.begin(tmp_path)
    with pytest.raises(shot.errors.ModelMismatchError) as caught:
        shot.decode(state, shot.latent(state), vae=shot.embedded)
    assert "Got: Mirage Embedded Codec" in str(caught.value)
    assert "Expected: the Wan2.1 VAE" in str(caught.value)
    other = shot.begin(vae=shot.embedded)
    with pytest.raises(shot.errors.ModelMismatchError, match="begun with"):
        shot.decode(other, shot.latent(other))
    images = torch.zeros(9, HEIGHT, WIDTH, 3)
    with pytest.raises(shot.errors.ModelMismatchError, match="begun with"):
        shot.update(state, shot.latent(state), images, vae=shot.embedded)
    assert not list(tmp_path.glob("chunk_*"))


def test_memories_of_tokens_refuse_it(shot: VaceKit) -> None:
    with pytest.raises(shot.errors.ModelMismatchError, match=r"16 channels \(this is what"):
        shot.begin_memory(what="tokens")
    with pytest.raises(shot.errors.ModelMismatchError, match=r"16 channels \(this is what"):
        shot.border.VaeCodec(shot.wan21)
    cache, first = shot.begin_memory(shot.embedded, what="tokens")
    assert first["samples"].shape[1] == 48
    path = shot.path(5)
    readout = shot.nodes.MirageReadout.execute(cache, path).args[0]
    with pytest.raises(shot.errors.ModelMismatchError, match="48 channels"):
        shot.nodes.MiragePreviewFill.execute(readout, shot.wan21)


def test_nodes_that_steer_wan22_refuse_its_latents(kit: Kit) -> None:
    latent = {"samples": torch.zeros(1, 16, 1, 8, 12)}
    with pytest.raises(kit.errors.ModelMismatchError, match=r"16 channels \(this is what"):
        kit.apply(first_latent=latent)
    with pytest.raises(kit.errors.ModelMismatchError, match=r"16 channels \(this is what"):
        kit.nodes.MirageTrainingFree.execute(kit.model, kit.readout(), latent, 0.5, 1.0)


def test_another_autoencoder_of_16_channels_is_refused(shot: VaceKit) -> None:
    """Latents of pictures, or of another video model, have as many channels and mean others."""
    import comfy.sd

    other = comfy.sd.VAE.__new__(comfy.sd.VAE)
    other.latent_channels, other.first_stage_model = 16, torch.nn.Identity()
    with pytest.raises(shot.errors.ModelMismatchError, match=r"Identity.*the Wan2\.1 VAE"):
        shot.begin_memory(other)
