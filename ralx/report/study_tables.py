"""A study's tables."""

from typing import Any

from ralx.report.records import StudyResults
from ralx.report.statistics import TARGET_TEXT, Stat, budgets_of, class_share, seeds_text
from ralx.report.tables import ABSENT, ENTROPY, MIOU, MISTAKEN, Cell, Quantity, Table, method_rows

MEASURED_ON = {"test": "test", "validation": "D_R"}  # as pictures and tables say it


def miou_table(analysis: dict[str, Any]) -> Table:
    """A row per method, a column per budget, then area, 96 %, share of the way, mistakes and tests."""
    methods, baselines = analysis["methods"], analysis["baselines"]
    budgets = sorted({int(budget) for found in methods.values() for budget in found["budgets"]})
    columns = [*(f"{budget:,}" for budget in budgets), "area", f"regions to {TARGET_TEXT}", "share of way"]
    columns += ["mistaken pixels", *(f"area − {baseline}" for baseline in baselines)]
    rows = []
    for name, found in methods.items():
        cells = [_mean_std(found["budgets"].get(str(budget))) for budget in budgets]
        cells += [_mean_std(found["area"]), _regions(found["regions_to_target"]), _percent(found["area"])]
        cells.append(_mean_std(found["budgets"][max(found["budgets"], key=int)]["mistaken_share"]))
        cells += [_difference(found["area"], baseline) for baseline in baselines]
        rows.append([name, *cells])
    caption = (
        f"{MEASURED_ON[analysis['split']]} mIoU [%], mean ± standard deviation over seeds; differences are "
        "paired by seed, with the 95 % bootstrap interval of their mean, which is too narrow for few seeds "
        "(83 % for five), and the paired t-test's p. Area: mean height of the curve. Mistaken pixels: the "
        "share of those labelled up to the last budget that the segmenter had wrong when it asked for them."
    )
    notes = []
    if analysis["theta0_prime"] is not None:
        notes.append(f"θ0′, before the first region: {100 * analysis['theta0_prime']:.1f} %.")
    if analysis["full_supervision"]:
        full, target = _mean_std(analysis["full_supervision"]), 100 * analysis["target_miou"]
        notes.append(f"Full supervision: {full} %; {TARGET_TEXT} of it: {target:.1f} %.")
    return Table(caption, ["method"], columns, [rows], notes)


def _mean_std(found: dict[str, Any] | None) -> Cell:
    return MIOU.cell(Stat(found["mean"], found["std"]) if found else None)


def _regions(found: dict[str, Any] | None) -> Cell:
    if found is None:
        return ABSENT
    return Cell("not reached" if found["of_mean"] is None else f"{found['of_mean']:,.0f}")


def _percent(area: dict[str, Any] | None) -> Cell:
    share = area["share_of_way"] if area else None
    return ABSENT if share is None else Cell(f"{100 * share:.0f} %")


def _difference(area: dict[str, Any] | None, baseline: str) -> Cell:
    found = area["against"].get(baseline) if area else None
    if found is None:
        return ABSENT
    text = f"{100 * found['mean']:+.2f}"
    if found["low"] is not None:
        text += f" [{100 * found['low']:+.2f}, {100 * found['high']:+.2f}]"
    return Cell(text if found["p"] is None else f"{text}, p {found['p']:.2g}")


def selected_table(results: StudyResults) -> Table:
    """A row per budget and method: what was selected (Fig. 3)."""
    quantities = [
        ENTROPY,
        MISTAKEN,
        *(Quantity(name, class_share(index)) for index, name in enumerate(results.classes)),
    ]
    records = results.selected
    spread = f" ({seeds_text(records)})" if records else ""
    return Table(
        f"Of the selected pixels{spread}: the entropy of their classes, the share [%] that the segmenter "
        "had wrong when it asked for them, and the share [%] of each class among those that aren't void.",
        ["regions", "method"],
        [quantity.name for quantity in quantities],
        [method_rows(records, quantities, budget) for budget in budgets_of(records)],
    )
