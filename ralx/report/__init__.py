"""The report of a run: a page of pictures and tables made from its folder, and the terminal's summary."""

import re
import shutil
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ralx.regions import num_pixels
from ralx.report.comparison import miou_vs_budget, per_class_iou, selected_classes
from ralx.report.learning import learning_curves, step_seconds
from ralx.report.page import render_page
from ralx.report.records import check_regions, read_run
from ralx.report.regions import selections, sizes_by_name
from ralx.report.style import in_style
from ralx.support.files import sync_folder, write_whole


@in_style
def save_figures(folder: Path, figures: Mapping[str, Callable[[], Figure | None]]) -> list[str]:
    """Draws each of `figures`, by file name, into `folder`; one that is None is left out. Returns the names
    of the files."""
    drawn = []
    for name, draw in figures.items():
        if figure := draw():
            content = BytesIO()
            figure.savefig(content, metadata={"Software": None})
            write_whole(folder / name, content.getvalue())
            drawn.append(name)
    return drawn


def write_report(run_dir: Path, *, pictures: Any | None = None) -> Path:
    """Writes run_dir/report: index.html and its PNG files, made from the run's JSON files alone.

    `pictures` is D_V as a SegmentationDataset; without it the chosen regions are not drawn on images, and
    budgets are not given as a share of D_V's pixels. A part of the run that is missing is left out and
    named on the page. The folder is replaced as a whole: if anything fails, an earlier report stays. The
    same run gives the same bytes.

    Returns the path of index.html. Raises ValueError, naming file and line or record, where a file is
    malformed or does not fit `pictures`.
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir)
    pool_pixels = None
    if pictures is not None:
        check_regions(run, sizes_by_name(pictures))
        pool_pixels = num_pixels(pictures)
    figures = {
        "miou_vs_budget.png": lambda: miou_vs_budget(run, pool_pixels),
        "per_class_iou.png": lambda: per_class_iou(run),
        "selected_classes.png": lambda: selected_classes(run),
        "selections.png": lambda: selections(run, pictures),
        "learning_curves.png": lambda: learning_curves(run),
        "step_seconds.png": lambda: step_seconds(run),
    }
    return write_page(run_dir / "report", figures, lambda drawn: render_page(run, drawn))


def write_page(
    folder: Path, figures: Mapping[str, Callable[[], Figure | None]], render: Callable[[list[str]], str]
) -> Path:
    """Replaces `folder` as a whole by a page and its pictures: if anything fails, an earlier one stays.

    `render` gets the names of the figures that are not None. Returns the path of index.html.
    """
    fresh = folder.with_name(".report-new")
    shutil.rmtree(fresh, ignore_errors=True)  # what a killed process left
    try:
        page = render(save_figures(fresh, figures))
        # A file name that isn't UTF-8 reached the run's files as characters that UTF-8 has not.
        write_whole(fresh / "index.html", page.encode(errors="replace"))
        _replace_folder(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder / "index.html"


def has_report(run_dir: Path) -> bool:
    """Whether run_dir/report is there, with the pictures that its page shows."""
    page = run_dir / "report" / "index.html"
    content = page.read_bytes() if page.is_file() else b""
    pictures = re.findall(rb'<img src="(.+?)"', content)
    return content.endswith(b"</html>\n") and all((page.parent / p.decode()).is_file() for p in pictures)


def _replace_folder(fresh: Path, target: Path) -> None:
    """Puts `fresh` in the place of `target`, which may be there already."""
    old = target.with_name(".report-old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
