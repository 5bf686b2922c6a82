"""TIFF files: their header, and the bands of those that Pillow doesn't read, or not with all their bits."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ralx.datasets.decoding import ON_THE_SIDE
from ralx.datasets.errors import DataError
from ralx.datasets.geometry import Size

_WIDTH, _HEIGHT, _BITS, _SAMPLES = 256, 257, 258, 277
_KIND, _COPY_OR_MASK = 254, 1 | 4  # of the image before it
_BANDS = 3


class TiffHeader(NamedTuple):
    """What a TIFF file says of its image."""

    size: Size  # height, width as a person sees it
    samples: int  # bands
    bits: int  # a sample
    orientation: int  # EXIF's 1..8


def tiff_header(path: Path, file: BinaryIO) -> TiffHeader:
    """The header of an open file. DataError: damaged, or several images of one size, which are a stack."""
    try:
        tags, following = _tags(file)
        height, width = int(tags[_HEIGHT]), int(tags[_WIDTH])
        orientation = int(tags.get(ExifTags.Base.Orientation, 1))
        header = TiffHeader(
            (width, height) if orientation in ON_THE_SIDE else (height, width),
            int(tags.get(_SAMPLES, 1)),
            max(tags.get(_BITS, (1,))),
            orientation,
        )
        second = _tags(file, following)[0] if following else {}
    except Exception as error:  # a decoder may raise anything
        raise DataError(f"{path}: expected a readable TIFF image: {error!r}") from error
    is_another = not second.get(_KIND, 0) & _COPY_OR_MASK
    if is_another and (second.get(_HEIGHT), second.get(_WIDTH)) == (height, width):
        raise DataError(
            f"{path}: expected one image, found a stack of several; write its bands as samples of one image, "
            "or its images as files"
        )
    return header


def _tags(file: BinaryIO, place: int | None = None) -> tuple[Mapping[int, Any], int]:
    """The tags of an image by number, and where the next image's are (0: there is none)."""
    file.seek(0)
    start = file.read(8)
    is_big = b"+" in start[2:4]
    tags = ImageFileDirectory_v2(start + file.read(8) if is_big else start)
    place = tags.next if place is None else place
    file.seek(place)
    tags.load(file)
    if tags.next == place:  # Pillow leaves it where the file ends within the tags
        raise ValueError("the file ends within its header")
    return tags, tags.next


def read_bands(path: Path, data: bytes, header: TiffHeader) -> np.ndarray:
    """The first three bands [h, w, 3] as stored, or the only one [h, w]. DataError, also without tifffile."""
    try:
        import tifffile
    except ImportError:
        raise DataError(
            f"{path}: expected the package tifffile, which reads a TIFF of {header.samples} bands of "
            f"{header.bits} bits, found it missing: pip install 'ralx[images]'"
        ) from None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as opened:
            page = opened.pages.first
            bands = page.asarray()
            is_apart = header.samples > 1 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    except Exception as error:  # a decoder may raise anything
        raise DataError(f"{path}: expected a whole, readable image: {error!r}") from error
    bands = np.moveaxis(bands, 0, -1) if is_apart else bands
    if header.samples == 2:
        raise DataError(f"{path}: expected a TIFF of one band, or of three or more, found two")
    return bands[..., :_BANDS] if bands.ndim > 2 else bands
