"""Label files: which class a pixel has, however its PNG is stored."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ralx.datasets.classes import Colour
from ralx.datasets.decoding import PNG, decode
from ralx.datasets.errors import DataError

ColourIds = dict[Colour, tuple[int, ...]]


def ids_of_colours(pairs: Iterable[tuple[int, Colour]]) -> ColourIds:
    """The label ids that each colour stands for, from pairs of an id and its colour."""
    table: ColourIds = {}
    for label_id, colour in pairs:
        table[colour] = (*table.get(colour, ()), label_id)
    return table


@dataclass(frozen=True, eq=False)
class LabelCode:
    """How a data set's label files tell the class of a pixel.

    A grey file holds label ids. In every other file the colours tell them, not the index into a palette: a
    tool that makes files smaller stores the same picture in RGB or in a palette of any order.

    - Greys (red = green = blue) that are ids of the data set stand for themselves.
    - The data set's own colours stand for their ids, a colour of several ids for the first of them. The index
      tells such ids apart only where every palette entry in use lies at an id of its colour.

    A file is refused where its colours are neither of the two, or both with different classes (nothing but
    black), where its palette has a colour more often than the data set, and where a pixel is transparent.

    Args:
        ids: the ids in words, for messages.
        allowed: bool [256], whether a number is one of them.
        classes: uint8 [256], the class of each id.
        colours: the ids that each colour stands for.
        whose_colours: the colours in words, for messages.
    """

    ids: str
    allowed: np.ndarray
    classes: np.ndarray
    colours: ColourIds
    whose_colours: str

    def read(self, path: Path) -> np.ndarray:
        """The classes in a label file, uint8 [h, w]. DataError: no readable PNG, or refused labels."""
        return self.of_image(path, *decode(path, (PNG,)))

    def of_image(self, path: Path, image: Image.Image, bits: int) -> np.ndarray:
        """The classes in the image that a label file holds, of `bits` a channel; `path` is for messages."""
        samples = np.asarray(image)
        if bits > 8 and samples.ndim > 2:
            raise DataError(f"{path}: expected labels of 8 bits a channel, found {bits} bits in colour")
        if image.mode == "L" and bits < 8:
            samples = samples // (255 // (2**bits - 1))  # Pillow stretches fewer bits to 8
        _refuse_transparent(path, image, samples)
        if image.mode == "P":
            entries = np.flatnonzero(np.bincount(samples.ravel()))
            colours = np.array(image.getpalette()).reshape(-1, 3)[entries]
            return self._of_colours(path, samples, entries, colours, in_palette=True)
        if image.mode in ("RGB", "RGBA"):
            wide = samples.astype(np.uint32)
            packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
            seen = np.zeros(1 << 24, bool)
            seen[packed] = True
            used = np.flatnonzero(seen)
            colours = np.stack((used >> 16, used >> 8 & 255, used & 255), axis=1)
            return self._of_colours(path, packed, used, colours, in_palette=False)
        return self._of_ids(path, samples[..., 0] if image.mode == "LA" else samples)

    def _of_ids(self, path: Path, ids: np.ndarray) -> np.ndarray:
        for found in np.flatnonzero(np.bincount(ids.ravel())):
            if found > 255 or not self.allowed[found]:
                raise DataError(f"{path}: expected {self.ids}, found {found} {_place(ids == found)}")
        return self.classes[ids.astype(np.uint8)]

    def _of_colours(
        self, path: Path, pixels: np.ndarray, values: np.ndarray, rgb: np.ndarray, *, in_palette: bool
    ) -> np.ndarray:
        """The classes of `pixels` [h, w], whose `values` [n] have the colours `rgb` [n, 3]."""
        colours: list[Colour] = [(red, green, blue) for red, green, blue in rgb.tolist()]
        known = [self.colours.get(colour, ()) for colour in colours]
        if in_palette and all(value in ids for value, ids in zip(values, known, strict=True)):
            return self.classes[pixels]
        grey = all(red == green == blue for red, green, blue in colours)
        for colour, count in Counter(colours).items():
            if count > (1 if grey else max(1, len(self.colours.get(colour, ())))):
                raise DataError(
                    f"{path}: expected palette entries that colours tell apart, found {count} of {colour}"
                )
        if grey and not all(known):
            return self._of_ids(path, _mapped(values, rgb[:, 0])[pixels])
        for value, colour, ids in zip(values, colours, known, strict=True):
            if not ids:
                place = _place(pixels == value)
                raise DataError(f"{path}: expected {self.whose_colours}, found {colour} {place}")
        first = [ids[0] for ids in known]
        if grey and self.allowed[rgb[:, 0]].all() and (self.classes[rgb[:, 0]] != self.classes[first]).any():
            raise DataError(
                f"{path}: expected {self.ids}, or {self.whose_colours}, found greys that are both: {colours}"
            )
        return _mapped(values, self.classes[first])[pixels]


def _mapped(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """A table uint8 with `targets` [n] at `values` [n]."""
    table = np.zeros(values[-1] + 1, np.uint8)
    table[values] = targets
    return table


def _place(mask: np.ndarray) -> str:
    row, column = np.argwhere(mask)[0]
    return f"at row {row}, column {column}"


def _refuse_transparent(path: Path, image: Image.Image, samples: np.ndarray) -> None:
    """DataError where a pixel is wholly transparent: it shows no label, whatever its hidden sample is."""
    clear = image.info.get("transparency")  # a palette's entry or all its alphas, a grey, or a colour
    if image.mode in ("LA", "RGBA"):
        mask = samples[..., -1] == 0
    elif clear is None:
        return
    elif image.mode in ("P", "RGB"):
        mask = np.asarray(image.convert("RGBA"))[..., 3] == 0
    else:
        mask = samples == (bool(clear) if image.mode == "1" else clear)
    if mask.any():
        raise DataError(f"{path}: expected opaque labels, found a transparent pixel {_place(mask)}")
