"""A small folder of images of three sizes with their true labels, and a person who knows them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ralx.cli.label import main
from ralx.labelling import Project

CLASSES = ("sky", "road", "car")
SIZES = ((32, 48), (24, 40), (40, 40))
COLOURS = np.array([[90, 140, 230], [110, 100, 100], [220, 40, 40]])


def make_images(folder: Path, count: int = 6) -> Path:
    """images/ with sub-folders and truth/ beside them; sky above road, and a car somewhere."""
    random = np.random.default_rng(0)
    for index in range(count):
        height, width = SIZES[index % len(SIZES)]
        truth = np.zeros((height, width), np.uint8)
        truth[int(random.integers(height // 3, 2 * height // 3)) :] = 1
        top, left = int(random.integers(height - 10)), int(random.integers(width - 14))
        truth[top : top + 9, left : left + 13] = 2
        pixels = COLOURS[truth] + random.integers(-15, 16, (height, width, 3))
        name = f"day {index % 2}/bild_ü{index}"
        for kind, array in (("images", pixels.clip(0, 255).astype(np.uint8)), ("truth", truth)):
            path = folder / kind / f"{name}.{'PNG' if kind == 'images' else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def label(*arguments: object) -> int:
    """Run `ralx-label` in this process."""
    return main([str(argument) for argument in arguments])


def new(folder: Path, *options: object, count: int = 6) -> Path:
    """A project of these images; its folder."""
    make_images(folder, count)
    made = ("new", folder / "project", "--images", folder / "images", "--classes", folder / "classes.txt")
    small = ("--region-size", 12, 16, "--segmenter", "fpn-small")
    assert label(*made, *small, *options) == 0
    return folder / "project"


def regions_of(bundle: Path) -> list[dict]:
    return json.loads((bundle / "regions.json").read_text(encoding="utf-8"))["regions"]


def truth_of(folder: Path, region: dict, part: str = "crop_box") -> np.ndarray:
    """The true labels of a region's crop, or of its box."""
    whole = np.array(Image.open((folder / "truth" / region["image"]).with_suffix(".png")))
    top, left, height, width = region[part]
    return whole[top : top + height, left : left + width]


def paint(bundle: Path, folder: Path, regions: list[dict] | None = None) -> None:
    """Paint what is asked as it truly is."""
    for region in regions_of(bundle) if regions is None else regions:
        asked = np.array(Image.open(bundle / region["asked"])) == 255
        painted = np.where(asked, truth_of(folder, region), 255).astype(np.uint8)
        Image.fromarray(painted).save(bundle / region["label"])


def bundle_of(project: Path, number: int = 1) -> Path:
    return project / "rounds" / f"{number:04}" / "ask"


def asked(folder: Path, count: int = 8) -> tuple[Path, Path]:
    """A project with one round asked, and its bundle."""
    project = new(folder)
    assert label("ask", project, "--regions", count) == 0
    return project, bundle_of(project)


def labelled(folder: Path, count: int = 8) -> Path:
    """A project with one round labelled."""
    project, bundle = asked(folder, count)
    paint(bundle, folder)
    assert label("take", project, bundle) == 0
    return project


def weights_of(project: Path, number: int = 1) -> bytes:
    return Project(project).model_file(number).read_bytes()
