"""The page in a real browser: people paint, save, go back, reload; servers die; two of them meet.

RALX_SCREENSHOTS names a folder for pictures of the page.
"""

import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright")
pytest.importorskip("starlette", reason="the page needs the extra `label`")
uvicorn = pytest.importorskip("uvicorn", reason="the page needs the extra `label`")

from fake_project import FakeProject  # noqa: E402

from ralx.labelling.page import page_app, serve  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
if CHROMIUM is None:
    # Not switched off: these tests run wherever a browser is. pip brings none, the system's packages do.
    pytest.skip("no Chromium is installed: apt-get install chromium", allow_module_level=True)

TOKEN = "a-token"
SIZE = 48, 64  # of a region
UNLABELLED = 255
PATIENCE = 60.0  # seconds, also on a busy machine
WINDOW = {"width": 1280, "height": 800}


# Texts whose contrast with what lies behind them is below 4.5, which WCAG's level AA asks for.
LOW_CONTRAST = r"""() => {
    const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
    const linear = (c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    const ground = (node) => {
        for (; node; node = node.parentElement) {
            const [r, g, b, alpha = 1] = parts(getComputedStyle(node).backgroundColor);
            if (alpha > 0.8) return [r, g, b];
        }
    };
    const hasText = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    const low = [];
    for (const node of document.querySelectorAll("body *")) {
        if (!hasText(node) || node.matches(":disabled, :disabled *") || !node.checkVisibility()) continue;
        const [a, b] = [light(parts(getComputedStyle(node).color)), light(ground(node))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) low.push(`${node.tagName} ${node.id} "${node.textContent}": ${ratio}`);
    }
    return low;
}"""


def wait_until(is_so, what):
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, f"waited {PATIENCE} s for: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Job:
    """What the server runs once a batch is done; the test says when it ends."""

    def __init__(self):
        self.lines, self.returncode = [], None

    def stop(self):
        self.returncode = -1


class Site:
    """What the server serves to one test."""

    def __init__(self, address):
        self.address = address
        self.now = 0.0  # seconds that the test adds to the clock that leases run by
        self.project = FakeProject(regions=3, region_size=SIZE, clock=lambda: time.time() + self.now)
        self.jobs = []
        self.app = page_app(self.project, TOKEN, annotator="Ann", next_batch=self.next_batch)

    def next_batch(self):
        self.jobs.append(Job())
        return self.jobs[-1]


@pytest.fixture(scope="module")
def server():
    """A server in a thread: its address, and what the test puts in to be served."""
    served = SimpleNamespace(address=None, site=None)

    async def app(scope, receive, send):
        await served.site.app(scope, receive, send)

    config = uvicorn.Config(app, port=0, lifespan="off", log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the server")
    served.address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield served
    server.should_exit = True
    thread.join()


@pytest.fixture
def site(server):
    server.site = Site(server.address)
    return server.site


class Tab:
    """A tab of the page, and the person in front of it."""

    def __init__(self, context, address):
        self.page = context.new_page()
        self.errors, self.foreign = [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "request", lambda request: request.url.startswith(address) or self.foreign.append(request.url)
        )
        self.address = address

    def open(self, annotator=None):
        self.page.goto(f"{self.address}/?token={TOKEN}")
        if annotator:
            self.page.fill("#name", annotator)
            self.page.keyboard.press("Enter")
        return self.ready()

    def ready(self):
        """Wait for a region with its superpixels."""
        self.until("ralx.region && ralx.tools.pieces && !document.body.classList.contains('moving')")
        return self

    def until(self, code):
        # Not the browser driver's own wait: the page's policy lets no text be run as code.
        wait_until(lambda: self.page.evaluate(f"Boolean({code})"), code)

    def says(self, text):
        self.until(f"document.body.innerText.includes({text!r})")

    @property
    def region(self):
        return self.page.evaluate("ralx.region?.id")

    @property
    def label(self):
        return np.array(self.page.evaluate("[...ralx.region.painting.label]"), np.uint8).reshape(SIZE)

    def at(self, x, y):
        """The place in the window of a place in the region."""
        return self.page.evaluate(
            """([x, y]) => {
                const {left, top} = ralx.view.viewport.getBoundingClientRect();
                const at = ralx.view.toViewport({x, y});
                return [left + at.x, top + at.y];
            }""",
            [x, y],
        )

    def drag(self, *places, button="left"):
        self.page.mouse.move(*self.at(*places[0]))
        self.page.mouse.down(button=button)
        for place in places[1:]:
            self.page.mouse.move(*self.at(*place), steps=3)
        self.page.mouse.up(button=button)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def go_on(self, key="n"):
        """Save, and wait for another region."""
        before = self.region
        self.press(key)
        self.until(f"ralx.region?.id !== {before!r}")
        return self.ready()

    def shoot(self, name):
        if folder := os.environ.get("RALX_SCREENSHOTS"):
            time.sleep(0.3)  # until what moves has come to rest
            self.page.screenshot(path=Path(folder) / f"{name}.png")


@pytest.fixture
def person(browser, site):
    """Opens the page for a person of their own browser; afterwards no tab may have met an error."""
    tabs, contexts = [], []

    def open_page(annotator="Ann", context=None, **options):
        if context is None:
            context = browser.new_context(viewport=WINDOW, **options)
            contexts.append(context)
        tabs.append(Tab(context, site.address))
        return tabs[-1].open(annotator)

    yield open_page
    assert [(tab.errors, tab.foreign) for tab in tabs] == [([], [])] * len(tabs)
    for context in contexts:
        context.close()


@pytest.fixture
def tab(person):
    return person()


def stroke(start, end, size):
    """bool [h, w]: the pixels within half a brush of a line between corners of pixels."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    (x0, y0), (x1, y1) = start, end
    along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2), 0, 1)
    return np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)) <= size / 2


class TestPainting:
    def test_the_brush_paints_the_pixels_under_it_and_undo_takes_a_stroke_back(self, tab):
        tab.press("4")
        tab.drag((10, 10), (40, 10))
        first = tab.label
        assert np.array_equal(first == 3, stroke((10, 10), (40, 10), 12))
        assert (first[first != 3] == UNLABELLED).all()
        tab.press("2", "[")
        tab.drag((12, 8), (12, 40))
        second = tab.label
        size = tab.page.evaluate("ralx.tools.size")
        assert size == 10 and np.array_equal(second == 1, stroke((12, 8), (12, 40), 10))
        tab.press("Control+z")
        assert np.array_equal(tab.label, first)
        tab.press("z")
        assert (tab.label == UNLABELLED).all() and tab.page.is_disabled("#undo")
        tab.press("Control+Shift+z", "y")
        assert np.array_equal(tab.label, second) and tab.page.is_disabled("#redo")

    def test_eraser_and_right_button_take_labels_away(self, tab):
        tab.press("r")  # everything is of the first class
        tab.press("e")
        tab.drag((10, 10), (30, 10))
        assert np.array_equal(tab.label == UNLABELLED, stroke((10, 10), (30, 10), 12))
        tab.press("b")
        tab.drag((10, 30), (30, 30), button="right")
        assert np.array_equal(
            tab.label == UNLABELLED, stroke((10, 10), (30, 10), 12) | stroke((10, 30), (30, 30), 12)
        )

    def test_the_lasso_fills_what_it_goes_around_across_the_edge_too(self, tab):
        path = pytest.importorskip("matplotlib.path")
        outline = [(-6.3, 5.2), (30.1, 2.7), (50.6, 30.4), (20.2, 52.9)]
        tab.press("l", "3")
        tab.drag(*outline)
        y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
        inside = path.Path(outline).contains_points(np.stack([x.ravel(), y.ravel()], 1)).reshape(SIZE)
        wrong = inside != (tab.label == 2)  # the mouse comes in whole pixels of the window
        assert inside.sum() > 500 and wrong.sum() <= 3

    def test_fill_takes_a_superpixel_at_a_time(self, tab):
        pytest.importorskip("skimage", reason="superpixels need scikit-image")
        pieces = np.array(tab.page.evaluate("[...ralx.tools.pieces.at]")).reshape(SIZE)
        tab.press("f", "5")
        tab.page.mouse.move(*tab.at(20.5, 20.5))
        tab.until("ralx.view.hovered")
        tab.shoot("fill")
        tab.page.mouse.click(*tab.at(20.5, 20.5))
        assert np.array_equal(tab.label == 4, pieces == pieces[20, 20])
        tab.drag((5.5, 40.5), (40.5, 40.5))
        ends = pieces[[20, 40, 40], [20, 5, 40]]
        crossed = np.unique(np.append(pieces[40, 5:41], pieces[20, 20]))
        filled = np.unique(pieces[tab.label == 4])
        assert np.isin(ends, filled).all() and np.isin(filled, crossed).all()
        assert np.array_equal(tab.label == 4, np.isin(pieces, filled))

    def test_without_superpixels_fill_takes_what_is_of_a_like_colour(self, tab, site):
        ndimage = pytest.importorskip("scipy.ndimage")
        tab.page.evaluate("ralx.tools.set({ pieces: null })")
        tab.press("f", "2")
        tolerance = tab.page.evaluate("ralx.tools.tolerance")
        tab.page.mouse.click(*tab.at(30.5, 40.5))
        region = site.project.asked_region(tab.region)
        top, left, height, width = region.box
        photo = site.project.pixels(region.image)[top : top + height, left : left + width].astype(int)
        near = ((photo - photo[40, 30]) ** 2).sum(-1) <= tolerance**2
        pieces, _ = ndimage.label(near)
        expected = pieces == pieces[40, 30]
        assert expected.sum() > 1 and np.array_equal(tab.label == 1, expected)
        tab.says("Likeness")

    def test_the_guess_counts_only_where_it_is_accepted_and_nothing_is_painted(self, tab, site):
        guess = site.project.prelabel(tab.region)
        assert (tab.label == UNLABELLED).all()
        tab.press("7")
        tab.drag((10, 40), (50, 40))
        painted = tab.label == 6
        tab.shoot("painting")
        tab.press("Shift+Digit4")
        road = tab.label
        assert np.array_equal(road == 3, (guess == 3) & ~painted) and np.array_equal(road == 6, painted)
        tab.page.click("#classes li:nth-child(2) .accept")
        assert np.array_equal(tab.label == 1, (guess == 1) & ~painted)
        assert tab.page.is_hidden("#classes li:nth-child(2) .accept")
        tab.press("a")
        assert np.array_equal(tab.label, np.where(painted, 6, guess))
        tab.shoot("accepted")
        tab.press("z")
        tab.press("z")
        assert np.array_equal(tab.label, road)

    def test_what_is_painted_can_be_protected(self, tab):
        tab.press("1")
        tab.drag((10, 10), (40, 10))
        first = tab.label == 0
        tab.press("o", "2")
        tab.drag((20, 5), (20, 30))
        assert np.array_equal(tab.label == 1, stroke((20, 5), (20, 30), 12) & ~first)

    def test_the_keyboard_alone_paints(self, tab):
        tab.press("3", *["["] * 11)
        assert tab.page.evaluate("ralx.tools.size") == 1
        tab.press("ArrowLeft", "ArrowUp", "s", "Shift+ArrowRight", "ArrowDown", "s")
        assert np.argwhere(tab.label == 2).tolist() == [[23, 31], [24, 41]]

    def test_a_class_is_found_by_its_name(self, tab):
        tab.press("/")
        tab.page.keyboard.type("cycl")
        assert tab.page.locator("#classes li:visible").count() == 1
        tab.press("Enter")
        tab.drag((20, 20), (30, 20))
        assert set(np.unique(tab.label)) == {10, UNLABELLED}
        assert tab.page.locator("#classes li:visible").count() == 11

    def test_a_pen_paints_and_fingers_then_move_the_picture(self, tab):
        send = tab.page.context.new_cdp_session(tab.page).send
        for kind, (x, y) in ("mousePressed", (10, 20)), ("mouseMoved", (40, 20)), ("mouseReleased", (40, 20)):
            x, y = tab.at(x, y)
            send(
                "Input.dispatchMouseEvent",
                {"type": kind, "x": x, "y": y, "button": "left", "buttons": int(kind != "mouseReleased"),
                 "clickCount": 1, "pointerType": "pen", "force": 0.2},
            )  # fmt: skip
        painted = tab.label
        assert np.array_equal(painted == 0, stroke((10, 20), (40, 20), 12))
        x, y = tab.page.evaluate("[ralx.view.x, ralx.view.y]")
        for kind, points in ("touchStart", [(500, 400)]), ("touchMove", [(530, 380)]), ("touchEnd", []):
            send(
                "Input.dispatchTouchEvent",
                {"type": kind, "touchPoints": [{"x": a, "y": b} for a, b in points]},
            )
        assert np.array_equal(tab.label, painted)
        assert tab.page.evaluate("[ralx.view.x, ralx.view.y]") == [x + 30, y - 20]


class TestLooking:
    def place(self, tab):
        return tab.page.evaluate("[ralx.view.zoom, ralx.view.x, ralx.view.y]")

    def test_the_wheel_zooms_about_the_pointer(self, tab):
        before = tab.at(10, 10)
        zoom = self.place(tab)[0]
        tab.page.mouse.move(*before)
        tab.page.mouse.wheel(0, -240)
        tab.until(f"ralx.view.zoom > {zoom * 1.5}")
        assert np.allclose(tab.at(10, 10), before, atol=0.5)
        tab.press("-", "-", "0")
        assert self.place(tab)[0] == zoom

    @pytest.mark.parametrize("way", ["space", "middle"])
    def test_dragging_moves_the_picture_and_paints_nothing(self, tab, way):
        zoom, x, y = self.place(tab)
        tab.page.mouse.move(600, 400)
        if way == "space":
            tab.page.keyboard.down(" ")
        button = "left" if way == "space" else "middle"
        tab.page.mouse.down(button=button)
        tab.page.mouse.move(650, 370, steps=3)
        tab.page.mouse.up(button=button)
        if way == "space":
            tab.page.keyboard.up(" ")
        assert self.place(tab) == [zoom, x + 50, y - 30]
        assert (tab.label == UNLABELLED).all()
        tab.drag((10, 10), (30, 10))
        assert (tab.label != UNLABELLED).any()

    def test_two_fingers_zoom_and_leave_no_stroke(self, tab):
        send = tab.page.context.new_cdp_session(tab.page).send
        zoom = self.place(tab)[0]
        steps = [
            ("touchStart", [(500, 400)]),
            ("touchMove", [(505, 400)]),
            ("touchStart", [(505, 400), (600, 400)]),
            ("touchMove", [(455, 400), (645, 400)]),
            ("touchEnd", []),
        ]
        for kind, points in steps:
            touches = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
            send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
        assert self.place(tab)[0] == pytest.approx(2 * zoom, rel=0.01)
        assert (tab.label == UNLABELLED).all()

    def test_labels_and_guess_can_be_hidden(self, tab):
        def colours(canvas):
            code = f"""(() => {{
                const canvas = document.querySelector("#{canvas}");
                const {{data}} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                return data.some((part) => part > 0);
            }})()"""
            return tab.page.evaluate(code)

        tab.drag((10, 10), (40, 10))
        assert colours("label") and colours("guess")
        tab.press("h")
        assert not colours("label") and colours("guess")
        tab.press("g", "h")
        assert colours("label") and not colours("guess")

    def test_text_is_readable_everywhere(self, tab):
        tab.drag((10, 10), (40, 10))
        tab.press("?")
        low = tab.page.evaluate(LOW_CONTRAST)
        assert low == []
        tab.shoot("help")

    def test_the_safe_colours_stay_apart_for_colour_blind_eyes(self, tab):
        colours = tab.page.evaluate("import('/static/palette.js').then((palette) => palette.safeColours(8))")
        linear = (np.array(colours) / 255) ** 2.2
        # Machado, Oliveira and Fernandes 2009: no red cones, no green cones.
        protan = [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
        deutan = [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
        for seen in linear, linear @ np.transpose(protan), linear @ np.transpose(deutan):
            shown = np.clip(seen, 0, 1) ** (1 / 2.2) * 255
            apart = np.linalg.norm(shown[:, None] - shown, axis=-1) + 999 * np.eye(8)
            assert apart.min() > 40
        tab.press("a", "c")
        assert tab.page.is_checked("#safe-colours")
        tab.shoot("safe-colours")


class TestSaving:
    def test_next_saves_and_shows_the_next_region(self, tab, site):
        first = tab.region
        tab.press("4")
        tab.drag((10, 10), (40, 30))
        label = tab.label
        assert site.project.label_of(first) is None
        tab.go_on()
        assert np.array_equal(site.project.label_of(first), label)
        tab.says("1 of 3 labelled")
        assert (tab.label == UNLABELLED).all() and tab.page.is_disabled("#undo")

    def test_what_comes_too_fast_is_not_painted_on_the_region_that_was_saved(self, tab, site):
        first = tab.region
        tab.drag((10, 10), (40, 10))
        label = tab.label

        def late(route):
            tab.press("a", "r")
            tab.page.mouse.down()
            tab.page.mouse.up()
            route.continue_()

        tab.page.route("**/api/next?*", late)
        tab.go_on()
        assert np.array_equal(site.project.label_of(first), label)
        tab.go_on("p")
        assert tab.region == first and np.array_equal(tab.label, label)

    def test_previous_shows_what_was_saved_and_a_change_replaces_it(self, tab, site):
        first = tab.region
        tab.press("a")
        tab.go_on()
        second = tab.region
        tab.go_on("p")
        assert tab.region == first and np.array_equal(tab.label, site.project.label_of(first))
        tab.press("4")
        tab.drag((10, 10), (40, 10))
        changed = tab.label
        tab.go_on()
        assert tab.region == second
        assert np.array_equal(site.project.label_of(first), changed)

    def test_an_unpainted_region_is_not_saved_by_next_but_by_not_sure(self, tab, site):
        first = tab.region
        tab.press("n")
        tab.says("Nothing is painted here yet")
        assert tab.region == first and not site.project.state.received
        tab.go_on("u")
        assert site.project.asked_region(first).state == "unsure"
        tab.says("0 of 3 labelled, 1 not sure")

    def test_a_reload_loses_no_stroke(self, tab, site):
        tab.drag((10, 10), (40, 30))
        tab.press("2")
        tab.drag((10, 40), (40, 30))
        label, region = tab.label, tab.region
        tab.page.reload()
        tab.ready()
        assert tab.region == region and np.array_equal(tab.label, label)
        tab.says("had not saved yet is back")
        assert not site.project.state.received
        tab.go_on()
        assert np.array_equal(site.project.label_of(region), label)
        assert tab.page.evaluate("Object.keys(localStorage).filter((key) => key.includes('draft'))") == []

    def test_seconds_count_only_while_somebody_works(self, browser, site, person):
        tab = person()
        tab.page.clock.install()
        tab.page.reload()
        tab.ready()
        tab.drag((10, 10), (40, 30))
        tab.page.clock.run_for(20_000)
        tab.drag((10, 30), (40, 30))
        tab.page.clock.run_for(300_000)
        assert "paused" in tab.page.evaluate(
            "getComputedStyle(document.querySelector('#minutes'), '::after').content"
        )
        tab.page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
        tab.page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        tab.press("b")  # time that is hidden does not count, whatever happens
        tab.page.clock.run_for(30_000)
        tab.page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        tab.press("n")
        wait_until(lambda: site.project.state.received, "the label")
        [(_, _, seconds)] = site.project.state.received
        assert 79 <= seconds <= 86

    def test_a_label_that_came_in_elsewhere_is_not_overwritten(self, tab, site):
        region, theirs = tab.region, np.full(SIZE, 5, np.uint8)
        tab.drag((10, 10), (40, 10))
        mine = tab.label
        site.project.receive(region, theirs, "a file", 0)
        tab.press("n")
        tab.says("This region was saved elsewhere")
        tab.shoot("saved-elsewhere")
        assert np.array_equal(site.project.label_of(region), theirs)
        tab.page.click("text=Show what was saved")
        tab.until("document.querySelector('#card').hidden")
        assert np.array_equal(tab.label, theirs)
        tab.press("y")  # nothing is lost: what was painted here is a redo away
        assert np.array_equal(tab.label, mine)

    def test_an_image_that_changed_is_named(self, tab, site):
        name = "drive 1/photo_1.jpg"
        site.project.changed_images.add(name)
        tab.press("a", "n")
        tab.says(f"{name}: expected the photograph that was added")


class TestOthers:
    def test_a_killed_server_costs_no_stroke(self, browser, tmp_path):
        fork = multiprocessing.get_context("fork")  # a new Python would take seconds to import torch

        def start(port):
            told, tells = fork.Pipe(duplex=False)
            project = FakeProject(region_size=SIZE, state_file=tmp_path / "state")
            options = {"port": port, "token": TOKEN, "say": tells.send}
            server = fork.Process(target=serve, args=(project,), kwargs=options)
            server.start()
            return server, told.recv().split()[-1].partition("/?")[0]

        server, address = start(0)
        try:
            context = browser.new_context(viewport=WINDOW)
            tab = Tab(context, address).open("Ann")
            first = tab.region
            tab.drag((10, 10), (40, 10))
            server.kill()
            server.join()
            tab.drag((10, 30), (40, 30))
            label = tab.label
            tab.press("n")
            tab.says("The server does not answer")
            tab.shoot("server-away")
            assert tab.region == first and np.array_equal(tab.label, label)
            server, again = start(int(address.rpartition(":")[2]))
            assert again == address
            tab.until(f"ralx.region?.id !== {first!r}")
            tab.ready().go_on("p")
            assert tab.region == first and np.array_equal(tab.label, label)
            assert tab.page.is_hidden("#banner") and not tab.errors
        finally:
            server.kill()
            server.join()

    def test_the_tab_that_was_opened_last_goes_on_with_the_strokes_of_the_other(self, tab, person):
        tab.drag((10, 10), (40, 10))
        label, region = tab.label, tab.region
        second = person(annotator=None, context=tab.page.context)
        assert second.region == region and np.array_equal(second.label, label)
        tab.says("This page is open in another tab")
        tab.shoot("another-tab")
        assert tab.region is None
        second.drag((10, 30), (40, 30))
        label = second.label
        tab.page.bring_to_front()
        tab.page.click("text=Go on in this tab")
        tab.ready()
        assert np.array_equal(tab.label, label)
        second.says("This page is open in another tab")

    def test_a_second_annotator_gets_other_regions_and_waits_at_the_end(self, tab, person, site):
        other = person("Ben")
        assert tab.region != other.region
        mine, theirs = tab.region, other.region
        tab.press("a")
        tab.go_on()
        tab.press("a", "n")
        tab.says("The rest of this batch is with somebody else")
        tab.shoot("others")
        other.press("a", "n")
        tab.says("This batch is done")
        assert {name for name, _, _ in site.project.state.received} >= {mine, theirs}
        assert {who for _, who, _ in site.project.state.received} == {"Ann", "Ben"}

    def test_a_region_that_was_taken_over_is_said_and_not_overwritten(self, tab, person, site):
        tab.drag((10, 10), (40, 10))
        region = tab.region
        site.now += 601  # nothing happened here for ten minutes
        other = person("Ben")
        assert other.region == region
        tab.press("n")
        tab.says("Somebody else has this region now")
        tab.shoot("taken-over")
        tab.page.click("text=Go on with another region")
        tab.ready()
        assert tab.region != region and site.project.label_of(region) is None
        other.press("a")
        label = other.label
        other.go_on()
        assert np.array_equal(site.project.label_of(region), label)

    def test_another_person_at_the_same_browser_labels_under_their_own_name(self, tab, site):
        tab.press("a")
        tab.page.click("#annotator")
        tab.page.fill("#name", "Cleo")
        tab.press("Enter")
        wait_until(lambda: site.project.state.received, "Ann's label")
        tab.until("document.querySelector('#annotator').textContent === 'Cleo'")
        tab.ready().press("a")
        tab.go_on()
        assert [who for _, who, _ in site.project.state.received] == ["Ann", "Cleo"]

    def test_after_a_batch_the_page_shows_the_training_and_goes_on_by_itself(self, tab, site):
        for _ in range(2):
            tab.press("a")
            tab.go_on()
        tab.press("a", "n")
        tab.says("This batch is done")
        [job] = site.jobs
        job.lines.append("epoch 2 of 20: mIoU 0.42 on 12 kept regions")
        tab.says("mIoU 0.42")
        tab.shoot("training")
        site.project.ask()
        job.returncode = 0
        tab.says("Round 2: 3 new regions")
        assert tab.ready().region.startswith("r2-")

    def test_a_training_that_failed_is_said_and_can_be_tried_again(self, tab, site):
        for key in "u", "u":
            tab.go_on(key)
        tab.press("u")
        tab.says("This batch is done")
        site.jobs[0].lines.append("no room on the disk")
        site.jobs[0].returncode = 1
        tab.says("Training or asking failed")
        tab.says("no room on the disk")
        tab.page.click("text=Train and ask again")
        wait_until(lambda: len(site.jobs) == 2, "another try")
