"""A browser that dies or hangs fails the test that meets it, and the next one has another."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Error

from .conftest import SETTLED

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
