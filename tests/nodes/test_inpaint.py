"""Mirage Inpaint Conditioning: what it gives, what a real InP model makes of it, and refusals."""

from __future__ import annotations

import dataclasses
import importlib
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tiny_models import conditioning, inpaint_model

from .sampling_kit import COLUMNS, FRAMES, GRID, ROWS, Kit

HEIGHT, WIDTH, PICTURES = 16 * ROWS, 16 * COLUMNS, 4 * FRAMES - 3

pytestmark = pytest.mark.usefixtures("inference")


class Clip:
    """Inputs of the node."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.vae = kit.nodes.MirageEmbeddedCodec.execute().args[0]
        rng = torch.Generator().manual_seed(3)
        self.images = torch.rand(PICTURES, HEIGHT, WIDTH, 3, generator=rng)
        self.holes = (torch.rand(PICTURES, HEIGHT, WIDTH, generator=rng) > 0.998).float()

    def run(self, **inputs: Any) -> tuple[list, list, dict[str, Tensor]]:
        node = self.kit.nodes.MirageInpaintConditioning
        return node.execute(conditioning(1), conditioning(2), **inputs).args

    def pictures(self, **changes: Any) -> dict[str, Any]:
        return {"vae": self.vae, "images": self.images, "holes": self.holes} | changes

    def colours(self) -> Any:
        """A readout of a memory of colours."""
        codec = self.kit.module("codecs.colours").ColourCodec(1).name
        cache = self.kit.module("cache.types").LatentCache((), codec=codec)
        path = self.kit.trajectory(PICTURES, WIDTH, HEIGHT)
        return self.kit.module("readout.readout").read(cache, path)


@pytest.fixture(scope="module")
def clip(kit: Kit) -> Clip:
    return Clip(kit)


def entries(conditioning: list) -> tuple[Tensor, Tensor]:
    ((_, known),) = conditioning
    return known["concat_latent_image"], known["concat_mask"]


# --- what it gives --------------------------------------------------------------------------------


def test_a_readout_in_the_vae_s_own_space(kit: Kit, clip: Clip) -> None:
    readout = kit.readout()
    positive, negative, latent = clip.run(readout=readout)
    image, mask = entries(positive)
    raw = kit.nodes.MirageReadout.execute(readout.cache, readout.trajectory).args[1]["samples"]
    assert torch.equal(image, raw), "as the latent output of Mirage Readout"
    assert mask.shape == (1, 4, *GRID)
    for plane in mask[0]:
        assert torch.equal(plane, (~readout.visible).float()), "0 is given, 1 is to be made"
    assert 0 < float(mask.mean()) < 1
    assert all(torch.equal(*pair) for pair in zip(entries(negative), (image, mask), strict=True))
    assert latent["samples"].shape == (1, 48, *GRID)
    assert not latent["samples"].any()
    assert "noise_mask" not in latent


def test_with_the_vae_holes_of_a_readout_are_grey(kit: Kit, clip: Clip) -> None:
    readout = kit.readout(codec="embedded-dct-1")
    image, _ = entries(clip.run(readout=readout, vae=clip.vae)[0])
    grey = clip.vae.encode(torch.full((PICTURES, HEIGHT, WIDTH, 3), 0.5))
    bare, _ = entries(clip.run(readout=readout)[0])
    seen = readout.visible
    assert torch.equal(image[0][:, seen], bare[0][:, seen])
    assert torch.allclose(image[0][:, ~seen], grey[0][:, ~seen], atol=1e-5)


def test_pictures_are_encoded_as_one_video_with_grey_holes(clip: Clip) -> None:
    """Grey, encoding and masks pixel by pixel."""
    before = clip.images.clone(), clip.holes.clone()
    positive, _, latent = clip.run(**clip.pictures())
    image, mask = entries(positive)
    grey = clip.images.clone()
    planes = torch.zeros(1, 4, *GRID)
    for frame, row, column in clip.holes.nonzero().tolist():
        grey[frame, row, column] = 0.5
        place = (slice(None), 0) if frame == 0 else ((frame - 1) % 4, (frame + 3) // 4)
        planes[(0, *place, row // 16, column // 16)] = 1
    assert torch.allclose(image, clip.vae.encode(grey), atol=1e-5)
    assert torch.equal(mask, planes)
    assert 0 < float(mask.mean()) < 1
    assert latent["samples"].shape == image.shape
    assert torch.equal(clip.images, before[0]) and torch.equal(clip.holes, before[1])


@pytest.mark.parametrize("fps", [16.0, 24.0])
def test_another_frame_rate_than_the_model_s_is_told(
    kit: Kit, caplog: pytest.LogCaptureFixture, fps: float
) -> None:
    readout = kit.readout()
    path = dataclasses.replace(readout.trajectory, fps=fps)
    node = type(
        "Placed", (kit.nodes.MirageInpaintConditioning,),
        {"hidden": SimpleNamespace(unique_id="1")},
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        told = node.execute(
            conditioning(1), conditioning(2), readout=dataclasses.replace(readout, trajectory=path)
        ).ui
    if fps == 24:
        assert not told and "frames per second" not in caplog.text
    else:
        (text,) = told["text"]
        assert "has 16 frames per second" in text and "fps = 24 in Mirage Rollout Start" in text
        assert text in caplog.text


@pytest.mark.parametrize("source", ["readout", "pictures"])
def test_a_clean_first_latent(kit: Kit, clip: Clip, source: str) -> None:
    inputs = {"readout": kit.readout()} if source == "readout" else clip.pictures()
    first = kit.first_latent()
    image, mask = entries(clip.run(**inputs)[0])
    positive, negative, latent = clip.run(**inputs, first_latent=first)
    for side in (positive, negative):
        begun, begun_mask = entries(side)
        assert torch.allclose(begun[:, :, :1], first["samples"], atol=1e-5)
        assert torch.equal(begun[:, :, 1:], image[:, :, 1:])
        assert not begun_mask[:, :, 0].any()
        assert torch.equal(begun_mask[:, :, 1:], mask[:, :, 1:])
    wanted = kit.sampling.chunk_latent(kit.vae_border.latent_tokens(first, "x"), FRAMES)
    assert torch.equal(latent["samples"], wanted["samples"])
    assert torch.equal(latent["noise_mask"], wanted["noise_mask"])


@pytest.mark.parametrize(("start", "end"), [(1, 0), (5, 0), (0, 4), (1, 1), (2, 3)])
def test_whole_frames_are_told_as_comfyui_s_own_node_does(
    clip: Clip, start: int, end: int
) -> None:
    from comfy_extras.nodes_wan import WanFunInpaintToVideo

    holes = torch.ones(PICTURES, HEIGHT, WIDTH)
    holes[:start] = 0
    holes[PICTURES - end :] = 0
    given = {"start_image": clip.images[:start], "end_image": clip.images[PICTURES - end :]}
    theirs = WanFunInpaintToVideo.execute(
        conditioning(1), conditioning(2), clip.vae, WIDTH, HEIGHT, PICTURES, 1,
        **{name: frames for name, frames in given.items() if len(frames)},
    ).args  # fmt: skip
    ours = clip.run(**clip.pictures(holes=holes))
    for mine, wanted in zip(ours[:2], theirs[:2], strict=True):
        assert mine[0][1].keys() == wanted[0][1].keys()
        assert torch.allclose(entries(mine)[0], entries(wanted)[0], atol=1e-5)
        assert torch.equal(entries(mine)[1], entries(wanted)[1])
    assert torch.equal(ours[2]["samples"], theirs[2]["samples"])


def test_the_conditioning_that_came_in_stays(kit: Kit, clip: Clip) -> None:
    text = conditioning(1)
    text[0][1]["pooled_output"] = None
    node = kit.nodes.MirageInpaintConditioning
    positive, negative, _ = node.execute(text, text, readout=kit.readout()).args
    assert text[0][1] == {"pooled_output": None}
    assert positive[0][0] is negative[0][0] is text[0][0]
    assert "pooled_output" in positive[0][1]


# --- the model ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(kit: Kit) -> Any:
    return kit.fresh_model(inpaint_model())


def model_input(kit: Kit, model: Any, side: list) -> Tensor:
    """(1, 52, T, h, w) planes that ComfyUI's model puts beside the noise."""
    noise = torch.zeros(1, 48, *GRID)
    ((text, known),) = side
    conds = model.model.extra_conds(noise=noise, device="cpu", cross_attn=text, **known)
    return conds["c_concat"].cond


def test_the_tiny_checkpoint_is_one_of_fun_inp(model: Any) -> None:
    assert type(model.model).__name__ == "WAN22"
    assert model.model.diffusion_model.patch_embedding.weight.shape[1] == 100
    assert model.model.latent_format.latent_channels == 48


def test_ways_for_the_plain_model_refuse_it(kit: Kit, model: Any) -> None:
    with pytest.raises(kit.errors.ModelMismatchError, match="100 input and 48 latent channels"):
        kit.apply(model=model)


def test_what_reaches_the_model(kit: Kit, clip: Clip, model: Any) -> None:
    """Mask first and turned round, then the tokens in the model's own space."""
    readout = kit.readout()
    positive, _, _ = clip.run(readout=readout)
    before = [part.clone() for part in entries(positive)]
    planes = model_input(kit, model, positive)[0]
    assert planes.shape == (52, *GRID)
    for plane in planes[:4]:
        assert torch.equal(plane == 1, readout.visible)
        assert torch.equal(plane == 0, ~readout.visible)
    assert torch.allclose(planes[4:], readout.tokens.float(), atol=1e-5)
    assert all(map(torch.equal, before, entries(positive)))


def test_pictures_reach_the_model(kit: Kit, clip: Clip, model: Any) -> None:
    positive, _, _ = clip.run(**clip.pictures())
    planes = model_input(kit, model, positive)[0]
    assert torch.equal(planes[:4], 1 - entries(positive)[1][0])
    grey = torch.where(clip.holes[..., None] > 0, 0.5, clip.images)
    codec = kit.vae_border.VaeCodec(clip.vae)
    assert torch.allclose(planes[4:], codec.encode(grey), atol=1e-5)


def sampled(
    kit: Kit, model: Any, parts: tuple[list, list, dict[str, Tensor]], sampler: str
) -> Tensor:
    """What KSampler makes of the node's outputs."""
    positive, negative, latent = parts
    samples = latent["samples"]
    return kit.comfy.sample.sample(
        model, kit.comfy.sample.prepare_noise(samples, 7), 2, 6.0, sampler, "simple",
        positive, negative, samples,
        noise_mask=latent.get("noise_mask"), disable_pbar=True, seed=7,
    )  # fmt: skip


@pytest.mark.samplers
@pytest.mark.parametrize(("sampler", "left"), [("euler", 1e-5), ("uni_pc", 5e-3)])
def test_sampling_keeps_the_first_latent_and_feels_what_is_known(
    kit: Kit, clip: Clip, model: Any, sampler: str, left: float
) -> None:
    """ComfyUI's uni_pc ends at a thousandth of noise, in frames that are kept too."""
    first = kit.first_latent()

    def made(seed: int) -> Tensor:
        parts = clip.run(readout=kit.readout(seed=seed), first_latent=first)
        return sampled(kit, model, parts, sampler)

    shown, other = made(1), made(5)
    assert torch.allclose(shown[:, :, :1], first["samples"].to(shown), atol=left)
    assert float((shown - other)[:, :, 1:].abs().mean()) > 1e-3
    assert torch.equal(shown, made(1))


# --- refusals and warnings ------------------------------------------------------------------------


@pytest.fixture
def refuse(kit: Kit, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call what must fail before anything is encoded, with a remedy."""

    def run(kind: str, *words: str, **inputs: Any) -> None:
        def encode(*_: Any) -> None:
            raise AssertionError("encoded before the inputs were checked")

        monkeypatch.setattr(type(clip.vae), "encode", encode)
        with pytest.raises(getattr(kit.errors, kind)) as caught:
            clip.run(**inputs)
        missing = [word for word in words if word not in str(caught.value)]
        assert not missing, f"{missing} not in: {caught.value}"
        assert caught.value.fix

    return run


def test_either_a_readout_or_pictures(kit: Kit, clip: Clip, refuse: Callable[..., None]) -> None:
    both = "a readout alone, or images together with holes"
    refuse("PlanError", "nothing", both, vae=clip.vae)
    refuse("PlanError", "readout and images and holes", both,
           **clip.pictures(readout=kit.readout()))  # fmt: skip
    refuse("PlanError", "readout and holes", both, readout=kit.readout(), holes=clip.holes)
    refuse("PlanError", "images", both, images=clip.images, vae=clip.vae)
    refuse("PlanError", "holes", both, holes=clip.holes)


def test_masks_are_neither_padded_nor_repeated(clip: Clip, refuse: Callable[..., None]) -> None:
    for count in (1, FRAMES, PICTURES - 1):
        words = (f"{count} masks for {PICTURES} pictures", "one mask for every")
        refuse("ShapeError", *words, **clip.pictures(holes=clip.holes[:count]))
    more = torch.cat([clip.holes, clip.holes])
    refuse("ShapeError", f"{2 * PICTURES} masks", **clip.pictures(holes=more))
    small = clip.holes[:, ::16, ::16]
    refuse("ShapeError", "different sizes", **clip.pictures(holes=small))


def test_sizes_and_counts(clip: Clip, refuse: Callable[..., None]) -> None:
    less = {"images": clip.images[:-1], "holes": clip.holes[:-1]}
    refuse("PlanError", "4n + 1", **clip.pictures(**less))
    cut = {"images": clip.images[:, :48], "holes": clip.holes[:, :48]}
    refuse("ShapeError", "divisible by 32", **clip.pictures(**cut))


def test_vaes(kit: Kit, clip: Clip, refuse: Callable[..., None]) -> None:
    refuse("ModelMismatchError", "without a VAE", "wan2.2_vae.safetensors",
           **clip.pictures(vae=None))  # fmt: skip
    other = type("Other", (), {"latent_channels": 16})()
    words = ("16 channels", "Wan2.1", "wan2.2_vae.safetensors")
    refuse("ModelMismatchError", *words, **clip.pictures(vae=other))
    refuse("ModelMismatchError", *words, readout=kit.readout(), vae=other)
    refuse("ModelMismatchError", "another VAE", readout=kit.readout(), vae=clip.vae)


def test_a_readout_of_colours(clip: Clip, refuse: Callable[..., None]) -> None:
    refuse("ModelMismatchError", "a memory of colours", "Mirage Render", readout=clip.colours())


def test_a_first_latent_of_another_size(
    kit: Kit, clip: Clip, refuse: Callable[..., None]
) -> None:
    first = kit.first_latent((FRAMES, ROWS, COLUMNS + 2))
    words = (f"{ROWS} x {COLUMNS + 2} cells", f"{ROWS} x {COLUMNS} cells")
    refuse("ShapeError", *words, readout=kit.readout(), first_latent=first)
    refuse("ShapeError", *words, **clip.pictures(first_latent=first))
    refuse("ShapeError", "(1, 48, T, h, w)", readout=kit.readout(),
           first_latent={"samples": torch.zeros(1, 48, ROWS, COLUMNS)})  # fmt: skip


@pytest.mark.parametrize(
    ("holes", "said"),
    [
        (lambda clip: torch.ones_like(clip.holes), "white"),
        (lambda clip: 1 - clip.holes, "inverted"),
        (lambda clip: clip.holes, None),
    ],
)
def test_doubts_about_masks_are_told(
    clip: Clip, caplog: pytest.LogCaptureFixture, holes: Callable[[Clip], Tensor],
    said: str | None,
) -> None:  # fmt: skip
    wide = clip.holes.clone()
    wide[:, :, WIDTH // 2 :] = 1
    images = torch.where(wide[..., None] > 0, 0.5, clip.images)
    holed = type("Holed", (), {"holes": wide})()
    with caplog.at_level(logging.WARNING, logger="mirage"):
        clip.run(**clip.pictures(images=images, holes=holes(holed)))
    told = [line for line in caplog.messages if "Mirage Inpaint Conditioning" in line]
    assert len(told) == (said is not None)
    assert said is None or said in told[0]


def test_render_and_inpaint_go_together(kit: Kit, clip: Clip) -> None:
    """From a memory of colours, through the pictures that Mirage Render draws."""
    render = importlib.import_module(f"{kit.name}.nodes.render").MirageRender
    readout = kit.readout(codec="embedded-dct-1")
    images, holes, *_ = render.execute(holes="grey", readout=readout).args
    image, mask = entries(clip.run(vae=clip.vae, images=images, holes=holes)[0])
    assert mask.shape == (1, 4, *GRID) and image.shape == (1, 48, *GRID)
    assert torch.equal(mask[0, :, 0], mask[0, :1, 0].expand(4, -1, -1))
