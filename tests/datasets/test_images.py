"""Images and masks of every kind that people have."""

import io
import sys
import unicodedata

import numpy as np
import pytest
from dataset_trees import chunk, cut, png, write_image
from PIL import Image

from ralx.datasets import DataError
from ralx.datasets.class_file import ClassList
from ralx.datasets.images import find_images, image_size, read_image, read_mask

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
GREY = RGB[..., 0]
WIDE = np.random.default_rng(1).integers(900, 3000, (4, 6, 7)).astype(np.uint16)


def grey_of(samples):
    return np.repeat(samples[..., None], 3, axis=2)


def stretched(samples):
    """From the smallest and largest number to 0..255, in exact numbers."""
    wide = samples.astype(np.float64)
    return np.rint((wide - wide.min()) / (wide.max() - wide.min()) * 255).astype(np.uint8)


def saved(image, kind, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def written(tmp_path):
    def write(data: bytes, name: str = "a.png"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return write


# Finding


def tree(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_are_found_in_every_folder_and_what_else_lies_there_is_counted(tmp_path, shuffled_folders):
    images = ["b.JPG", "a b/ü.png", "a b/deep/1.TIFF", "c.tif", "d.WebP", "e.jpeg", "a.b.png"]
    tree(tmp_path, *images, ".hidden.png", ".git/x.png", "Thumbs.db", "__MACOSX/c.png", "x.txt", "readme")
    expected = tuple(sorted(images)), {"hidden": 2, "foreign": 2, "of another kind": 2}
    assert tuple(find_images(tmp_path)) == expected
    shuffled_folders()
    assert tuple(find_images(tmp_path)) == expected


def test_a_linked_folder_is_followed_but_not_in_a_circle(tmp_path):
    tree(tmp_path / "far", "x.png")
    tree(tmp_path / "here", "y.png")
    (tmp_path / "here/link").symlink_to(tmp_path / "far")
    (tmp_path / "far/back").symlink_to(tmp_path / "here")
    assert tuple(find_images(tmp_path / "here")) == (("link/x.png", "y.png"), {"links in a circle": 1})


@pytest.mark.parametrize(
    ("one", "other"),
    [("a.png", "a.jpg"), ("a.png", "A.png"), ("s/a.png", "S/a.tif"), ("ü.png", "ü.jpg")],
)
def test_names_that_would_share_a_mask_are_refused(tmp_path, one, other):
    tree(tmp_path, one, unicodedata.normalize("NFD", other))
    with pytest.raises(
        DataError, match=r"expected names that differ in more than suffix and case, found .* too"
    ):
        find_images(tmp_path)


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere: expected a folder with images, found nothing"):
        find_images(tmp_path / "nowhere")
    tree(tmp_path, "x.txt", "sub/y.doc")
    with pytest.raises(DataError, match=r"expected images \(.*\), found none, 2 of another kind"):
        find_images(tmp_path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    with open(bytes(tmp_path) + b"/\xff.png", "wb"):
        pass
    with pytest.raises(DataError, match=r"expected file names in UTF-8, found '\\udcff\.png'"):
        find_images(tmp_path)


# Reading

PALETTE = Image.fromarray(GREY % 2, "P")
PALETTE.putpalette([9, 8, 7, 1, 2, 3])
CMYK = Image.fromarray(RGB).convert("CMYK")
ALPHA = np.dstack([RGB, GREY])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (saved(Image.fromarray(RGB), "PNG"), RGB),
        (saved(Image.fromarray(GREY), "PNG"), grey_of(GREY)),
        (saved(Image.fromarray(GREY > 99), "PNG"), grey_of((GREY > 99) * np.uint8(255))),
        (saved(Image.fromarray(ALPHA), "PNG"), RGB),
        (saved(Image.fromarray(np.dstack([GREY, GREY]), "LA"), "PNG"), grey_of(GREY)),
        (saved(PALETTE, "PNG", transparency=0), np.array([[9, 8, 7], [1, 2, 3]])[GREY % 2]),
        (png(WIDE[..., 0], 16), grey_of(stretched(WIDE[..., 0]))),
        (png(WIDE[..., :3], 16, 2), stretched(WIDE[..., :3])),
        (png(np.dstack([WIDE[..., :3], WIDE[..., 3] * 0]), 16, 6), stretched(WIDE[..., :3])),
        (png(WIDE[..., :2], 16, 4), grey_of(stretched(WIDE[..., 0]))),
        (png(np.full((4, 6), 4000), 16), np.zeros((4, 6, 3))),
        (saved(Image.fromarray(RGB), "WEBP", lossless=True), RGB),
        (saved(Image.fromarray(RGB), "TIFF"), RGB),
        (saved(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"), RGB),
        (saved(Image.fromarray(RGB), "TIFF", big_tiff=True), RGB),
        (saved(Image.fromarray(ALPHA), "TIFF"), RGB),
        (saved(PALETTE, "TIFF"), np.array([[9, 8, 7], [1, 2, 3]])[GREY % 2]),
        (saved(Image.fromarray(WIDE[..., 0]), "TIFF"), grey_of(stretched(WIDE[..., 0]))),
        (
            saved(Image.fromarray(-WIDE[..., 0].astype(np.int32)), "TIFF"),
            grey_of(stretched(-1.0 * WIDE[..., 0])),
        ),
        (saved(Image.fromarray(WIDE[..., 0] / np.float32(7e9)), "TIFF"), grey_of(stretched(WIDE[..., 0]))),
        (saved(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB"))),
        (saved(CMYK, "JPEG", quality=100), None),
        (saved(Image.fromarray(RGB), "JPEG"), None),
    ],
)
def test_an_image_of_every_kind_is_read(written, data, expected):
    path = written(data)
    read = read_image(path)
    assert read.dtype == np.uint8 and read.shape == (4, 6, 3)
    if expected is None:  # JPEG changes pixels
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(read, expected)
    assert image_size(path) == (4, 6)
    assert np.array_equal(read_image(path.with_name("not there"), data), read)


def test_what_is_no_number_becomes_0(written):
    samples = np.array([[np.nan, 1, 3], [np.inf, 2, -np.inf]], np.float32)
    read = read_image(written(saved(Image.fromarray(samples), "TIFF")))
    assert read[..., 0].tolist() == [[0, 0, 255], [0, 128, 0]]
    nothing = read_image(written(saved(Image.fromarray(samples * np.nan), "TIFF")))
    assert not nothing.any()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_turns_the_image_and_its_size(written, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.kron(RGB, np.ones((8, 8, 1), np.uint8))
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    path = written(saved(Image.fromarray(pixels), kind, exif=exif, **options))
    shown = np.rot90(pixels, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    read = read_image(path)
    assert read.shape == shown.shape and image_size(path) == shown.shape[:2]
    assert np.abs(read.astype(int) - shown).max() <= (40 if kind == "JPEG" else 0)


class TestBands:
    """TIFF that tifffile reads."""

    @pytest.fixture
    def bands(self, written):
        tifffile = pytest.importorskip("tifffile")

        def write(samples, **options):
            path = written(b"", "a.tif")
            tifffile.imwrite(path, samples, photometric=options.pop("photometric", "minisblack"), **options)
            return path

        return write

    @pytest.mark.parametrize("planar", ["contig", "separate"])
    @pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32, np.float64])
    def test_the_first_three_of_many_are_read(self, bands, kind, planar):
        samples = (WIDE % 251 if kind is np.uint8 else WIDE).astype(kind)
        first = samples[..., :3]
        path = bands(samples if planar == "contig" else np.moveaxis(samples, -1, 0), planarconfig=planar)
        assert np.array_equal(read_image(path), first if kind is np.uint8 else stretched(first))
        assert image_size(path) == (4, 6)

    def test_colours_of_16_bits_keep_all_bits(self, bands):
        path = bands(WIDE[..., :3], photometric="rgb")
        assert np.array_equal(read_image(path), stretched(WIDE[..., :3]))

    def test_four_grey_bands_are_read(self, bands):
        path = bands(np.dstack([RGB, GREY]), planarconfig="contig")
        assert np.array_equal(read_image(path), RGB)

    def test_the_orientation_is_applied(self, bands):
        path = bands(WIDE, planarconfig="contig", extratags=[(274, "H", 1, 6, True)])
        assert np.array_equal(read_image(path), np.rot90(stretched(WIDE[..., :3]), -1))
        assert image_size(path) == (6, 4)

    def test_two_bands_and_cut_files_are_refused(self, bands):
        with pytest.raises(
            DataError, match=r"a\.tif: expected a TIFF of one band, or of three or more, found"
        ):
            read_image(bands(WIDE[..., :2], planarconfig="contig"))
        path = bands(WIDE, planarconfig="contig")
        cut(path, 0.9)
        with pytest.raises(DataError, match=r"a\.tif: expected a (whole|readable)"):
            read_image(path)


def wide_tiff() -> bytes:
    """A TIFF of one pixel with 5 bands of 16 bits."""
    tags = [(256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 5, 122), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 132), (277, 3, 1, 5), (278, 4, 1, 1), (279, 4, 1, 10)]
    directory = b"".join(
        tag.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
        + count.to_bytes(4, "little")
        + value.to_bytes(4, "little")
        for tag, kind, count, value in tags
    )
    head = b"II*\0\x08\0\0\0" + len(tags).to_bytes(2, "little") + directory + bytes(4)
    return head + b"\x10\0" * 5 + bytes(10)


def test_without_tifffile_the_way_out_is_named(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    path = written(wide_tiff(), "a.tif")
    assert image_size(path) == (1, 1)
    expected = r"a\.tif: .* TIFF of 5 bands of 16 bits, found it missing: pip install 'ralx\[images\]'"
    with pytest.raises(DataError, match=expected):
        read_image(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a whole, readable image"),
        (b"GIF89a" + bytes(50), "starts with b'GIF89a"),
        (b"II*\0\xff\xff\0\0", "expected a readable TIFF image"),
        (saved(Image.fromarray(RGB), "TIFF")[:60], "expected a (whole, )?readable"),
        (saved(Image.fromarray(RGB), "WEBP")[:60], "expected a whole, readable image"),
        (saved(Image.fromarray(RGB).convert("LAB"), "TIFF"), "in grey, colour or a palette, found LAB"),
        (
            saved(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]),
            "expected one image, found a stack of several",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of a file that ends within its tags
def test_what_is_no_image_of_these_kinds_is_refused(written, data, message):
    with pytest.raises(DataError, match=rf"a\.png: .*{message}"):
        read_image(written(data))


@pytest.mark.parametrize("read", [image_size, read_image])
def test_a_missing_image_is_refused(tmp_path, read):
    with pytest.raises(DataError, match=r"x\.png: expected a(n| readable) image file"):
        read(tmp_path / "x.png")


def test_a_smaller_copy_behind_the_image_is_no_stack(written):
    copy = Image.fromarray(RGB[:2, :3])
    path = written(saved(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[copy]))
    assert np.array_equal(read_image(path), RGB) and image_size(path) == (4, 6)


# Masks

THREE = ClassList(
    ("a", "b", "c"), ((9, 9, 9), (200, 0, 0), (0, 0, 200)), frozenset({7}), frozenset({(0, 0, 0)})
)
TWO = ClassList(("a", "b"), ((230, 159, 0), (86, 180, 233)))
BLACK_FIRST = ClassList(("a", "b"), ((0, 0, 0), (255, 255, 255)))
WHITE_FIRST = ClassList(("a", "b"), ((255, 255, 255), (0, 0, 0)))


def of_colours(index, colours):
    return np.array(colours, np.uint8)[np.asarray(index)]


@pytest.mark.parametrize(
    ("classes", "data", "expected"),
    [
        (THREE, png([[0, 1, 2, 7, 255]], 8), [[0, 1, 2, 255, 255]]),
        (THREE, png([[0, 1, 2, 7, 255, 65535]], 16), [[0, 1, 2, 255, 255, 255]]),
        (THREE, png([[0, 1, 2, 3][:3]], 2), [[0, 1, 2]]),
        (THREE, png([of_colours([1, 2, 0], [(0, 0, 0), (200, 0, 0), (0, 0, 200)])], 8, 2), [[1, 2, 255]]),
        (THREE, png([[1, 0]], 8, 3, before=chunk(b"PLTE", bytes([200, 0, 0, 9, 9, 9]))), [[0, 1]]),
        (THREE, png([of_colours([0, 1], [(1, 1, 1), (255, 255, 255)])], 8, 2), [[1, 255]]),
        (TWO, png([[0, 255, 1]], 8), [[0, 255, 1]]),
        (TWO, png([[0, 255]], 8), [[0, 255]]),
        (BLACK_FIRST, png([[0, 255, 0]], 8), [[0, 1, 0]]),
        (BLACK_FIRST, png([[0, 65535, 0]], 16), [[0, 1, 0]]),
        (BLACK_FIRST, png([[0, 1, 255]], 8), [[0, 1, 255]]),
        (BLACK_FIRST, png([[0, 1, 0]], 1), [[0, 1, 0]]),
        (BLACK_FIRST, png([[0, 0]], 8), [[0, 0]]),
        (BLACK_FIRST, png([of_colours([0, 1], [(0, 0, 0), (255, 255, 255)])], 8, 2), [[0, 1]]),
        (WHITE_FIRST, png([[0, 255, 0]], 8), [[1, 0, 1]]),
        (WHITE_FIRST, png([[0, 1, 255]], 8), [[0, 1, 255]]),
    ],
)
def test_a_mask_tells_classes_and_what_is_not_known(written, classes, data, expected):
    size = len(expected), len(expected[0])
    assert read_mask(written(data), classes, size).tolist() == expected


@pytest.mark.parametrize(
    ("classes", "data", "message"),
    [
        (
            THREE,
            png([[0, 3]], 8),
            "expected class ids 0..2 or 7 or 255 for unlabelled, found 3 at row 0, col",
        ),
        (THREE, png([[0, 65534]], 16), "found 65534 at row 0, column 1"),
        (THREE, png([[0, 1], [0, 1]], 8), "expected 1x2 pixels .* as its image, found 2x2"),
        (
            THREE,
            png([of_colours([0, 1], [(0, 0, 0), (1, 2, 3)])], 8, 2),
            r"expected the class file's colours, found \(1, 2, 3\) at row 0, column 1",
        ),
        (THREE, png([[[200, 0, 0, 255], [200, 0, 0, 0]]], 8, 6), "expected opaque labels"),
        (BLACK_FIRST, png([[0, 128]], 8), "expected class ids 0..1 or 255 for unlabelled, found 128"),
        (WHITE_FIRST, png([[0, 0]], 8), "found only 0, which is the id of 'a' and the colour of 'b'"),
        (TWO, b"II*\0", "expected a whole, readable image"),
    ],
)
def test_a_wrong_mask_is_refused(written, classes, data, message):
    with pytest.raises(DataError, match=rf"a\.png: .*{message}"):
        read_mask(written(data), classes, (1, 2))


def test_a_mask_is_turned_as_its_image(written, tmp_path):
    exif = b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6" + bytes(6)
    path = written(png([[0, 1, 2]], 8, behind=chunk(b"eXIf", exif)))
    assert read_mask(path, THREE, (3, 1)).tolist() == [[0], [1], [2]]
    write_image(tmp_path / "x.png")
    assert image_size(tmp_path / "x.png") == (24, 32)
