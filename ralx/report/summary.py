"""The table that ends the main job in the terminal."""

from collections.abc import Callable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from ralx.records import Record
from ralx.report.stats import (
    REFERENCES,
    TARGET_SHARE,
    TARGET_TEXT,
    best_of,
    budgets_of,
    entropy_of,
    methods_of,
    miou_of,
    seeds_text,
    stat_of,
)


def summary_table(results: Sequence[Record], references: Sequence[Record]) -> Table:
    """The methods side by side, for a terminal of 80 columns.

    `results` and `references` are the records of results.json and reference.json. A row is a budget, a
    column a method. The upper half is the test mIoU in %, the lower half the entropy of the selected
    pixels' classes in nats, the best in bold; θ0′, full supervision and 96 % of it stand below.
    """
    title = "No results"
    if results:
        title = f"Test mIoU [%] and entropy H of the selected classes [nats], {seeds_text(results)}"
    table = Table(
        title=Text(title),
        caption=_reference_lines(references),
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    methods = methods_of(results)
    table.add_column("", no_wrap=True)
    table.add_column("regions", justify="right", no_wrap=True)
    for method in methods:
        table.add_column(Text(method), justify="right", no_wrap=True)
    _add_rows(table, "mIoU", results, methods, miou_of, scale=100.0, digits=1)
    _add_rows(table, "H(classes)", results, methods, entropy_of, scale=1.0, digits=2)
    return table


def _add_rows(
    table: Table,
    quantity: str,
    results: Sequence[Record],
    methods: Sequence[str],
    value: Callable[[Record], float],
    *,
    scale: float,
    digits: int,
) -> None:
    budgets = budgets_of(results)
    for budget in budgets:
        stats = {method: stat_of(results, value, method, budget) for method in methods}
        best = best_of(stats, scale, digits)
        cells = [
            Text(stat.text(scale, digits) if stat else "–", style="bold" if method in best else "")
            for method, stat in stats.items()
        ]
        table.add_row(
            quantity if budget == budgets[0] else "", f"{budget:,}", *cells, end_section=budget == budgets[-1]
        )


def _reference_lines(references: Sequence[Record]) -> Text:
    lines = []
    start = stat_of(references, miou_of, "theta0_prime")
    full = stat_of(references, miou_of, "full_supervision")
    if start:
        lines.append(f"{REFERENCES['theta0_prime']}, before the first region: {start.text()} %")
    if full:
        lines.append(f"{REFERENCES['full_supervision']}: {full.text()} %")
        lines.append(f"{TARGET_TEXT} of it: {full.mean * TARGET_SHARE * 100:.1f} %")
    return Text("\n".join(lines))
