"""Draws the main cases of a benchmark: how long ralx, its alternatives and the limit take.

python bench/picture.py bench/results/cpu.json     writes cpu.png beside it
"""

import sys
from pathlib import Path

from bars import with_bars
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from readme import duration, short
from results import COMPILED, EAGER, PUBLISHED, Report, Result, Timing, load
from timings import OP

from ralx.report.style import INK, STYLE, new_figure

# Okabe and Ito's colours, as in the report; top to bottom within a case.
COLOURS = {OP: "#D55E00", COMPILED: "#0072B2", EAGER: "#56B4E9", PUBLISHED: "#BBBBBB"}
WIDTH = 9.0  # inches
BAR = 0.155  # inches per bar; a case's name takes as much as NAME bars
NAME = 1.7


def draw(report: Report) -> Figure:
    results = with_bars(report)
    with rc_context(STYLE):
        rows = sum(NAME + len(bars_of(result)) for result in results)
        figure = new_figure(WIDTH, rows * BAR + 0.9)
        axes = figure.add_subplot()
        bottom = 0.0
        for result in results:
            bottom = draw_case(axes, result, bottom + NAME)
        axes.set_ylim(bottom + 0.3, 0)
        decorate(axes, report)
    return figure


def draw_case(axes: Axes, result: Result, top: float) -> float:
    """Returns where the case ends."""
    bars = bars_of(result)
    bottom = top + len(bars)
    name = f"{result.op}, {result.case}"
    axes.text(0.005, top - 0.3, name, transform=axes.get_yaxis_transform(), weight="bold", size=8.5)
    for row, bar in enumerate(bars):
        axes.barh(top + row + 0.5, bar.seconds_median, height=0.86, color=COLOURS[bar_name(bar)])
        label(axes, top + row + 0.5, bar)
    for limit in result.limits[:1]:
        axes.plot([limit.seconds_median] * 2, [top, bottom], color=INK, lw=1.6)
    return bottom


def bars_of(result: Result) -> list[Result | Timing]:
    """ralx and what else was run, in the order of COLOURS."""
    alternatives = [result.alternative(name) for name in COLOURS]
    return [result, *(each for each in alternatives if each)]


def bar_name(bar: Result | Timing) -> str:
    return OP if isinstance(bar, Result) else bar.name


def label(axes: Axes, middle: float, bar: Result | Timing) -> None:
    text, weight = duration(bar.seconds_median), "bold"
    if isinstance(bar, Timing):
        text, weight = f"{text}   {short(bar.ratio)} ×", "normal"
    style = {"size": 7.5, "va": "center", "color": INK, "weight": weight}
    axes.annotate(text, (bar.seconds_median, middle), (3, 0), textcoords="offset points", **style)


def decorate(axes: Axes, report: Report) -> None:
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: duration(seconds)))
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
    machine = report.machine
    chip = machine["GPU"] if report.gpu else f"{machine['CPU']}, {machine['threads']} threads"
    where = f"{chip}, torch {machine['torch']}"
    axes.set_xlabel(f"median time; ×: times as long as ralx  ·  {where}", size=8.5)
    axes.tick_params(labelsize=8.5)
    limits = "copy bandwidth or torch.mm" if report.gpu else "torch.exp, copy or torch.mm"
    handles = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    handles.append(Line2D([], [], color=INK, lw=1.6, label=f"limit: {limits}"))
    axes.figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=8.5)


if __name__ == "__main__":
    [_, file] = sys.argv
    draw(load(Path(file))).savefig(Path(file).with_suffix(".png"))
