"""A page with a small graph around the widgets, in ComfyUI's own frontend."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Error, Page

from dev.comfy_client import ComfyClient
from dev.comfy_server import ComfyServer
from dev.frontend_page import READY, SOFTWARE_GRAPHICS, TIMEOUT, open_page

from .evidence import attach

BUILD = """async ({ id, width, height, values }) => {
    const empty = { id, last_node_id: 0, last_link_id: 0, nodes: [], links: [], version: 0.4 };
    await app.loadGraphData(empty, true, true, "studio");
    const add = (type, x, y) => {
        const node = LiteGraph.createNode(type);
        node.pos = [x, y];
        app.graph.add(node);
        return node;
    };
    const scene = add("MirageEmbeddedScene", 0, 0);
    const codec = add("MirageEmbeddedCodec", 0, 320);
    const init = add("MirageCacheInit", 0, 450);
    const move = add("MirageTrajectory", 360, 0);
    const info = add("MirageCacheInfo", 900, 0);
    const keep = add("MirageCacheSave", 900, 500);
    const save = add("MirageTrajectorySave", 900, 620);
    const set = (node, wanted) => {
        for (const w of node.widgets) if (w.name in wanted) w.value = wanted[w.name];
    };
    set(scene, { width, height, seed: 16, control_after_generate: "fixed" });
    set(keep, { filename_prefix: "widget" });
    set(save, { filename_prefix: "widget" });
    set(move, { frames: 33, amount: 0.5, ...values });
    for (const node of [move, init]) {
        scene.connect(0, node, 0);
        scene.connect(1, node, 1);
    }
    codec.connect(0, init, 2);
    init.connect(0, move, move.inputs.findIndex((input) => input.name === "cache"));
    init.connect(0, info, 0);
    init.connect(0, keep, 0);
    move.connect(0, save, 0);
    // As opened from a file: ComfyUI gives a node without inputs an empty list of values when it
    // loads it, and not before. Undo would take that for a change, and forget what can be redone.
    await app.loadGraphData(app.graph.serialize(), true, false, "studio");
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [-300, 60];
    app.canvas.setDirty(true, true);
}"""

SETTLED = """async ([kind, patience]) => {
    // A browser whose graphics have died draws no frame any more.
    const frame = () => new Promise((resolve) => {
        requestAnimationFrame(resolve);
        setTimeout(resolve, patience);
    });
    const look = () => {
        const { ds } = app.canvas;
        const node = app.graph.nodes.find((n) => n.type === kind);
        const widget = node?.widgets?.find((w) => w.name === "mirage_view");
        const place = widget?.element?.mirage?.container;
        if (!place?.isConnected || !place.offsetWidth) return { shown: false, right: false };
        const { left, top, width, height } = place.getBoundingClientRect();
        const wanted = app.canvas.canvas.getBoundingClientRect().left
            + (node.pos[0] + ds.offset[0]) * ds.scale;
        const right = Math.abs(width / place.offsetWidth - ds.scale) < 0.02
            && Math.abs(left - wanted) < 30 * ds.scale
            && Math.abs(width - node.size[0] * ds.scale) < 40 * ds.scale;
        return { shown: true, right, box: [left, top, width, height], wanted, size: node.size };
    };
    const until = performance.now() + patience;
    let [seen, still] = ["", 0];
    while (still < 2) {
        app.canvas.draw(true, true);
        await frame();
        const found = look();
        const now = JSON.stringify(found);
        still = found.right && now === seen ? still + 1 : 0;
        seen = now;
        if (performance.now() > until) throw new Error(`The display does not come to rest: ${now}`);
    }
}"""
"""Waits until a widget is drawn where, and as large as, the graph says, and stands still.

Not for ``wait_for_function``, which takes the promise of an asynchronous function for a yes.
"""

WIDGET = """type => {
    const node = app.graph.nodes.find((n) => n.type === type);
    return node?.widgets?.find((w) => w.name === "mirage_view")?.element?.mirage;
}"""

RESET = """([scale, size]) => {
    const wanted = { frames: 33, amount: 0.5, there_and_back: false, easing: "smooth", fps: 24 };
    const node = app.graph.nodes.find((n) => n.type === "MirageTrajectory");
    for (const w of node.widgets) if (w.name in wanted) w.value = wanted[w.name];
    node.setSize(size);
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [60 / scale - node.pos[0], 60];
    app.canvas.setDirty(true, true);
}"""

LISTEN = """() => {
    window.runs ??= [];
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
        comfyAPI.api.api.addEventListener(kind, (e) => window.runs.push([kind, e.detail]));
    window.finite = (array) => Array.from(array, (v) => (Number.isFinite(v) ? v : null));
}"""

LIMIT = 240
"""Seconds for a test: what is asked of a browser that hangs would wait for ever."""

FAILED = pytest.StashKey[bool]()

SETTING = "async ([id, value]) => await app.extensionManager.setting.set(id, value)"


@dataclass(frozen=True)
class Place:
    """A page, the zoom of the graph on it, and the size of the trajectory node."""

    page: tuple[int, int] = (1600, 1000)
    zoom: float = 1.0
    node: tuple[int, int] = (480, 760)


@dataclass
class Studio:
    """The page, and shorthands for what the tests do with it."""

    server: ComfyServer
    open: Callable[[list[str]], contextlib.AbstractContextManager[Page]]
    console: list[str] = field(default_factory=list)
    graph: str = field(default_factory=lambda: str(uuid.uuid4()))
    """Id of the workflow: of its own, since the server remembers what a workflow reported."""
    shows: object = None
    """What was put on the page for several tests; None on a new page."""
    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    opened_page: Page | None = None

    @property
    def page(self) -> Page:
        """The page; opened, in a browser of its own, when there is none."""
        if self.opened_page is None:
            page = self.opened.enter_context(self.open(self.console))
            page.evaluate(LISTEN)
            self.opened_page = page
        return self.opened_page

    def close(self) -> None:
        """Close the page and its browser, dead or alive."""
        self.shows = self.opened_page = None
        with contextlib.suppress(Error):
            self.opened.close()

    def close_if_silent(self, patience: float = 30_000) -> None:
        """Close a page that does not answer within some milliseconds."""
        if self.opened_page is None:
            return
        try:
            self.opened_page.wait_for_function("() => true", timeout=patience)
        except Error:
            self.close()

    def another(self) -> Studio:
        """The same page for a workflow with an id of its own."""
        return dataclasses.replace(self, graph=str(uuid.uuid4()))

    def build(self, width: int = 640, height: int = 352, **values: Any) -> None:
        """A graph anew: a scene, its memory, a move, and what saves them."""
        options = {"id": self.graph, "width": width, "height": height, "values": values}
        self.page.evaluate(BUILD, options)
        self.wait("(w) => w?.model")
        self.wait("(w) => w?.viewport", kind="MirageCacheInfo")

    def widget(self, code: str, argument: Any = None, kind: str = "MirageTrajectory") -> Any:
        """The value of ``(widget, argument) => ...`` in the page."""
        return self.page.evaluate(
            f"([kind, argument]) => (({code}))(({WIDGET})(kind), argument)", [kind, argument]
        )

    def wait(self, code: str, argument: Any = None, kind: str = "MirageTrajectory") -> None:
        """Wait until ``(widget, argument) => ...`` is true."""
        self.page.wait_for_function(
            f"([kind, argument]) => (({code}))(({WIDGET})(kind), argument)", arg=[kind, argument]
        )

    def value(self, name: str, kind: str = "MirageTrajectory") -> Any:
        """What an input of a node holds."""
        return self.page.evaluate(
            """([kind, name]) => app.graph.nodes.find((n) => n.type === kind)
                .widgets.find((w) => w.name === name).value""",
            [kind, name],
        )

    def set_value(self, name: str, value: Any) -> None:
        """Set an input of the trajectory node, as a person does."""
        self.page.evaluate(
            """([name, value]) => {
                const node = app.graph.nodes.find((n) => n.type === "MirageTrajectory");
                const widget = node.widgets.find((w) => w.name === name);
                widget.value = value;
                widget.callback?.(value);
            }""",
            [name, value],
        )

    def settle(self, kind: str = "MirageTrajectory") -> None:
        """Wait until the display has followed the graph: a slow machine draws few pictures."""
        self.page.evaluate(SETTLED, [kind, TIMEOUT])

    def run(self) -> tuple[str, Any]:
        """Queue, and wait until the prompt has run; what became of it."""
        before = self.page.evaluate("() => window.runs.length")
        assert self.page.evaluate("async () => await app.queuePrompt(0, 1)")
        self.page.wait_for_function("count => window.runs.length > count", arg=before)
        kind, detail = self.page.evaluate("() => window.runs.at(-1)")
        return kind, detail

    def see(self) -> None:
        """Run, and wait until the points are there; look at them from outside."""
        kind, detail = self.run()
        assert kind == "execution_success", detail
        self.wait("(w) => w.points.count > 0")
        self.widget("(w) => w.viewport.controls.view === 'camera' && w.viewport.setView('orbit')")

    def setting(self, name: str, value: Any) -> None:
        self.page.evaluate(SETTING, [name, value])

    def renderer(self, modern: bool) -> None:
        """Nodes 2.0, or the classic renderer."""
        self.setting("Comfy.VueNodes.Enabled", modern)
        # The widget's element moves to the other renderer's container when that is ready.
        found = "document.querySelector('[data-testid=node-widgets] .mirage-widget') !== null"
        self.page.wait_for_function(f"wanted => ({found}) === wanted", arg=modern)

    def import_module(self, name: str) -> str:
        """Code that imports a module by its path below ``js``."""
        return f"await import('/extensions/mirage/{name}.mjs')"

    def newest(self, pattern: str) -> Path:
        """The newest file that the server saved."""
        files = (self.server.output / "mirage").glob(pattern)
        return max(files, key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def console() -> list[str]:
    """Warnings and errors of the page."""
    return []


@pytest.fixture(scope="module")
def page(chromium: str, server: ComfyServer, console: list[str]) -> Iterator[Page]:
    """A page of the module's own server."""
    with open_page(chromium, server.url, console) as page:
        yield page


@pytest.fixture(scope="module")
def studio(chromium: str, comfy_server: ComfyServer) -> Iterator[Studio]:
    """A page of its own for a module of tests; `living` replaces it when it can't be used."""
    # Without this the frontend greets a new user with a dialog.
    client = ComfyClient(comfy_server.url)
    client.post_json("/settings/Comfy.TutorialCompleted", True)
    # The server remembers that other tests opened it.
    client.post_json("/settings/Comfy.RightSidePanel.IsOpen", False)

    def open_for(console: list[str]) -> contextlib.AbstractContextManager[Page]:
        client.post_json("/settings/Comfy.VueNodes.Enabled", False)
        size = (1600, 1000)
        return open_page(chromium, comfy_server.url, console, size, SOFTWARE_GRAPHICS)

    made = Studio(comfy_server, open_for)
    yield made
    made.close()
    client.post_json("/settings/Comfy.VueNodes.Enabled", False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note for `living` that a test failed, and tell in the report what the page showed then."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    if report.failed and report.when == "call":
        attach(report, getattr(item, "funcargs", {}))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give what drives the page a time limit of its own."""
    for item in items:
        if "studio" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(LIMIT))


@pytest.fixture(autouse=True)
def living(request: pytest.FixtureRequest) -> Iterator[None]:
    """A page that can be used: its browser answers, and no test failed on it.

    A failed test may leave anything behind, such as a pressed mouse button.
    """
    made = request.getfixturevalue("studio") if "studio" in request.fixturenames else None
    if made:
        made.close_if_silent()
    yield
    if made and request.node.stash.get(FAILED, False):
        made.close()


@pytest.fixture
def reload_page() -> Callable[[Studio], None]:
    """Open the page anew, as F5 does."""

    def again(made: Studio) -> None:
        made.page.reload(wait_until="domcontentloaded")
        made.page.wait_for_function(READY)
        made.page.evaluate(LISTEN)

    return again


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes2"])
def renderer(request: pytest.FixtureRequest) -> bool:
    """One of the renderers: whether it is that of Nodes 2.0."""
    return bool(request.param)


@pytest.fixture(scope="module")
def place() -> Place:
    """What the widget is looked at on; a file of tests may have others."""
    return Place()


@pytest.fixture
def modern(renderer: bool, studio: Studio, place: Place) -> bool:
    """A graph whose picture is known, in `renderer`, with the move as it was at first."""
    width, height = place.page
    studio.page.set_viewport_size({"width": width, "height": height})
    if studio.shows != ("graph", renderer):
        studio.build()
        studio.renderer(renderer)
        studio.see()
        studio.shows = "graph", renderer
    studio.page.evaluate(RESET, [place.zoom, place.node])
    studio.widget(
        """(w) => {
            for (const name of ["keyframes", "keys"])
                w.node.widgets.find((one) => one.name === name).value = "";
            w.model.usePreset("orbit");
            w.model.scrub(0);
            const { controls } = w.viewport;
            Object.assign(controls, new controls.constructor());
            Object.assign(w.editor.director.aids, { guides: false, ghost: false, snap: false });
            w.viewport.setView("orbit");
            w.container.querySelector('[aria-label="Show everything"]').click();
        }"""
    )
    studio.settle()
    return renderer
