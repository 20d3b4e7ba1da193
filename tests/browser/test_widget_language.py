"""The widget in the second language that the pack comes with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dev.comfy_client import ComfyClient
from dev.comfy_server import PACK

pytestmark = [pytest.mark.browser, pytest.mark.server]

LANGUAGE = "fr"


@pytest.fixture
def french(studio: Any, reload_page: Callable[[Any], None]) -> Iterator[dict[str, Any]]:
    client = ComfyClient(studio.server.url)
    client.post_json("/settings/Comfy.Locale", LANGUAGE)
    try:
        reload_page(studio)
        studio.build()
        folder = PACK / "locales" / LANGUAGE
        yield {
            name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("main", "nodeDefs")
        }
    finally:
        # Other files of tests share the server.
        client.post_json("/settings/Comfy.Locale", "en")


def test_controls_and_nodes_are_translated(studio: Any, french: dict[str, Any]) -> None:
    texts = french["main"]["mirage"]
    labels = studio.widget(
        """(w) => [...w.container.querySelectorAll("[aria-label]")]
            .map((e) => e.getAttribute("aria-label"))"""
    )
    for key in ("play", "addKeyframe", "draw", "timeline", "viewport", "preset"):
        assert texts[key] in labels
    assert studio.widget("(w) => w.note.textContent") == texts["noScene"]
    title = studio.page.evaluate(
        "() => app.graph.nodes.find((n) => n.type === 'MirageTrajectory').title"
    )
    assert title == french["nodeDefs"]["MirageTrajectory"]["display_name"]
    wide = studio.widget("(w) => [w.container.scrollWidth, w.container.clientWidth]")
    assert wide[0] <= wide[1] + 1, "longer words still fit"
