"""The report of a run: a page of pictures and tables made from its folder, and the terminal's summary."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ralx.policy import MOSTLY_GREEDY
from ralx.records import Run, check_regions, read_run
from ralx.report.comparison import miou_vs_budget, per_class_iou, selected_classes
from ralx.report.learning import learning_curves, step_seconds
from ralx.report.page import Section, miou_tables, per_class_table, render_page, selected_tables
from ralx.report.regions import selections
from ralx.report.stats import TARGET_TEXT, compared_budget, seeds_text
from ralx.report.style import in_style
from ralx.report.summary import summary_table
from ralx.support.files import sync_files, sync_folder

__all__ = [
    "has_report",
    "miou_vs_budget",
    "per_class_iou",
    "save_figures",
    "selected_classes",
    "selections",
    "summary_table",
    "write_report",
]


def save_figures(folder: Path, figures: Mapping[str, Callable[[], Figure | None]]) -> None:
    """Draws each of `figures`, by file name, into `folder`; one that is None is left out."""
    with in_style():
        for name, draw in figures.items():
            figure = draw()
            if figure is not None:
                figure.savefig(folder / name, metadata={"Software": None})


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
    if pictures is not None:
        check_regions(run, pictures.names, pictures.image_size)
    fresh = run_dir / ".report-new"
    shutil.rmtree(fresh, ignore_errors=True)  # what a killed process left
    try:
        fresh.mkdir()
        with in_style():
            sections = _sections(run, pictures)
            for section in sections:
                if section.figure is not None:
                    section.figure.savefig(fresh / section.file, metadata={"Software": None})
        # A file name that isn't UTF-8 reached the run's files as characters that UTF-8 has not.
        (fresh / "index.html").write_text(render_page(run, sections), encoding="utf-8", errors="replace")
        sync_files(fresh)
        _replace_folder(fresh, run_dir / "report")
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return run_dir / "report" / "index.html"


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


def _sections(run: Run, pictures: Any | None) -> list[Section]:
    spread = seeds_text(run.results) if run.results else ""
    budget = f"{compared_budget(run.results):,}" if run.results else ""
    return [
        Section(
            "mIoU against budget",
            "miou_vs_budget.png",
            miou_vs_budget(run, _pool_pixels(pictures)),
            f"Test mIoU after training on the regions that each method had labelled ({spread}). All "
            "methods start from θ0′ (dotted); the solid line is full supervision, the dashed one "
            f"{TARGET_TEXT} of it. Here and below, ± is the sample standard deviation over seeds.",
            "results.json",
            miou_tables(run),
        ),
        Section(
            "IoU by class",
            "per_class_iou.png",
            per_class_iou(run),
            f"Test IoU of each class ({spread}). A class that the test set lacks has –.",
            "results.json",
            per_class_table(run),
        ),
        Section(
            "Which classes were selected",
            "selected_classes.png",
            selected_classes(run),
            f"Left: ground-truth classes of the pixels in the first {budget} regions ({spread}), the "
            "most frequent class on top; void pixels are left out, the axis is logarithmic above 0.1 %."
            " Right: entropy of that distribution at each budget; higher is more even.",
            "results.json",
            selected_tables(run),
        ),
        Section(
            "Chosen regions",
            "selections.png",
            selections(run, pictures),
            "The regions that each method chose up to its smallest budget, and below each image its "
            "ground truth inside them only. Shown are the images of which the first method chose most "
            "regions, so the others tend to have fewer here.",
            "selections/ and the images",
        ),
        Section(
            "How the agent learned",
            "learning_curves.png",
            learning_curves(run),
            "Pale: each seed. Bold: their mean, smoothed over a tenth of the points. The star marks the"
            f" episode whose policy is kept: the best on D_R with ε at most {MOSTLY_GREEDY:g}, or the last "
            "where none is. Shading on the upper right: ± std over episodes.",
            "steps.jsonl",
        ),
        Section(
            "Where the time goes",
            "step_seconds.png",
            step_seconds(run),
            "Wall-clock seconds of a learning step by phase: the mean of all steps, and along an episode.",
            "steps.jsonl",
        ),
    ]


def _pool_pixels(pictures: Any | None) -> int | None:
    if pictures is None:
        return None
    height, width = pictures.image_size
    return len(pictures) * height * width
