"""The command line on tiny files of the real formats."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mirage_core.cache.io import load_cache
from mirage_core.checkpoints.branch_file import load_branch
from mirage_core.checkpoints.names import is_branch
from mirage_core.cli import inputs, models, rollout
from mirage_core.cli.main import main, make_parser
from mirage_core.folder_lock import LOCK
from mirage_core.geometry.geometry_io import load_geometry
from mirage_core.geometry.trajectory import fov_of, intrinsics_from_fov
from mirage_core.rollout.progress import Progress
from mirage_core.rollout.settings import GenerationSettings
from mirage_core.rollout.video import read_frames
from mirage_core.tensor_files import read_tensors
from mirage_core.trajectories.exchange.gltf_write import write_gltf
from mirage_core.trajectories.files import save_trajectory
from mirage_core.trajectories.presets import preset_trajectory
from tiny_depth import write_depth_folder
from tiny_weights import (
    backbone_tensors,
    branch_config,
    branch_tensors,
    metadata,
    noise,
    sentencepiece_model,
    text_shapes,
    vae_tensors,
    write,
)

FRAMES = 37
"""Two chunks: 33 frames and 4."""


@dataclass(frozen=True)
class Files:
    """Paths of everything that a shot needs."""

    folder: Path

    @property
    def arguments(self) -> list[str]:
        """A whole command without its output folder."""
        files = {
            "--image": "picture.png", "--geometry": "shot.npz", "--transformer": "wan.safetensors",
            "--branch": "branch.safetensors", "--text-encoder": "text.safetensors",
        }  # fmt: skip
        named = [text for key, name in files.items() for text in (key, str(self.folder / name))]
        return [
            "rollout", *named, "--embedded-codec", "--move", "truck", "--frames", str(FRAMES),
            "--amount", "0.3", "--steps", "2", "--prompt", "a quiet room", "--seed", "4",
            "--device", "cpu",
        ]  # fmt: skip

    def changed(self, **changes: str | None) -> list[str]:
        """The command with other values; None leaves an option and its value out."""
        words = list(self.arguments)
        for name, value in changes.items():
            key = f"--{name.replace('_', '-')}"
            if key in words:
                place = words.index(key)
                del words[place : place + 2]
            words += [] if value is None else [key, value]
        return words


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(folder / "picture.png")
    grey = rng.integers(1000, 60000, (32, 32)).astype(np.uint16)
    Image.fromarray(grey).save(folder / "depth.png")
    depth = (2 + 0.1 * rng.random((FRAMES, 16, 16))).astype(np.float32)
    np.savez(folder / "shot.npz", depths=depth)
    write(folder / "wan.safetensors", backbone_tensors(), metadata())
    config = branch_config()
    write(folder / "branch.safetensors", branch_tensors(config), config.metadata())
    merged = backbone_tensors() | branch_tensors(config)
    write(folder / "merged.safetensors", merged, config.metadata())
    write(folder / "vae.safetensors", vae_tensors())
    spiece = torch.frombuffer(bytearray(sentencepiece_model()), dtype=torch.uint8)
    text = noise(text_shapes(48)) | {"spiece_model": spiece}
    write(folder / "text.safetensors", text)
    return Files(folder)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What a failed command printed: one message, and no traceback."""
    text = capsys.readouterr().err
    assert text.startswith("mirage: ")
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) == 1
    return text


@pytest.fixture(scope="module")
def whole(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run, by a process of its own."""
    out = tmp_path_factory.mktemp("whole") / "shot"
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "mirage_core", *files.arguments, "--out", str(out)],
        cwd=files.folder, env={**clean, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{FRAMES} frames of 64 x 64 in 2 chunks" in done.stdout
    assert f"video: {out / 'video.mp4'}" in done.stdout
    assert "chunk 2 of 2, step 2 of 2" in done.stderr
    assert " left" in done.stderr
    return out


def latents(folder: Path) -> torch.Tensor:
    paths = sorted(folder.glob("chunk_*.safetensors"))
    return torch.cat([read_tensors(path, ["latents"])["latents"] for path in paths], dim=1)


@pytest.mark.processes
def test_a_whole_shot(whole: Path) -> None:
    assert len(list(read_frames(whole / "video.mp4"))) == FRAMES
    assert len(load_cache(whole / "memory.safetensors")) > 16
    assert latents(whole).shape == (48, 10, 4, 4)
    assert torch.isfinite(latents(whole)).all()


@pytest.mark.processes
def test_ctrl_c_leaves_a_folder_to_go_on_from(
    files: Files, whole: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    """A real SIGINT in the second chunk; the same command then ends at the same result."""
    out = tmp_path / "shot"
    show = rollout.Bar.__call__

    def interrupt(self: rollout.Bar, progress: Progress) -> None:
        show(self, progress)
        if (progress.chunk, progress.stage, progress.step) == (1, "sampling", 1):
            signal.raise_signal(signal.SIGINT)

    # Shells start background jobs with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(rollout.Bar, "__call__", interrupt)
            assert main([*files.arguments, "--out", str(out)]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    told = capsys.readouterr().err
    assert f"1 of 2 chunks are saved in {out}" in told
    assert "same command" in told
    assert "Traceback" not in told
    assert not (out / "video.mp4").exists()
    assert main([*files.arguments, "--out", str(out)]) == 0
    assert torch.allclose(latents(out), latents(whole), atol=1e-5)
    assert "chunk 1 of 2" not in capsys.readouterr().err


@pytest.mark.processes
def test_a_finished_shot_is_not_made_again(
    files: Files, whole: Path, monkeypatch, capsys
) -> None:
    before = (whole / "chunk_0000.safetensors").stat().st_mtime_ns
    video = (whole / "video.mp4").read_bytes()
    (whole / "video.mp4").write_bytes(video[:-9])
    assert main([*files.arguments, "--out", str(whole)]) == 0
    assert (whole / "video.mp4").read_bytes() == video
    assert (whole / "chunk_0000.safetensors").stat().st_mtime_ns == before
    assert "video:" in capsys.readouterr().out


@pytest.mark.processes
def test_another_shot_needs_another_folder(files: Files, whole: Path, capsys) -> None:
    assert main([*files.changed(prompt="a garden"), "--out", str(whole)]) == 2
    assert "belongs to another rollout" in said(capsys)


def test_a_longer_move_goes_on_with_the_shot(files: Files, tmp_path: Path, capsys) -> None:
    """The shot that was there is kept whole; other depth of later frames is another shot."""
    out = tmp_path / "shot"
    lengths = {"first_chunk_frames": "5", "chunk_frames": "5"}

    def shot(frames: int, **changes: str) -> list[str]:
        command = files.changed(move="static", frames=str(frames), **lengths, **changes)
        return [*command, "--out", str(out)]

    assert main(shot(5)) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name != LOCK}
    capsys.readouterr()
    assert main(shot(9)) == 0
    told = capsys.readouterr()
    assert told.out.count("1 of 2 chunks taken over from shot.take-1\n") == 2
    assert "chunk 2 of 2" in told.err and "chunk 1 of 2" not in told.err
    take = tmp_path / "shot.take-1"
    assert {path.name: path.read_bytes() for path in take.iterdir()} == before
    assert len(list(read_frames(out / "video.mp4"))) == 9

    depth = np.load(files.folder / "shot.npz")["depths"]
    depth[1:] += 1
    np.savez(tmp_path / "other.npz", depths=depth)
    assert main(shot(13, geometry=str(tmp_path / "other.npz"))) == 2
    assert "belongs to another rollout" in said(capsys)


@pytest.mark.processes
def test_without_resuming_the_old_folder_is_left_alone(files: Files, whole: Path, capsys) -> None:
    other = files.changed(seed="5", frames="5")
    assert main([*other, "--out", str(whole), "--no-resume"]) == 0
    fresh = whole.with_name("shot-2")
    assert len(list(read_frames(fresh / "video.mp4"))) == 5
    assert f"video: {fresh / 'video.mp4'}" in capsys.readouterr().out


def test_the_wan_codec_and_guidance(files: Files, tmp_path: Path, capsys) -> None:
    """The other codec, a merged model file, classifier-free guidance, a tight preset."""
    command = files.changed(
        branch=None, transformer=str(files.folder / "merged.safetensors"), frames="5",
        guidance="2", negative="blurry", offload="8",
    )  # fmt: skip
    command.remove("--embedded-codec")
    out = tmp_path / "shot"
    assert main([*command, "--vae", str(files.folder / "vae.safetensors"), "--out", str(out)]) == 0
    assert load_cache(out / "memory.safetensors").codec == "wan2.2"
    assert latents(out).shape == (48, 2, 4, 4)


def test_a_depth_picture_and_a_camera_file(files: Files, tmp_path: Path, capsys) -> None:
    move = preset_trajectory(
        "dolly", 5, intrinsics=intrinsics_from_fov(128, 128, 50), width=128, height=128,
        scene_depth=3.0,
    )  # fmt: skip
    camera = save_trajectory(tmp_path / "move", move)
    command = files.changed(
        geometry=None, depth=str(files.folder / "depth.png"), move=None, frames=None,
        trajectory=str(camera),
    )  # fmt: skip
    out = tmp_path / "shot"
    assert main([*command, "--out", str(out)]) == 2
    assert "--depth-model" in said(capsys)
    model = write_depth_folder(tmp_path / "depth", "relative")
    command += ["--out", str(out), "--depth-model", str(model)]
    assert main([*command, "--camera", "left"]) == 2
    assert "one camera" in capsys.readouterr().err
    assert main(command) == 0
    assert "5 frames of 64 x 64" in capsys.readouterr().out
    assert load_cache(out / "memory.safetensors").codec == "embedded-dct-1"


@pytest.mark.parametrize(
    ("more", "degrees", "words"),
    [
        ((), 60, "39.6 degrees, of the picture 60.0 degrees: the move takes the picture's"),
        (("--lens", "file"), 39.6, "the move's is kept, and shows the picture at 1.60 times"),
        (("--camera", "1", "--animation", "Camera move"), 60, "camera 'Camera'"),
    ],
)
def test_a_camera_file_begins_with_the_lens_of_the_picture(
    files: Files, tmp_path: Path, capsys, more: tuple[str, ...], degrees: float, words: str
) -> None:
    move = preset_trajectory(
        "dolly", 5, intrinsics=intrinsics_from_fov(128, 128, 39.6), width=128, height=128,
        scene_depth=3.0,
    )  # fmt: skip
    camera = write_gltf(move, tmp_path / "move")
    command = files.changed(
        geometry=None, depth=str(files.folder / "depth.png"), move=None, frames=None,
        trajectory=str(camera),
    )  # fmt: skip
    arguments = make_parser().parse_args([*command, "--out", "x", *more])
    path = inputs.read_trajectory(arguments, inputs.read_geometry(arguments), (64, 64))
    assert fov_of(path.intrinsics[0], 64) == pytest.approx(degrees)
    assert words in capsys.readouterr().out


def test_released_settings(files: Files) -> None:
    def settings(*more: str):
        words = [*files.changed(steps=None), "--out", "x", *more]
        return rollout.settings_of(make_parser().parse_args(words))

    assert settings() == GenerationSettings()
    assert settings("--released") == GenerationSettings.released()
    mixed = settings("--released", "--steps", "7", "--reencode")
    assert (mixed.steps, mixed.memory.reencode) == (7, True)
    assert mixed.memory.rules.policy == "append"
    aligned = settings("--released", "--depth-alignment", "affine", "--hold-back")
    assert aligned.memory.align is not None and aligned.memory.align.mode == "affine"
    assert aligned.memory.consistency is not None
    small = settings("--max-points", "5000", "--depth-mode", "median", "--min-overlap", "0.2")
    assert small.memory.rules.limits.max_points == 5000
    assert (small.memory.write.depth_mode, small.threshold) == ("median", 0.2)


def test_lengths_of_chunks(files: Files, tmp_path: Path, capsys) -> None:
    """21 frames, twice 8 more: what the last chunk begins with is the end of the one before."""
    lengths = {"first_chunk_frames": "21", "chunk_frames": "17", "overlap_frames": "9"}
    out = tmp_path / "shot"
    assert main([*files.changed(**lengths), "--out", str(out)]) == 0
    assert "in 3 chunks (21 frames, then 17 of which 9 overlap)" in capsys.readouterr().out
    assert len(list(read_frames(out / "video.mp4"))) == FRAMES
    assert latents(out).shape == (48, 10, 4, 4)
    assert read_tensors(out / "chunk_0001.safetensors")["overlap"].shape == (48, 3, 4, 4)
    assert main([*files.arguments, "--out", str(out)]) == 2
    assert "21 frames, then 17 of which 9 overlap" in said(capsys)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--max-points", "-1"], ["--min-overlap", "1.5"], ["--first-chunk-frames", "32"],
        ["--chunk-frames", "5", "--overlap-frames", "5"],
    ],
)  # fmt: skip
def test_settings_are_checked_before_anything_is_read(files: Files, capsys, wrong) -> None:
    words = [*files.changed(image="nowhere.png"), "--out", "x", *wrong]
    assert main(words) == 2
    assert "nowhere.png" not in said(capsys)


@pytest.mark.parametrize(("choice", "scaled"), [(None, True), ("none", True), ("scale", False)])
def test_depth_of_the_whole_shot_is_aligned_on_request(
    files: Files, choice: str | None, scaled: bool
) -> None:
    words = [*files.changed(depth_alignment=choice), "--out", "x"]
    arguments = make_parser().parse_args(words)
    geometry = load_geometry(files.folder / "shot.npz", 60)
    setup = models.DeviceSetup.from_arguments(arguments)
    assert models.load_depth(arguments, geometry, FRAMES, setup).scaled == scaled


def test_splitting_a_merged_file(files: Files, tmp_path: Path, capsys) -> None:
    model = tmp_path / "merged.safetensors"
    model.write_bytes((files.folder / "merged.safetensors").read_bytes())
    assert main(["split", str(model)]) == 0
    backbone, branch = map(Path, capsys.readouterr().out.split())
    assert not any(is_branch(name) for name in read_tensors(backbone))
    expected = branch_tensors(branch_config())
    found = load_branch(branch).tensors
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert main(["split", str(model)]) == 2
    assert "already exists" in said(capsys)


def test_a_lora_for_comfyui(tmp_path: Path, capsys) -> None:
    """Released names, a rank and an alpha of each layer, and whole tensors stay what they are."""
    name = "blocks.1.ffn.0"
    parts = {
        f"{name}.lora_A.default.weight": noise({"a": (2, 24)})["a"],
        f"{name}.lora_B.default.weight": noise({"b": (64, 2)})["b"],
        f"{name}.alpha": torch.tensor(3.0),
        "blocks.1.norm3.diff": torch.ones(24),
        "blocks.1.norm3.diff_b": torch.zeros(24),
    }
    file = write(tmp_path / "step_lora.safetensors", parts, prefix="dit.")
    assert main(["lora", str(file)]) == 0
    target = Path(capsys.readouterr().out.strip())
    assert target == tmp_path / "step_lora_comfyui.safetensors"
    wanted = {f"diffusion_model.{key.replace('.default', '')}": t for key, t in parts.items()}
    found = read_tensors(target)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert main(["lora", str(file)]) == 2
    assert "Choose another name with --out" in said(capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "none.png"}, "cannot be read"),
        ({"image": "shot.npz"}, "cannot be read"),
        ({"geometry": "none.npz"}, "does not exist"),
        ({"geometry": "picture.png"}, "not a geometry file"),
        ({"transformer": "none.safetensors"}, "transformer does not exist"),
        ({"transformer": "text.safetensors"}, "text encoder"),
        ({"branch": "wan.safetensors"}, "branch"),
        ({"branch": None}, "no side branch"),
        ({"text_encoder": "wan.safetensors"}, "text encoder"),
        ({"frames": "36"}, "4n \\+ 1"),
        ({"frames": "1"}, "shorter than one chunk"),
        ({"amount": "99"}, "amount"),
        ({"steps": "0"}, "steps"),
        ({"size": "60x60"}, "divisible by 32"),
        ({"size": "128x64"}, "distort"),
        ({"guidance": "3", "device": "nowhere"}, "device"),
        ({"fov": "500"}, "field of view"),
    ],
)
def test_bad_input_is_one_message(
    files: Files, tmp_path: Path, capsys, changes: dict[str, str | None], message: str
) -> None:
    paths = {"image", "geometry", "transformer", "branch", "text_encoder"}
    placed = {
        name: str(files.folder / value) if name in paths and value else value
        for name, value in changes.items()
    }
    assert main([*files.changed(**placed), "--out", str(tmp_path / "shot")]) == 2
    text = said(capsys)
    assert re.search(message, text), text


def test_usage_errors(files: Files, capsys) -> None:
    for words in ([], ["dance"], ["rollout"], [*files.arguments, "--size", "big", "--out", "x"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        assert "usage: mirage" in capsys.readouterr().err


def test_the_python_of_the_documentation_runs(
    files: Files, tmp_path: Path, monkeypatch, capsys
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "library.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for path in files.folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.py").write_text(code, encoding="utf-8")
    runpy.run_path(str(tmp_path / "page.py"))
    assert "points" in capsys.readouterr().out
    assert len(list(read_frames(tmp_path / "shot" / "video.mp4"))) == 33


def test_the_options_of_the_documentation_exist() -> None:
    page = (Path(__file__).parents[3] / "docs" / "library.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--[a-z][a-z-]+", page)) - {"--help"}
    known = {
        option
        for command in make_parser()._subparsers._group_actions[0].choices.values()
        for action in command._actions
        for option in action.option_strings
    }
    assert named <= known, named - known


@pytest.mark.parametrize("name", ["n" * 300 + ".json", "a\0b"])
@pytest.mark.parametrize(
    "words",
    [
        ["rollout", "--trajectory"], ["rollout", "--geometry"], ["rollout", "--vae"],
        ["train", "--data"], ["data", "make", "--footage"], ["data", "info"], ["split"], ["lora"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_names_that_no_file_can_have(name: str, words: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*words, name])
    assert stopped.value.code == 2
    assert "cannot be the name of a file" in capsys.readouterr().err


def test_pictures_of_a_size_that_no_memory_holds(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["rollout", "--size", "32000x32000"])
    assert "is more than" in capsys.readouterr().err
