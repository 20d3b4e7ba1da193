"""Moving things in the shipped shots: switched by one toggle, and kept out of the memory.

Qwen3-VL and SAM3.1 are files of the real names with few channels and made-up weights, which
ComfyUI's own code reads and runs. What SAM3 marks with them means nothing, so its masks are drawn
by the test where a shot is to depend on them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dev.comfy_client import ComfyClient, ComfyRunError, ComfyValidationError
from dev.comfy_server import PACK, ComfyServer
from mirage_core.cache.io import load_cache
from mirage_core.cache.types import LatentCache
from mirage_core.geometry.camera import project_each, projection_matrices
from tiny_install import SERVER_ARGS, install
from workflows.files import LANGUAGE_MODEL, MOGE, SAM3

from .prompts import Prompt
from .stopped_shots import HEIGHT, WIDTH, only, run, small

pytestmark = pytest.mark.server

FRAMES, CHUNKS = 37, 3
LENGTHS = {"frames": FRAMES, "first_chunk_frames": 13, "chunk_frames": 13}
SHOTS = {
    "training_free": LENGTHS,
    "fun_inpaint": LENGTHS,
    "vace": {"frames": 25, "first_chunk_frames": 9, "chunk_frames": 13, "overlap_frames": 5},
    "spatia": {"frames": FRAMES, "first_chunk_frames": 21, "chunk_frames": 17,
               "overlap_frames": 9},
    "rollout": LENGTHS,
}  # fmt: skip


@pytest.fixture(scope="module")
def seeing(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A server with the files of all shots, and with those that find what moves."""
    base = tmp_path_factory.mktemp("seeing")
    install(base, (WIDTH, HEIGHT))
    for name in ("tiny_dynamics", "drawn_tracks"):
        target = base / "custom_nodes" / name / "__init__.py"
        target.parent.mkdir(parents=True)
        shutil.copyfile(PACK / "tests" / "support" / f"{name}.py", target)
    options = [*SERVER_ARGS, "--use-pytorch-cross-attention"]
    with ComfyServer(
        base, comfyui=comfyui_path, env={"OMP_NUM_THREADS": "1"}, extra_args=options
    ) as running:
        yield running


def shot(name: str, object_info: dict[str, Any], folder: str, **models: Any) -> Prompt:
    prompt = small(name, object_info, SHOTS[name])
    prompt[only(prompt, "MirageSceneModels")]["inputs"] |= models
    prompt[only(prompt, "MirageRolloutStart")]["inputs"]["name"] = folder
    return prompt


def looks(prompt: Prompt) -> tuple[str, str]:
    """Ids of the nodes that look at the picture, and at the chunks."""
    first, inside = sorted((n for n, p in prompt.items() if p["class_type"] == "MirageLook"),
                           key=len)  # fmt: skip
    return first, inside


def memory_of(prompt: Prompt, result: Any) -> Any:
    (file,) = result.outputs[only(prompt, "MirageCacheSave")]["text"]
    return load_cache(file)


@pytest.mark.parametrize("name", SHOTS)
def test_every_shot_looks_at_the_picture_and_at_every_chunk(
    name: str, object_info: dict[str, Any]
) -> None:
    """One switch for both, and their masks go where Algorithm 1 has them."""
    prompt = shot(name, object_info, name)
    models = only(prompt, "MirageSceneModels")
    assert prompt[models]["inputs"]["moving_things"] is False
    first, inside = looks(prompt)
    assert [prompt[n]["inputs"]["scene_models"] for n in (first, inside)] == [[models, 0]] * 2
    begun = prompt[only(prompt, "MirageCacheInit")]["inputs"]
    assert (begun["geometry"], begun["exclude"]) == ([first, 0], [first, 1])
    aligned = prompt[only(prompt, "MirageAlignGeometry")]["inputs"]
    wired = (aligned["geometry"], aligned["dynamic"], aligned["sky"])
    assert wired == ([inside, 0], [inside, 1], [inside, 2])
    decoded = only(prompt, "MirageChunkDecode")
    seen = prompt[inside]["inputs"]
    assert (seen["image"], seen["frames"]) == ([decoded, 1], [decoded, 0])


def test_off_needs_none_of_the_files(server: ComfyServer, object_info: dict[str, Any]) -> None:
    """This server has neither: the shot is the same, bit by bit, as one with no masks wired."""
    assert LANGUAGE_MODEL.name not in str(object_info["CLIPLoader"])
    assert SAM3.name not in str(object_info["CheckpointLoaderSimple"])
    prompt = shot("training_free", object_info, "off")
    result = run(server, prompt)
    assert result.status == "success"
    plain = shot("training_free", object_info, "plain")
    plain[only(plain, "MirageCacheInit")]["inputs"].pop("exclude")
    aligned = plain[only(plain, "MirageAlignGeometry")]["inputs"]
    del aligned["dynamic"], aligned["sky"]
    other = run(server, plain)
    found, expected = memory_of(prompt, result), memory_of(plain, other)
    assert found.fingerprint() == expected.fingerprint()


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({}, (SAM3.name, "models/checkpoints", "switch moving_things off")),
        ({"segmenter": "mine.safetensors"}, ("mine.safetensors", "models/checkpoints")),
    ],
    ids=["auto", "named"],
)
def test_on_without_the_files_is_told_when_queued(
    server: ComfyServer, object_info: dict[str, Any], models: dict[str, str],
    words: tuple[str, ...],
) -> None:  # fmt: skip
    prompt = shot("vace", object_info, "missing", moving_things=True, **models)
    with pytest.raises(ComfyValidationError) as caught:
        ComfyClient(server.url).submit(prompt)
    assert all(word in str(caught.value) for word in words), caught.value


def test_without_a_depth_model_the_remedy_is_named(
    server: ComfyServer, object_info: dict[str, Any]
) -> None:
    prompt = shot("training_free", object_info, "blind", depth="none")
    with pytest.raises(ComfyRunError, match="no depth model to look at the pictures with"):
        run(server, prompt)
    prompt = shot("training_free", object_info, "blind", depth="Depth Anything 3")
    with pytest.raises(ComfyRunError, match="no Depth Anything 3 in models/geometry_estimation"):
        run(server, prompt)
    assert not list(server.output.glob("mirage/blind/*/chunk_*"))


def told(prompt: Prompt, result: Any, number: str) -> list[str]:
    """The texts of a node and of its copies in later chunks."""
    copies = [key for key in result.outputs if key == number or (":" in number and number in key)]
    return [text for key in copies for text in result.outputs[key].get("text", ())]


def test_on_names_and_tracks_in_the_picture_and_in_three_chunks(seeing: ComfyServer) -> None:
    info = ComfyClient(seeing.url).object_info()
    prompt = shot("training_free", info, "on", moving_things=True, names="drawn")
    result = run(seeing, prompt)
    assert result.status == "success"
    first, inside = looks(prompt)
    assert result.displayed.count(inside) == CHUNKS
    texts = [told(prompt, result, number) for number in (first, inside)]
    # The language model of this server answers: dog.
    assert all("moving: drawn, dog, " in text for text in sum(texts, []))
    loaded = told(prompt, result, only(prompt, "MirageSceneModels"))
    assert loaded == [f"depth: {MOGE.name}\nmoving things: {SAM3.name}, {LANGUAGE_MODEL.name}"]
    reports = told(prompt, result, only(prompt, "MirageAlignGeometry"))
    assert len(reports) == CHUNKS and all("masked 50.0%" in text for text in reports)
    assert places(memory_of(prompt, result)).min() > 0.5
    # The same shot without the switch remembers the left half as well.
    plain = shot("training_free", info, "not_on")
    remembered = places(memory_of(plain, run(seeing, plain)))
    assert (remembered < 0.5).float().mean() > 0.2


def test_names_alone_need_no_language_model(seeing: ComfyServer) -> None:
    info = ComfyClient(seeing.url).object_info()
    given = {"moving_things": True, "names": "a dog, the cat", "language_model": "none"}
    prompt = shot("vace", info, "named", **given)
    result = run(seeing, prompt)
    (loaded,) = told(prompt, result, only(prompt, "MirageSceneModels"))
    assert loaded.endswith(f"moving things: {SAM3.name}, names alone: a dog, the cat")
    assert all("moving: dog, cat, 50.0%" in text
               for number in looks(prompt) for text in told(prompt, result, number))  # fmt: skip
    assert places(memory_of(prompt, result)).min() > 0.5


def places(cache: LatentCache) -> Tensor:
    """(N,) where each point was seen, from 0 at the left edge of its picture to 1."""
    found = []
    for block in cache.blocks:
        camera = block.source.long()
        matrices = projection_matrices(block.world_to_camera, block.intrinsics)[camera]
        across, _, depth = project_each(block.points, matrices)
        found.append(across / depth / (2 * block.intrinsics[camera, 0, 2]))
    return torch.cat(found)
