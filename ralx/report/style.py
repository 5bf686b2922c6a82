"""How the report's pictures look: colours, markers, and matplotlib's settings."""

from collections.abc import Iterable

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

# Okabe and Ito's colour-blind-safe palette; each method has its marker as well.
METHOD_STYLES = {
    "ralis": ("#D55E00", "o"),
    "entropy": ("#0072B2", "s"),
    "bald": ("#009E73", "^"),
    "uniform": ("#666666", "D"),
    "ralis-all": ("#D55E00", "X"),
    "margin": ("#56B4E9", "<"),
    "least-confidence": ("#56B4E9", ">"),
    "ripu": ("#0072B2", "P"),
    "class-balanced": ("#E69F00", "p"),
    "k-centre": ("#CC79A7", "h"),
    "stratified": ("#B8A000", "d"),
    "cheat": ("#000000", "*"),
}
OTHER_COLOURS = ("#CC79A7", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#8B5A2B", "#7A5FA0", "#B22222")
OTHER_MARKERS = ("v", "o", "s", "^", "D", "P", "X", "<", ">", "p", "h")
INK = "#222222"
STRIPE = "#F5F5F5"
PALE = 0.25  # opacity of what lies behind a mean: seeds, bands, raw curves

STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": "#888888",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "savefig.dpi": 150,
}


def method_styles(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method, the same in every picture; of other names by their place."""
    methods = list(methods)
    others = [method for method in methods if method not in METHOD_STYLES]
    places = {method: place for place, method in enumerate(others)}
    return {method: METHOD_STYLES.get(method) or _other_style(places[method]) for method in methods}


def _other_style(place: int) -> tuple[str, str]:
    return OTHER_COLOURS[place % len(OTHER_COLOURS)], OTHER_MARKERS[place % len(OTHER_MARKERS)]


def new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def method_handles(methods: Iterable[str]) -> list[Line2D]:
    handles = []
    for method, (colour, marker) in method_styles(methods).items():
        handles.append(Line2D([], [], color=colour, marker=marker, ls="", label=method))
    return handles
