"""A browser that dies or hangs fails the test that meets it, and the next one has another."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Error

from dev.comfy_server import PACK

from .conftest import SETTLED
from .evidence import sections

pytestmark = [pytest.mark.browser, pytest.mark.server]

ENDLESS = "() => { setTimeout(() => { for (;;); }, 0); }"
PATIENCE = 3_000


def die(page: Any, browser: bool) -> None:
    """Crash the whole browser, or what runs the page."""
    with pytest.raises(Error):
        if browser:
            page.context.browser.new_browser_cdp_session().send("Browser.crash")
        else:
            page.goto("chrome://crash")
        page.evaluate("() => new Promise(() => {})")


@pytest.mark.parametrize("browser", [True, False], ids=["browser", "page"])
def test_a_dead_browser_is_replaced(studio: Any, browser: bool) -> None:
    page = studio.page
    die(page, browser)
    with pytest.raises(Error):
        page.mouse.move(10, 10)
    studio.close_if_silent(PATIENCE)
    studio.build()
    assert studio.page is not page


def test_a_page_that_hangs_is_replaced(studio: Any) -> None:
    page = studio.page
    page.evaluate(ENDLESS)
    studio.close_if_silent(PATIENCE)
    assert studio.page is not page
    assert studio.page.evaluate("() => app.graph.nodes.length")


def test_a_failed_test_tells_what_the_page_showed(studio: Any) -> None:
    studio.build()
    studio.widget("(w) => { w.model.addKeyframe(8); w.model.begin(); }")
    held, picture, complaints, log = (
        text for _, text in sections("a test [of this]", studio.page, ["error: seen"], "a\nb")
    )
    (move,) = [w for w in json.loads(held)["widgets"] if w["node"] == "MirageTrajectory"]
    assert move["held"] and 8 in move["keys"] and move["source"] == "keyframes"
    assert complaints == "error: seen" and log == "a\nb"
    path = PACK / picture
    assert path.name == "a_test_of_this_.png" and path.stat().st_size > 1000
    path.unlink()
    studio.widget("(w) => w.model.held.finish()")


def test_a_failed_test_tells_of_a_page_that_hangs(studio: Any) -> None:
    page = studio.page
    page.evaluate(ENDLESS)
    told = dict(sections("a test", page, [], None))
    assert told["What the page held"].startswith("The page does not answer: ")
    assert told["Its picture"].startswith("no picture: ")
    studio.close()


def test_a_page_that_answers_is_kept(studio: Any) -> None:
    page = studio.page
    studio.shows = "something"
    studio.close_if_silent()
    assert studio.page is page and studio.shows == "something"


def test_a_display_that_stands_still_is_told(studio: Any) -> None:
    """Without graphics there are no frames; waiting for them has an end."""
    studio.build()
    studio.page.evaluate("() => { window.requestAnimationFrame = () => 0; }")
    with pytest.raises(Error, match="does not come to rest"):
        studio.page.evaluate(SETTLED, ["MirageTrajectory", 500])
    studio.close()
