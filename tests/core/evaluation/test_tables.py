"""Every table at tiny size, its numbers against computations of their own."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mirage_core.cache.build import append_all, observe
from mirage_core.cache.types import LatentCache
from mirage_core.cli.evaluate_tasks import MAKERS
from mirage_core.cli.main import main, make_parser
from mirage_core.codecs.colours import ColourCodec
from mirage_core.codecs.dct import CODEC_NAME, DctCodec
from mirage_core.errors import CacheFormatError, ModelMismatchError, ValueRangeError
from mirage_core.evaluation.ablation import Ablation
from mirage_core.evaluation.captures import WAYS, Captures
from mirage_core.evaluation.depth_study import TINY, Compared, DepthStudy, StandIn
from mirage_core.evaluation.efficiency import Efficiency, draw
from mirage_core.evaluation.holes import Holes
from mirage_core.evaluation.novel_views import NovelViews
from mirage_core.evaluation.report import read_report
from mirage_core.evaluation.rgbd import Views
from mirage_core.evaluation.rooms import Rooms
from mirage_core.evaluation.shots import along, there_and_back
from mirage_core.evaluation.shown import Anew, Beside
from mirage_core.evaluation.systems import BUNDLED, PreviewSystem
from mirage_core.evaluation.variations import Variation, read_variations
from mirage_core.geometry.frame_geometry import FrameGeometry
from mirage_core.geometry.geometry_io import save_geometry
from mirage_core.geometry.trajectory import Trajectory
from mirage_core.preview.render import Preview, render_preview
from mirage_core.rollout.memory import begin_memory
from mirage_core.rollout.settings import MemorySettings
from mirage_core.rollout.video import read_frames, write_clip
from mirage_core.training.data.build_clip import Shot
from mirage_core.trajectories.exchange.realestate import write_realestate
from tiny_evaluation import wall_views

ROOT = Path(__file__).resolve().parents[3]
CODEC = DctCodec()
ROOMS = Rooms(1, 33, 96, 64)


def db(one: Tensor, other: Tensor, mask: Tensor | None = None) -> float:
    gap = (one.double() - other.double()) ** 2
    return -10 * math.log10(float((gap if mask is None else gap[mask]).mean()))


def wall(count: int) -> Views:
    pictures, depths, cameras = wall_views(count)
    depth = torch.from_numpy(depths).float()
    geometry = FrameGeometry(depth, cameras.intrinsics, cameras.world_to_camera, metric=True)
    return Views(torch.from_numpy(pictures).float() / 255, geometry, cameras)


@dataclass(frozen=True)
class Wall:
    """The recording, or the shot, of a wall."""

    count: int = 9

    def settings(self) -> dict[str, Any]:
        return {}

    def items(self) -> tuple[str, ...]:
        return ("wall",)

    def open(self, item: str) -> Views:
        return wall(self.count)

    def load(self, item: str) -> Iterator[Shot]:
        views = wall(self.count)
        yield Shot(item, views.frames, views.cameras, views.geometry, exact=True)


class TestCaptures:
    def test_numbers(self) -> None:
        found = Captures(Wall(), every=4).run("wall")
        assert len(found.ways) == len(WAYS) == 8
        views, written, held = wall(9), [0, 4, 8], [2, 6]
        for memory, codec in (("tokens", CODEC), ("colours", ColourCodec(2))):
            tokens = torch.cat([codec.encode_images(views.frames[[n]]) for n in written], dim=1)
            seen = observe(
                tokens, views.geometry.select(written), frames=torch.tensor(written),
                world_to_camera=views.cameras.world_to_camera[written],
            )  # fmt: skip
            cache = append_all(LatentCache(codec=codec.name, channels=codec.channels), seen)
            drawn = render_preview(cache, views.cameras.select(held), codec, view=None)
            row = found.ways[f"{memory}, append, nearest"]
            pairs = list(zip(drawn.frames, views.frames[held], ~drawn.holes, strict=True))
            each = [db(*pair) for pair in pairs]
            assert row["psnr"] == pytest.approx(sum(each) / 2, abs=1e-3)
            assert row["psnr_measured"] == pytest.approx(row["psnr"], abs=1e-6)
            each = [db(made, truth) for made, truth, _ in pairs]
            assert row["psnr_all"] == pytest.approx(sum(each) / 2, abs=1e-3)
            assert row["holes"] == pytest.approx(float(drawn.holes.float().mean()), abs=1e-6)
            assert row["points"] == len(cache)
            assert row["psnr"] > 20

    def test_a_short_recording_is_refused(self) -> None:
        with pytest.raises(Exception, match="smaller --every"):
            Captures(Wall(4), every=4).run("wall")

    def test_held_back_frames_are_spread(self) -> None:
        task = Captures(Wall(), every=10, held_back=3)
        assert task.split("x", 101) == (list(range(0, 101, 10)), [5, 45, 95])


def drawn_from_the_first(
    frames: Tensor, geometry: FrameGeometry, cameras: Trajectory, codec: Any = CODEC
) -> Preview:
    """What the preview makes of one chunk: the drawing of a memory of the first frame."""
    first = dataclasses.replace(geometry.select([0]), world_to_camera=None)
    cache = begin_memory(
        codec.encode_images(frames[:1]), first, codec.name,
        world_to_camera=cameras.world_to_camera[:1],
    )  # fmt: skip
    return render_preview(cache, cameras, codec)


@pytest.fixture(scope="module")
def realestate(tmp_path_factory) -> Path:
    """A room in RealEstate10K's form: a video, its cameras, and depth of every frame."""
    views = ROOMS.views(ROOMS.items()[0])
    folder = tmp_path_factory.mktemp("re10k")
    (folder / "cameras").mkdir()
    write_clip(folder / "0a1b.mp4", views.frames, 24)
    write_realestate(views.cameras, folder / "cameras" / "0a1b.txt")
    save_geometry(views.geometry, folder / "0a1b.safetensors")
    return folder


@pytest.mark.rooms
class TestNovelViews:
    def test_realestate10k_with_a_video(self, realestate, tmp_path, capsys) -> None:
        out = tmp_path / "run"
        words = ["evaluate", "re10k", "--data", str(realestate), "--model", "preview"]
        words += ["--cameras", str(realestate / "cameras"), "--exact-depth"]
        words += ["--size", "96x64", "--frames", "33", "--out", str(out)]
        assert main(words) == 0
        assert "preview: PSNR" in capsys.readouterr().out
        views = ROOMS.views(ROOMS.items()[0])
        truth = torch.stack(list(read_frames(realestate / "0a1b.mp4"))).float() / 255
        drawn = drawn_from_the_first(truth, views.geometry, views.cameras).frames
        found = read_report(out).items[f"{realestate.name}/0a1b.mp4"]["preview"]
        each = [db(drawn[n], truth[n]) for n in range(1, 33)]
        assert found["psnr"] == pytest.approx(sum(each) / 32, abs=0.02)
        turned = [*range(17), *range(15, -1, -1)]
        loop = drawn_from_the_first(
            truth, views.geometry, views.cameras.select(turned)
        ).frames
        assert found["psnr_c"] == pytest.approx(db(loop[-1], truth[0]), abs=0.02)
        assert found["lpips"] is None
        again = main(words)
        assert again == 0

    def test_the_way_back_is_the_way_there(self) -> None:
        assert there_and_back(33) == [*range(17), *range(15, -1, -1)]
        assert there_and_back(97) == [*range(49), *range(47, -1, -1)]
        assert len(there_and_back(37)) % 4 == 1

    def test_depth_of_a_path_is_that_of_its_frames(self) -> None:
        shot = next(Wall(33).load("wall"))
        path = there_and_back(33)
        request = along(shot, path)
        found = request.depth(shot.frames[:2], shot.cameras.select([0, 1]), [4, 28])
        assert torch.equal(found.depth, shot.geometry.depth[[4, 4]])
        fourth = dataclasses.replace(shot, geometry=shot.geometry.select(list(range(0, 33, 4))))
        found = along(fourth, path).depth(shot.frames[:2], shot.cameras.select([0, 1]), [4, 28])
        assert torch.equal(found.depth, shot.geometry.depth[[4, 4]])
        with pytest.raises(Exception, match="no depth of frame 3"):
            along(fourth, path).depth(shot.frames[:1], shot.cameras.select([0]), [3])

    def test_the_bundled_model_makes_the_same_shot_as_a_rollout(self) -> None:
        """The first chunk, sampled here by hand."""
        from mirage_core.models.bundled import SHIFT, empty_text, load_embedded_transformer
        from mirage_core.preview.drawn import drawn_latents
        from mirage_core.readout.readout import read
        from mirage_core.rollout.begin import begin
        from mirage_core.rollout.context import chunk_condition
        from mirage_core.rollout.denoisers import TransformerDenoisers
        from mirage_core.rollout.sample import seeded_noise
        from mirage_core.rollout.settings import GenerationSettings
        from mirage_core.sampling.schedule import sigma_schedule
        from mirage_core.sampling.solve import sample

        shot = next(ROOMS.load(ROOMS.items()[0]))
        found = NovelViews(ROOMS, BUNDLED).run(ROOMS.items()[0]).ways["bundled"]
        loop = GenerationSettings(steps=4, shift=SHIFT, method="euler", references=0)
        request = along(shot, range(33))
        state = begin(
            shot.frames[0], request.geometry, shot.cameras, CODEC, settings=loop, seed=request.seed
        )
        readout = read(state.cache, shot.cameras)
        condition = dataclasses.replace(
            chunk_condition(state, readout, references=0, preceding=2),
            projection=drawn_latents(readout, CODEC),
        )
        with torch.no_grad():
            latents = sample(
                TransformerDenoisers(load_embedded_transformer(), empty_text())(condition),
                seeded_noise(state, (48, 9, 4, 6)), state.overlap_latent,
                sigma_schedule(4, SHIFT), method="euler",
            )  # fmt: skip
        made = CODEC.decode(latents).clamp(0, 1)
        each = [db(made[n], shot.frames[n]) for n in range(1, 33)]
        assert found["psnr"] == pytest.approx(sum(each) / 32, abs=0.01)


class TestHoles:
    @pytest.mark.rooms
    def test_hole_rates_against_a_loop_over_cells(self) -> None:
        item = ROOMS.items()[0]
        found, shot = Holes(ROOMS).run(item).ways, next(ROOMS.load(item))
        depth = shot.geometry.depth[0].double().numpy()
        lens = shot.cameras.intrinsics[0].numpy() / np.array([[16], [16], [1]])
        first = shot.cameras.camera_to_world[0].numpy()

        def holes(cell) -> float:
            points = []
            for row in range(4):
                for column in range(6):
                    ray = np.linalg.inv(lens) @ [column + 0.5, row + 0.5, 1]
                    z = cell(depth[16 * row : 16 * row + 16, 16 * column : 16 * column + 16])
                    points.append(first[:3, :3] @ (ray * z) + first[:3, 3])
            empty = 0
            for frame in range(4, 33, 4):
                pose, seen = shot.cameras.world_to_camera[frame].numpy(), set()
                for point in points:
                    x, y, z = lens @ (pose[:3, :3] @ point + pose[:3, 3])
                    if z > 0 and 0 <= x / z < 6 and 0 <= y / z < 4:
                        seen.add((int(x / z), int(y / z)))
                empty += 24 - len(seen)
            return empty / (8 * 24)

        # Two cells in a hundred may fall to another side of a boundary in single precision.
        for mode, cell in (
            ("area", np.mean),
            ("median", lambda cells: np.sort(cells, axis=None)[127]),
            ("bilinear", lambda cells: cells[7:9, 7:9].mean()),
        ):
            assert found[mode]["hole_rate"] == pytest.approx(holes(cell), abs=0.01)
            assert found[mode]["points"] == 24
        assert 0 < found["bilinear"]["hole_rate"] < 0.9

    def test_a_camera_that_stays_sees_no_hole_and_every_token(self) -> None:
        views = wall(1).select([0] * 33)
        shot = Shot("still", views.frames, views.cameras, views.geometry, exact=True)

        class Still:
            def settings(self) -> dict[str, Any]:
                return {}

            def load(self, item: str) -> list[Shot]:
                return [shot]

        for row in Holes(Still()).run("still").ways.values():
            assert row["hole_rate"] == 0
            assert row["token_error"] == pytest.approx(0, abs=1e-5)


class TestEfficiency:
    def test_drawn_colours_against_a_loop_over_points(self) -> None:
        views, codec = wall(3), ColourCodec()
        seen = observe(
            codec.encode_images(views.frames[[0]]), views.geometry.select([0]),
            world_to_camera=views.cameras.world_to_camera[:1], frames=torch.tensor([0]),
        )  # fmt: skip
        cache = append_all(LatentCache(codec=codec.name, channels=3), seen)
        camera = views.cameras.select([2])
        wanted, nearest = np.zeros((64, 64, 3)), np.full((64, 64), np.inf)
        points = torch.cat([block.points for block in cache.blocks]).double().numpy()
        colours = torch.cat([block.tokens for block in cache.blocks]).numpy() / 255
        pose = camera.world_to_camera[0].numpy()
        for point, colour in zip(points, colours, strict=True):
            x, y, z = camera.intrinsics[0].numpy() @ (pose[:3, :3] @ point + pose[:3, 3])
            column, row = math.floor(x / z), math.floor(y / z)
            if z > 0 and 0 <= column < 64 and 0 <= row < 64 and z < nearest[row, column]:
                nearest[row, column], wanted[row, column] = z, colour
        off = np.abs(draw(cache, camera)[0].numpy() - wanted).max(-1) > 1e-3
        assert off.mean() < 0.02

    def test_bytes_and_ratios(self) -> None:
        found = Efficiency(Wall(65), PreviewSystem(), runs=1).run("wall").ways
        for chunk in (1, 2):
            tokens, colours = (found[f"{m}, after chunk {chunk}"] for m in ("tokens", "colours"))
            if chunk == 1:
                assert tokens["points"] == 9 * 4 * 4
                assert colours["points"] == 9 * 64 * 64
            # 12 bytes of place, 4 of camera, 4 of slope, and 48 halves or 3 bytes.
            assert tokens["mebibytes"] * 2**20 > tokens["points"] * 116
            assert colours["mebibytes"] * 2**20 == pytest.approx(colours["points"] * 23, rel=0.05)
            assert tokens["less"] == pytest.approx(colours["mebibytes"] / tokens["mebibytes"])
            assert colours["read_ms"] == colours["render_ms"] + colours["encode_ms"]
            assert tokens["ratio"] == colours["read_ms"] / tokens["read_ms"]
        made = found["preview"]
        stages = [made[name] for name in ("drawing_s", "depth_s", "memory_s", "saving_s")]
        assert made["chunk_s"] == pytest.approx(sum(stages))
        assert "step_s" not in made


class TestAblation:
    @pytest.mark.rooms
    def test_rows_of_the_preview(self) -> None:
        item, base = ROOMS.items()[0], NovelViews(ROOMS, PreviewSystem())
        task = Ablation(base, (Variation("latent"), Variation("colours", memory="colours")))
        found, shot = task.run(item).ways, next(ROOMS.load(item))
        assert list(found) == ["latent", "colours"]
        assert found["latent"] == base.run(item).ways["preview"]
        drawn = drawn_from_the_first(
            shot.frames, shot.geometry, shot.cameras, ColourCodec(2)
        ).frames
        each = [db(drawn[n], shot.frames[n]) for n in range(1, 33)]
        assert found["colours"]["psnr"] == pytest.approx(sum(each) / 32, abs=0.02)

    @pytest.mark.rooms
    def test_a_filter_keeps_out_what_moves(self) -> None:
        rooms = Rooms(1, 33, 96, 64, movers=2)
        shot = next(rooms.load(rooms.items()[0]))
        excluded = shot.geometry.exclude[0]
        assert bool(excluded.any())
        request = along(shot, range(33))
        kept = [
            PreviewSystem().shoot(request, Variation("x", filtered=filtered)).points
            for filtered in (True, False)
        ]
        assert kept[0] < kept[1]

    def test_colours_beside_a_still_camera_are_the_picture_itself(self) -> None:
        views = wall(1).select([0] * 5)
        beside = Beside.begun(
            Variation("c", memory="colours"), CODEC, views.frames[0], views.geometry, views.cameras
        )
        shown = beside.memory.read(views.cameras)
        assert bool(shown.visible.all())
        expected = CODEC.encode_images((views.frames[:1] * 255).round() / 255)
        assert torch.allclose(shown.tokens[:, 0], expected[:, 0], atol=1e-4)
        features = Beside.begun(
            Variation("f", memory="features"), CODEC, views.frames[0], views.geometry, views.cameras
        )
        held = features.memory.cache.blocks[0].tokens
        assert len(features.memory) == 64 * 64 and held.shape[1] == 48

    def test_a_memory_that_begins_anew_holds_the_last_frame_alone(self) -> None:
        views = wall(5)
        anew = Anew.begun(
            CODEC, MemorySettings(), None, views.frames[0], views.geometry, views.cameras
        )
        anew.learn(views.frames, views.geometry, views.cameras, range(0, 20, 4))
        alone = begin_memory(
            CODEC.encode_images(views.frames[4:]),
            dataclasses.replace(views.geometry.select([4]), world_to_camera=None), CODEC_NAME,
            world_to_camera=views.cameras.world_to_camera[4:],
        )  # fmt: skip
        assert torch.equal(anew.cache.blocks[0].points, alone.blocks[0].points)
        assert torch.equal(anew.cache.blocks[0].tokens, alone.blocks[0].tokens)

    def test_rows_from_a_file(self, tmp_path) -> None:
        path = tmp_path / "rows.json"
        rows = {"latent": {}, "one stage": {"branch": "one.safetensors", "policy": "append"}}
        path.write_text(json.dumps(rows))
        found = read_variations(path)
        assert found[0] == Variation("latent")
        assert found[1] == Variation(
            "one stage", branch=tmp_path / "one.safetensors", policy="append"
        )
        for bad in ("[]", "{}", '{"a": 1}', '{"a": {"shape": 1}}', "{"):
            path.write_text(bad)
            with pytest.raises(CacheFormatError, match=r"rows\.json"):
                read_variations(path)
        path.write_text('{"a": {"memory": "dreams"}}')
        with pytest.raises(ValueRangeError, match="dreams"):
            read_variations(path)

    def test_variations_that_a_system_cannot_make_are_refused(self) -> None:
        request = along(next(Wall(33).load("wall")), range(33))
        with pytest.raises(ModelMismatchError, match="features"):
            PreviewSystem().shoot(request, Variation("f", memory="features"))
        with pytest.raises(ModelMismatchError, match="changes nothing"):
            BUNDLED.shoot(request, Variation("b", view="best_view"))


class TestDepth:
    def test_errors_against_a_loop(self) -> None:
        shot = next(Wall(33).load("wall"))
        depth = StandIn(0.1, 0.05, 0.2).of(shot)
        numbers = list(range(0, 33, 4))
        estimate = depth(shot.frames[numbers], shot.cameras.select(numbers), numbers).depth
        pairs = [
            (float(t), float(f))
            for number, one in zip(numbers, estimate, strict=True)
            for t, f in zip(shot.geometry.depth[number].flatten(), one.flatten(), strict=True)
        ]
        ratios = sorted(t / f for t, f in pairs)
        scale = ratios[(len(ratios) - 1) // 2]
        off = [scale * f / t for t, f in pairs]
        per = [pairs[n : n + 64 * 64] for n in range(0, len(pairs), 64 * 64)]
        logs = np.log([sorted(t / f for t, f in part)[(64 * 64 - 1) // 2] for part in per])
        found = Compared.of(shot, depth).errors()
        assert found["abs_rel"] == pytest.approx(np.mean([abs(x - 1) for x in off]), rel=1e-4)
        right = np.mean([max(x, 1 / x) < 1.25 for x in off])
        assert found["delta_1"] == pytest.approx(right, abs=1e-4)
        assert found["drift"] == pytest.approx(logs.std(), rel=1e-4)

    @pytest.mark.rooms
    def test_the_table(self) -> None:
        task = DepthStudy(ROOMS, PreviewSystem(), dict(TINY))
        found = task.run(ROOMS.items()[0]).ways
        assert found["as given"]["abs_rel"] == pytest.approx(0, abs=1e-6)
        assert found["as given"]["drift"] == pytest.approx(0, abs=1e-6)
        assert found["small errors"]["abs_rel"] < found["large errors"]["abs_rel"]
        assert found["scale drifts"]["drift"] > 3 * found["small errors"]["drift"]

    def test_no_estimator_is_an_error(self) -> None:
        with pytest.raises(ValueRangeError, match="--estimator"):
            DepthStudy(ROOMS, PreviewSystem(), {})


@pytest.mark.rooms
@pytest.mark.parametrize("task", sorted(MAKERS))
def test_every_table_at_tiny_size(task, tmp_path, capsys) -> None:
    out = tmp_path / task
    words = ["evaluate", task, "--tiny", "--rooms", "1", "--size", "96x64", "--out", str(out)]
    if task != "captures":
        words += ["--frames", "33"]
    if task not in ("captures", "holes"):
        words += ["--model", "preview"]
    assert main(words) == 0
    page = (out / "results.md").read_text(encoding="utf-8")
    assert "## Protocol" in page and "our choice" in page
    assert (ROOT / "docs" / "evaluation" / f"{task}.md").is_file()
    report = read_report(out)
    assert report.task == task and len(report.items) == 1 and report.skipped == {}
    assert "1 measured, 0 skipped" in capsys.readouterr().out
    if len(report.ways) > 1:
        ways = ["--way", report.ways[0], "--to", report.ways[1]]
        assert main(["evaluate", "compare", str(out), str(out), *ways]) == 0
        assert f"{report.ways[0]} to {report.ways[1]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("bundled", ("--side-scale", "0")),
        ("bundled", ("--steps", "4", "--reencode")),
        ("preview", ("--seed", "3")),
        ("preview", ("--chunk-frames", "17")),
    ],
    ids=["side scale", "two", "seed", "lengths"],
)
def test_options_that_a_model_does_not_look_at_are_refused(
    tmp_path, capsys, model: str, options: tuple[str, ...]
) -> None:
    """Else a run without the memory would be the run with it, under another command."""
    words = ["evaluate", "re10k", "--tiny", "--model", model, "--out", str(tmp_path / "run")]
    assert main([*words, *options]) == 2
    told = capsys.readouterr().err
    assert "settings of its own" in told and all(o in told for o in options if o[:2] == "--")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["re10k", "depth", "holes", "worldscore"])
@pytest.mark.parametrize("change", ["weights", "kind", "copy"])
def test_another_estimator_makes_other_results(tmp_path, task: str, change: str) -> None:
    """They may not stand in one folder as if one had made them."""
    data, model = tmp_path / "data", tmp_path / "one" / "model"
    data.mkdir()
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")

    def settings(folder: Path, kind: str) -> str:
        options = ["--data", str(data), "--out", str(tmp_path / "run")]
        options += [] if task == "holes" else ["--model", "preview"]
        named = ["--depth-model", str(folder), "--depth-kind", kind]
        options += ["--estimator", f"A={kind}:{folder}"] if task == "depth" else named
        found = make_parser().parse_args(["evaluate", task, *options])
        return json.dumps(MAKERS[task](found).settings())

    before, other, kind = settings(model, "transformers"), model, "transformers"
    if change == "weights":
        (model / "model.safetensors").write_bytes(b"WEIGHTS")
    elif change == "kind":
        kind = "MapAnything"
    else:
        other = tmp_path / "model"
        shutil.copytree(model, other)
    assert (settings(other, kind) == before) is (change == "copy")


@pytest.mark.parametrize("place", ["cameras", "geometry"])
def test_other_cameras_or_depth_make_other_results(tmp_path, place: str) -> None:
    def settings(*options: str) -> dict[str, Any]:
        words = ["evaluate", "holes", "--data", str(tmp_path), "--out", str(tmp_path / "run")]
        return MAKERS["holes"](make_parser().parse_args([*words, *options])).settings()

    one, other = (settings(f"--{place}", str(tmp_path / name)) for name in ("one", "other"))
    assert one != other != settings()


def test_missing_footage_is_named_with_layout_and_source(tmp_path, capsys) -> None:
    assert main(["evaluate", "re10k", "--out", str(tmp_path), "--model", "preview"]) == 2
    said = capsys.readouterr().err
    assert "RealEstate10K's txt" in said and "google.github.io/realestate10k" in said
    words = ["evaluate", "re10k", "--tiny", "--out", str(tmp_path), "--model", "wan"]
    assert main(words) == 2
    assert "--text-encoder" in capsys.readouterr().err
