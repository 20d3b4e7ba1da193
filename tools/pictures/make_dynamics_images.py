"""Draw the picture of the blueprint Mirage Moving Things, as ComfyUI's own frontend shows it.

Run it with ``python tools pictures.make_dynamics_images`` after a change of the graph.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from dev.bootstrap import find_chromium
from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK, ComfyServer
from dev.frontend_page import open_page
from pictures.make_sampling_images import GRAPH_WIDTH, LOAD, picture, save
from workflows.dynamics import FILES, MOVING_THINGS


def name_files(base: Path) -> None:
    """Empty files under the names that the graph asks for: it is drawn, never run."""
    for file in FILES:
        folder = base / "models" / file.directory
        folder.mkdir(parents=True)
        (folder / file.name).touch()


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    browser = find_chromium()
    if browser is None:
        raise SystemExit("needs Chromium")
    content = json.loads((PACK / "subgraphs" / f"{MOVING_THINGS.name}.json").read_text("utf-8"))
    with tempfile.TemporaryDirectory(prefix="mirage-docs-") as base:
        name_files(Path(base))
        draw(base, browser, content)


def draw(base: str, browser: str, content: dict[str, Any]) -> None:
    """Save the picture of the graph inside the blueprint."""
    with ComfyServer(base) as server:
        ComfyClient(server.url).post_json("/settings/Comfy.TutorialCompleted", True)
        with open_page(browser, server.url) as page:
            page.evaluate(LOAD, [content, MOVING_THINGS.name])
            page.wait_for_timeout(2000)
            page.keyboard.press("Escape")
            page.wait_for_timeout(500)
            target = PACK / "docs" / "images" / "moving_things_graph.jpg"
            save(picture(page, inside=True), GRAPH_WIDTH, target)


if __name__ == "__main__":
    main()
