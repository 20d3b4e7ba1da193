"""Captions by a picture-to-text model: a tiny one of transformers, and one that is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mirage_core.cli.captions import chosen_pictures
from mirage_core.cli.main import main
from mirage_core.errors import ModelMismatchError
from mirage_core.models.captioner import Captioner, licence_of, load_captioner
from mirage_core.rollout.video import write_clip
from mirage_core.training.data.footage_files import find_cameras, find_caption, read_caption

transformers = pytest.importorskip("transformers", reason="needs transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "quiet", "room"]
PICTURES = [Image.new("RGB", (40, 24), colour) for colour in ("red", "green", "blue")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BLIP with random weights, as its folders are laid out."""
    place = tmp_path_factory.mktemp("blip")
    (place / "vocab.txt").write_text("\n".join(WORDS))
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2}
    text = {
        **size, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "bos_token_id": 5,
        "sep_token_id": 3, "pad_token_id": 0, "eos_token_id": 3, "max_position_embeddings": 200,
    }  # fmt: skip
    config = transformers.BlipConfig(
        text_config=text, vision_config={**size, "image_size": 16, "patch_size": 8},
        projection_dim=16, image_text_hidden_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BlipForConditionalGeneration(config).save_pretrained(place)
    tokenizer = transformers.BertTokenizer(str(place / "vocab.txt"))
    pictures = transformers.BlipImageProcessor(size={"height": 16, "width": 16})
    transformers.BlipProcessor(pictures, tokenizer).save_pretrained(place)
    (place / "README.md").write_text("---\nlicense: bsd-3-clause\ntags: []\n---\nA model.\n")
    return place


def test_a_model_of_transformers_writes_the_same_each_time(folder: Path) -> None:
    caption = load_captioner(folder)
    one = caption(PICTURES)
    assert one == caption(PICTURES) == load_captioner(folder)(PICTURES[1:2])
    assert set(one.split()) <= set(WORDS)


class Asked:
    """A processor with a chat template, and a network that gives its input back first."""

    chat_template = "{{ messages }}"
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def apply_chat_template(self, messages: list[Any], **options: Any) -> Any:
        assert options["add_generation_prompt"] and options["return_dict"]
        self.messages = messages
        return transformers.BatchFeature({"input_ids": torch.tensor([[1, 2, 3]])})

    def eval(self) -> Asked:
        return self

    def requires_grad_(self, _: bool) -> Asked:
        return self

    def generate(self, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        assert not options["do_sample"]
        return torch.cat([input_ids, torch.tensor([[7, 8]])], dim=1)

    def batch_decode(self, rows: torch.Tensor, **_: Any) -> list[str]:
        return [" ".join(f"word{number}" for number in row) + "\n" for row in rows.tolist()]


def test_a_model_that_follows_instructions_sees_all_pictures() -> None:
    asked = Asked()
    assert Captioner(asked, asked, "Say it.")(PICTURES) == "word7 word8"
    (message,) = asked.messages
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["image", "image", "image", "text"]
    assert message["content"][-1]["text"] == "Say it."


def test_folders_that_hold_no_captioning_model(tmp_path: Path) -> None:
    with pytest.raises(ModelMismatchError, match="no captioning model"):
        load_captioner(tmp_path)
    assert licence_of(tmp_path) == ""


def test_the_command_line_writes_what_is_missing(folder: Path, tmp_path: Path, capsys) -> None:
    footage, out = tmp_path / "home", tmp_path / "captions"
    footage.mkdir()
    for name in ("a", "b"):
        write_clip(footage / f"{name}.mp4", torch.rand(9, 32, 32, 3), 24)
    (footage / "broken.mp4").write_bytes(b"none")
    out.mkdir()
    (out / "a.caption.txt").write_text("my own\n")
    words = ["data", "caption", str(footage), "--model", str(folder), "--out", str(out)]
    assert main([*words, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "its licence: bsd-3-clause" in said
    assert "1 captions written, 1 were there, 1 items could not be read" in said
    assert text_of(footage, "a.mp4", out) == "my own"
    expected = load_captioner(folder)(chosen_pictures(footage / "b.mp4", 4))
    assert text_of(footage, "b.mp4", out) == expected
    assert not (footage / "b.caption.txt").exists()


def test_text_beside_a_video_is_a_caption_where_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("plain\nwords")
    assert text_of(tmp_path, "c.mp4", tmp_path) == "plain words"
    assert text_of(tmp_path, "c.mp4", None) == "default"
    assert find_cameras(tmp_path, "c.mp4") == tmp_path / "c.txt"
    assert find_cameras(tmp_path, "c.mp4", find_caption(tmp_path, "c.mp4", tmp_path)) is None


def text_of(root: Path, item: str, captions: Path | None) -> str:
    return read_caption(find_caption(root, item, captions), "default")
