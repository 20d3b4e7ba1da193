"""``make package``: what the registry would hand out, made and tried in a fresh ComfyUI.

The archive holds what ``comfy node publish`` takes: the files that git tracks, without those that
.comfyignore names. It is unpacked as ComfyUI-Manager does it, and the first shot is made by a
ComfyUI that has nothing else of the pack.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from dev.comfy_client import ComfyClientError
from dev.comfy_server import PACK, PACK_NAME, ComfyServer, ServerError
from dev.comfy_source import SetupError
from dev.demo import run_shipped_workflow

MAX_BYTES = 20 * 1000 * 1000
TRACKING = ".tracking"
"""Where ComfyUI-Manager notes what it unpacked; it updates no pack without this file."""

SHOT = "first_shot"


def shipped_files() -> list[str]:
    """Paths of the files that the registry takes from a checkout, below it.

    Raises:
        SetupError: The pack is no checkout.
    """
    command = ["git", "-C", str(PACK), "ls-files", "-z"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupError(f"git cannot list the files of {PACK}: {done.stderr.strip()}")
    lines = (PACK / ".comfyignore").read_text(encoding="utf-8").splitlines()
    left_out = GitIgnoreSpec.from_lines(lines)
    names = (name for name in done.stdout.split("\0") if name)
    return sorted(name for name in names if not left_out.match_file(name))


def build(target: Path) -> Path:
    """Write the archive of the shipped files; returns its path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in shipped_files():
            archive.write(PACK / name, name)
    return target


def install(archive: Path, folder: Path) -> Path:
    """Unpack an archive into a folder of custom nodes as ComfyUI-Manager does; returns the pack."""
    pack = folder / PACK_NAME
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        if any(PurePosixPath(name).is_absolute() or ".." in name.split("/") for name in names):
            raise SetupError(f"{archive} holds names that lead out of its folder")
        packed.extractall(pack)
    (pack / TRACKING).write_text("\n".join(names), encoding="utf-8")
    return pack


def try_out(archive: Path) -> float:
    """Make the first shot with the archive's files alone; returns the seconds that it took.

    Raises:
        SetupError, ServerError, ComfyClientError: It cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="mirage-package-") as folder:
        pack = install(archive, Path(folder) / "unpacked")
        with ComfyServer(Path(folder) / "comfy", pack=pack) as server:
            return run_shipped_workflow(server, SHOT)[1].seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=PACK / "out" / "package")
    parser.add_argument("--no-shot", action="store_true", help="only make the archive")
    given = parser.parse_args()
    try:
        archive = build(given.out / f"{PACK_NAME}.zip")
        size = archive.stat().st_size
        print(f"{archive}: {len(shipped_files())} files, {size / 1e6:.1f} MB")
        if size > MAX_BYTES:
            raise SetupError(f"more than {MAX_BYTES / 1e6:.0f} MB: name more in .comfyignore")
        if not given.no_shot:
            print(f"{SHOT} from the archive alone: {try_out(archive):.0f} s")
    except (SetupError, ServerError, ComfyClientError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
