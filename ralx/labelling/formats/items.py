"""What labelling tools exchange: images with labels going out, labels coming back, and what they may name."""

import base64
import binascii
import contextlib
import io
import json
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ralx.datasets.class_file import UNLABELLED, ClassList
from ralx.datasets.decoding import PNG, decode
from ralx.datasets.errors import DataError
from ralx.datasets.files import is_foreign
from ralx.datasets.geometry import Size, size_text
from ralx.datasets.images import IMAGE_SUFFIXES
from ralx.support.files import write_whole


class Item(NamedTuple):
    """An image that goes to a labelling tool."""

    name: str  # file name or relative path with "/" and suffix; no two differ in suffix alone
    pixels: Callable[[], np.ndarray] | None  # gives uint8 [h, w, 3]; None: only the labels are written
    label: np.ndarray  # uint8 [h, w], class ids or UNLABELLED
    asked: np.ndarray | None = None  # bool [h, w], the pixels that may be painted; None: all


class Labelled(NamedTuple):
    """An image's label that came back."""

    name: str  # as in `sizes`
    file: Path  # for messages
    label: np.ndarray  # uint8 [h, w], class ids or UNLABELLED


class Format(NamedTuple):
    """A labelling tool's files, both ways.

    `write(folder, items, classes)` writes items one by one; ValueError for an item that can't be written,
    DataError for classes that the format can't hold.

    `read(path, classes, sizes)` gives the labels in a file or folder. `sizes` are (height, width) of the
    images that the files may name. DataError names the file and the rule: an unknown image, class or colour,
    another size, an image twice, a damaged file.
    """

    write: Callable[[Path, Iterable[Item], ClassList], None]
    read: Callable[[Path, ClassList, Mapping[str, Size]], Iterator[Labelled]]


GREY_MODES = ("L", "I;16", "I")  # Pillow's
# What a tool may make of an image's suffix. Of other names the last part may be no suffix: crop.v2
_SUFFIXES = (*IMAGE_SUFFIXES, ".bmp", ".gif", ".json", ".xml")


# Writing


def checked(items: Iterable[Item], classes: ClassList) -> Iterator[Item]:
    """The items; ValueError where one has no name of its own, a label that is none, or pixels of another
    size."""
    seen: set[str] = set()
    for item in items:
        stem = _stem(item.name).casefold()
        path = PurePosixPath(item.name)
        if path.is_absolute() or not path.name or {".", ".."} & {*item.name.split("/")} or "\\" in item.name:
            raise ValueError(f"items: expected names of files in the folder, got {item.name!r}")
        if stem in seen:
            raise ValueError(
                f"items: expected names that differ in more than suffix and case, got {item.name!r}"
            )
        seen.add(stem)
        label = item.label
        if label.dtype != np.uint8 or label.ndim != 2 or not label.size:
            raise ValueError(f"items: expected labels uint8 [h, w], got {label.dtype} {label.shape}")
        found = np.flatnonzero(np.bincount(label.ravel(), minlength=256)[len(classes) : UNLABELLED])
        if len(found):
            raise ValueError(
                f"items: expected class ids 0..{len(classes) - 1} or {UNLABELLED}, "
                f"got {len(classes) + found[0]} in {item.name}"
            )
        yield item


def write_image(folder: Path, item: Item) -> str:
    """Write an item's image into the folder, as PNG, which changes no pixel. Its path in the folder; the
    item's own name where the item has no pixels."""
    if item.pixels is None:
        return item.name
    name = png_name(item.name)
    pixels = item.pixels()
    if pixels.dtype != np.uint8 or pixels.shape != (*item.label.shape, 3):
        raise ValueError(
            f"items: expected pixels uint8 {(*item.label.shape, 3)}, got {pixels.dtype} {pixels.shape}"
        )
    write_whole(folder / name, png_bytes(pixels))
    return name


def png_name(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".png"))


def png_bytes(array: np.ndarray) -> bytes:
    """A PNG of uint8 or uint16 [h, w], or uint8 [h, w, 3]."""
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(content, PNG)
    return content.getvalue()


def json_text(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def class_masks(label: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each class of a label with its mask, bool [h, w], in the order of ids."""
    for klass in np.flatnonzero(np.bincount(label.ravel(), minlength=256)[:UNLABELLED]).tolist():
        yield klass, label == klass


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of the smallest box around a mask that has a pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1


# Reading


class Known:
    """The classes and images that files may name; each image once. DataError for everything else."""

    def __init__(self, classes: ClassList, sizes: Mapping[str, Size]):
        self.classes, self.sizes = classes, sizes
        self._ids = {name: klass for klass, name in enumerate(classes.names)}
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in sizes:
            self._by_stem[_parts(_stem(name))[-1]].append(name)
        self._files: dict[str, Path] = {}

    def name(self, file: Path, found: str) -> str:
        """The image that a tool's name stands for.

        A tool may change the suffix, drop folders or add some. So both paths without suffix are compared from
        their ends as far as the shorter one goes; the longest agreement counts, and it must be one image's.
        """
        if ".." in _parts(found):
            raise DataError(f"{file}: expected names inside the folder, found {found!r}")
        named = [found] if found in self.sizes else []
        has_suffix = PurePosixPath(found).suffix.lower() in _SUFFIXES
        for stem in (_stem(found), found) if has_suffix else (found, _stem(found)):
            named = named or self._matches(stem)
        if not named:
            raise DataError(
                f"{file}: expected the name of an image that labels are expected for, found {found!r}"
            )
        if len(named) > 1:
            what = ", ".join(map(repr, sorted(named)[:3]))
            raise DataError(
                f"{file}: expected a name that one image has, found {found!r}, which may be {what}"
            )
        [name] = named
        if name in self._files:
            before = "" if self._files[name] == file else f", in {self._files[name]} too"
            raise DataError(f"{file}: expected each image once, found {name!r} twice{before}")
        self._files[name] = file
        return name

    def _matches(self, stem: str) -> list[str]:
        found = _parts(stem)
        agreeing: dict[tuple[int, bool], list[str]] = defaultdict(list)
        for name in self._by_stem.get(found[-1] if found else "", ()):
            parts = _parts(_stem(name))
            length = min(len(parts), len(found))
            if parts[-length:] == found[-length:]:
                agreeing[length, len(parts) == len(found)].append(name)
        return agreeing[max(agreeing)] if agreeing else []

    def blank(self, name: str) -> np.ndarray:
        """A label of the image on which nothing is known."""
        return np.full(self.sizes[name], UNLABELLED, np.uint8)

    def check_size(self, file: Path, name: str, size: Size) -> None:
        if size != tuple(self.sizes[name]):
            raise DataError(
                f"{file}: expected {size_text(self.sizes[name])} for {name}, found {size_text(size)}: "
                "labels must not be resized"
            )

    def klass(self, file: Path, name: Any) -> int:
        """The id of a class."""
        if not isinstance(name, str) or name not in self._ids:
            raise DataError(f"{file}: expected the project's classes, found {name!r}")
        return self._ids[name]


def _stem(name: str) -> str:
    """A path without its last suffix."""
    path = PurePosixPath(name)
    return str(path.with_name(path.stem)) if path.name else name


def _parts(path: str) -> tuple[str, ...]:
    """Parts of a path, whatever the machine: one text for the same letters."""
    return tuple(part for part in unicodedata.normalize("NFC", path).replace("\\", "/").split("/") if part)


def files_of(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """A file, or the files of a folder and of those in it that have one of these suffixes, sorted: none that
    is hidden, and none that no person put there. DataError: nothing is there."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: expected a file or a folder, found nothing")
    return sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in suffixes
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and not any(is_foreign(Path(part)) for part in file.relative_to(path).parts)
    )


def annotation_files(path: Path, suffix: str, tool: str) -> list[Path]:
    """As `files_of`; DataError where there is none, or where a single file is of another kind."""
    files = files_of(path, (suffix,))
    if not files or files[0].suffix.lower() != suffix:
        found = "none" if not files else f"{files[0].suffix!r}; unpack an archive first"
        raise DataError(f"{path}: expected {tool}'s files with the suffix {suffix}, found {found}")
    return files


@contextlib.contextmanager
def reading(file: Path, tool: str) -> Iterator[None]:
    """What isn't laid out as the tool does, whatever error that is, becomes a DataError that names the
    file."""
    try:
        yield
    except DataError:
        raise
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        OSError,
        RecursionError,
    ) as error:
        raise DataError(f"{file}: expected a file as {tool} writes it: {error!r}") from error


def read_json(file: Path) -> Any:
    """What a JSON file holds; ValueError and OSError as from Python."""
    return json.loads(file.read_bytes().decode("utf-8-sig"))


def decoded_png(file: Path, text: str) -> tuple[Image.Image, int]:
    """The image in the base64 text of a PNG, and its bits a channel."""
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise DataError(f"{file}: expected a mask as PNG in base64: {error}") from error
    return decode(file, (PNG,), content)


def read_ids(file: Path, meaning: str) -> np.ndarray:
    """The numbers of a grey PNG of 8 or 16 bits, uint16 [h, w]. DataError: another kind of image."""
    image, bits = decode(file, (PNG,))
    if image.mode not in GREY_MODES or bits < 8:
        raise DataError(
            f"{file}: expected a grey PNG of 8 or 16 bits, {meaning}, found {bits} bits in {image.mode}"
        )
    return np.asarray(image).astype(np.uint16)
