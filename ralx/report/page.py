"""The report's page: captions and tables around the pictures, as one HTML file without scripts or network."""

from collections.abc import Sequence
from typing import Any

from ralx.agent.policy_file import MOSTLY_GREEDY
from ralx.report.records import Run
from ralx.report.statistics import TARGET_TEXT, compared_budget, methods_of, seeds_text
from ralx.report.tables import iou_table, miou_tables, selected_tables


def render(template: str, **values: Any) -> str:
    """A page of `templates/`; markup in the values is text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ralx.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def render_page(run: Run, drawn: Sequence[str]) -> str:
    """A run's index.html, with the pictures whose file names are `drawn`."""
    return render(
        "page.html.j2",
        run=run,
        headline=_headline(run),
        drawn=drawn,
        miou_tables=miou_tables(run),
        iou_tables=[iou_table(run.results, run.references)] if run.results else [],
        selected_tables=selected_tables(run),
        compared_budget=compared_budget,
        seeds_text=seeds_text,
        target_text=TARGET_TEXT,
        mostly_greedy=MOSTLY_GREEDY,
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
