"""Somebody's own images with a mask each: `images` of any size and kind, and `labels` that mirrors it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from ralx.datasets.class_file import UNLABELLED, ClassList
from ralx.datasets.dataset import SegmentationDataset, in_threads
from ralx.datasets.decoding import PNG, image_header
from ralx.datasets.errors import DataError
from ralx.datasets.files import ImageFile, content_of, existing_folder
from ralx.datasets.geometry import Size, scaled_size, size_text
from ralx.datasets.images import files_below, find_images, image_size, read_image, read_mask
from ralx.datasets.scenes.noise import hash_integers

# Shares of the images where no list splits them. The rest is D_V, which a state set is drawn from.
_SHARES = {"d_t": 0.15, "d_r": 0.15, "test": 0.25}
_FEWEST_IMAGES = 5  # one in each split and one in the state set


def image_names(root: Path) -> tuple[str, ...]:
    """The images of the data set, named by their paths below `root/images`. DataError: there is none."""
    return find_images(root / "images").names


def drawn_lists(names: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Split lists of random images: D_T, D_V, D_R and test. Equal on every machine."""
    if len(names) < _FEWEST_IMAGES:
        raise DataError(f"folder: expected at least {_FEWEST_IMAGES} images to split, found {len(names)}")
    order = np.argsort(hash_integers(np.arange(len(names)), seed), kind="stable").tolist()
    lists, first = {}, 0
    for key, share in _SHARES.items():
        last = first + max(1, round(share * len(names)))
        lists[key] = sorted(names[place] for place in order[first:last])
        first = last
    return lists | {"d_v": sorted(names[place] for place in order[first:])}


def folder_part(
    root: Path,
    part: str,
    *,
    classes: ClassList,
    test: Sequence[str],
    scale: float = 1.0,
    memory_limit: int | None = None,
) -> SegmentationDataset:
    """The images `test` below `root/images`, or as part "train" all others, with the masks of `root/labels`.

    Images are of all that `read_image` reads, in one data set of different sizes. The mask of an image has
    its path below `labels`, with the suffix .png, see `read_mask`. DataError: no image, or a mask without
    one.
    """
    held_out = set(test)
    source = OwnImages(root, classes, lambda name: (name in held_out) == (part == "test"), scale)
    return SegmentationDataset(
        source,
        name=f"folder {part}",
        classes=classes.names,
        ignore_index=UNLABELLED,
        memory_limit=memory_limit,
        sizes=torch.tensor(source.sizes, device="cpu"),
        colours=classes.palette,
    )


def refuse_one_class(data: SegmentationDataset, class_counts: np.ndarray) -> None:
    """DataError where the masks hold fewer than two classes; `class_counts` [C] are their pixels."""
    found = [name for name, count in zip(data.classes, class_counts, strict=True) if count]
    if len(found) > 1:
        return
    way_out = ""
    if len(data.classes) == 2:
        way_out = (
            f"; where 0 is {data.classes[0]!r} and 255 is {data.classes[1]!r}, the class file must give them "
            "the colours [0, 0, 0] and [255, 255, 255], for 255 is unlabelled otherwise"
        )
    raise DataError(
        f"{data.name}: expected masks of two classes or more, found {' and '.join(found) or 'none'}{way_out}"
    )


class OwnImages:
    """Images and masks at the top left of canvases of the largest height and width among them.

    Args:
        root: has the folders `images` and `labels`.
        wanted: whether the image of a name is one of this source.
        scale: reduces every image to this share of its height and width, in (0, 1].
    """

    def __init__(self, root: Path, classes: ClassList, wanted: Callable[[str], bool], scale: float):
        self.classes = classes
        self.files = tuple(file for file in _files(root) if wanted(file.name))
        self.names = tuple(file.name for file in self.files)
        self._native: list[Size | DataError] = in_threads(_size_or_error, self.files)
        # What can't be read keeps no check from the others; `check` and `read` raise its error.
        self.sizes = [
            (1, 1) if isinstance(size, DataError) else scaled_size(size, scale) for size in self._native
        ]
        self.image_size = max(height for height, _ in self.sizes), max(width for _, width in self.sizes)

    def check(self, index: int) -> None:
        file = self.files[index]
        size = self._native_size(index)
        if not file.label.is_file():
            raise DataError(f"{file.label}: expected the mask of {file.name}, found nothing")
        mask_size = image_header(file.label, (PNG,)).size
        if mask_size != size:
            found = size_text(mask_size)
            raise DataError(f"{file.label}: expected {size_text(size)} as its image, found {found}")

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.read_image(index), self.read_label(index)

    def read_image(self, index: int) -> np.ndarray:
        return self._on_canvas(index, read_image(self.files[index].image), Image.Resampling.BILINEAR, 0)

    def read_label(self, index: int) -> np.ndarray:
        mask = read_mask(self.files[index].label, self.classes, self._native_size(index))
        return self._on_canvas(index, mask, Image.Resampling.NEAREST, UNLABELLED)

    def fingerprint(self) -> str:
        """A hash of all that the files hold, read whole the first time; DataError where one can't be read."""
        return self._content

    @cached_property
    def _content(self) -> str:
        codes = self.classes.colours, sorted(self.classes.void_ids), sorted(self.classes.void_colours)
        digest = hashlib.sha256(repr((self.sizes, codes)).encode())
        for line in in_threads(content_of, self.files):
            digest.update(line.encode())
        return digest.hexdigest()

    def _native_size(self, index: int) -> Size:
        size = self._native[index]
        if isinstance(size, DataError):
            raise DataError(str(size))
        return size

    def _on_canvas(self, index: int, pixels: np.ndarray, method: Image.Resampling, beside: int) -> np.ndarray:
        height, width = self.sizes[index]
        resized = np.asarray(Image.fromarray(pixels).resize((width, height), method))
        canvas = np.full((*self.image_size, *pixels.shape[2:]), beside, np.uint8)
        canvas[:height, :width] = resized
        return canvas


def _files(root: Path) -> list[ImageFile]:
    """All images with their masks, sorted by name."""
    images, labels = root / "images", existing_folder(root / "labels", "a folder with a mask for each image")
    found = files_below(labels, (".png",), Counter())
    masks = {path.relative_to(labels).with_suffix("").as_posix(): path for path in found}
    files = []
    for name in image_names(root):
        stem = PurePosixPath(name).with_suffix("").as_posix()
        files.append(ImageFile(name, images / name, masks.pop(stem, labels / f"{stem}.png")))
    for mask in sorted(masks.values()):
        raise DataError(f"{mask}: expected an image of that name for the mask, found none")
    return files


def _size_or_error(file: ImageFile) -> Size | DataError:
    try:
        return image_size(file.image)
    except DataError as error:
        return error
