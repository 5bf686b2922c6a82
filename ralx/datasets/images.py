"""Somebody's own images and masks: found in a folder of any depth, and read whatever their kind."""

import io
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from ralx.datasets.class_file import UNLABELLED, ClassList
from ralx.datasets.decoding import JPEG, PNG, TIFF, WEBP, decode, image_header, kind_of, turned
from ralx.datasets.errors import DataError
from ralx.datasets.files import existing_folder, is_foreign
from ralx.datasets.geometry import Size, size_text
from ralx.datasets.labels import LabelCode, ids_of_colours
from ralx.datasets.tiff import read_bands, tiff_header

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
KINDS = (JPEG, PNG, TIFF, WEBP)
# Modes of 8 bits a band: without transparency and without a colour profile.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "F")
# Pillow keeps the higher byte of each number in a PNG of 16 bits in colour. Read in these ways it keeps the
# lower, or both bytes of grey and both of its alpha.
_LOW_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}
_GREY_WITH_ALPHA = 4  # what byte 25 of such a PNG is
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_WIDE_UNLABELLED = 65535
_GREYS = np.arange(256, dtype=np.uint8)


class FoundImages(NamedTuple):
    """What a folder holds."""

    names: tuple[str, ...]  # relative to the folder, with suffix, with "/" between folders; sorted
    skipped: Counter[str]  # files and folders that are no images, by why


def find_images(folder: Path) -> FoundImages:
    """The images of a folder and of those in it: JPEG, PNG, TIFF and WebP, told by their suffix.

    Hidden entries, those that no person put there, and files of other kinds are skipped and counted.
    DataError: no such folder, no image, a name not in UTF-8, or names that differ in suffix or case alone,
    whose masks would have the same name.
    """
    existing_folder(folder, "a folder with images")
    skipped: Counter[str] = Counter()
    names = sorted(
        path.relative_to(folder).as_posix() for path in files_below(folder, IMAGE_SUFFIXES, skipped)
    )
    if not names:
        what = "".join(f", {count} {why}" for why, count in skipped.items())
        raise DataError(f"{folder}: expected images (JPEG, PNG, TIFF or WebP), found none{what}")
    seen: dict[str, str] = {}
    for name in names:
        if name.encode(errors="ignore").decode() != name:
            raise DataError(f"{folder}: expected file names in UTF-8, found {name!a}")
        other = seen.setdefault(_comparable(name), name)
        if other != name:
            raise DataError(
                f"{folder / name}: expected names that differ in more than suffix and case, found {other} too"
            )
    return FoundImages(tuple(names), skipped)


def _comparable(name: str) -> str:
    """One text for all names that a file system of any machine may take for one, without suffix."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name).with_suffix(""))).lower()


def files_below(
    folder: Path, suffixes: tuple[str, ...], skipped: Counter[str], above: tuple[Path, ...] = ()
) -> Iterator[Path]:
    """The files of these suffixes, in any case, in a folder and those in it; `skipped` counts the others.
    `above` are the folders that were come through."""
    here = folder.resolve()
    if here in above:  # a link to a folder that it lies in
        skipped["links in a circle"] += 1
        return
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: expected a folder that can be read: {error}") from error
    for path in entries:
        if path.name.startswith("."):
            skipped["hidden"] += 1
        elif is_foreign(path):
            skipped["foreign"] += 1
        elif path.is_dir():
            yield from files_below(path, suffixes, skipped, (*above, here))
        elif path.suffix.lower() not in suffixes:
            skipped["of another kind"] += 1
        else:
            yield path


def image_size(path: Path) -> Size:
    """Height and width as a person sees the image, from its header. DataError: missing or no image."""
    if not path.is_file():
        raise DataError(f"{path}: expected an image file, found nothing")
    with path.open("rb") as file:
        if kind_of(file.read(12), (TIFF,)):
            return tiff_header(path, file).size
    return image_header(path, (JPEG, PNG, WEBP)).size


def read_image(path: Path, content: bytes | None = None) -> np.ndarray:
    """An image as a person sees it, uint8 [H, W, 3]: red, green and blue.

    EXIF's orientation is applied. Grey comes three times, transparency is left out, CMYK is converted without
    a profile, and of more than three bands the first three are taken. Numbers of more than 8 bits, and
    floats, are stretched: the smallest of this file becomes 0, its largest 255, all bands alike, and what is
    not finite becomes 0.

    Args:
        content: what the file holds, where it was read already.

    DataError: unreadable, damaged, a stack of several images, or a kind that needs a package.
    """
    if content is None:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: expected a readable image file: {error}") from error
    if kind_of(content[:12], (TIFF,)):
        return _read_tiff(path, content)
    image, bits = decode(path, KINDS, content)
    if bits > 8 and image.mode in ("RGB", "RGBA"):
        low = np.asarray(decode(path, (PNG,), content, raw_modes=_LOW_BYTES)[0]).astype(np.uint16)
        if content[25] == _GREY_WITH_ALPHA:
            return _stretched(low[..., 0] << 8 | low[..., 1])
        high = np.asarray(image).astype(np.uint16)
        return _stretched((high << 8 | low)[..., :3])
    return _rgb(path, image)


def _read_tiff(path: Path, content: bytes) -> np.ndarray:
    header = tiff_header(path, io.BytesIO(content))
    if header.samples <= 4 and (header.samples == 1 or header.bits <= 8):
        try:
            return _rgb(path, decode(path, (TIFF,), content)[0])
        except DataError as error:
            if not isinstance(error.__cause__, UnidentifiedImageError):
                raise
    bands = read_bands(path, content, header)
    image = Image.fromarray(bands if bands.dtype == np.uint8 else _stretched(bands))
    return np.asarray(turned(image, header.orientation))


def _rgb(path: Path, image: Image.Image) -> np.ndarray:
    if image.mode in _WIDE_MODES:
        return _stretched(np.asarray(image))
    if image.mode not in _MODES:
        raise DataError(f"{path}: expected an image in grey, colour or a palette, found {image.mode}")
    image.info.pop("transparency", None)  # Pillow would warn that it is lost
    return np.asarray(image.convert("RGB"))


def _stretched(numbers: np.ndarray) -> np.ndarray:
    """Numbers [h, w] or [h, w, 3] from their own smallest and largest to uint8 0..255, [h, w, 3]."""
    wide = numbers.astype(np.float64)
    finite = np.isfinite(wide)
    low, high = (wide[finite].min(), wide[finite].max()) if finite.any() else (0.0, 0.0)
    shares = np.where(finite, wide - low, 0) / (high - low if high > low else 1)
    grey = np.rint(shares * 255).astype(np.uint8)
    return grey if grey.ndim > 2 else np.repeat(grey[..., None], 3, axis=2)


def read_mask(path: Path, classes: ClassList, size: Size) -> np.ndarray:
    """What a PNG says of an image of `size`: class ids, uint8 [H, W], `UNLABELLED` where nothing is known.

    - Grey of 8 or 16 bits holds class ids; 255 (in 16 bits 65535 too) and the class file's void ids are
      unlabelled.
    - Other files hold the class file's colours; its void colours are unlabelled.
    - Two classes whose colours in the class file are black and white: grey 0 and 255 are these colours.

    DataError names the file, the rule and the place: other ids or colours, another size, transparent pixels.
    """
    image, bits = decode(path, (PNG,))
    if (image.height, image.width) != size:
        found = size_text((image.height, image.width))
        raise DataError(f"{path}: expected {size_text(size)} as its image, found {found}")
    if bits > 8 and image.mode.startswith("I"):
        samples = np.asarray(image)
        image = Image.fromarray(np.where(samples == _WIDE_UNLABELLED, UNLABELLED, samples).astype(np.uint16))
    code = _code(classes)
    if set(classes.colours) == {_BLACK, _WHITE} and _is_grey(image):
        return _of_greys(
            path, classes, code, replace(code, classes=_GREYS, colours={}).of_image(path, image, bits)
        )
    return code.of_image(path, image, bits)


def _code(classes: ClassList) -> LabelCode:
    is_class = len(classes) > _GREYS
    void = [UNLABELLED, *classes.void_ids]
    nothing = [(UNLABELLED, colour) for colour in classes.void_colours]
    return LabelCode(
        ids=f"class ids 0..{len(classes) - 1} or {' or '.join(map(str, sorted(set(void))))} for unlabelled",
        allowed=is_class | np.isin(_GREYS, void),
        classes=np.where(is_class, _GREYS, UNLABELLED).astype(np.uint8),
        colours=ids_of_colours([*enumerate(classes.colours), *nothing]),
        whose_colours="the class file's colours",
    )


def _is_grey(image: Image.Image) -> bool:
    if image.mode not in ("P", "RGB", "RGBA"):
        return True
    rgb = np.asarray(image.convert("RGB"))
    return bool((rgb == rgb[..., :1]).all())


def _of_greys(path: Path, classes: ClassList, code: LabelCode, greys: np.ndarray) -> np.ndarray:
    """A mask of greys where black and white are classes: a 1 tells that the greys are ids."""
    black, white = classes.colours.index(_BLACK), classes.colours.index(_WHITE)
    if not np.isin(greys, (0, 255)).all():
        return code.classes[greys]
    if black == 1 and not greys.any():
        raise DataError(
            f"{path}: expected greys that tell classes, found only 0, which is the id of "
            f"{classes.names[0]!r} and the colour of {classes.names[1]!r}"
        )
    return np.where(greys == 0, black, white).astype(np.uint8)
