"""What to say about files that are not read here."""

from __future__ import annotations

from typing import Final

from ...errors import CacheFormatError

READ: Final = (
    "glTF (.glb, .gltf)", "Mirage JSON", "COLMAP (images.txt or images.bin)", "transforms.json",
    "nerfstudio's camera_path.json", "cameras.json of Gaussian splatting",
    "RealEstate10K and Wan-Fun text", "TUM and KITTI text", "Nuke's .chan",
    "ViewCrafter text", "ReCamMaster, MotionCtrl and Unreal JSON",
)  # fmt: skip
"""Formats that are read, as messages name them."""

_SCENES: Final = {
    ".fbx": "FBX", ".usd": "USD", ".usda": "USD", ".usdc": "USD", ".usdz": "USD",
    ".abc": "Alembic", ".blend": "Blender's own", ".ma": "Maya's own", ".mb": "Maya's own",
    ".hip": "Houdini's own", ".hipnc": "Houdini's own", ".nk": "Nuke's own", ".dae": "Collada",
}  # fmt: skip

_TO_GLTF: Final = (
    "Export glTF (.glb). Blender reads FBX, USD and Alembic: File, Export, glTF 2.0, with "
    "Cameras ticked under Include, Data. Maya: the Babylon.js or Maya2glTF exporter, or FBX "
    "through Blender. Houdini: the glTF ROP (/out), whose Objects name the camera. Unreal: the "
    "glTF Exporter plugin. Nuke: export the Camera as .chan"
)


def unknown_file(name: str, got: str) -> CacheFormatError:
    """The error for a file in none of the formats."""
    return CacheFormatError(
        f"{name} is no camera file of a known format",
        got=got,
        expected="one of: " + ", ".join(READ),
        fix="Export the camera in one of these formats",
    )


def unknown_suffix(name: str, suffix: str) -> CacheFormatError:
    """The error for a file whose ending is none of a camera file."""
    scene = _SCENES.get(suffix)
    if scene is None:
        return unknown_file(name, f"a file with the ending {suffix!r}" if suffix else "no ending")
    return CacheFormatError(
        f"{name} is a scene in {scene} format, which is not read here",
        got=suffix,
        expected="one of: " + ", ".join(READ),
        fix=_TO_GLTF,
    )
