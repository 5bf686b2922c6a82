"""Image files and label files: found in sorted order, checked from their headers, decoded with Pillow."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
_IMAGE_MODES = ("L", "P", "RGB", "RGBA")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError)
_PNG_END, _JPEG_END = b"IEND\xaeB`\x82", b"\xff\xd9"
_TAIL_BYTES = 1024

Labels = Callable[[Path, Image.Image], np.ndarray]  # decoded label file -> uint8 [h, w] in train ids


@dataclass(frozen=True)
class ImageFile:
    """An image with its label file."""

    name: str
    image: Path
    label: Path


def existing_folder(path: Path, meaning: str) -> Path:
    """`path`, or DataError."""
    if not path.is_dir():
        raise DataError(
            f"{path}: expected a folder with {meaning}, found {'a file' if path.exists() else 'nothing'}"
        )
    return path


def image_files(folder: Path, meaning: str) -> dict[str, Path]:
    """Image files of `folder` by name without suffix, sorted by name. DataError: none, or one name twice."""
    files: dict[str, Path] = {}
    for path in sorted(existing_folder(folder, meaning).iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in files:
            raise DataError(f"{path}: expected one image of that name, found {files[path.stem].name} too")
        files[path.stem] = path
    if not files:
        raise DataError(f"{folder}: expected {meaning} (PNG or JPEG), found none")
    return dict(sorted(files.items()))


def image_header(path: Path) -> Size:
    """(height, width) from the header. DataError: missing, not an image, or cut off at the end."""
    if not path.is_file():
        raise DataError(f"{path}: expected an image file, found nothing")
    try:
        with Image.open(path) as image:
            size, kind = (image.height, image.width), image.format
        with path.open("rb") as file:
            file.seek(-min(_TAIL_BYTES, path.stat().st_size), 2)
            tail = file.read()
    except _UNREADABLE as error:
        raise DataError(f"{path}: expected a readable PNG or JPEG image: {error}") from error
    if (kind == "PNG" and _PNG_END not in tail) or (kind == "JPEG" and _JPEG_END not in tail):
        raise DataError(f"{path}: expected a whole {kind} image, found one that is truncated")
    return size


def decode(path: Path) -> Image.Image:
    """A decoded image. DataError: unreadable or truncated."""
    try:
        image = Image.open(path)
        image.load()
    except _UNREADABLE as error:
        raise DataError(f"{path}: expected a whole, readable image: {error}") from error
    return image


def label_ids(path: Path, image: Image.Image) -> np.ndarray:
    """A label file's ids, integers [h, w]. DataError unless it has one channel (grey or palette indices)."""
    if image.mode not in ("L", "P", "I", "I;16", "1"):
        raise DataError(f"{path}: expected labels in one channel (grey or palette), found {image.mode}")
    return np.asarray(image)


def mapped_labels(
    path: Path, ids: np.ndarray, table: np.ndarray, allowed: np.ndarray, expected: str
) -> np.ndarray:
    """`table[ids]`, uint8. DataError naming the first label id that is not `allowed` (bool [256])."""
    if ids.dtype != np.uint8:
        outside = (ids < 0) | (ids > 255)
        if outside.any():
            raise DataError(f"{path}: expected {expected}, found {int(ids[outside][0])}")
        ids = ids.astype(np.uint8)
    wrong = np.flatnonzero((np.bincount(ids.ravel(), minlength=256) > 0) & ~allowed)
    if len(wrong):
        row, column = np.argwhere(ids == wrong[0])[0]
        raise DataError(f"{path}: expected {expected}, found {wrong[0]} at row {row}, column {column}")
    return table[ids]


class FolderSource:
    """Image files with label files, reduced to `scale`: images by area-weighted bilinear, labels by nearest.

    Args:
        files: sorted by name.
        labels: turns a decoded label file into train ids.
        scale_size: native (height, width) -> (height, width) of what is returned.
    """

    def __init__(self, files: list[ImageFile], labels: Labels, scale_size: Callable[[Size], Size]):
        self.files, self.labels = files, labels
        self.names = tuple(file.name for file in files)
        self.native_size = image_header(files[0].image)
        self.image_size = scale_size(self.native_size)

    def verify(self) -> None:
        for file in self.files:
            self.verify_file(file)

    def verify_file(self, file: ImageFile) -> None:
        """Sizes and wholeness of one image and its label, from the headers."""
        size = image_header(file.image)
        if size != self.native_size:
            raise DataError(
                f"{file.image}: expected {_text(self.native_size)} pixels as in {self.files[0].image.name}, "
                f"found {_text(size)}"
            )
        if not file.label.is_file():
            raise DataError(f"{file.label}: expected the labels of {file.image.name}, found nothing")
        label_size = image_header(file.label)
        if label_size != size:
            raise DataError(
                f"{file.label}: expected {_text(size)} pixels as in its image, found {_text(label_size)}"
            )

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.read_image(index), self.read_label(index)

    def read_image(self, index: int) -> np.ndarray:
        path = self.files[index].image
        image = decode(path)
        if image.mode not in _IMAGE_MODES:
            raise DataError(f"{path}: expected 8-bit colours, found mode {image.mode}")
        return np.asarray(self._reduced(path, image.convert("RGB"), Image.Resampling.BILINEAR))

    def read_label(self, index: int) -> np.ndarray:
        path = self.files[index].label
        labels = Image.fromarray(self.labels(path, decode(path)))
        return np.asarray(self._reduced(path, labels, Image.Resampling.NEAREST))

    def _reduced(self, path: Path, image: Image.Image, method: Image.Resampling) -> Image.Image:
        if (image.height, image.width) != self.native_size:
            raise DataError(
                f"{path}: expected {_text(self.native_size)} pixels, found {_text(image.size[::-1])}"
            )
        height, width = self.image_size
        return image if image.size == (width, height) else image.resize((width, height), method)


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]} (height x width)"
