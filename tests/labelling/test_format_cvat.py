"""CVAT for images 1.1: run lengths local to a box, beside cvat-sdk's code where it is installed."""

from xml.etree import ElementTree

import numpy as np
import pytest
from label_maps import AWKWARD, class_list, read, ring, write

from ralx.datasets.errors import DataError

SIZES = {"a.png": (9, 8)}
HEAD = "<annotations><version>1.1</version>"
IMAGE = '<image id="0" name="images/a.png" width="8" height="9">'
BOX = 'left="2" top="3" width="2" height="2"'


def xml(tmp_path, shapes: str, head: str = HEAD + IMAGE, tail: str = "</image></annotations>"):
    file = tmp_path / "annotations.xml"
    file.write_text(f"{head}{shapes}{tail}")
    return file


def mask(label: str, more: str = f'rle="0, 4" {BOX}') -> str:
    return (
        f'<mask label="{label}" source="manual" occluded="0" {more}><attribute name="x">3</attribute></mask>'
    )


def test_the_file_says_what_cvat_writes(tmp_path):
    write("cvat", tmp_path, {"street/a.jpg": ring()})
    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()
    [image] = root.findall("image")
    assert root.findtext("version") == "1.1"
    assert image.attrib == {"id": "0", "name": "street/a.png", "width": "8", "height": "9"}
    assert (tmp_path / "images/street/a.png").is_file()
    sky, road = image.findall("mask")
    assert (sky.get("label"), road.get("label")) == ("sky", "road")
    assert [road.get(key) for key in ("left", "top", "width", "height")] == ["1", "1", "6", "7"]
    assert road.get("rle") == "0, 7, 4, 2, 4, 2, 4, 2, 4, 2, 4, 7"


def test_later_and_higher_masks_lie_above(tmp_path):
    low, high = mask("sky"), mask("road", f'rle="0, 1, 3" {BOX}')
    for shapes, expected in (
        (low + high, [1, 0, 0, 0]),
        (high + low, [0, 0, 0, 0]),
        (
            high.replace("<mask", '<mask z_order="2"') + low.replace("<mask", '<mask z_order="1"'),
            [1, 0, 0, 0],
        ),
    ):
        label = read("cvat", xml(tmp_path, shapes), SIZES)["a.png"]
        assert label[3:5, 2:4].ravel().tolist() == expected and (label != 255).sum() == 4


def test_a_polygon_is_the_pixels_whose_middles_it_holds(tmp_path):
    corners = "1.00,2.00;6.00,2.00;6.00,5.00;1.00,5.00"
    shape = f'<polygon label="road" occluded="0" points="{corners}"></polygon>'
    label = read("cvat", xml(tmp_path, shape), SIZES)["a.png"]
    expected = np.full((9, 8), 255)
    expected[2:5, 1:6] = 1
    np.testing.assert_array_equal(label, expected)


def test_tags_and_images_without_masks_are_no_labels(tmp_path):
    label = read("cvat", xml(tmp_path, '<tag label="sky" source="manual"></tag>'), SIZES)["a.png"]
    assert (label == 255).all()


@pytest.mark.parametrize(
    ("shapes", "rule"),
    [
        (mask("water"), "expected the project's classes, found 'water'"),
        (mask("sky", f'rle="0, 3" {BOX}'), "expected run lengths that sum to 4"),
        (mask("sky", f'rle="0, -4, 8" {BOX}'), "expected run lengths that sum to 4"),
        (mask("sky", f'rle="" {BOX}'), "expected a file as CVAT"),
        (
            mask("sky", 'rle="0, 4" left="7" top="3" width="2" height="2"'),
            "found a box of 2x2 at row 3, column 7",
        ),
        (mask("sky", 'rle="0, 4" left="-1" top="3" width="2" height="2"'), "inside the image of 9x8"),
        (mask("sky", 'rle="" left="1" top="3" width="0" height="0"'), "inside the image of 9x8"),
        (mask("sky", 'left="2" top="3" width="2" height="2"'), "'rle'"),
        (
            '<box label="sky" xtl="0" ytl="0" xbr="3" ybr="3"></box>',
            "expected masks or polygons, found a box of 'sky'",
        ),
        ('<polygon label="sky" points="1,2;3,4"></polygon>', "three or more points"),
        ('<polygon label="sky" points="1,2;3,4;nan,2"></polygon>', "three or more points"),
    ],
)
def test_shapes_that_are_no_labels_are_refused(shapes, rule, tmp_path):
    with pytest.raises(DataError, match=rule) as refused:
        read("cvat", xml(tmp_path, shapes), SIZES)
    assert str(refused.value).startswith(f"{tmp_path / 'annotations.xml'}: expected")


@pytest.mark.parametrize(
    ("start", "rule"),
    [
        ('<!DOCTYPE a [<!ENTITY b "sky">]>', "without a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">', "without a document type"),
        (
            '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>',
            "without a document type",
        ),
        ("<x/>", "expected annotations of CVAT for images 1.1, found <x>"),
        (f'{HEAD}<track id="0" label="sky">', "found a track of CVAT for video"),
    ],
)
def test_entities_and_other_xml_are_refused(start, rule, tmp_path):
    file = xml(tmp_path, "<annotations></annotations>", head=start, tail="")
    with pytest.raises(DataError, match=rule) as refused:
        read("cvat", file, SIZES)
    assert str(file) in str(refused.value)


def test_a_zip_as_cvat_exports_it_is_refused_with_the_way_out(tmp_path):
    file = tmp_path / "export.zip"
    file.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"export\.zip: expected .* found '\.zip'; unpack an archive first"):
        read("cvat", file, SIZES)


@pytest.mark.parametrize("what", AWKWARD)
def test_masks_are_cvats(what, tmp_path):
    oracle = pytest.importorskip("cvat_sdk.masks", reason="cvat-sdk[masks] is not installed")
    label, count = AWKWARD[what]
    write("cvat", tmp_path, {"a.png": label}, class_list(count))
    masks = ElementTree.parse(tmp_path / "annotations.xml").getroot().findall("image/mask")
    assert len(masks) == len(set(label.ravel()) - {255})
    for element in masks:
        klass = class_list(count).names.index(element.get("label"))
        left, top, width, height = (int(element.get(key)) for key in ("left", "top", "width", "height"))
        points = [*map(int, element.get("rle").split(",")), left, top, left + width - 1, top + height - 1]
        assert points == oracle.encode_mask(label == klass)
        decoded = oracle.decode_mask(points, image_width=label.shape[1], image_height=label.shape[0])
        np.testing.assert_array_equal(decoded, label == klass)
