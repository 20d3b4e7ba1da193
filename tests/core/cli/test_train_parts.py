"""Clips that do not fit the run are refused before it begins."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mirage_core.checkpoints.branch import BranchConfig
from mirage_core.codecs.dct import CODEC_NAME, DctCodec
from mirage_core.conditioning.features import RENDER_AND_SCORE, SideFeature
from mirage_core.errors import ModelMismatchError, ResumeError
from mirage_core.ops.best_view import BestView
from mirage_core.rollout.denoisers import projection_source
from mirage_core.training.data.build_clip import ClipSettings
from mirage_core.training.data.manifest import DataManifest, claim
from mirage_core.training.settings import TrainingSettings

pytest.importorskip("diffusers", reason="needs diffusers for the library's transformer")

import tiny_training
from mirage_core.cli.train_parts import make_trainer


@dataclass(frozen=True)
class Run:
    """What the command line would hand on."""

    place: Path

    def arguments(self, **changes: Any) -> argparse.Namespace:
        found = {
            "device": "cpu", "transformer": self.place / "model.safetensors", "branch": None,
            "branch_format": "auto",
            "new_transformer": None, "embedded_codec": False, "vae": None, "held_out": None,
            "lora": None, "out": self.place / "run", "side_blocks": None, "side_features": None,
            "side_shared_embedding": None,
        }  # fmt: skip
        return argparse.Namespace(**found | changes)

    def clips(
        self, name: str, codec: str = CODEC_NAME, *, drawn: SideFeature | None = None
    ) -> Path:
        folder = self.place / name
        if not folder.exists():
            claim(folder, DataManifest(codec, 96, 64, ClipSettings(drawn=drawn).describe()))
            tiny_training.write_clips(folder, range(4))
        return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("parts")
    tiny_training.write_model(place)
    return Run(place)


def settings(**changes: Any) -> TrainingSettings:
    return TrainingSettings(**tiny_training.SETTINGS | changes)


def test_held_out_clips_of_another_codec(run: Run) -> None:
    own, other = run.clips("own"), run.clips("other", "wan2.2")
    for codec in (True, False):
        given = run.arguments(data=own, held_out=other, embedded_codec=codec)
        with pytest.raises(ModelMismatchError, match="different codec"):
            make_trainer(given, settings())
    with pytest.raises(ModelMismatchError, match="different codec"):
        make_trainer(run.arguments(data=other, embedded_codec=True), settings())
    assert make_trainer(run.arguments(data=own, held_out=own), settings())


@pytest.mark.parametrize(
    ("drawn", "features"),
    [
        (None, "drawn,visible"),
        (SideFeature.DRAWN, "scene,visible"),
        (SideFeature.DRAWN, "drawn_best,visible"),
        (SideFeature.DRAWN_BEST, "drawn,visible"),
        (SideFeature.DRAWN_BEST, "scene,visible"),
    ],
)
def test_clips_that_show_the_memory_otherwise(
    run: Run, drawn: SideFeature | None, features: str
) -> None:
    folder = run.clips(f"drawn_{drawn}", drawn=drawn)
    with pytest.raises(ModelMismatchError, match="different forms of the readout"):
        make_trainer(run.arguments(data=folder), settings(side_features=features))


def test_drawings_need_a_codec_whose_tokens_stand_alone(run: Run) -> None:
    folder = run.clips("drawings", drawn=SideFeature.DRAWN)
    given = run.arguments(data=folder, out=run.place / "drawn_run")
    trainer = make_trainer(given, settings(side_features="drawn,visible"))

    class Other:
        name, drawable = "wan2.2", False

    assert projection_source(trainer.model, DctCodec()).view is None
    with pytest.raises(ModelMismatchError, match="drawn one by one"):
        projection_source(trainer.model, Other())


def test_drawings_of_the_best_views(run: Run) -> None:
    folder = run.clips("best_views", drawn=SideFeature.DRAWN_BEST)
    given = run.arguments(data=folder, out=run.place / "best_run")
    trainer = make_trainer(given, settings(side_features="drawn_best,visible"))
    assert trainer.model.branch_config.features == (SideFeature.DRAWN_BEST, SideFeature.VISIBLE)
    assert projection_source(trainer.model, DctCodec()).view == BestView()


def test_neither_clips_nor_the_loop_have_a_render(run: Run) -> None:
    """A branch of Spatia's is refused before anything is made or trained."""
    folder = run.clips("readouts")
    with pytest.raises(ModelMismatchError, match="colour render"):
        make_trainer(run.arguments(data=folder), settings(side_features="render,score"))
    with pytest.raises(ModelMismatchError, match="colour render"):
        projection_source(SimpleNamespace(branch_config=spatia_branch()), DctCodec())


def spatia_branch() -> BranchConfig:
    return BranchConfig((0, 2), RENDER_AND_SCORE, False, dim=256, ffn_dim=64, heads=2)


@pytest.mark.parametrize(
    ("option", "other", "same"),
    [
        ("side_blocks", 1, 2),
        ("side_features", "scene,visible", "scene, white"),
        ("side_shared_embedding", True, False),
    ],
)
def test_options_of_another_branch_than_the_given_one(
    run: Run, option: str, other: Any, same: Any
) -> None:
    """They describe a new branch, and would be ignored without a word."""
    given = {
        "data": run.clips("own"), "branch": tiny_training.write_branch(run.place),
        "embedded_codec": True,
    }  # fmt: skip
    with pytest.raises(ModelMismatchError, match=f"--{option.replace('_', '-')}"):
        make_trainer(run.arguments(**given, **{option: other}), settings())
    assert make_trainer(
        run.arguments(**given, out=run.place / option, **{option: same}), settings()
    )


def test_a_run_records_the_branch_that_it_trains(run: Run) -> None:
    """Not the defaults of a new one, with which it could not be taken up again."""
    branch = tiny_training.write_branch(run.place)
    given = {"data": run.clips("own"), "branch": branch, "embedded_codec": True}
    arguments = run.arguments(**given, out=run.place / "recorded")
    kept = make_trainer(arguments, settings(side_blocks=1)).settings
    assert (kept.side_blocks, kept.side_features) == (2, "scene,white")
    said = {name: getattr(kept, name) for name in ("side_blocks", "side_features")}
    again = run.arguments(**given, **said, out=run.place / "recorded")
    assert make_trainer(again, kept).settings == kept


def test_clips_without_text_are_told(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    folder = run.clips("own")
    make_trainer(run.arguments(data=folder, out=run.place / "told"), settings())
    assert "trained with an empty prompt" in caplog.text
    caplog.clear()
    quiet = run.arguments(data=folder, out=run.place / "quiet")
    make_trainer(quiet, settings(text_tokens=1))
    assert "empty prompt" not in caplog.text


def test_a_model_without_a_branch_is_validated_without_loops(run: Run) -> None:
    """Closed loops need a memory that is shown to the model."""
    given = run.arguments(data=run.clips("own"), held_out=run.clips("own"), embedded_codec=True)
    given.transformer, given.out = None, run.place / "backbone"
    given.new_transformer = "width=256,heads=2,ffn=64,layers=2,text=16"
    trainer = make_trainer(
        given, settings(stage="backbone", steps=2, validate_every=1, validation_scenes=1)
    )
    assert trainer.loops is None
    found: list[dict[str, float]] = []
    trainer.run(lambda report: found.append(report.values))
    assert all("held_out/loss" in values for values in found) and len(found) == 3


@pytest.mark.parametrize(
    ("version", "kept", "goes_on"),
    [(1, False, True), (1, True, False), (2, False, False), (2, True, False)],
)
def test_old_runs_with_a_given_branch_go_on(
    run: Run, tmp_path: Path, version: int, kept: bool, goes_on: bool
) -> None:
    """Files of the first version without new planes hold the defaults of a new branch, which
    this run's branch is not; in all later ones another number is another run. A word in another
    setting does not make an old file a new one."""
    given = run.arguments(
        data=run.clips("own"), branch=tiny_training.write_branch(run.place), embedded_codec=True,
        out=tmp_path / "run",
    )  # fmt: skip
    own = settings(steps=2, checkpoint_every=2, wandb="new_planes")
    trainer = make_trainer(given, replace(own, wandb=""))
    trainer.run()
    path = tmp_path / "run" / "settings.json"
    content = json.loads(path.read_text()) | {"version": version, "wandb": "new_planes"}
    content["side_blocks"] += 1
    if not kept:
        for name in ("new_planes", "still_steps", "still_rate", "rest_rate"):
            del content[name]
    path.write_text(json.dumps(content))
    if goes_on:
        assert make_trainer(given, own).step == 2
        assert json.loads(path.read_text())["version"] == 2
        return
    with pytest.raises(ResumeError, match="started with other settings"):
        make_trainer(given, own)


@pytest.mark.parametrize("version", [3, 0, "2", True])
def test_settings_of_a_version_that_is_not_known(tmp_path: Path, version: object) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"version": version, "steps": 3}))
    with pytest.raises(ResumeError, match="version that this one does not know"):
        TrainingSettings.load(path)
    path.write_text(json.dumps({"steps": 3}))
    assert TrainingSettings.load(path).steps == 3
