"""The pictures of a labelling project's report."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from ralx.datasets.class_file import UNLABELLED, ClassList
from ralx.report.regions import class_handles, paint
from ralx.report.style import draw_legend, new_figure, plain_text, readable

BLUE, ORANGE = "#0072B2", "#E69F00"
MOST_CLASSES = 40  # in a picture

Models = Sequence[Mapping[str, Any]]  # as the project's database has them
Box = Sequence[float]  # top, left, height, width


class RegionView(NamedTuple):
    """A region in its surroundings, and label maps of it."""

    name: str
    photo: np.ndarray  # uint8 [H, W, 3]
    box: Box  # of the region in the photo
    kept: bool
    maps: Sequence[np.ndarray | str]  # uint8 [h, w] of the box; or why there is none


class ImageView(NamedTuple):
    """An image with the regions that were asked of it, and what a model says of it."""

    name: str
    photo: np.ndarray  # uint8 [H, W, 3]
    boxes: Sequence[tuple[Box, bool]]  # in the photo, and whether kept
    classes: np.ndarray  # uint8 [H, W]
    entropy: np.ndarray  # float32 [H, W], in nats


@plain_text
def kept_miou(models: Models) -> Figure | None:
    """mIoU [%] on the kept regions of every model, with its interval, against the regions that it learned
    from."""
    measured = [model for model in models if model["miou"] is not None]
    if not measured:
        return None
    figure = new_figure(8.6, 4.2)
    axes = figure.add_subplot()
    places, mious = [m["regions"] for m in measured], [m["miou"] * 100 for m in measured]
    axes.plot(places, mious, color=BLUE, marker="o", ms=6, lw=1.8, zorder=3)
    for model, place, miou in zip(measured, places, mious, strict=True):
        if model["low"] is not None:  # no error bar: of rare classes, all draws may lie on one side
            ends = [model["low"] * 100, model["high"] * 100]
            axes.plot([place, place], ends, color=BLUE, marker="_", ms=9, lw=1.4, alpha=0.6)
        text = f"round {model['round']}" if model["round"] else "given labels"
        axes.annotate(text, (place, miou), (6, -11), textcoords="offset points", fontsize=8.5)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, max(places) * 1.12)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set(xlabel="labelled regions that the model learned from", ylabel="mIoU on the kept regions [%]")
    return figure


@plain_text
def kept_class_iou(models: Models) -> Figure | None:
    """IoU [%] by class on the kept regions: the newest model, and the one before; of many classes those with
    the lowest."""
    ious = [json.loads(model["iou"]) for model in models if model["miou"] is not None]
    if not ious:
        return None
    before, now = [{}, *ious][-2:]
    names = sorted((name for name in now if now[name] is not None), key=lambda name: now[name])
    names = [name for name in now if name in names[:MOST_CLASSES]]
    places = range(len(names))
    figure = new_figure(8.6, 1.3 + 0.3 * len(names))
    axes = figure.add_subplot()
    axes.barh(places, [now[name] * 100 for name in names], 0.62, color=BLUE)
    handles: list[Artist] = [Patch(color=BLUE, label="newest model")]
    known = [place for place in places if before.get(names[place]) is not None]
    if known:
        values = [before[names[place]] * 100 for place in known]
        look: dict[str, Any] = {"ls": "", "marker": "D", "ms": 6, "color": ORANGE, "mec": "white"}
        handles += axes.plot(values, known, label="the one before", clip_on=False, **look)
    axes.set_yticks(places, [readable(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set(xlim=(0, 100), xlabel="IoU on the kept regions [%]")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    draw_legend(figure, handles, loc="outside lower center", ncols=2, fontsize=9)
    return figure


@plain_text
def region_maps(views: Sequence[RegionView], titles: Sequence[str], classes: ClassList) -> Figure | None:
    """A row for each region: its photo and its label maps, which have the `titles`."""
    if not views:
        return None
    labels = [found for view in views for found in view.maps if not isinstance(found, str)]
    photos = [view.photo for view in views]
    figure, grid = _grid(photos, ["asked", *titles], _handles(classes, labels), width=2.3)
    for row, view in zip(grid, views, strict=True):
        row[0].imshow(view.photo)
        row[0].set_ylabel(view.name, fontsize=8)
        _outline(row[0], view.box, ORANGE if view.kept else BLUE)
        top, left, height, width = map(int, view.box)
        for panel, found in zip(row[1:], view.maps, strict=True):
            label = np.full(view.photo.shape[:2], UNLABELLED, np.uint8)
            if isinstance(found, str):
                middle = left + width / 2, top + height / 2
                panel.text(*middle, found, ha="center", va="center", fontsize=8.5)
            else:
                label[top : top + height, left : left + width] = found
            panel.imshow(paint(view.photo, label, label != UNLABELLED, classes.palette))
            _outline(panel, view.box, "#888888")
    return figure


@plain_text
def image_maps(views: Sequence[ImageView], classes: ClassList) -> Figure | None:
    """A row for each image: the asked regions, what the model predicts, and how unsure it is."""
    if not views:
        return None
    titles = ["image and asked regions", "prediction", "entropy"]
    handles = _handles(classes, [view.classes for view in views])
    figure, grid = _grid([view.photo for view in views], titles, handles, width=3.1, beside=0.8)
    entropies = ScalarMappable(Normalize(0, math.log(len(classes.names))), "cividis")
    for row, view in zip(grid, views, strict=True):
        row[0].imshow(view.photo)
        row[0].set_ylabel(view.name, fontsize=8)
        for box, kept in view.boxes:
            _outline(row[0], box, ORANGE if kept else BLUE)
        row[1].imshow(classes.palette[view.classes])
        row[2].imshow(view.entropy, norm=entropies.norm, cmap=entropies.cmap)
    bar = figure.colorbar(entropies, ax=grid[:, 2], fraction=0.05, pad=0.02, shrink=0.9)
    bar.set_label("entropy of a pixel [nats]", fontsize=9)
    bar.outline.set_visible(False)
    return figure


def _handles(classes: ClassList, labels: Sequence[np.ndarray]) -> list[Patch]:
    """Of the classes in the label maps."""
    present = set[int]().union(*(np.unique(label).tolist() for label in labels)) - {UNLABELLED}
    return class_handles(classes.names, classes.palette, present)


def _grid(
    photos: Sequence[np.ndarray],
    titles: Sequence[str],
    handles: Sequence[Patch],
    width: float,
    beside: float = 0.0,
) -> tuple[Figure, np.ndarray]:
    """A figure with a row of bare panels for each photo, `width` inches wide and as high as the photo and its
    name need, with a legend of `handles` below; `beside` the panels are so many inches."""
    heights = [np.clip(photo.shape[0] / photo.shape[1], 0.6, 1.5) * width for photo in photos]
    across = 0.7 + width * len(titles) + beside
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    columns = int(np.clip(across / (0.6 + 0.09 * longest), 1, 6))
    below = 0.2 * math.ceil(len(handles) / columns)
    figure = new_figure(across, 0.5 + sum(heights) + 0.1 * len(photos) + below)
    grid = figure.subplots(len(photos), len(titles), squeeze=False, height_ratios=heights)
    for panel, title in zip(grid[0], titles, strict=True):
        panel.set_title(title, fontsize=9.5)
    for panel in grid.flat:
        panel.set(xticks=[], yticks=[])
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
    draw_legend(figure, handles, loc="outside lower center", ncols=columns, fontsize=9)
    return figure, grid


def _outline(axes: Axes, box: Box, colour: str) -> None:
    top, left, height, width = box
    for edge, line_width in (("white", 2.6), (colour, 1.4)):  # white edges below
        corner = (left - 0.5, top - 0.5)
        axes.add_patch(Rectangle(corner, width, height, fill=False, ec=edge, lw=line_width))
