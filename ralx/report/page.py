"""The report's page: captions and tables around the pictures, as one HTML file without scripts or network."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from ralx.agent.policy_file import MOSTLY_GREEDY
from ralx.report.comparison import miou_vs_budget, per_class_iou, selected_classes
from ralx.report.learning import learning_curves, step_seconds
from ralx.report.records import Run
from ralx.report.regions import selections
from ralx.report.statistics import TARGET_TEXT, compared_budget, methods_of, seeds_text
from ralx.report.tables import Table, iou_table, miou_tables, selected_tables


class Section(NamedTuple):
    """A heading, a picture with its caption, and tables."""

    title: str
    file: str  # the picture's file name
    figure: Figure | None  # None: the run lacks what it needs
    caption: str
    needs: str
    tables: Sequence[Table] = ()


def render_page(run: Run, sections: Sequence[Section]) -> str:
    """index.html."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ralx.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    parts = {
        "config.json": run.config,
        "steps.jsonl": run.steps,
        "results.json": run.results,
        "reference.json": run.references,
        "selections/": run.selections,
    }
    return environment.get_template("page.html.j2").render(
        title="ralx report" + (f" · {run.config['dataset']}" if "dataset" in run.config else ""),
        headline=_headline(run),
        missing=[name for name, part in parts.items() if not part],
        sections=sections,
        config=run.config,
    )


def _headline(run: Run) -> str:
    facts = [
        f"{key.replace('_', ' ')} {run.config[key]}"
        for key in ("preset", "seed", "num_seeds")
        if key in run.config
    ]
    if run.steps:
        episodes = len({(step["seed"], step["episode"]) for step in run.steps})
        facts.append(f"{episodes:,} learning episodes, {len(run.steps):,} steps")
    if run.results:
        facts.append(f"{len(run.results):,} results: {', '.join(methods_of(run.results))}")
    return " · ".join(facts)


def sections_of(run: Run, pictures: Any | None) -> list[Section]:
    """What the page shows of the run, drawn on the images of `pictures` where they are given."""
    pool_pixels = None if pictures is None else len(pictures) * math.prod(pictures.image_size)
    spread = seeds_text(run.results) if run.results else ""
    budget = f"{compared_budget(run.results):,}" if run.results else ""
    return [
        Section(
            "mIoU against budget",
            "miou_vs_budget.png",
            miou_vs_budget(run, pool_pixels),
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
            [iou_table(run.results, run.references)] if run.results else [],
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
