"""Start a real ComfyUI server with the pack in it, in a base folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from dev.comfy_source import check_comfyui, comfyui_location

PACK = Path(__file__).resolve().parents[2]
PACK_NAME = "mirage"
HOST = "127.0.0.1"
FOLDERS = ("custom_nodes", "input", "models", "output", "temp", "user")
NOT_COPIED = (".*", "__pycache__", "out", "build", "dist")
PORT_ATTEMPTS = 3
POLL_SECONDS = 0.1

# A proxy set for the rest of the machine has no business with a server on this one.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerError(Exception):
    """The server did not start; the message holds the end of its log."""


class PortTakenError(ServerError):
    """Another program took the port between the choice and the start."""


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_port_free(port: int) -> bool:
    """Whether a server could listen on `port` of this machine."""
    with socket.socket() as probe:
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def has_cuda() -> bool:
    """Whether ComfyUI can compute on a CUDA device here."""
    import torch

    return torch.cuda.is_available()


class ComfyServer:
    """A ComfyUI server as a context manager.

    Everything that ComfyUI writes goes below `base`; neither its source nor the checkout changes.

    Args:
        base: Folder for custom nodes, models, inputs and outputs; created if missing.
        comfyui: ComfyUI's source; default COMFYUI_PATH or the cache that `make setup` fills.
        pack: Folder of the pack to link in, or None for a server without it.
        port: Port to listen on; default a free one.
        python: The interpreter that runs it, with ComfyUI's requirements; default this one.
        extra_args: Further command line arguments of ComfyUI's main.py.
        env: Environment variables on top of the present ones.
        startup_timeout: Seconds until a server that does not answer counts as failed.
    """

    def __init__(
        self,
        base: str | Path,
        *,
        comfyui: str | Path | None = None,
        pack: str | Path | None = PACK,
        port: int | None = None,
        python: str | Path | None = None,
        extra_args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        startup_timeout: float = 180.0,
    ) -> None:
        self.base = Path(base).resolve()
        self.comfyui = Path(comfyui).resolve() if comfyui else comfyui_location()
        self.pack = Path(pack).resolve() if pack else None
        self.port = port or free_port()
        self.python = str(python or sys.executable)
        self.extra_args = list(extra_args)
        self.env = dict(env or {})
        self.startup_timeout = startup_timeout
        self.process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def __enter__(self) -> ComfyServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Address of the server, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    @property
    def input(self) -> Path:
        """Folder that LoadImage and the like read from."""
        return self.base / "input"

    @property
    def output(self) -> Path:
        """Folder that SaveImage and the like write to."""
        return self.base / "output"

    @property
    def temp(self) -> Path:
        """Folder of previews."""
        return self.base / "temp"

    @property
    def log_path(self) -> Path:
        """Everything the server printed, over all its starts."""
        return self.base / "comfyui.log"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, or None."""
        return self.process.pid if self.process and self.process.poll() is None else None

    def log(self) -> str:
        """What the server printed since its latest start."""
        with open(self.log_path, "rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            SetupError: There is no usable ComfyUI.
            ServerError: It ended or stayed silent; the message holds the end of its log.
        """
        if self.pid is not None:
            raise ServerError(f"The server at {self.url} runs already: call stop() or restart().")
        check_comfyui(self.comfyui)
        self._prepare_base()
        for attempt in range(1, PORT_ATTEMPTS + 1):
            self._launch()
            try:
                self._wait_until_ready()
                return
            except PortTakenError:
                if attempt == PORT_ATTEMPTS:
                    raise
                self.port = free_port()
            except BaseException:
                self.stop()
                raise

    def stop(self, grace: float = 10.0) -> None:
        """End the server and whatever it started; safe to call at any time.

        Args:
            grace: Seconds that the server gets before it is killed.
        """
        process = self.process
        if process is None:
            return
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
        self.kill()

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        process = self.process
        if process is None:
            return
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        process.wait()
        self.process = None

    def restart(self) -> None:
        """Start anew with the same base folder, after stop() or kill() or while running."""
        self.stop()
        self.start()

    def _signal(self, number: int) -> None:
        """Signal the process group: the server leads one of its own."""
        process = self.process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if os.name == "nt":
                process.kill()
            else:
                os.killpg(process.pid, number)

    def _prepare_base(self) -> None:
        for name in FOLDERS:
            (self.base / name).mkdir(parents=True, exist_ok=True)
        if self.pack is None:
            return
        link = self.base / "custom_nodes" / PACK_NAME
        if link.is_symlink():
            link.unlink()
        elif link.is_dir():
            shutil.rmtree(link)
        try:
            link.symlink_to(self.pack, target_is_directory=True)
        except OSError:
            # Windows allows links to administrators and in developer mode only.
            shutil.copytree(self.pack, link, ignore=shutil.ignore_patterns(*NOT_COPIED))

    def _command(self) -> list[str]:
        command = [self.python, "main.py", "--port", str(self.port), "--disable-auto-launch"]
        command += ["--base-directory", str(self.base), "--database-url", "sqlite:///:memory:"]
        command += ["--disable-api-nodes"]
        if "--cpu" not in self.extra_args and not has_cuda():
            command += ["--cpu"]
        return command + self.extra_args

    def _launch(self) -> None:
        # PYTHONPATH could put another module `nodes` before ComfyUI's.
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        env.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve a shared machine
        env.update(PYTHONDONTWRITEBYTECODE="1", PYTHONUNBUFFERED="1", **self.env)
        with open(self.log_path, "ab") as log:
            self._log_start = log.tell()
            self.process = subprocess.Popen(
                self._command(),
                cwd=self.comfyui,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.startup_timeout
        while not self._answers():
            code = self.process.poll() if self.process else None
            if code is not None:
                kind = PortTakenError if "address already in use" in self.log() else ServerError
                raise kind(self._failure(f"ended with status {code} before it was ready"))
            if time.monotonic() > deadline:
                raise ServerError(self._failure(f"was silent for {self.startup_timeout:.0f} s"))
            time.sleep(POLL_SECONDS)

    def _answers(self) -> bool:
        """Whether this server, and no other one on the same port, is ready."""
        try:
            with _opener.open(f"{self.url}/system_stats", timeout=5) as reply:
                argv = json.load(reply)["system"]["argv"]
        except (OSError, ValueError, KeyError):
            return False
        return str(self.base) in argv

    def _failure(self, what: str) -> str:
        tail = "\n".join(self.log().splitlines()[-30:])
        return f"ComfyUI {what}. The end of {self.log_path}:\n{tail}"
