"""Checks the types of the pack: the library, and the nodes against ComfyUI's own types.

The nodes import the library as a part of the package that the checkout is. Links stand for that
package under a name that is fit for Python, whatever the checkout's folder is called. ComfyUI's
modules are read for their types; what is wrong in them is not reported.

    python tools dev.check_types [options of mypy]
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dev.comfy_source import SetupError, check_comfyui, comfyui_location

ROOT = Path(__file__).resolve().parents[2]
PACK = "mirage_pack"
CHECKED = (PACK, f"{PACK}.nodes", f"{PACK}.mirage_core")


def link_pack(folder: Path) -> None:
    """Make a package of a fixed name that holds what the checkout's package does."""
    package = folder / PACK
    package.mkdir(parents=True, exist_ok=True)
    for name in ("__init__.py", "nodes", "mirage_core"):
        link = package / name
        if link.resolve() != ROOT / name:
            link.unlink(missing_ok=True)
            link.symlink_to(ROOT / name, target_is_directory=(ROOT / name).is_dir())


def main(options: Sequence[str]) -> int:
    """Mypy's exit status."""
    comfyui = comfyui_location()
    try:
        check_comfyui(comfyui)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 2
    folder = ROOT / "out" / "types"
    link_pack(folder)
    package, *subpackages = CHECKED
    command = [sys.executable, "-m", "mypy", "-m", package]
    for name in subpackages:
        command += ["-p", name]
    paths = os.pathsep.join(map(str, (folder, comfyui)))
    done = subprocess.run(
        [*command, *options], cwd=ROOT, env={**os.environ, "MYPYPATH": paths},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    # Errors are told at the files' own places, which editors open.
    print(done.stdout.replace(f"{folder.relative_to(ROOT) / PACK}{os.sep}", ""), end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
