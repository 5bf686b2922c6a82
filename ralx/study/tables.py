"""A study's tables, as Markdown."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ralx.records import Record
from ralx.report.stats import (
    REFERENCES,
    TARGET_TEXT,
    budgets_of,
    class_iou,
    class_share,
    entropy_of,
    miou_of,
    seeds_text,
    stat_of,
)
from ralx.study.results import Results

MEASURED_ON = {"test": "test", "validation": "D_R"}  # as pictures and tables say it


def miou_table(analysis: dict[str, Any]) -> str:
    """A row per method, a column per budget, then area, 96 %, share of the way, mistakes and tests."""
    methods = analysis["methods"]
    budgets = sorted({int(budget) for found in methods.values() for budget in found["budgets"]})
    baselines = analysis["baselines"]
    head = [
        "method",
        *(f"{budget:,}" for budget in budgets),
        "area",
        f"regions to {TARGET_TEXT}",
        "share of way",
        "mistaken pixels",
    ]
    head += [f"area − {baseline}" for baseline in baselines]
    rows = []
    for name, found in methods.items():
        cells = [_mean_std(found["budgets"].get(str(budget))) for budget in budgets]
        cells += [_mean_std(found["area"]), _regions(found["regions_to_target"]), _percent(found["area"])]
        cells.append(_mean_std(found["budgets"][max(found["budgets"], key=int)]["mistaken_share"]))
        cells += [_difference(found["area"], baseline) for baseline in baselines]
        rows.append([name, *cells])
    return _markdown(head, rows) + "\n".join(_notes(analysis)) + "\n"


def _mean_std(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    mean = f"{100 * found['mean']:.1f}"
    return mean if found["std"] is None else f"{mean} ± {100 * found['std']:.1f}"


def _regions(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    return "not reached" if found["of_mean"] is None else f"{found['of_mean']:,.0f}"


def _percent(area: dict[str, Any] | None) -> str:
    share = area["share_of_way"] if area else None
    return "–" if share is None else f"{100 * share:.0f} %"


def _difference(area: dict[str, Any] | None, baseline: str) -> str:
    found = area["against"].get(baseline) if area else None
    if found is None:
        return "–"
    difference = f"{100 * found['mean']:+.2f}"
    if found["low"] is None:
        return difference
    interval = f"{difference} [{100 * found['low']:+.2f}, {100 * found['high']:+.2f}]"
    return interval if found["p"] is None else f"{interval}, p {found['p']:.2g}"


def _notes(analysis: dict[str, Any]) -> list[str]:
    """What the numbers are, and the marks that they are measured by."""
    percent: Callable[[float], str] = "{:.1f} %".format
    notes = [
        f"{MEASURED_ON[analysis['split']]} mIoU [%], mean ± standard deviation over seeds; differences are "
        "paired by seed, with the 95 % bootstrap interval of their mean, which is too narrow for few seeds "
        "(83 % for five), and the paired t-test's p. Area: mean height of the curve. Mistaken pixels: the "
        "share of those labelled up to the last budget that the segmenter had wrong when it asked for them."
    ]
    if analysis["theta0_prime"] is not None:
        notes.append(f"θ0′, before the first region: {percent(100 * analysis['theta0_prime'])}.")
    if analysis["full_supervision"]:
        full, target = _mean_std(analysis["full_supervision"]), percent(100 * analysis["target_miou"])
        notes.append(f"Full supervision: {full} %; {TARGET_TEXT} of it: {target}.")
    return notes


class Column(NamedTuple):
    name: str
    value: Callable[[Record], float | None]
    scale: float = 100.0
    digits: int = 1


def iou_table(results: Results) -> str:
    """A row per budget and method, a column per class (Table 1); below them where all start and could end."""
    columns = [Column(name, class_iou(name)) for name in results.classes]
    columns.append(Column("mIoU", miou_of))
    rows = _by_budget(results.records, columns)
    for method, label in REFERENCES.items():
        if any(record["method"] == method for record in results.references):
            rows.append(["", label, *_cells(results.references, columns, method)])
    return _markdown(_head(columns), rows) + "Test IoU [%].\n"


def selected_table(results: Results) -> str:
    """A row per budget and method: what was selected (Fig. 3)."""
    columns = [
        Column("entropy [nats]", entropy_of, scale=1.0, digits=2),
        Column("mistaken pixels", lambda record: record["mistaken_share"]),
        *(Column(name, class_share(index)) for index, name in enumerate(results.classes)),
    ]
    rows = _by_budget(results.selected, columns)
    spread = f" ({seeds_text(results.selected)})" if rows else ""
    return (
        _markdown(_head(columns), rows)
        + f"Of the selected pixels{spread}: the entropy of their classes, the share [%] that the segmenter "
        "had wrong when it asked for them, and the share [%] of each class among those that aren't void.\n"
    )


def _head(columns: Sequence[Column]) -> list[str]:
    return ["regions", "method", *(column.name for column in columns)]


def _by_budget(records: Sequence[Record], columns: Sequence[Column]) -> list[list[str]]:
    methods = list(dict.fromkeys(record["method"] for record in records))  # in the study's order
    return [
        [f"{budget:,}", method, *_cells(records, columns, method, budget)]
        for budget in budgets_of(records)
        for method in methods
    ]


def _cells(
    records: Sequence[Record], columns: Sequence[Column], method: str, budget: int | None = None
) -> list[str]:
    cells = []
    for column in columns:
        stat = stat_of(records, column.value, method, budget)
        cells.append(stat.text(column.scale, column.digits) if stat else "–")
    return cells


def _plain(text: str) -> str:
    """Names of classes and methods on one line, without a meaning for Markdown."""
    return re.sub(r"[\\`*<|~]", r"\\\g<0>", " ".join(text.split()))


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table and an empty line; nothing where there are no rows."""
    if not rows:
        return ""
    lines = [map(_plain, head), ["---", *["---:"] * (len(head) - 1)], *(map(_plain, row) for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n"
