"""What a page showed when a test failed on it: enough to find the fault."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.sync_api import Error, Page

from dev.comfy_server import PACK

FOLDER = PACK / "out" / "screens" / "failed"
PATIENCE = 5_000
"""Milliseconds that a page has to tell: one that hangs is told of, and not waited for."""

LINES = 15
"""Of the console, and of the server's log."""

STATE = """() => {
    const { ds, graph } = app.canvas;
    const round = (values) => Array.from(values, (v) => Math.round(v * 1000) / 1000);
    const look = ({ yaw, pitch, distance }) => round([yaw, pitch, distance]);
    const widget = (node) => {
        const w = node.widgets?.find((one) => one.name === "mirage_view")?.element?.mirage;
        if (!w) return null;
        const box = w.viewport?.canvas.getBoundingClientRect();
        const found = {
            node: node.type, id: node.id, points: w.points?.count, view: w.viewport?.controls.view,
            connected: w.container?.isConnected, pixels: w.viewport?.picture?.kind,
            canvas: box && round([box.left, box.top, box.width, box.height]),
        };
        const { model } = w;
        if (!model) return found;
        const { source, problem, frame, selected, camera, scene } = model;
        return {
            ...found, source, problem, frame, selected, camera,
            known: scene.known, depth: scene.depth,
            held: Boolean(model.held), zooming: w.editor?.zooming,
            frames: model.path.length, note: w.note?.textContent, look: look(w.viewport.controls),
            keys: model.keyframes.map((key) => key.frame),
            shares: round(w.coverage?.values ?? []),
            walk: w.walk?.active ? w.walk.steps : null, painting: w.walk?.live.painting,
            take: model.shot.take, keyframes: String(model.value("keyframes")).slice(0, 2000),
        };
    };
    const { activeElement } = document;
    return JSON.stringify({
        runs: (window.runs ?? window.events ?? []).map(([kind]) => kind),
        nodes: graph?.nodes.length, scale: ds.scale, offset: round(ds.offset),
        modern: Boolean(document.querySelector("[data-testid=node-widgets]")),
        focus: activeElement && [activeElement.tagName, activeElement.className].join(" "),
        dialogs: [...document.querySelectorAll("[role=dialog], [role=alert]")].map((e) =>
            e.textContent.trim().slice(0, 200)),
        widgets: (graph?.nodes ?? []).map(widget).filter(Boolean),
    });
}"""


def told_by(page: Page) -> str:
    """What the page holds now, as JSON in lines; or that it does not answer."""
    try:
        # An evaluation waits for ever for a page that hangs; one that draws nothing still answers.
        answer = page.wait_for_function(STATE, timeout=PATIENCE, polling=100)
        return json.dumps(json.loads(answer.json_value()), indent=1, ensure_ascii=False)
    except Error as error:
        return f"The page does not answer: {error.message.splitlines()[0]}"


def picture_of(page: Page, name: str) -> str:
    """Where the page's picture was put; or that there is none."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.png"
    try:
        page.screenshot(path=str(path), timeout=PATIENCE)
    except Error as error:
        return f"no picture: {error.message.splitlines()[0]}"
    return str(path.relative_to(PACK))


def sections(
    name: str, page: Page | None, console: list[str], server_log: str | None
) -> list[tuple[str, str]]:
    """Headings and texts that a report of a failed test gets.

    Args:
        name: Of the test.
        page: What it drove; None when it was never opened, or is closed.
        console: What the page complained of.
        server_log: What the server printed; None without one.
    """
    found = []
    if page is not None:
        found = [("What the page held", told_by(page)), ("Its picture", picture_of(page, name))]
    found.append(("Last complaints of the page", "\n".join(console[-LINES:]) or "none"))
    if server_log is not None:
        found.append(("End of the server's log", "\n".join(server_log.splitlines()[-LINES:])))
    return found


def attach(report: Any, fixtures: dict[str, Any]) -> None:
    """Add to the report of a failed test what it was given: `studio`, or `page` and `console`."""
    studio = fixtures.get("studio")
    page = studio.opened_page if studio else fixtures.get("page")
    if studio is None and page is None:
        return
    console = studio.console if studio else fixtures.get("console", [])
    server = studio.server if studio else fixtures.get("server") or fixtures.get("comfy_server")
    report.sections += sections(report.nodeid, page, console, server.log() if server else None)
