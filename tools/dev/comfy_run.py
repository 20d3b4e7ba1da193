"""Run ComfyUI with the pack for a person: prints the address, shows the log, stops on Ctrl-C.

COMFY_PORT chooses the port (default 8188); models, inputs and outputs live in out/comfy. Arguments
that this program does not know go to ComfyUI.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from dev.comfy_server import PACK, ComfyServer, ServerError, free_port, is_port_free
from dev.comfy_source import SetupError

DEFAULT_PORT = 8188
LOG_SECONDS = 0.2


def say(message: str) -> None:
    print(f"[mirage] {message}", flush=True)


def choose_port(wanted: int) -> int:
    if is_port_free(wanted):
        return wanted
    port = free_port()
    say(f"port {wanted} is taken, using {port}")
    return port


def follow(path: Path, position: int, done: threading.Event) -> None:
    """Copy what is appended to a file to the terminal, until `done` and the file is at its end."""
    while True:
        last = done.wait(LOG_SECONDS)
        if path.exists():
            with open(path, "rb") as log:
                log.seek(position)
                new = log.read()
            position += len(new)
            sys.stdout.write(new.decode(errors="replace"))
            sys.stdout.flush()
        if last:
            return


def stop_on_sigterm(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def serve(server: ComfyServer) -> int:
    """Run the server until it ends or the user stops it; returns the exit status."""
    try:
        with server:
            say(f"ComfyUI is at {server.url}  (stop with Ctrl-C)")
            say(f"models, inputs and outputs: {server.base}")
            process = server.process
            return process.wait() if process else 0
    except KeyboardInterrupt:
        say("stopped")
        return 0
    except (ServerError, SetupError) as error:
        say(f"error: {error}")
        return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=int(os.environ.get("COMFY_PORT", DEFAULT_PORT)))
    parser.add_argument("--base", type=Path, default=PACK / "out" / "comfy")
    options, extra = parser.parse_known_args()
    signal.signal(signal.SIGTERM, stop_on_sigterm)
    server = ComfyServer(options.base, port=choose_port(options.port), extra_args=extra)
    position = server.log_path.stat().st_size if server.log_path.exists() else 0
    done = threading.Event()
    log = threading.Thread(target=follow, args=(server.log_path, position, done), daemon=True)
    log.start()
    try:
        return serve(server)
    finally:
        done.set()
        log.join()


if __name__ == "__main__":
    sys.exit(main())
