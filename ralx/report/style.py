"""How the report's pictures look: colours, markers, matplotlib's settings, and how names are written."""

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ralx.acquisition.methods import METHODS

OTHER_COLOURS = ("#CC79A7", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#8B5A2B", "#7A5FA0", "#B22222")
OTHER_MARKERS = ("v", "o", "s", "^", "D", "P", "X", "<", ">", "p", "h")
INK = "#222222"
STRIPE = "#F5F5F5"
PALE = 0.25  # opacity of what lies behind a mean: seeds, bands, raw curves

# Names of images, classes and methods are no formulas.
PLAIN_TEXT = {"text.parse_math": False, "text.usetex": False}

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
    **PLAIN_TEXT,
}


# Decorators. In what they decorate matplotlib's settings are the report's, or the user's but that no name is
# a formula; after it they are the user's again.
in_style = matplotlib.style.context(STYLE, after_reset=True)
plain_text = matplotlib.style.context(PLAIN_TEXT)


def on_one_line(name: str) -> str:
    """A name on one line, with � for what no font draws and no terminal prints, such as the bytes of a file
    name that isn't UTF-8."""
    spaced = " ".join(name.split())
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in spaced)


def readable(name: str, longest: int = 30) -> str:
    """A name as a picture can show it: on one line, and without the middle of a long one."""
    text = on_one_line(name)
    part = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:part]}…{text[-part:]}"


def draw_legend(owner: Figure | Axes, handles: Sequence[Artist], **options: Any) -> None:
    """A legend of all `handles`: matplotlib by itself may leave out names that begin with an underscore."""
    names = [str(handle.get_label()) for handle in handles]
    legend = owner.legend(handles=handles, labels=[f"\u200b{name}" for name in names], **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def method_styles(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method, the same in every picture; of other names by their place."""
    others = zip(cycle(OTHER_COLOURS), cycle(OTHER_MARKERS), strict=False)
    return {
        name: (METHODS[name].colour, METHODS[name].marker) if name in METHODS else next(others)
        for name in methods
    }


def new_figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def method_handles(methods: Iterable[str]) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, marker=marker, ls="", label=readable(method))
        for method, (colour, marker) in method_styles(methods).items()
    ]
