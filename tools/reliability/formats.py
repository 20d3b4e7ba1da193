"""Every kind of file that Mirage reads, by name."""

from __future__ import annotations

from typing import Final

from reliability.camera_files import CAMERA_FILES
from reliability.folder_files import FOLDER_FILES
from reliability.kinds import Format
from reliability.run_files import RUN_FILES
from reliability.visual_files import VISUAL_FILES
from reliability.weight_files import WEIGHT_FILES

FORMATS: Final[dict[str, Format]] = {
    **VISUAL_FILES, **WEIGHT_FILES, **CAMERA_FILES, **RUN_FILES, **FOLDER_FILES,
}  # fmt: skip
