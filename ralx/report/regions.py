"""The picture of chosen regions: drawn on images, with the ground truth that they reveal."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ralx.regions import image_sizes
from ralx.report.records import Record, Run
from ralx.report.statistics import methods_of
from ralx.report.style import draw_legend, method_styles, new_figure, plain_text, readable


@plain_text
def selections(run: Run, pictures: Any, count: int = 3) -> Figure | None:
    """Images with boxes around the regions each method chose first; below each its ground truth inside them.

    Shown are the `count` images of which ralis (or else the first method) chose most regions. `pictures` is
    D_V: names, classes, image_size, batch(index) → (images uint8 [n,3,H,W], labels uint8 [n,H,W]), palette
    [C,3], and sizes int64 [N,2] where images don't fill H and W.
    """
    if pictures is None or not run.selections:
        return None
    chosen = first_selections(run)
    names = shown_images(next(iter(chosen.values())), count)
    if not names:
        return None
    places = [pictures.names.index(name) for name in names]
    images, labels = (part.cpu().numpy() for part in pictures.batch(torch.tensor(places, device="cpu")))
    photos, sizes = images.transpose(0, 2, 3, 1), sizes_by_name(pictures)
    palette = np.asarray(pictures.palette, dtype=np.uint8)
    cell, highest = 2.7, max(height / width for height, width in map(sizes.__getitem__, names))
    figure = new_figure(0.5 + cell * len(chosen), 0.9 + 2 * len(names) * (cell * highest + 0.12))
    grid = figure.subplots(2 * len(names), len(chosen), squeeze=False)
    present: set[int] = set()
    styles = method_styles(chosen)
    for column, (method, selection) in enumerate(chosen.items()):
        for row, name in enumerate(names):
            height, width = sizes[name]
            photo, label = photos[row][:height, :width], labels[row][:height, :width]
            boxes = region_boxes(selection, name, (height, width))
            mask = box_mask(boxes, (height, width))
            _draw_photo(grid[2 * row, column], photo, boxes, styles[method][0])
            grid[2 * row + 1, column].imshow(paint(photo, label, mask, palette))
            grid[2 * row + 1, column].set_xlabel(regions_text(len(boxes)), fontsize=8.5)
            present.update(np.unique(label[mask]).tolist())
        grid[0, column].set_title(readable(method), color=styles[method][0], loc="center")
    for row, name in enumerate(names):
        _write_beside(grid[2 * row, 0], name)
    for panel in grid.flat:
        panel.set(xticks=[], yticks=[])
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
    handles = class_handles(pictures.classes, palette, present)
    columns = max(1, 2 * len(chosen) - 1)
    draw_legend(figure, handles, loc="outside lower center", ncols=columns, fontsize=9)
    return figure


def sizes_by_name(pictures: Any) -> dict[str, tuple[int, int]]:
    """Height and width of each image."""
    return dict(zip(pictures.names, map(tuple, image_sizes(pictures).tolist()), strict=True))


def first_selections(run: Run) -> dict[str, Record]:
    """method → its selection cut to the smallest budget, of the lowest seed that most methods have."""
    methods = Counter(seed for seed, _ in {(each["seed"], each["method"]) for each in run.selections})
    seed = min(methods, key=lambda seed: (-methods[seed], seed))
    by_method = {selection["method"]: selection for selection in run.selections if selection["seed"] == seed}
    chosen = [by_method[method] for method in methods_of(by_method.values())]
    return {
        each["method"]: each | {"regions": each["regions"][: min(each["budgets"], default=None)]}
        for each in chosen
    }


def shown_images(selection: Record, count: int) -> list[str]:
    """The names of the images with most chosen regions; ties by name."""
    regions = Counter(name for name, _, _ in selection["regions"])
    return sorted(regions, key=lambda name: (-regions[name], name))[:count]


def region_boxes(selection: Record, name: str, size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) in pixels of the chosen regions of one image of `size` (H, W), cut at its
    border."""
    height, width = selection["region_size"]
    corners = [(row * height, column * width) for image, row, column in selection["regions"] if image == name]
    return [(top, left, min(height, size[0] - top), min(width, size[1] - left)) for top, left in corners]


def box_mask(boxes: Iterable[tuple[int, int, int, int]], size: tuple[int, int]) -> np.ndarray:
    """bool [H, W], True inside the boxes."""
    mask = np.zeros(size, dtype=bool)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = True
    return mask


def paint(photo: np.ndarray, labels: np.ndarray, mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """uint8 [H,W,3]: inside the mask the labels' colours (void black), outside it the photo in faded grey."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    grey = photo.mean(-1, keepdims=True)
    faded = (255 - (255 - grey) * 0.18).round().astype(np.uint8)
    return np.where(mask[..., None], colours[labels], faded)


def regions_text(count: int) -> str:
    return "no region" if count == 0 else "1 region" if count == 1 else f"{count:,} regions"


def _draw_photo(
    axes: Axes, photo: np.ndarray, boxes: Iterable[tuple[int, int, int, int]], colour: str
) -> None:
    axes.imshow(photo)
    for edge, line_width in (("white", 3.2), (colour, 1.6)):  # white edges below
        for top, left, height, width in boxes:
            corner = (left - 0.5, top - 0.5)
            axes.add_patch(Rectangle(corner, width, height, fill=False, ec=edge, lw=line_width))


def _write_beside(axes: Axes, name: str) -> None:
    """The image's name along the photo and the labels below it."""
    text = readable(name)
    axes.set_ylabel(" ", fontsize=8)  # keeps the room, for the name itself spans two rows
    written = axes.annotate(
        text, (-0.03, 0.0), xycoords="axes fraction", rotation=90, ha="right", va="center", fontsize=8
    )
    written.set_in_layout(False)


def class_handles(classes: Sequence[str], palette: np.ndarray, present: set[int]) -> list[Patch]:
    handles = [
        Patch(color=palette[index] / 255, label=readable(name))
        for index, name in enumerate(classes)
        if index in present
    ]
    if any(label >= len(classes) for label in present):
        handles.append(Patch(color="black", label="void"))
    return handles
