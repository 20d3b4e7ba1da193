"""What guards the nodes: models of the wrong kind, depth without a value, places to write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

SIZE = (64, 96)


@pytest.fixture
def errors(pack: ModuleType) -> ModuleType:
    return pack.mirage_core.errors


@pytest.fixture
def border(pack: ModuleType) -> ModuleType:
    return pack.nodes.comfy.vae


@pytest.fixture
def files(pack: ModuleType) -> ModuleType:
    return pack.nodes.comfy.files


@pytest.fixture
def output(files: ModuleType, tmp_path: Path) -> Iterator[Path]:
    """ComfyUI's output folder, empty and for one test."""
    paths = files.folder_paths
    before = paths.get_output_directory()
    paths.set_output_directory(str(tmp_path))
    yield tmp_path
    paths.set_output_directory(before)


def picture() -> torch.Tensor:
    rows = torch.linspace(0, 1, SIZE[0])[:, None].expand(*SIZE)
    columns = torch.linspace(0, 1, SIZE[1])[None].expand(*SIZE)
    return torch.stack([rows, columns, 1 - rows], dim=-1)[None].contiguous()


def geometry(pack: ModuleType, depth: float) -> Any:
    lens = pack.mirage_core.geometry.trajectory.intrinsics_from_fov(SIZE[1], SIZE[0], 70.0)[None]
    kind = pack.mirage_core.geometry.frame_geometry.FrameGeometry
    return kind(torch.full((1, *SIZE), depth), lens)


@pytest.mark.parametrize(
    ("vae", "words"),
    [
        (SimpleNamespace(latent_channels=16), ("16 channels", "Wan2.1", "wan2.2_vae.safetensors")),
        (SimpleNamespace(latent_channels=4), ("4 channels", "48 channels")),
        (SimpleNamespace(), ("not a VAE", "SimpleNamespace")),
    ],
)
def test_vae_of_the_wrong_kind(
    pack: ModuleType, errors: ModuleType, vae: Any, words: tuple[str, ...]
) -> None:
    with pytest.raises(errors.ModelMismatchError) as caught:
        pack.nodes.MirageCacheInit.execute(
            picture(), geometry(pack, 2.0), vae, "bilinear", True, "paper"
        )
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("depth", [0.0, -1.0, float("nan"), float("inf")])
def test_depth_without_a_valid_pixel(pack: ModuleType, errors: ModuleType, depth: float) -> None:
    with pytest.raises(errors.GeometryError, match="no valid pixel.*Expected.*estimator again"):
        geometry(pack, depth)


def test_embedded_vae_keeps_comfyuis_promises(pack: ModuleType, border: ModuleType) -> None:
    vae = border.DctVAE()
    video = picture().expand(9, *SIZE, 3)
    raw = vae.encode(video)
    assert raw.shape == (1, 48, 3, SIZE[0] // 16, SIZE[1] // 16)
    assert torch.equal(vae.encode(video[None]), raw)
    assert torch.equal(vae.encode_tiled(video, tile_x=64), raw)
    decoded = vae.decode(raw)
    assert decoded.shape == (1, 9, *SIZE, 3)
    assert torch.equal(vae.decode_tiled(raw, tile_x=4), decoded)
    assert float((decoded[0] - video).abs().max()) < 0.1
    assert torch.equal(vae.encode(video[:8]), raw[:, :, :2]), "frames beyond 4n + 1 are dropped"
    assert (vae.spacial_compression_encode(), vae.temporal_compression_decode()) == (16, 4)


def test_model_space_is_left_and_entered_without_loss(border: ModuleType) -> None:
    samples = torch.randn(1, 48, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    back = border.from_model_space(border.to_model_space(samples))
    assert torch.allclose(back, samples, atol=1e-5)
    latent = border.make_latent(samples[0])
    assert torch.allclose(border.latent_tokens(latent, "x"), samples[0], atol=1e-5)


def test_file_in_place_of_the_output_folder(
    files: ModuleType, errors: ModuleType, output: Path
) -> None:
    (output / "mirage").write_text("in the way")
    with pytest.raises(errors.StorageError, match="A file exists where a folder is needed"):
        files.next_file("memory", "safetensors")
    assert (output / "mirage").read_text() == "in the way"


@pytest.mark.parametrize("name", ["../../x", "..", "a/../..", "/etc/x", "..\\..\\x"])
def test_names_never_lead_out(
    files: ModuleType, errors: ModuleType, output: Path, name: str
) -> None:
    for ask in (files.output_folder, lambda prefix: files.next_file(prefix, "json")):
        with pytest.raises(errors.StorageError, match="leads out"):
            ask(name)
    assert list(output.iterdir()) == []


def test_files_are_numbered(files: ModuleType, output: Path) -> None:
    first = files.next_file("shots/memory", "safetensors")
    assert first == output / "mirage" / "shots" / "memory_00001_.safetensors"
    first.write_bytes(b"")
    assert files.next_file("shots/memory", "safetensors").name == "memory_00002_.safetensors"


@pytest.mark.parametrize("prefix", ["", "   ", ".", "./", "a/.."])
def test_files_without_a_name_are_where_loaders_look(
    files: ModuleType, output: Path, prefix: str
) -> None:
    first = files.next_file(prefix, "json")
    assert first == output / "mirage" / "unnamed_00001_.json"
    first.write_bytes(b"")
    assert files.list_files("json") == ["mirage/unnamed_00001_.json [output]"]


def test_links_on_the_disk_that_lead_out(
    files: ModuleType, errors: ModuleType, output: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (output / "mirage").mkdir()
    (output / "mirage" / "shots").symlink_to(elsewhere)
    for ask in (files.output_folder, lambda prefix: files.next_file(prefix, "json")):
        with pytest.raises(errors.StorageError, match="link on the disk leads out") as caught:
            ask("shots/one")
        assert str(elsewhere) in str(caught.value)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("prefix", ["a\0b", "\ud800"])
def test_names_that_no_file_can_have(
    pack: ModuleType, files: ModuleType, errors: ModuleType, output: Path, prefix: str
) -> None:
    with (
        pytest.raises(errors.StorageError) as caught,
        pack.mirage_core.files.atomic_write(files.next_file(prefix, "json"), "w"),
    ):
        pass
    assert str(caught.value).encode()


def test_loaders_offer_what_an_artist_saved(files: ModuleType, output: Path) -> None:
    folder = output / "mirage" / "shot" / "0123456789ab"
    folder.mkdir(parents=True)
    ours = ("rollout.json", "in_use.json", "chunk_0000.safetensors", ".mirage-1.safetensors")
    for name in (*ours, "video.mp4"):
        (folder / name).write_bytes(b"")
    (output / "mirage" / "memory_00001_.safetensors").write_bytes(b"")
    (output / "mirage" / "move_00001_.json").write_bytes(b"")
    assert files.list_files("safetensors") == ["mirage/memory_00001_.safetensors [output]"]
    assert files.list_files("json") == ["mirage/move_00001_.json [output]"]
    for name in files.list_files("json"):
        assert files.resolve_file(name) == output / "mirage" / "move_00001_.json"
