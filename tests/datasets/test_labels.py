"""A label file's meaning doesn't depend on how its PNG is stored."""

import numpy as np
import pytest
from dataset_trees import chunk, png
from PIL import Image

from ralx.datasets import CAMVID_CLASSES, CAMVID_PALETTE, CITYSCAPES_CLASSES, CITYSCAPES_PALETTE, DataError
from ralx.datasets.camvid import camvid_folder
from ralx.datasets.cityscapes import cityscapes_folder
from ralx.datasets.classes import CITYSCAPES_IDS, LABEL_COLOURS
from ralx.datasets.gta5 import gta5_folder

IDS = np.array([[3, 7, 7], [11, 3, 3]], np.uint8)  # ids of every data set
PLTE, TRNS = b"PLTE", b"tRNS"


class Reader:
    """A data set of one image, with its label file and what the label ids mean."""

    def __init__(self, root, name):
        self.root, self.name = root, name
        folder, end = "leftImg8bit/train/ulm/x_leftImg8bit.png", "gtFine/train/ulm/x_gtFine_"
        self.image, self.label = {
            "camvid": ("train/x.png", "trainannot/x.png"),
            "gta5": ("images/x.png", "labels/x.png"),
            "label ids": (folder, f"{end}labelIds.png"),
            "train ids": (folder, f"{end}labelTrainIds.png"),
        }[name]
        for path in (self.image, self.label):
            (root / path).parent.mkdir(parents=True, exist_ok=True)

    @property
    def classes(self):
        """uint8 [256], the class of each id."""
        return CITYSCAPES_IDS if self.name in ("gta5", "label ids") else np.arange(256, dtype=np.uint8)

    @property
    def colours(self):
        """Colours in the order of the ids."""
        camvid = [*CAMVID_PALETTE.values(), (0, 0, 0)]
        return {"camvid": camvid, "train ids": [*CITYSCAPES_PALETTE.values()]}.get(self.name, LABEL_COLOURS)

    def read(self, label):
        """Classes [h, w] of a label file, from its bytes or an image."""
        if isinstance(label, bytes):
            (self.root / self.label).write_bytes(label)
        else:
            label.save(self.root / self.label)
        with Image.open(self.root / self.label) as written:
            Image.new("RGB", written.size).save(self.root / self.image)
            height, width = written.height, written.width
        if self.name == "camvid":
            data = camvid_folder(self.root, "train")
        elif self.name == "gta5":
            data = gta5_folder(self.root, CITYSCAPES_CLASSES, (height, width))
        else:
            data = cityscapes_folder(self.root, "train")
        return data.source.read_label(0)


@pytest.fixture(params=["camvid", "gta5", "label ids", "train ids"])
def reader(request, tmp_path):
    return Reader(tmp_path, request.param)


@pytest.fixture
def camvid(tmp_path):
    return Reader(tmp_path, "camvid")


@pytest.fixture
def gta5(tmp_path):
    return Reader(tmp_path, "gta5")


def palette_image(index, colours):
    image = Image.fromarray(np.asarray(index, np.uint8), "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def grey(*values):
    return [(value, value, value) for value in values]


def stored(ids):
    """Every way to store grey ids below 16."""
    found, index = np.unique(ids, return_inverse=True)
    index = index.reshape(ids.shape)
    opaque = np.full_like(ids, 255)
    plte = chunk(PLTE, bytes(np.repeat(found, 3).tolist()))
    return {
        "8 bits": png(ids, 8),
        "4 bits": png(ids, 4),
        "16 bits": png(ids, 16),
        "RGB": png(np.stack([ids] * 3, 2), 8, 2),
        "RGBA": png(np.stack([*[ids] * 3, opaque], 2), 8, 6),
        "grey and alpha": png(np.stack([ids, opaque], 2), 8, 4),
        "palette of 2 bits": png(index, 2, 3, before=plte),
        "palette of 4 bits": png(index, 4, 3, before=plte),
        "palette of 8 bits": png(index, 8, 3, before=plte),
        "ramp of greys": palette_image(ids, grey(*range(256))),
        "palette backwards": palette_image(len(found) - 1 - index, grey(*found[::-1])),
        "alpha of a palette": png(index, 8, 3, before=plte + chunk(TRNS, b"\xff\x80\x01")),
        "another grey transparent": png(ids, 8, before=chunk(TRNS, b"\0\5")),
    }


@pytest.mark.parametrize("storage", stored(IDS))
def test_grey_ids_are_the_same_in_every_storage(reader, storage):
    assert reader.read(stored(IDS)[storage]).tolist() == reader.classes[IDS].tolist()


@pytest.mark.parametrize(("depth", "ids"), [(1, [[0, 1, 1]]), (2, [[0, 1, 2, 3]]), (4, [[1, 14, 2, 0]])])
def test_grey_of_few_bits_is_not_stretched(tmp_path, depth, ids):
    assert Reader(tmp_path, "train ids").read(png(ids, depth)).tolist() == ids


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("kind", ["palette", "RGB", "RGBA"])
def test_colours_are_the_ids_that_they_stand_for(reader, kind, order):
    """In a palette of any order; the palette in the order of the ids is what GTA5's files have."""
    colours = np.array(reader.colours, np.uint8)
    ids = np.array([[7, 8, 10, 7]], np.uint8)
    index = ids if order == 1 else len(colours) - 1 - ids
    image = palette_image(index, colours[::order].tolist())
    label = image if kind == "palette" else image.convert(kind)
    assert reader.read(label).tolist() == reader.classes[ids].tolist()


@pytest.mark.parametrize(("name", "void"), [("camvid", 11), ("train ids", 255)])
@pytest.mark.parametrize("kind", ["P", "RGB"])
def test_black_beside_colours_is_void(tmp_path, name, void, kind):
    reader = Reader(tmp_path, name)
    colours = [*reader.colours, *[(0, 0, 0)] * (256 - len(reader.colours))]
    label = palette_image([[0, void, 1]], colours).convert(kind)
    assert reader.read(label).tolist() == [[0, void, 1]]


def test_where_colours_come_twice_the_index_of_a_palette_in_order_tells_ids_apart(gta5):
    """A pole group (18) and a licence plate (34) are void; reordered, poles and cars, as in RGB."""
    ids = np.arange(35, dtype=np.uint8)[None]
    ordered = palette_image(ids, LABEL_COLOURS)
    assert gta5.read(ordered).tolist() == gta5.classes[ids].tolist()
    alone = palette_image([[18, 34]], LABEL_COLOURS)
    assert gta5.read(alone).tolist() == [[255, 255]]
    expected = gta5.classes[ids]
    expected[0, 18], expected[0, 34] = CITYSCAPES_CLASSES.index("pole"), CITYSCAPES_CLASSES.index("car")
    assert gta5.read(ordered.convert("RGB")).tolist() == expected.tolist()
    backwards = palette_image(34 - ids, LABEL_COLOURS[::-1])
    assert gta5.read(backwards).tolist() == expected.tolist()


def test_gta5s_own_colour_of_static_things_is_known(gta5):
    colours = [*LABEL_COLOURS[:4], (20, 20, 20), *LABEL_COLOURS[5:]]
    ids = np.array([[0, 4, 7, 18, 34]])
    assert gta5.read(palette_image(ids, colours)).tolist() == gta5.classes[ids].tolist()


def test_one_grey_that_is_no_id_may_be_a_colour(camvid):
    assert camvid.read(palette_image([[0, 0]], [CAMVID_PALETTE["sky"]])).tolist() == [[0, 0]]
    assert CAMVID_CLASSES[0] == "sky"


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (png([[3, 12]], 4), "expected label ids 0..11, 11 for void, found 12 at row 0, column 1"),
        (png([[3, 3 * 257]], 16), "found 771 at row 0, column 1"),
        (png([[128]], 8), "found 128 at row 0, column 0"),  # a grey file holds ids
        (palette_image([[0, 1]], grey(7, 12)), "expected label ids 0..11, .* found 12 at row 0, column 1"),
        (
            palette_image([[3, 7]], [(9 * n, n, 7) for n in range(12)]),
            r"CamVid's colours, found \(27, 3, 7\) at",
        ),
        (
            palette_image([[1, 0]], [(7, 7, 7), (128, 0, 0)]),
            r"CamVid's colours, found \(7, 7, 7\) at row 0, column 1",
        ),
        # Zeros where nobody gave a colour, and equal greys: an index would have to tell.
        (
            palette_image([[1, 3, 4]], [*CAMVID_PALETTE.values()][:3] + grey(0) * 9),
            r"apart, found 2 of \(0, 0, 0\)",
        ),
        (palette_image([[3, 9]], grey(*[200] * 12)), r"apart, found 2 of \(200, 200, 200\)"),
        (palette_image([[0, 0]], grey(0)), r"found greys that are both: \[\(0, 0, 0\)\]"),
        (Image.new("RGB", (2, 1)), r"found greys that are both: \[\(0, 0, 0\)\]"),
        (
            png([[0, 5]], 8, 3, before=chunk(PLTE, bytes(9))),
            "a pixel's palette index has no colour",
        ),
        (png([[0, 5]], 8, 3), "a pixel's palette index has no colour"),
        (png(np.full((1, 1, 3), 7), 16, 2), "expected labels of 8 bits a channel, found 16 bits in colour"),
        (png(np.full((1, 1, 2), 7), 16, 4), "expected labels of 8 bits a channel, found 16 bits in colour"),
    ],
)
def test_labels_that_mean_nothing_or_two_things_are_refused(camvid, label, message):
    with pytest.raises(DataError, match=rf"trainannot/x\.png: .*{message}"):
        camvid.read(label)


def test_entries_of_one_colour_that_no_two_ids_share_are_refused(gta5):
    """Nothing but black: five ids are black, but no palette of Cityscapes' is that alone."""
    with pytest.raises(DataError, match=r"that colours tell apart, found 3 of \(0, 0, 0\)"):
        gta5.read(palette_image([[7, 11, 26]], grey(*[0] * 35)))


@pytest.mark.parametrize(
    "label",
    [
        png([[[7, 255], [0, 0]]], 8, 4),
        png([[[7, 7, 7, 255], [0, 0, 0, 0]]], 8, 6),
        png([[7, 3]], 4, before=chunk(TRNS, b"\0\3")),
        png([[1, 0]], 1, before=chunk(TRNS, b"\0\0")),
        png([[7, 3]], 16, before=chunk(TRNS, b"\0\3")),
        png([[[7, 7, 7], [3, 3, 3]]], 8, 2, before=chunk(TRNS, b"\0\3\0\3\0\3")),
        png([[1, 0]], 8, 3, before=chunk(PLTE, bytes(3 * [3] + 3 * [7])) + chunk(TRNS, b"\0")),
        png([[1, 2]], 8, 3, before=chunk(PLTE, bytes(range(9))) + chunk(TRNS, b"\x80\x80\0")),
    ],
)
def test_a_transparent_pixel_is_refused(camvid, label):
    message = r"trainannot/x\.png: expected opaque labels, found a transparent pixel at row 0, column 1"
    with pytest.raises(DataError, match=message):
        camvid.read(label)


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "TIFF", "GIF"])
def test_labels_are_png(camvid, tmp_path, kind):
    camvid.read(Image.new("L", (8, 8), 3))
    Image.new("L", (8, 8), 3).save(tmp_path / camvid.label, format=kind)
    with pytest.raises(DataError, match=r"trainannot/x\.png: expected a readable PNG image"):
        camvid_folder(tmp_path, "train").load()
