"""Model files that the shipped graphs name: where they are, what for, and under which licence."""

from __future__ import annotations

from workflows.writer import ModelFile

_HUB = "https://huggingface.co"
COMFY = f"{_HUB}/Comfy-Org"
WAN22 = f"{COMFY}/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
WAN21 = f"{COMFY}/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
SPATIA = f"{_HUB}/Jinjing713/Spatia/resolve/main"


def _file(base: str, directory: str, name: str) -> ModelFile:
    """A file that lies in a folder with the name of ComfyUI's."""
    return ModelFile(name, f"{base}/{directory}/{name}", directory)


VIDEO_MODEL = _file(WAN22, "diffusion_models", "wan2.2_ti2v_5B_fp16.safetensors")
INPAINT_MODEL = _file(WAN22, "diffusion_models", "wan2.2_fun_inpaint_5B_bf16.safetensors")
VACE_MODEL = _file(WAN21, "diffusion_models", "wan2.1_vace_1.3B_fp16.safetensors")
VACE_LARGE = _file(WAN21, "diffusion_models", "wan2.1_vace_14B_fp16.safetensors")
VAE = _file(WAN22, "vae", "wan2.2_vae.safetensors")
VAE21 = _file(WAN21, "vae", "wan_2.1_vae.safetensors")
TEXT_ENCODER = _file(WAN21, "text_encoders", "umt5_xxl_fp8_e4m3fn_scaled.safetensors")
MOGE = _file(
    f"{COMFY}/MoGe/resolve/main", "geometry_estimation", "moge_2_vitl_normal_fp16.safetensors"
)
SPATIA_BRANCH = ModelFile(
    "step-8500.safetensors", f"{SPATIA}/step-8500.safetensors", "model_patches"
)
SPATIA_LORA = ModelFile(
    "lora_weights_10000.safetensors", f"{SPATIA}/lora_weights_10000.safetensors", "loras"
)
LANGUAGE_MODEL = _file(
    f"{COMFY}/Qwen3-VL/resolve/main", "text_encoders", "qwen3vl_8b_fp8_scaled.safetensors"
)
SAM3 = _file(
    f"{COMFY}/sam3.1/resolve/main", "checkpoints", "sam3.1_multiplex_fp16.safetensors"
)

_NOT_STATED = "not stated for the weights"
LICENCES = {
    VIDEO_MODEL: "Apache-2.0",
    INPAINT_MODEL: "Apache-2.0",
    VACE_MODEL: "Apache-2.0",
    VACE_LARGE: "Apache-2.0",
    VAE: "Apache-2.0",
    VAE21: "Apache-2.0",
    TEXT_ENCODER: "Apache-2.0",
    MOGE: "MIT",
    SPATIA_BRANCH: _NOT_STATED,
    SPATIA_LORA: _NOT_STATED,
    LANGUAGE_MODEL: "Apache-2.0",
    SAM3: "SAM License (Meta)",
}
"""As the makers of the original files state it."""

LICENCE_NOTE = (
    "Licences are those that the makers of the original files state; the page that offers a file "
    "has the last word."
)


def file_table(*files: ModelFile) -> str:
    """The files as a table of a note: each with a link, its folder and its licence."""
    rows = [
        f"| [{file.name}]({file.url}) | `models/{file.directory}` | {LICENCES[file]} |"
        for file in files
    ]
    return "\n".join(["| file | folder | licence |", "|---|---|---|", *rows])


MOVING_NOTE = f"""**What moves** stays out of the memory when `moving_things` in *Mirage Scene \
Models* is on: in the picture and in every chunk. Two more files do it, and off they are not \
needed; with `names`, such as `person, dog`, SAM3 alone is enough.

{file_table(LANGUAGE_MODEL, SAM3)}

**Depth** is Depth Anything 3's where a file of it is in `models/geometry_estimation`, else \
MoGe's; `depth` in the same node chooses. Depth Anything 3 does not find the lens of a picture: \
set `fov` in *Mirage Look*.
"""
"""What the note of every shot that estimates depth says of the models which look at it."""
