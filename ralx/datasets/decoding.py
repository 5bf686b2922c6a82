"""What an image file holds: its header, whether it is whole, and its pixels as a person sees them."""

import io
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

# Pillow would import these where it first needs them: on a thread, perhaps while the process forks.
from PIL import (
    ExifTags,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size

PNG, JPEG = PngImagePlugin.PngImageFile.format, JpegImagePlugin.JpegImageFile.format
TIFF, WEBP = "TIFF", "WEBP"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_STARTS = {
    PNG: re.compile(re.escape(_PNG_START)),
    JPEG: re.compile(rb"\xff\xd8\xff"),
    TIFF: re.compile(rb"II[*+]\0|MM\0[*+]"),
    WEBP: re.compile(rb"RIFF....WEBP", re.DOTALL),
}
# The next marker of a JPEG file. In coded pixels a zero or a restart marker follows every 0xff.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_JPEG_END, _JPEG_WITHOUT_LENGTH = 0xD9, (0x01, 0xD8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ON_THE_SIDE = (5, 6, 7, 8)  # orientations, as EXIF counts them, that swap height and width


class Header(NamedTuple):
    """What a file says of its image."""

    size: Size  # height, width as a person sees it
    mode: str  # Pillow's
    bits: int  # a channel


class _CutOffError(Exception):
    """The file ends before its image does."""


def image_header(path: Path, formats: tuple[str, ...] = (PNG, JPEG)) -> Header:
    """The header; pixels are not decoded. DataError: missing, of no such format, or cut off."""
    if not path.is_file():
        raise DataError(f"{path}: expected an image file, found nothing")
    try:
        with path.open("rb", buffering=0) as file:
            kind, bits = _kind_and_bits(file.read(25), formats)
            with Image.open(file, formats=formats) as image:
                (width, height), mode, exif = image.size, image.mode, image.info.get("exif")
            if kind == PNG:
                exif = _png_exif(file)
            elif kind == JPEG:
                _find_jpeg_end(file)
    except _CutOffError:
        raise DataError(f"{path}: expected a whole {kind} image, found one that is truncated") from None
    except Exception as error:  # a decoder may raise anything
        raise DataError(f"{path}: expected a readable {' or '.join(formats)} image: {error!r}") from error
    size = (width, height) if _orientation(exif) in ON_THE_SIDE else (height, width)
    return Header(size, mode, bits)


def decode(
    path: Path,
    formats: tuple[str, ...] = (PNG, JPEG),
    data: bytes | None = None,
    raw_modes: Mapping[str, str] | None = None,
) -> tuple[Image.Image, int]:
    """The image, turned as its EXIF says, and its bits a channel. DataError: unreadable, damaged, cut off.

    Args:
        data: what the file holds, where it was read already.
        raw_modes: how Pillow takes the pixels' bytes, by how it would take them; None: as it would.
    """
    try:
        data = path.read_bytes() if data is None else data
        kind, bits = _kind_and_bits(data, formats)
        if kind == PNG:
            _check_png(data)
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if raw_modes:
                coder, area, place, raw_mode = image.tile[0]
                image.tile = [(coder, area, place, raw_modes[raw_mode])]  # type: ignore[list-item, index]
            image.load()
            exif = _png_exif(io.BytesIO(data)) if kind == PNG else image.info.get("exif")
        if image.mode == "P" and np.asarray(image).max() >= len(image.getpalette() or ()) // 3:
            raise ValueError("a pixel's palette index has no colour")
    except Exception as error:  # a decoder may raise anything
        raise DataError(f"{path}: expected a whole, readable image: {error!r}") from error
    return turned(image, _orientation(exif)), bits


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image as a person sees it; `orientation` is EXIF's 1..8."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def kind_of(start: bytes, formats: tuple[str, ...]) -> str | None:
    """Which of the formats a file has that starts with `start` (12 bytes or more)."""
    return next((kind for kind in formats if _STARTS[kind].match(start)), None)


def _kind_and_bits(start: bytes, formats: tuple[str, ...]) -> tuple[str, int]:
    if kind := kind_of(start, formats):
        return kind, start[24] if kind == PNG else 8
    raise ValueError(f"the file starts with {start[:8]!r}")


def _orientation(exif: bytes | None) -> int:
    try:
        tags = Image.Exif()
        tags.load(exif or b"")
        return tags.get(ExifTags.Base.Orientation, 1)
    except Exception:  # where EXIF can't be read, every viewer shows the image as it is stored
        return 1


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each chunk, start and end of its data. IEND is the last, whatever lies behind it."""
    size, position, kind = file.seek(0, io.SEEK_END), len(_PNG_START), b""
    while kind != b"IEND":
        file.seek(position)
        start = position + 8
        head = file.read(8)
        if len(head) < 8:
            raise _CutOffError
        length, kind = struct.unpack(">I4s", head)
        if not kind.isalpha() or (kind == b"IHDR") != (start == 16):
            raise ValueError(f"a chunk {kind!r} at byte {start - 8}")
        position = start + length + 4
        if position > size:
            raise _CutOffError
        yield kind, start, start + length


def _png_exif(file: BinaryIO) -> bytes | None:
    """The EXIF chunk, which may come behind the pixels. _CutOffError unless the file reaches its end mark."""
    exif = None
    for kind, start, end in _png_chunks(file):
        if kind == b"eXIf":
            file.seek(start)
            exif = file.read(end - start)
    return exif


def _check_png(data: bytes) -> None:
    """Compare every checksum: Pillow does not for the pixels, which may decompress to others."""
    view = memoryview(data)
    for kind, start, end in _png_chunks(io.BytesIO(data)):
        if zlib.crc32(view[start - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ValueError(f"the checksum of the chunk {kind.decode()} is wrong")


def _find_jpeg_end(file: BinaryIO) -> None:
    """_CutOffError unless the end mark comes; other data may lie behind it."""
    file.seek(-2, io.SEEK_END)
    if file.read(2) == bytes((0xFF, _JPEG_END)):
        return
    file.seek(0)
    data, position = file.read(), 2
    while marker := _JPEG_MARKER.search(data, position):
        position = marker.end()
        if marker[1][0] == _JPEG_END:
            return
        if marker[1][0] not in _JPEG_WITHOUT_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
    raise _CutOffError
