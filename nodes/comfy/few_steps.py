"""LoRAs with which a video model needs few steps, and the settings that each asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import comfy.ldm.wan.model
import comfy.model_base
import comfy.sd
import comfy.utils
from comfy_extras.nodes_model_advanced import ModelSamplingSD3

from ...mirage_core.constants import WAN21_CHANNELS
from ...mirage_core.errors import ModelMismatchError
from ...mirage_core.tensor_files import read_header
from .lora import LORA_FOLDER
from .model import Patcher, expect_fitting_loras, model_file, model_files

OFF, AUTO = "off", "auto"

ANY, VACE, FUN_INPAINT = "any", "VACE", "Fun InP"
MODELS = (ANY, VACE, FUN_INPAINT)
"""What a graph needs of its video model."""

_FUN_INPAINT_PLANES = 100


@dataclass(frozen=True)
class FewSteps:
    """Settings of a kind of LoRA.

    Attributes:
        name: Of the kind, as it stands in file names.
        steps: Sampling steps.
        cfg: Guidance; 1 is none.
        shift: Of the noise levels; 0 keeps that of the model.
        strength: Of the LoRA.
    """

    name: str
    steps: int
    cfg: float
    shift: float
    strength: float = 1.0

    def describe(self, file: str) -> str:
        """Settings in one line, and what nobody has tried."""
        shift = f"shift {self.shift:g}" if self.shift else "the model's shift"
        return (
            f"{file} at {self.strength:g}: {self.steps} steps, cfg {self.cfg:g}, {shift}; untested "
            "with this conditioning"
        )


KINDS = (
    FewSteps("causvid_14b", 4, 1.0, 8.0, strength=0.3),
    FewSteps("causvid", 4, 1.0, 8.0, strength=0.7),
    FewSteps("lightx2v", 4, 1.0, 5.0),
    FewSteps("fastwan", 3, 1.0, 0.0),
    FewSteps("turbo", 4, 1.0, 0.0),
)
"""What is known of LoRAs by a part of their names: ComfyUI's own templates for the first two, what
users of the others report."""


def settings_of(file: str) -> FewSteps | None:
    """Settings of a LoRA by its name; None where it is of no known kind."""
    return next((kind for kind in KINDS if kind.name in file.lower()), None)


def expect_model_for(model: Patcher, wanted: str) -> None:
    """Raise `ModelMismatchError` unless a model can be told what a graph tells it.

    Args:
        model: The video model.
        wanted: One of `MODELS`.
    """
    base = model.model
    planes = getattr(base.diffusion_model, "in_dim", None)
    if wanted == VACE:
        fits = isinstance(base, comfy.model_base.WAN21_Vace) and planes == WAN21_CHANNELS
        file, other = "wan2.1_vace_1.3B_fp16.safetensors", "mirage_training_free"
        meant = "Wan2.1 VACE, which takes a picture of the memory with its holes"
    elif wanted == FUN_INPAINT:
        fits = planes == _FUN_INPAINT_PLANES
        file, other = "wan2.2_fun_inpaint_5B_bf16.safetensors", "mirage_training_free"
        meant = f"Wan2.2-Fun-5B-InP, with {_FUN_INPAINT_PLANES} input planes"
    else:
        return
    if not fits:
        raise ModelMismatchError(
            "This video model would not see the memory at all",
            got=f"{type(base).__name__} with {planes} input planes",
            expected=meant,
            fix=f"Load {file} in Load Diffusion Model; for plain Wan2.2-TI2V-5B there is the "
            f"workflow {other}",
        )


def find_lora(model: Patcher, choice: str) -> tuple[str, FewSteps]:
    """The file of a choice: itself, or with `AUTO` the first of a known kind that fits the model.

    Raises:
        ModelMismatchError: There is none, or it is of no known kind.
    """
    width = int(getattr(model.model.diffusion_model, "dim", 0))
    if choice != AUTO:
        settings = settings_of(choice)
        if settings is None:
            raise ModelMismatchError(
                "It is not known how many steps this LoRA needs",
                got=choice,
                expected=f"a name with one of {', '.join(kind.name for kind in KINDS)}",
                fix="Put Load LoRA (Model Only) before the loop, and set steps, cfg and shift "
                "yourself",
            )
        return choice, settings
    known = {name: settings_of(name) for name in model_files(LORA_FOLDER)}
    for name, settings in known.items():
        if settings is not None and _has_width(model_file(LORA_FOLDER, name), width):
            return name, settings
    there = [name for name, settings in known.items() if settings is not None]
    raise ModelMismatchError(
        "There is no LoRA for few steps that fits this model",
        got=f"{', '.join(there) or 'none'} in models/{LORA_FOLDER}",
        expected=f"one for a model of width {width}",
        fix="Put Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32.safetensors (VACE 1.3B) or another "
        "one of huggingface.co/Kijai/WanVideo_comfy there, or set few_steps = off",
    )


def _has_width(path: Path, width: int) -> bool:
    """Whether a LoRA reads layers of this many channels."""
    if path.suffix != ".safetensors":
        return False
    try:
        shapes = read_header(path).shapes
    except ModelMismatchError:
        # The message names the damage, should somebody choose this file.
        return False
    down = ("lora_A.weight", "lora_down.weight", "lora_A.default.weight")
    return any(
        name.endswith(down) and "self_attn" in name and shape[-1] == width
        for name, shape in shapes.items()
    )


def with_few_steps(model: Patcher, file: str, settings: FewSteps) -> Patcher:
    """A clone of a model with a LoRA for few steps and its shift.

    Raises:
        ModelMismatchError: The file is missing or damaged, or changes nothing of this model, or
            was made for one of another width.
    """
    patched = patched_by(model, model_file(LORA_FOLDER, file), settings.strength)
    if settings.shift:
        (patched,) = ModelSamplingSD3().patch(patched, settings.shift)
    return patched


def patched_by(model: Patcher, path: Path, strength: float = 1.0) -> Patcher:
    """A clone of any video model with a LoRA that does change it.

    ComfyUI's own loader leaves out, with lines in the log only, what it cannot match by name.

    Raises:
        ModelMismatchError: As for `with_few_steps`.
    """
    read_header(path)
    stored = comfy.utils.load_torch_file(str(path), safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(model, None, stored, strength, 0.0)
    if _changes(patched) == _changes(model):
        raise ModelMismatchError(
            f"The LoRA {path.name} changes nothing of this model",
            got=f"{len(stored)} tensors, none under a name of the model's, such as "
            f"{next(iter(stored), 'none at all')}",
            expected="a LoRA for the video model that is loaded",
            fix="Choose another file; `mirage lora` gives a LoRA of a trainer the names that "
            "ComfyUI reads",
        )
    expect_fitting_loras(patched, "the video model that is loaded")
    return patched


def _changes(model: Patcher) -> int:
    """How many changes LoRAs make to a model's weights."""
    return sum(map(len, model.patches.values()))
