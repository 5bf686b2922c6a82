"""Labels as napari and Segments.ai number them: 0 is unlabelled."""

import json

import numpy as np
import pytest
from label_maps import CLASSES, read, ring, write
from PIL import Image

from ralx.datasets.errors import DataError

SIZES = {"a.png": (9, 8)}
NUMBERS = np.array([1, 2, 3, *[0] * 253], np.uint8)[ring()]


def test_numbers_start_at_one_and_are_named(tmp_path):
    write("napari", tmp_path, {"a.png": ring()})
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), NUMBERS)
    assert json.loads((tmp_path / "labels.json").read_text()) == {"1": "sky", "2": "road", "3": "car & bus"}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_of_8_and_16_bits_is_read(dtype, tmp_path):
    Image.fromarray(NUMBERS.astype(dtype)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read("napari", tmp_path, SIZES)["a.png"], ring())


def test_a_label_bitmap_of_segments_ai_is_read(tmp_path):
    bitmap = NUMBERS.astype("<u4")[..., None].view(np.uint8)
    bitmap[..., 3] = 255
    Image.fromarray(bitmap).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read("napari", tmp_path, SIZES)["a.png"], ring())


@pytest.mark.parametrize(
    "pixels", [np.full((9, 8), 4, np.uint8), np.full((9, 8), 259, np.uint16), np.ones((9, 8, 3), np.uint8)]
)
def test_numbers_of_no_class_are_refused(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: expected 0 = unlabelled or 1\.\.3 for the classes"):
        read("napari", tmp_path, SIZES)


def test_numbers_of_other_names_are_refused(tmp_path):
    write("napari", tmp_path, {"a.png": ring()})
    (tmp_path / "labels.json").write_text(json.dumps({"1": "road", "2": "sky", "3": "car & bus"}))
    with pytest.raises(DataError, match=r"labels\.json: expected the numbers"):
        read("napari", tmp_path, SIZES)


def test_a_palette_is_refused(tmp_path):
    image = Image.fromarray(NUMBERS)
    image.putpalette(CLASSES.palette.tobytes())
    image.save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: expected a grey PNG of 8 or 16 bits, 0 = unlabelled"):
        read("napari", tmp_path, SIZES)


def test_napari_shows_the_same_numbers(tmp_path):
    layers = pytest.importorskip("napari.layers", reason="napari is not installed")
    write("napari", tmp_path, {"a.png": ring()})
    layer = layers.Labels(np.asarray(Image.open(tmp_path / "a.png")))
    unlabelled, pixel = (0, 0), np.argwhere(ring() == 255)[0]
    assert (
        layer.get_value(unlabelled) == 1
        and layer.get_value(tuple(pixel)) == layer.colormap.background_value == 0
    )
