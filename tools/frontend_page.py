"""ComfyUI's own frontend in Chromium, for programs that take pictures of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Page, sync_playwright

from bootstrap import find_chromium
from comfy_client import ComfyClient
from comfy_server import ComfyServer

READY = """() => window.LiteGraph?.registered_node_types?.MirageLoopClose
    && window.app?.extensionManager?.workflow?.activeWorkflow && app.graph.nodes.length"""

OPTIONS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""Drawing in software: the same on every machine, with or without a graphics card."""

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
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=list(OPTIONS))
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(60_000)
        page.goto(server.url, wait_until="domcontentloaded")
        page.wait_for_function(READY)
        yield page
        chromium.close()


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
