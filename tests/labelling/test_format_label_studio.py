"""Label Studio's tasks and exports, beside its SDK's code where it is installed."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_maps import CLASSES, class_list, read, ring, write
from PIL import Image

from ralx.datasets.errors import DataError
from ralx.labelling.formats import Item, label_studio
from ralx.labelling.formats.rle import to_brush

NAME = "street/a b.png"
SIZES = {NAME: (9, 8), "street/c.png": (2, 2)}
MASK = ring() == 1


def data_url(pixels: np.ndarray, kind: str = "PNG") -> str:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def black_on_clear(mask: np.ndarray) -> np.ndarray:
    """As Label Studio draws a bitmask."""
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[..., 3] = mask * 255
    return pixels


def brush(mask: np.ndarray = MASK, name: str = "road", **changes: Any) -> dict[str, Any]:
    value = {"format": "rle", "rle": list(to_brush(mask)), "brushlabels": [name]}
    return result("brushlabels", value, **changes)


def bitmask(url: str, name: str = "road", **changes: Any) -> dict[str, Any]:
    return result("bitmasklabels", {"imageDataURL": url, "bitmasklabels": [name]}, **changes)


def result(kind: str, value: dict[str, Any], **changes: Any) -> dict[str, Any]:
    size = {"original_width": 8, "original_height": 9, "image_rotation": 0}
    return (
        {"id": "x", "type": kind, "from_name": "label", "to_name": "image", "value": value} | size | changes
    )


def export(folder: Path, *results: dict[str, Any], **task: Any) -> Path:
    """An export of one task with one annotation."""
    annotations = [{"id": 7, "was_cancelled": False, "result": list(results)}]
    file = folder / "project-1-at-2026.json"
    file.write_text(
        json.dumps(
            [{"id": 3, "data": {"image": "/x.png", "ralx_image": NAME}, "annotations": annotations} | task]
        )
    )
    return file


def labels(file: Path) -> np.ndarray:
    return read("label-studio", file, SIZES)[NAME]


def test_tasks_hold_predictions_and_a_path_that_local_files_serve(tmp_path):
    write("label-studio", tmp_path, {"street/a b.jpg": ring()})
    [task] = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"] == {
        "image": "/data/local-files/?d=images/street/a%20b.png",
        "ralx_image": "street/a b.jpg",
    }
    assert (tmp_path / "images/street/a b.png").is_file()
    [prediction] = task["predictions"]
    assert [each["value"]["brushlabels"] for each in prediction["result"]] == [["sky"], ["road"]]
    assert {each["type"] for each in prediction["result"]} == {"brushlabels"}
    assert (prediction["result"][0]["original_width"], prediction["result"][0]["original_height"]) == (8, 9)
    config = (tmp_path / "config.xml").read_text()
    assert 'smoothing="false"' in config and '<Label value="car &amp; bus" background="#400080"/>' in config


def test_a_task_takes_the_address_of_an_upload():
    task = label_studio.task(
        Item(NAME, None, np.full((9, 8), 255, np.uint8)), CLASSES, "/data/upload/1/x.png"
    )
    assert task == {"data": {"image": "/data/upload/1/x.png", "ralx_image": NAME}, "predictions": []}


def test_brush_and_bitmask_of_an_export_are_read(tmp_path):
    file = export(tmp_path, brush(), bitmask(data_url(black_on_clear(ring() == 0)), "sky"))
    np.testing.assert_array_equal(labels(file), ring())


def test_later_results_lie_above_and_what_is_no_area_is_left_out(tmp_path):
    choice = {"type": "choices", "value": {"choices": ["good"]}, "from_name": "quality", "to_name": "image"}
    file = export(tmp_path, brush(np.ones((9, 8), bool), "sky"), choice, brush())
    np.testing.assert_array_equal(labels(file), MASK.astype(np.uint8))


def test_an_alpha_between_is_painted(tmp_path):
    pixels = black_on_clear(MASK)
    pixels[..., 3] //= 100
    np.testing.assert_array_equal(labels(export(tmp_path, bitmask(data_url(pixels)))) == 1, MASK)


def test_what_a_person_did_counts_and_not_the_models_guess(tmp_path):
    guess = [{"model_version": "ralx", "result": [brush()]}]
    assert (labels(export(tmp_path, annotations=[], predictions=guess)) == 255).all()
    np.testing.assert_array_equal(labels(export(tmp_path, brush(name="sky"), predictions=guess)) == 0, MASK)


def test_the_newest_annotation_counts_and_no_cancelled_one(tmp_path):
    def annotation(name: str, time: str | None, **more: Any) -> dict[str, Any]:
        return {"result": [brush(name=name)], "updated_at": time} | more

    old, new = "2026-12-01T10:00:00.1Z", "2026-12-01T11:00:00.1Z"
    for annotations, klass in (
        ([annotation("sky", new), annotation("road", old)], 0),
        ([annotation("sky", None), annotation("road", None)], 1),
        ([annotation("sky", old), annotation("road", new, was_cancelled=True)], 0),
    ):
        assert (labels(export(tmp_path, annotations=annotations)) == klass).sum() == MASK.sum()


@pytest.mark.parametrize(
    "image",
    [
        "/data/local-files/?d=images/street/a%20b.png",
        "/data/upload/12/0123abcd-a_b.png",
        "s3://bucket/some/street/a b.png",
        "https://host/street/a%20b.png?token=1",
    ],
)
def test_the_address_tells_the_image_where_no_name_does(image, tmp_path):
    np.testing.assert_array_equal(labels(export(tmp_path, brush(), data={"image": image})) == 1, MASK)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (brush(name="water"), "expected the project's classes, found 'water'"),
        (
            brush(original_width=16, original_height=18),
            "expected 9x8 pixels .* found 18x16.*must not be resized",
        ),
        (brush(image_rotation=90), "expected images that were not rotated"),
        (
            brush(np.ones((3, 3), bool)),
            "expected 288 values of 8 bits, four for each of 9x8 pixels, found 36",
        ),
        (
            result("brushlabels", {"rle": [1, 2, 300], "brushlabels": ["sky"]}),
            "expected a file as Label Studio",
        ),
        (
            result("brushlabels", {"rle": list(to_brush(MASK))}),
            "expected one class for each brushlabels, found",
        ),
        (result("brushlabels", {"rle": [], "brushlabels": ["sky", "road"]}), "expected one class"),
        (
            result("polygonlabels", {"points": [], "polygonlabels": ["sky"]}),
            "found polygonlabels on street/a b.png",
        ),
        (
            result("rectanglelabels", {"rectanglelabels": ["sky"]}),
            "expected BrushLabels or BitmaskLabels, found rect",
        ),
        (bitmask(data_url(MASK.astype(np.uint8) * 255)), "expected masks that are transparent .* found L"),
        (
            bitmask(data_url(MASK.astype(np.uint8) * 255, "JPEG")),
            "PNG data URLs, found 'data:image/jpeg;base64'",
        ),
        (bitmask(data_url(black_on_clear(MASK[:5]))), "expected 9x8 pixels .* found 5x8"),
        (bitmask("https://host/x.png"), "expected masks as PNG data URLs"),
        (bitmask("data:image/png;base64,!!!"), "expected a mask as PNG in base64"),
        (bitmask(data_url(black_on_clear(MASK))[:-40]), "expected a whole, readable image"),
    ],
)
def test_results_that_are_no_labels_are_refused(wrong, rule, tmp_path):
    file = export(tmp_path, wrong)
    with pytest.raises(DataError, match=rule) as refused:
        labels(file)
    assert str(refused.value).startswith(f"{file}: expected")


def test_the_short_export_is_refused(tmp_path):
    file = tmp_path / "min.json"
    file.write_text(json.dumps({"image": "/x.png", "label": []}))
    with pytest.raises(DataError, match=r"min\.json: expected a list of tasks, as Label Studio exports JSON"):
        labels(file)


def test_the_sdk_takes_the_configuration_and_the_tasks(tmp_path):
    interface = pytest.importorskip(
        "label_studio_sdk.label_interface", reason="label-studio-sdk is not installed"
    )
    classes = class_list(3)
    write("label-studio", tmp_path, {"a.png": ring()}, classes)
    [task] = json.loads((tmp_path / "tasks.json").read_text())
    taken = interface.LabelInterface((tmp_path / "config.xml").read_text())
    assert taken.validate() is None
    assert [*taken.get_control("label").labels] == [*classes.names]
    assert taken.validate_prediction(task["predictions"][0], return_errors=True) == []


def test_the_sdks_converter_gives_the_same_masks(tmp_path):
    brush_of = pytest.importorskip(
        "label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed"
    )
    write("label-studio", tmp_path, {"a.png": ring()})
    [task] = json.loads((tmp_path / "tasks.json").read_text())
    # What the SDK makes of an export before it converts it.
    results = [each | each["value"] for each in task["predictions"][0]["result"]]
    layers = brush_of.decode_from_annotation("label", results)
    assert {name: mask.tolist() for name, mask in layers.items()} == {
        f"label-{CLASSES.names[klass]}-0": ((ring() == klass) * 255).tolist() for klass in (0, 1)
    }
