"""Image files and label files: found in sorted order, checked from their headers, decoded with Pillow."""

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
# Modes of 8 bits a channel, read as red, green and blue: grey three times, a palette by its colours, without
# transparency. Other modes would lose bits or need a colour profile.
_IMAGE_MODES = ("L", "LA", "P", "PA", "RGB", "RGBA")
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, zlib.error, Image.DecompressionBombError)
_PNG_END, _JPEG_END = b"IEND\xaeB`\x82", b"\xff\xd9"
_TAIL_BYTES = 1024

Labels = Callable[[Path, Image.Image], np.ndarray]  # decoded label file -> uint8 [h, w] in train ids


@dataclass(frozen=True, order=True)
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


def image_header(path: Path) -> tuple[Size, str]:
    """(height, width) and Pillow's mode from the header. DataError: missing, no image, or cut off."""
    if not path.is_file():
        raise DataError(f"{path}: expected an image file, found nothing")
    try:
        with Image.open(path) as image:
            size, mode, kind = (image.height, image.width), image.mode, image.format
        tail = _tail(path)
    except _UNREADABLE as error:
        raise DataError(f"{path}: expected a readable PNG or JPEG image: {error}") from error
    if (kind == "PNG" and _PNG_END not in tail) or (kind == "JPEG" and _JPEG_END not in tail):
        raise DataError(f"{path}: expected a whole {kind} image, found one that is truncated")
    return size, mode


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(_TAIL_BYTES, path.stat().st_size), 2)
        return file.read()


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
    """Image files with label files: images are resized by area-weighted bilinear, labels by nearest.

    Args:
        files: sorted by name.
        labels: turns a decoded label file into train ids.
        image_size: (height, width) of what is read; a function of the native size, or the size itself.
    """

    def __init__(self, files: Sequence[ImageFile], labels: Labels, image_size: Callable[[Size], Size] | Size):
        self.files, self.labels = tuple(files), labels
        self.names = tuple(file.name for file in files)
        self.native_size = self._first_size()
        self.image_size = image_size(self.native_size) if callable(image_size) else image_size

    def _first_size(self) -> Size:
        """The size that the first readable image has, and all are expected to have."""
        for file in self.files:
            try:
                return image_header(file.image)[0]
            except DataError:
                continue
        raise DataError(
            f"{self.files[0].image}: expected a readable PNG or JPEG image, as for all others beside it"
        )

    def check(self, index: int) -> None:
        file = self.files[index]
        size, mode = image_header(file.image)
        if mode not in _IMAGE_MODES:
            raise DataError(
                f"{file.image}: expected an image in colour, grey or a palette with 8 bits a channel, "
                f"found Pillow's mode {mode}"
            )
        if not self._accepts(size):
            raise DataError(
                f"{file.image}: expected {_text(self.native_size)} as its neighbours, found {_text(size)}"
            )
        if not file.label.is_file():
            raise DataError(f"{file.label}: expected the labels of {file.image.name}, found nothing")
        label_size, _ = image_header(file.label)
        if label_size != size:
            raise DataError(f"{file.label}: expected {_text(size)} as its image, found {_text(label_size)}")

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.read_image(index), self.read_label(index)

    def read_image(self, index: int) -> np.ndarray:
        image = decode(self.files[index].image)
        return np.asarray(self._resized(image.convert("RGB"), Image.Resampling.BILINEAR))

    def read_label(self, index: int) -> np.ndarray:
        path = self.files[index].label
        labels = Image.fromarray(self.labels(path, decode(path)))
        return np.asarray(self._resized(labels, Image.Resampling.NEAREST))

    def fingerprint(self) -> str:
        """A hash of what the files hold, without reading them whole: their names, sizes and ends."""
        digest = hashlib.sha256(repr((self.image_size, self.native_size)).encode())
        for file in self.files:
            for path in (file.image, file.label):
                digest.update(f"{file.name} {path.stat().st_size}".encode())
                digest.update(_tail(path))
        return digest.hexdigest()

    def _accepts(self, size: Size) -> bool:
        return size == self.native_size

    def _frame(self, size: Size) -> tuple[float, float, float, float]:
        """The part of an image of `size` that is kept, as Pillow's (left, top, right, bottom)."""
        return 0, 0, size[1], size[0]

    def _resized(self, image: Image.Image, method: Image.Resampling) -> Image.Image:
        height, width = self.image_size
        if image.size == (width, height):
            return image
        return image.resize((width, height), method, box=self._frame((image.height, image.width)))


class FittedFolderSource(FolderSource):
    """Images of any size, brought to one: the largest central part of its shape, resized."""

    def _accepts(self, size: Size) -> bool:
        return True

    def _frame(self, size: Size) -> tuple[float, float, float, float]:
        zoom = min(size[0] / self.image_size[0], size[1] / self.image_size[1])
        height, width = zoom * self.image_size[0], zoom * self.image_size[1]
        top, left = (size[0] - height) / 2, (size[1] - width) / 2
        return left, top, left + width, top + height


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]} pixels (height x width)"
