"""ComfyUI's own frontend in Chromium: for tests, and for programs that take pictures of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import ConsoleMessage, Page, sync_playwright

from dev.bootstrap import find_chromium
from dev.comfy_client import ComfyClient
from dev.comfy_server import ComfyServer

READY = """() => window.LiteGraph?.registered_node_types?.MirageLoopClose
    && window.app?.extensionManager?.workflow?.activeWorkflow && app.graph.nodes.length"""

TIMEOUT = 180_000
"""Milliseconds: for a machine with much else to do. Nothing that works waits that long."""

LAUNCH_TIMEOUT = 60_000
"""Milliseconds until the browser has to have started."""

OPTIONS = (
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

NO_GRAPHICS = ("--disable-gpu",)
SOFTWARE_GRAPHICS = (
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-accelerated-2d-canvas",
    "--disable-gpu-rasterization",
    "--disable-gpu-compositing",
)
"""WebGL drawn the same on every machine, with or without a graphics card.

Only WebGL: what else the page shows takes ten times as long through a graphics card in software.
"""

QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.NodeBadge.NodeIdBadgeMode": "None",
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}
"""Settings without which a dialog, a map or badges lie over what is shown."""

RUN = """async () => {
    const { api } = comfyAPI.api;
    const ended = new Promise((resolve) => {
        for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
            api.addEventListener(kind, (event) => resolve([kind, event.detail]), { once: true });
    });
    if (!(await app.queuePrompt(0, 1))) return ["refused", app.lastNodeErrors];
    return await ended;
}"""

REST = """async (count) => {
    for (let i = 0; i < count; i++) await new Promise(requestAnimationFrame);
}"""


class FrontendError(Exception):
    """The frontend could not be opened, or what was queued in it failed."""


@contextmanager
def open_page(
    chromium: str,
    url: str,
    console: list[str] | None = None,
    size: tuple[int, int] = (1920, 1080),
    graphics: Sequence[str] = NO_GRAPHICS,
) -> Iterator[Page]:
    """A page on which the frontend is ready to be used.

    Args:
        chromium: Path of the browser.
        url: Address of a running server.
        console: Takes what the page complains of, a line each; None for nowhere.
        size: Width and height of the page, in pixels.
        graphics: Options of the browser that say what draws.
    """
    said: list[str] = [] if console is None else console
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=[*OPTIONS, *graphics], timeout=LAUNCH_TIMEOUT
        )
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.set_default_timeout(TIMEOUT)
        page.on("pageerror", lambda error: said.append(f"pageerror {error.stack or error}"))
        page.on("console", lambda message: said.extend(_complaint(message)))
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_function(READY)
        # Leaving ends the browser. Asking it to close would wait for ever for one that hangs.
        yield page


def _complaint(message: ConsoleMessage) -> list[str]:
    if message.type not in ("error", "warning"):
        return []
    return [f"{message.type} {message.text} {message.location.get('url', '')}"]


@contextmanager
def open_frontend(server: ComfyServer, width: int, height: int) -> Iterator[Page]:
    """A page with the frontend of a running server.

    Args:
        server: It.
        width: Of the page, in pixels.
        height: Of the page, in pixels.

    Raises:
        FrontendError: There is no Chromium.
    """
    browser = find_chromium()
    if browser is None:
        raise FrontendError("needs Chromium: install it, or set MIRAGE_CHROMIUM to its path")
    client = ComfyClient(server.url)
    for name, value in QUIET.items():
        client.post_json(f"/settings/{name}", value)
    size = width, height
    with open_page(browser, server.url, size=size, graphics=SOFTWARE_GRAPHICS) as page:
        yield page


def run(page: Page) -> None:
    """Queue the graph that is open, and wait until it has run.

    Raises:
        FrontendError: It failed.
    """
    kind, detail = page.evaluate(RUN)
    if kind != "execution_success":
        raise FrontendError(f"{kind}: {_short(detail)}")


def settle(page: Page, frames: int = 3) -> None:
    """Wait until the display has drawn some frames."""
    page.evaluate(REST, frames)


def _short(detail: Any) -> str:
    return str(detail)[:500]
