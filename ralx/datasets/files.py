"""Image files and label files: found in sorted order, checked from their headers, decoded with Pillow."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ralx.datasets.dataset import in_threads
from ralx.datasets.decoding import PNG, decode, image_header
from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size, scaled_size, size_text

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
# Modes of 8 bits a channel, read as red, green and blue: grey three times, a palette by its colours, without
# transparency. Other modes would lose bits or need a colour profile.
_IMAGE_MODES = ("L", "LA", "P", "PA", "RGB", "RGBA")
# Beside hidden entries: what archives, file servers, desktops and file systems leave in people's folders.
_FOREIGN = frozenset(
    "__macosx @eadir @recycle #recycle #snapshot $recycle.bin thumbs.db desktop.ini lost+found".split()
) | {"system volume information"}

Labels = Callable[[Path], np.ndarray]  # label file -> uint8 [h, w] in train ids


@dataclass(frozen=True, order=True)
class ImageFile:
    """An image with its label file."""

    name: str
    image: Path
    label: Path


def existing_folder(path: Path, expected: str) -> Path:
    """`path`, or DataError."""
    if not path.is_dir():
        raise DataError(f"{path}: expected {expected}, found {'a file' if path.exists() else 'nothing'}")
    return path


def entries(folder: Path) -> list[Path]:
    """Files and folders in `folder`, sorted, without hidden ones and those that no person put there."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not is_foreign(path))


def is_foreign(path: Path) -> bool:
    """Whether an archive, a file server, a desktop or a file system left the file or folder."""
    return path.name.lower() in _FOREIGN


def _files(folder: Path, suffixes: tuple[str, ...], what: str) -> dict[str, Path]:
    """Files of `folder` by name without suffix. DataError: one name twice, or none in UTF-8."""
    files: dict[str, Path] = {}
    for path in entries(folder):
        if path.suffix.lower() not in suffixes or path.is_dir():
            continue
        if path.name.encode(errors="ignore").decode() != path.name:
            raise DataError(f"{folder}: expected file names in UTF-8, found {path.name!a}")
        if path.stem in files:
            raise DataError(f"{path}: expected one {what} of that name, found {files[path.stem].name} too")
        files[path.stem] = path
    return files


def image_files(folder: Path, meaning: str) -> dict[str, Path]:
    """Image files of `folder` by name without suffix, sorted by name. DataError: none, or one name twice."""
    files = _files(existing_folder(folder, f"a folder with {meaning}"), IMAGE_SUFFIXES, "image")
    if not files:
        raise DataError(f"{folder}: expected {meaning} (PNG or JPEG), found none")
    return dict(sorted(files.items()))


def label_files(folder: Path) -> dict[str, Path]:
    """Label files of `folder`, if there is one, by name without suffix. DataError: one name twice."""
    return _files(folder, (".png",), "label file") if folder.is_dir() else {}


def files_with_labels(images: Path, meaning: str, labels: Path, label_meaning: str) -> list[ImageFile]:
    """Image files with label files of the same name; a PNG where there is none. DataError as from both."""
    named = image_files(images, meaning)
    label_of = label_files(existing_folder(labels, f"a folder with {label_meaning}"))
    return [ImageFile(name, path, label_of.get(name, labels / f"{name}.png")) for name, path in named.items()]


class FolderSource:
    """Image files with label files: images are resized by area-weighted bilinear, labels by nearest.

    Args:
        files: sorted by name.
        labels: reads a label file as train ids.
        scale: reduces every image to this share of its height and width, in (0, 1].
    """

    of_one_size = True  # another size than the first image's is an error

    def __init__(self, files: Sequence[ImageFile], labels: Labels, scale: float = 1.0):
        self.files, self.labels = tuple(files), labels
        self.names = tuple(file.name for file in files)
        self.native_size = self._first_size()
        self.image_size = scaled_size(self.native_size, scale)

    def _first_size(self) -> Size:
        """The size that the first readable image has, and all are expected to have."""
        for file in self.files:
            try:
                return image_header(file.image).size
            except DataError:
                continue
        raise DataError(
            f"{self.files[0].image}: expected a readable PNG or JPEG image, as for all others beside it"
        )

    def check(self, index: int) -> None:
        file = self.files[index]
        size, mode, bits = image_header(file.image)
        if mode not in _IMAGE_MODES or bits > 8:
            raise DataError(
                f"{file.image}: expected an image in colour, grey or a palette with 8 bits a channel, "
                f"found {bits} bits in Pillow's mode {mode}"
            )
        if self.of_one_size and size != self.native_size:
            expected = size_text(self.native_size)
            raise DataError(f"{file.image}: expected {expected} as its neighbours, found {size_text(size)}")
        if not file.label.is_file():
            raise DataError(f"{file.label}: expected the labels of {file.image.name}, found nothing")
        label_size = image_header(file.label, (PNG,)).size
        if label_size != size:
            found = size_text(label_size)
            raise DataError(f"{file.label}: expected {size_text(size)} as its image, found {found}")

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.read_image(index), self.read_label(index)

    def read_image(self, index: int) -> np.ndarray:
        image, _ = decode(self.files[index].image)
        image.info.pop("transparency", None)  # Pillow would warn that it is lost
        return np.asarray(self._resized(image.convert("RGB"), Image.Resampling.BILINEAR))

    def read_label(self, index: int) -> np.ndarray:
        labels = Image.fromarray(self.labels(self.files[index].label))
        return np.asarray(self._resized(labels, Image.Resampling.NEAREST))

    def fingerprint(self) -> str:
        """A hash of all that the files hold, read whole the first time; DataError where one can't be read."""
        return self._content

    @cached_property
    def _content(self) -> str:
        digest = hashlib.sha256(repr((self.image_size, self.native_size)).encode())
        for line in in_threads(content_of, self.files):
            digest.update(line.encode())
        return digest.hexdigest()

    def _resized(self, image: Image.Image, method: Image.Resampling) -> Image.Image:
        height, width = self.image_size
        return image.resize((width, height), method)


class FittedFolderSource(FolderSource):
    """Images of any size, brought to one: the largest central part of its shape, resized."""

    of_one_size = False

    def __init__(self, files: Sequence[ImageFile], labels: Labels, image_size: Size):
        super().__init__(files, labels)
        self.image_size = image_size

    def _resized(self, image: Image.Image, method: Image.Resampling) -> Image.Image:
        height, width = self.image_size
        return ImageOps.fit(image, (width, height), method)


def content_of(file: ImageFile) -> str:
    """A line of names and hashes. A label file's name tells how it is read."""
    hashes = []
    for path in (file.image, file.label):
        try:
            with path.open("rb") as opened:
                hashes.append(hashlib.file_digest(opened, "sha256").hexdigest())
        except OSError as error:
            raise DataError(f"{path}: expected a readable file: {error}") from error
    return f"{file.name} {file.label.name} {hashes}\n"
