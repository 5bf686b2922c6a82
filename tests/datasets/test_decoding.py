"""Image files as they come: with data behind their end, damaged, turned, of other depths and formats."""

import io
import struct
import subprocess

import numpy as np
import pytest
from dataset_trees import chunk, png
from PIL import Image, ImageFile

from ralx.datasets import DataError
from ralx.datasets.decoding import decode, image_header
from ralx.datasets.files import FolderSource
from ralx.datasets.files import ImageFile as Pair

PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
GREY = png(PIXELS, 8)


def jpeg(**options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.kron(PIXELS, np.ones((8, 8), np.uint8))).save(file, "JPEG", **options)
    return file.getvalue()


def mpo() -> bytes:
    """Two images in a file, as stereo cameras and phones write them."""
    file = io.BytesIO()
    picture = Image.fromarray(np.kron(PIXELS, np.ones((8, 8), np.uint8))).convert("RGB")
    picture.save(file, "MPO", save_all=True, append_images=[picture])
    return file.getvalue()


def turned(orientation: int) -> bytes:
    """EXIF with an orientation, as a chunk of PNG holds it."""
    return b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1" + struct.pack(">HHI", orientation, 0, 0)


def source(image, label) -> FolderSource:
    return FolderSource([Pair("a", image, label)], lambda path: np.asarray(decode(path)[0]))


@pytest.fixture
def written(tmp_path):
    def write(data: bytes, name: str = "a.png"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    "image", [GREY, jpeg(), jpeg(progressive=True), jpeg(restart_marker_blocks=1), mpo()]
)
@pytest.mark.parametrize("behind", [b"", b"\0", bytes(2000), b"\xff\xd8" + bytes(5000), b"IDAT" * 1000])
def test_what_lies_behind_the_end_of_an_image_does_not_matter(written, image, behind):
    before = decode(written(image))[0]
    path = written(image + behind)
    assert image_header(path).size == (before.height, before.width)
    assert np.array_equal(np.asarray(decode(path)[0]), np.asarray(before))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_every_truncated_image_is_found_from_its_header(written, kind):
    """A JPEG's thumbnail has an end mark of its own."""
    thumbnail = struct.pack(">H", 2 + 300) + jpeg()[-300:]
    image = GREY if kind == "PNG" else jpeg()[:2] + b"\xff\xe2" + thumbnail + jpeg()[2:]
    image_header(written(image))
    for length in [*range(0, len(image), 11), len(image) - 1]:
        path = written(image[:length])
        with pytest.raises(DataError, match=r"a\.png: expected a (whole|readable) "):
            image_header(path)
    expected = rf"a\.png: expected a whole {kind} image, found one that is truncated"
    with pytest.raises(DataError, match=expected):
        image_header(path)


def test_a_hole_of_zeros_is_found_from_the_header(written):
    half = GREY[:33] + chunk(b"IDAT", GREY[41:60])
    with pytest.raises(DataError, match=r"a\.png: expected a readable .* chunk b'.+x00"):
        image_header(written(half + bytes(5000)))


def test_a_changed_bit_is_found_even_where_the_pixels_decompress(written, monkeypatch):
    """Pillow doesn't compare the checksum of pixels: these would be read as others."""
    stored = png(PIXELS, 8)
    header, end = stored[:33], stored[-12:]
    raw = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    blocks = b"\x78\x01" + b"\1" + struct.pack("<HH", len(raw), len(raw) ^ 0xFFFF) + raw  # not compressed
    data = bytearray(header + chunk(b"IDAT", blocks + bytes(4)) + end)
    data[60] ^= 1
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # what many programs set
    image_header(written(bytes(data)))
    with pytest.raises(DataError, match=r"a\.png: expected a whole, .* checksum of the chunk IDAT is wrong"):
        decode(written(bytes(data)))


@pytest.mark.parametrize(
    "data",
    [
        png(PIXELS, 8, behind=chunk(b"iCCP")),  # IndexError
        png(PIXELS, 8, before=chunk(b"iCCP")),
        png(PIXELS, 8, before=chunk(b"pHYs")),  # struct.error
        png(PIXELS, 8, before=chunk(b"tRNS")),
        png(PIXELS, 8, before=chunk(b"IHDR", GREY[16:29])),
        GREY[:8] + chunk(b"sRGB", b"\0") + GREY[8:],  # a chunk before IHDR
        GREY[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)) + GREY[33:],  # a bomb
        GREY[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 4, 3, 0, 0, 0, 0)) + GREY[33:],  # no such depth
        GREY[:33] + chunk(b"IEND"),  # no pixels
        b"DDS " + struct.pack("<I", 124) + bytes(120),  # Pillow raises NotImplementedError
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        b"GIF89a" + bytes(20),
        b"\xff\xd8\xff\xd9",
        b"\x89PNG\r\n\x1a\n",
        b"",
    ],
)
def test_whatever_a_decoder_raises_is_an_error_of_the_data(written, data):
    path = written(data)
    with pytest.raises(DataError, match=r"a\.png: expected a (whole|readable)"):
        image_header(path)
        decode(path)


def test_an_interrupt_passes(written, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "open", interrupt)
    for read in (decode, image_header):
        with pytest.raises(KeyboardInterrupt):
            read(written(GREY))


def test_no_program_is_started_for_a_postscript_file(written, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **options: started.append(args))
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: started.append(args))
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs", raising=False)
    path = written(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    for read in (image_header, decode):
        with pytest.raises(DataError, match=r"a\.png: .* starts with b'%!PS-Ado"):
            read(path)
    assert started == []


SHOWN = [PIXELS, np.fliplr(PIXELS), np.rot90(PIXELS, 2), np.flipud(PIXELS)]
SHOWN += [PIXELS.T, np.rot90(PIXELS, -1), np.rot90(PIXELS, 2).T, np.rot90(PIXELS)]


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_says(written, orientation, place):
    path = written(png(PIXELS, 8, **{place: chunk(b"eXIf", turned(orientation))}))
    expected = SHOWN[orientation - 1]
    assert np.array_equal(np.asarray(decode(path)[0]), expected)
    assert image_header(path).size == expected.shape


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"", b"Exif", turned(0), turned(9), turned(6)[:-9], b"II" + turned(6)[2:]])
def test_exif_that_says_nothing_turns_nothing(written, exif):
    path = written(png(PIXELS, 8, before=chunk(b"eXIf", exif)))
    assert np.array_equal(np.asarray(decode(path)[0]), PIXELS) and image_header(path).size == (4, 6)


def test_photographs_and_their_labels_are_compared_as_people_see_them(written):
    """A photograph taken upright, with labels painted on what was seen: these carry no EXIF."""
    upright = written(jpeg(exif=b"Exif\0\0" + turned(6)), "a.jpg")
    painted, same = written(png(np.zeros((48, 32)), 8)), written(png(np.zeros((32, 48)), 8), "b.png")
    lying = written(png(np.zeros((32, 48)), 8, before=chunk(b"eXIf", turned(8))), "c.png")

    for label in (painted, lying):
        pair = source(upright, label)
        pair.check(0)
        shown = pair.read_image(0)
        assert pair.image_size == shown.shape[:2] == (48, 32)
        assert np.array_equal(shown[..., 0], np.rot90(np.asarray(Image.open(upright)), -1))
    with pytest.raises(DataError, match=r"b\.png: expected 48x32 pixels .* as its image, found 32x48"):
        source(upright, same).check(0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_an_image_of_16_bits_is_refused(written, channels):
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    path = written(png(np.full((4, 6, channels), 1000), 16, colour))
    expected = r"a\.png: expected .* with 8 bits a channel, found 16 bits in Pillow's"
    with pytest.raises(DataError, match=expected):
        source(path, path).check(0)


@pytest.mark.parametrize(("depth", "white"), [(2, 3), (4, 15), (8, 255)])
def test_a_grey_image_of_fewer_bits_is_stretched(written, depth, white):
    path = written(png([[0, white]], depth))
    assert source(path, path).read_image(0)[..., 0].tolist() == [[0, 255]]


@pytest.mark.filterwarnings("error")
def test_transparency_of_a_palette_is_no_warning(written):
    before = chunk(b"PLTE", bytes(range(9))) + chunk(b"tRNS", b"\x10\x20")
    path = written(png([[0, 2]], 8, 3, before=before))
    assert source(path, path).read_image(0).tolist() == [[[0, 1, 2], [6, 7, 8]]]
