"""How fast the page is to label on: how long the next region takes, and whether painting follows the pen.

python bench/page.py ADDRESS [--regions 10] [--chromium /usr/bin/chromium]

ADDRESS is what `ralx-label serve` printed, token and all. The model's guess, or one class where there is
none, is SAVED as the label of each region on the way: use a project that is there to be played with, and has
more regions left than --regions. Needs playwright and a Chromium.
"""

import argparse
import math
import shutil
from statistics import median

from playwright.sync_api import Page, sync_playwright

BARS = {"next region": 200.0, "frame": 1000 / 60, "work a frame": 1000 / 60}  # milliseconds

READY = """new Promise((done) => {
  const look = () => (ralx.region && ralx.tools.pieces ? done(true) : setTimeout(look, 20));
  look();
})"""
NEXT = """new Promise((done) => {
  const before = ralx.region.id, started = performance.now();
  const look = () => ralx.region?.id === before ? setTimeout(look, 1)
    : requestAnimationFrame(() => done(performance.now() - started));
  document.querySelector("#next").click();
  look();
})"""
WATCH = """(() => {
  ralx.tools.spent.length = 0;
  window.frames_ = [];
  const note = (now) => { frames_.push(now); requestAnimationFrame(note); };
  requestAnimationFrame(note);
})()"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--regions", type=int, default=10, help="that are saved")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1360, "height": 820})
        page.goto(options.address)
        page.fill("#name", "bench")
        page.keyboard.press("Enter")
        page.evaluate(READY)
        show("next region", [next_region(page) for _ in range(options.regions)])
        frames, work = draw(page)
        show("frame", frames)
        show("work a frame", work)
        browser.close()


def next_region(page: Page) -> float:
    """Milliseconds from the press of a button to the first picture of the next region."""
    page.keyboard.press("a")
    page.keyboard.press("r")
    waited = page.evaluate(NEXT)
    page.evaluate(READY)
    return waited


def draw(page: Page) -> tuple[list[float], list[float]]:
    """Milliseconds between two frames, and of work in one, while a spiral is drawn."""
    box = page.locator("#viewport").bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.evaluate(WATCH)
    page.mouse.move(x, y)
    page.mouse.down()
    for i in range(400):
        page.mouse.move(x + i / 2 * math.cos(i / 9), y + i / 2 * math.sin(i / 9))
    page.mouse.up()
    frames = page.evaluate("frames_.slice(1).map((now, i) => now - frames_[i])")
    return frames, page.evaluate("ralx.tools.spent")


def show(what: str, milliseconds: list[float]) -> None:
    ordered, bar = sorted(milliseconds), BARS[what]
    slow = ordered[math.ceil(0.95 * len(ordered)) - 1]
    print(
        f"{what}: median {median(ordered):.1f} ms, 95 % within {slow:.1f} ms, "
        f"{median(ordered) / bar:.2f} of {bar:.1f} ms"
    )


if __name__ == "__main__":
    main()
