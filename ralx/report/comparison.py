"""Pictures that compare the methods: mIoU against budget, IoU by class, and the classes selected."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from ralx.report.records import Record, Run
from ralx.report.statistics import (
    REFERENCES,
    TARGET_SHARE,
    TARGET_TEXT,
    Stat,
    budgets_of,
    class_iou,
    class_share,
    classes_of,
    compared_budget,
    entropy_of,
    methods_at,
    methods_of,
    miou_of,
    stat_of,
)
from ralx.report.style import (
    INK,
    STRIPE,
    draw_legend,
    method_handles,
    method_styles,
    new_figure,
    plain_text,
    readable,
)


@plain_text
def miou_vs_budget(run: Run, pool_pixels: int | None, measured_on: str = "test") -> Figure | None:
    """mIoU [%] against budget: each method's mean, ± std and seeds; θ0′, full supervision and 96 % of it.

    `pool_pixels` is the number of pixels of D_V; with it a second axis tells the budget's share of them.
    `measured_on`: the images that the run's mIoU is of.
    """
    if not run.results:
        return None
    figure = new_figure(8.6, 4.8)
    axes = figure.add_subplot()
    start = stat_of(run.references, miou_of, "theta0_prime")
    handles = [
        _draw_curve(axes, [record for record in run.results if record["method"] == method], look, start)
        for method, look in method_styles(methods_of(run.results)).items()
    ]
    if start:
        label = f"{REFERENCES['theta0_prime']} (start): {start.mean * 100:.1f} %"
        handles += axes.plot(0, start.mean * 100, color=INK, marker="*", ms=11, ls="", label=label, zorder=4)
        axes.errorbar(0, start.mean * 100, (start.std or 0.0) * 100, fmt="none", ecolor=INK, capsize=3)
    full = stat_of(run.references, miou_of, "full_supervision")
    if full:
        label = f"full supervision: {full.mean * 100:.1f} %"
        handles.append(axes.axhline(full.mean * 100, color=INK, lw=1.2, label=label))
        target = full.mean * TARGET_SHARE * 100
        label = f"{TARGET_TEXT} of it: {target:.1f} %"
        handles.append(axes.axhline(target, color=INK, lw=1.2, ls=(0, (5, 3)), label=label))
    budgets = budgets_of(run.results)
    _budget_axis(axes, [0, *budgets] if start else budgets)
    axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.set_ylabel(f"{measured_on} mIoU [%]")
    if pool_pixels and run.selections and run.config.get("edge") != "keep":  # where all have one size
        _pixel_share_axis(axes, math.prod(run.selections[0]["region_size"]) * 100 / pool_pixels)
    draw_legend(figure, handles, loc="outside right center")
    return figure


def _draw_curve(axes: Axes, records: Sequence[Record], look: tuple[str, str], start: Stat | None) -> Line2D:
    """One method's records; returns the line of the means."""
    method, (colour, marker), budgets = records[0]["method"], look, budgets_of(records)
    stats = [stat_of(records, miou_of, method, budget) for budget in budgets]
    mean, std = 100 * np.array([(stat.mean, stat.std or 0.0) for stat in stats if stat]).T
    emphasis = 2.4 if method == "ralis" else 1.6
    (line,) = axes.plot(budgets, mean, color=colour, marker=marker, ms=6, lw=emphasis, zorder=3)
    line.set_label(readable(method))
    axes.fill_between(budgets, mean - std, mean + std, color=colour, alpha=0.13, lw=0)
    if start:
        axes.plot([0, budgets[0]], [start.mean * 100, mean[0]], color=colour, lw=1.0, ls=":", zorder=2)
    if 1 < len({record["seed"] for record in records}) <= 5:
        place, value = [record["budget"] for record in records], [record["miou"] * 100 for record in records]
        axes.plot(place, value, color=colour, marker=marker, ms=3.5, mew=0, ls="", alpha=0.45, zorder=2)
    return line


def _budget_axis(axes: Axes, ticks: Sequence[int]) -> None:
    gaps = np.diff(ticks)
    if len(ticks) < 2 or gaps.min() >= 0.07 * (ticks[-1] - ticks[0]):  # else the labels would overlap
        axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("budget [labelled regions of $D_V$]", parse_math=True)


def _pixel_share_axis(axes: Axes, percent_per_region: float) -> None:
    functions = (lambda regions: regions * percent_per_region, lambda share: share / percent_per_region)
    top = axes.secondary_xaxis("top", functions=functions)
    top.set_xlabel("share of the pixels of $D_V$ [%]", parse_math=True)
    top.spines["top"].set_visible(False)


@plain_text
def per_class_iou(run: Run) -> Figure | None:
    """Per-class IoU [%] of each method, a panel per budget; ticks mark θ0′ and full supervision."""
    if not run.results:
        return None
    classes, budgets = classes_of(run.results), budgets_of(run.results)
    columns = min(3, len(budgets))
    rows = math.ceil(len(budgets) / columns)
    figure = new_figure(max(7.4, 1.4 + 3.4 * columns), rows * (1.0 + 0.34 * len(classes)) + 0.5)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    values = [class_iou(name) for name in classes]
    for panel, budget in zip(panels.flat, budgets, strict=False):
        methods = methods_at(run.results, budget)
        stats = {m: [stat_of(run.results, value, m, budget) for value in values] for m in methods}
        _class_rows(panel, classes, stats)
        _reference_ticks(panel, run.references, classes)
        panel.set_title(f"{budget:,} regions")
    for panel in panels.flat[len(budgets) :]:
        panel.set_visible(False)
    for panel in panels.flat[len(budgets) - columns : len(budgets)]:  # the lowest of each column
        panel.set_xlabel("test IoU [%]")
        panel.tick_params(labelbottom=True)
    panels[0, 0].set_xlim(left=0)
    handles = method_handles(methods_of(run.results)) + _reference_handles(run.references)
    draw_legend(figure, handles, loc="outside upper center", ncols=min(len(handles), 6))
    return figure


def _side_by_side(
    stats: Mapping[str, Sequence[Stat | None]],
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]]:
    """Of each method the places of its values, beside the other methods', their means and stds, and how
    matplotlib's errorbar has to draw them."""
    offsets = np.linspace(-0.27, 0.27, len(stats)) if len(stats) > 1 else [0.0]
    styles = method_styles(stats).values()
    for offset, values, (colour, marker) in zip(offsets, stats.values(), styles, strict=True):
        shown = [(place + offset, s.mean, s.std or 0.0) for place, s in enumerate(values) if s]
        place, mean, std = np.reshape(shown, (-1, 3)).T
        yield place, mean, std, {"color": colour, "fmt": marker}


def _class_rows(axes: Axes, classes: Sequence[str], stats: Mapping[str, Sequence[Stat | None]]) -> None:
    """A row per class, in it a marker per method at 100 × mean, with a ± std bar; – for an absent class."""
    for row in range(0, len(classes), 2):
        axes.axhspan(row - 0.5, row + 0.5, color=STRIPE, lw=0, zorder=0)
    for place, mean, std, look in _side_by_side(stats):
        axes.errorbar(mean * 100, place, xerr=std * 100, ms=4.5, elinewidth=1.1, zorder=3, **look)
    for row in range(len(classes)):
        if all(values[row] is None for values in stats.values()):
            axes.text(0.01, row, "–", transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks(range(len(classes)), [readable(name) for name in classes])
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


_REFERENCE_COLOURS = {"theta0_prime": "#AAAAAA", "full_supervision": INK}


def _reference_ticks(axes: Axes, references: Sequence[Record], classes: Sequence[str]) -> None:
    for name, colour in _REFERENCE_COLOURS.items():
        for row, class_name in enumerate(classes):
            if stat := stat_of(references, class_iou(class_name), name):
                axes.plot([stat.mean * 100] * 2, [row - 0.4, row + 0.4], color=colour, lw=1.6, zorder=2)


def _reference_handles(references: Sequence[Record]) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, marker="|", ms=11, mew=1.6, ls="", label=REFERENCES[name])
        for name, colour in _REFERENCE_COLOURS.items()
        if any(record["method"] == name for record in references)
    ]


@plain_text
def selected_classes(run: Run) -> Figure | None:
    """Left: class shares [%] of the selected pixels at one budget. Right: their entropy at every budget."""
    if not run.results:
        return None
    classes, budget = classes_of(run.results), compared_budget(run.results)
    methods = methods_at(run.results, budget)
    values = [class_share(index) for index in range(len(classes))]
    stats = {m: [stat_of(run.results, value, m, budget) for value in values] for m in methods}
    shares = [stat.mean if stat else 0.0 for stat in stats[methods[-1]]]
    order = sorted(range(len(classes)), key=lambda index: -shares[index])
    stats = {method: [row[index] for index in order] for method, row in stats.items()}
    figure = new_figure(11.0, 1.5 + 0.34 * len(classes))
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    _class_rows(left, [classes[index] for index in order], stats)
    left.set_xscale("symlog", linthresh=0.1, linscale=0.4)  # linear below 0.1 %, so that 0 has a place
    highest = 100 * max(stat.mean + (stat.std or 0.0) for row in stats.values() for stat in row if stat)
    left.set_xlim(0, min(110.0, 1.2 * highest))
    left.set_xticks([tick for tick in (0, 0.1, 0.3, 1, 3, 10, 30, 100) if tick <= 1.2 * highest])
    left.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.set(xlabel="share of the selected pixels [%]", title=f"Classes of the first {budget:,} regions")
    _entropy_panel(right, run.results)
    draw_legend(figure, method_handles(methods_of(run.results)), loc="outside upper center", ncols=4)
    return figure


def _entropy_panel(axes: Axes, results: Sequence[Record]) -> None:
    budgets, methods = budgets_of(results), methods_of(results)
    stats = {m: [stat_of(results, entropy_of, m, budget) for budget in budgets] for m in methods}
    for place, mean, std, look in _side_by_side(stats):
        axes.errorbar(place, mean, std, ms=6, elinewidth=1.4, capsize=3, **look)
    for band in range(0, len(budgets), 2):
        axes.axvspan(band - 0.5, band + 0.5, color=STRIPE, lw=0, zorder=0)
    axes.set_xticks(range(len(budgets)), [f"{budget:,}" for budget in budgets], fontsize=9)
    axes.set_xlim(-0.5, len(budgets) - 0.5)
    axes.grid(axis="x", visible=False)
    title = "Entropy of the selected classes"
    axes.set(xlabel="budget [regions]", ylabel="entropy [nats]", title=title)
