"""Generated scenes: the same bytes everywhere, classes as skewed as CamVid's, near things before far ones."""

import ast
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import ralx.datasets.scenes
from ralx.datasets import CAMVID_CLASSES, CITYSCAPES_CLASSES, WORLDS, synthetic_dataset
from ralx.datasets.scenes import objects
from ralx.datasets.scenes.noise import Dice
from ralx.datasets.scenes.objects import draw_car, draw_pedestrian, draw_pole
from ralx.datasets.scenes.street import CAR, PEDESTRIAN, POLE, ROAD, Camera, Canvas
from ralx.datasets.scenes.synthetic import render_scene, scene_names

SIZE = (96, 128)
# Percent of CamVid's training pixels, void last.
CAMVID_SHARES = (16.9, 23.3, 1.0, 31.7, 4.5, 9.7, 1.2, 1.1, 5.9, 0.64, 0.29, 4.0)


@pytest.fixture(scope="module")
def scenes() -> tuple[np.ndarray, np.ndarray]:
    """120 images [n, H, W, 3] and labels [n, H, W] of the town."""
    images, labels = zip(*(render_scene(SIZE, world="town", seed=seed) for seed in range(120)), strict=True)
    return np.stack(images), np.stack(labels)


@pytest.mark.parametrize(
    ("size", "world", "seed", "digest"),
    [
        ((96, 128), "town", 1, "e01d63ac3be77f073b9fb4edebe2ba9b1636bb64286a069926756a44b9087ec8"),
        ((61, 83), "game", 2, "e2605ee19b7a74e341b372869708b9c518e450275c1a4922c720b65659676dbb"),
    ],
)
def test_scenes_are_the_same_bytes_on_every_machine(size, world, seed, digest):
    image, label = render_scene(size, world=world, seed=seed)
    assert image.flags.c_contiguous and label.flags.c_contiguous
    assert hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest() == digest


def test_scenes_are_made_of_hashes_and_basic_arithmetic_only():
    """Whatever could round differently elsewhere: libm, sums of floats, powers, matrix products."""
    allowed = {
        "abs", "arange", "array", "ascontiguousarray", "asarray", "broadcast", "copyto", "float32", "floor",
        "full", "int32", "int64", "isin", "maximum", "minimum", "ndarray", "ones", "uint32", "uint8", "zeros",
        "zeros_like",
    }  # fmt: skip
    for path in Path(ralx.datasets.scenes.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                module = node.value.id if isinstance(node.value, ast.Name) else None
                assert module != "np" or node.attr in allowed, f"{path.name} uses np.{node.attr}"
                assert module != "math" or node.attr in ("ceil", "floor"), f"{path.name}: math.{node.attr}"
                summed = node.attr in ("sum", "mean", "std", "dot", "prod", "cumsum")
                assert not summed, f"{path.name} uses {node.attr}"
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.MatMult):
                assert all(isinstance(side, ast.Constant | ast.UnaryOp) for side in (node.left, node.right))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("size", [(16, 16), (33, 97), (97, 33), (120, 160)])
def test_any_size_in_any_world(size, world):
    for seed in range(3):
        image, label = render_scene(size, world=world, seed=seed)
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        assert label.shape == size and label.dtype == np.uint8
        assert label.max() <= 11


def test_classes_are_as_skewed_as_camvids(scenes):
    _, labels = scenes
    shares = 100 * np.bincount(labels.ravel(), minlength=12) / labels.size
    for name, found, wanted in zip((*CAMVID_CLASSES, "void"), shares, CAMVID_SHARES, strict=True):
        assert wanted / 2 < found < wanted * 2, f"{name}: {found:.2f} % of the pixels, CamVid has {wanted} %"


def test_rare_classes_come_together_in_few_images(scenes):
    """So that it matters which regions are labelled: most of a rare class lies in a tenth of the regions."""
    _, labels = scenes
    regions = labels.reshape(-1, 4, 24, 4, 32).transpose(0, 1, 3, 2, 4).reshape(-1, 24 * 32)
    for klass in (PEDESTRIAN, CAMVID_CLASSES.index("bicyclist"), CAMVID_CLASSES.index("fence")):
        pixels = np.sort((regions == klass).sum(1))[::-1]
        assert pixels[: len(pixels) // 10].sum() > 0.8 * pixels.sum()
        assert (labels == klass).any((1, 2)).mean() < 0.75


def test_void_is_thin(scenes):
    """Void lies along borders: away from them, and from small things that no class names, there is none."""
    _, labels = scenes
    void = labels == 11
    thick = void[:, :-4, :-4] & void[:, 4:, 4:] & void[:, :-4, 4:] & void[:, 4:, :-4]
    assert void.mean() > 0.02 and thick.mean() < 0.004


def test_the_light_differs_between_scenes(scenes):
    images, _ = scenes
    brightness = images.mean((1, 2, 3))
    assert brightness.max() > 1.4 * brightness.min()


def test_surfaces_have_texture(scenes):
    images, labels = scenes
    for klass in (CAMVID_CLASSES.index("building"), CAMVID_CLASSES.index("tree"), ROAD):
        assert np.mean([images[n][labels[n] == klass].std() for n in range(20)]) > 8


def test_the_road_narrows_towards_the_horizon(scenes):
    _, labels = scenes
    width = (labels == ROAD).sum(2).mean(0)  # [H]
    assert width[90] > 1.5 * width[66] > 3 * width[54]


def _canvas(size=(120, 160)) -> Canvas:
    camera = Camera(focal=1.2, height=1.5, horizon=0.45, vanish=0.66)
    return Canvas(*size, camera, WORLDS["town"])


def test_far_things_are_small():
    sizes = []
    for depth in (8.0, 16.0):
        canvas = _canvas()
        draw_car(canvas, 2.0, depth, Dice(1))
        sizes.append((canvas.label == CAR).sum())
    assert sizes[0] > 2.5 * sizes[1] > 0


def test_near_things_hide_far_ones():
    canvas, alone = _canvas(), _canvas()
    draw_car(canvas, 2.0, 12.0, Dice(1))
    hidden = canvas.label.copy()
    draw_pedestrian(canvas, 2.0, 8.0, Dice(2))
    draw_pedestrian(alone, 2.0, 8.0, Dice(2))
    person = alone.label == PEDESTRIAN
    assert (hidden[person] == CAR).any()
    assert (canvas.label == PEDESTRIAN)[person].all()


def test_scenes_are_painted_from_far_to_near(monkeypatch):
    depths = []
    monkeypatch.setattr(objects, "draw_car", lambda canvas, lateral, depth, dice: depths.append(depth))
    for seed in range(5):
        depths.clear()
        render_scene(SIZE, world="town", seed=seed)
        assert depths == sorted(depths, reverse=True)
    assert depths


def test_thin_things_are_a_pixel_wide_at_least():
    for place in range(20):
        canvas = _canvas((48, 64))
        draw_pole(canvas, place / 5 - 2, 40.0, Dice(place))
        assert (canvas.label == POLE).any()


def test_a_scene_depends_on_its_name_world_and_seed_only():
    names = scene_names("eval", 6)
    six, three = synthetic_dataset(names, SIZE), synthetic_dataset(names[3:], SIZE)
    assert torch.equal(six.images(torch.arange(3, 6)), three.images(torch.arange(3)))
    for other in (synthetic_dataset(names, SIZE, seed=1), synthetic_dataset(names, SIZE, world="game")):
        assert not torch.equal(six.images(torch.arange(6)), other.images(torch.arange(6)))
    images = six.images(torch.arange(6)).flatten(1)
    assert len(images.unique(dim=0)) == 6


@pytest.mark.parametrize("world", WORLDS)
def test_every_world_has_every_class(world):
    labels = synthetic_dataset(scene_names("a", 60), SIZE, world=world).labels(torch.arange(60))
    assert set(labels.unique().tolist()) == set(range(12))


def test_the_worlds_look_different():
    """Their mean colours differ by more than those of two sets of scenes of one world."""

    def colour(world: str, seed: int) -> torch.Tensor:
        data = synthetic_dataset(scene_names("a", 40), SIZE, world=world, seed=seed)
        return data.images(torch.arange(40)).double().mean((0, 2, 3))

    town, again = colour("town", 0), colour("town", 1)
    assert (colour("game", 0) - town).norm() > 2 * (again - town).norm()


def test_scenes_can_be_labelled_in_cityscapes_classes():
    camvid = synthetic_dataset(scene_names("a", 8), SIZE)
    city = synthetic_dataset(scene_names("a", 8), SIZE, classes=CITYSCAPES_CLASSES)
    index = torch.arange(8)
    assert torch.equal(camvid.images(index), city.images(index))
    assert city.classes == CITYSCAPES_CLASSES and city.ignore_index == 255
    names = {"pavement": "sidewalk", "tree": "vegetation", "sign": "traffic sign", "pedestrian": "person"}
    names |= {"bicyclist": "rider"}
    for klass, name in enumerate(CAMVID_CLASSES):
        inside = city.labels(index)[camvid.labels(index) == klass]
        assert (inside == CITYSCAPES_CLASSES.index(names.get(name, name))).all()
    assert (city.labels(index)[camvid.labels(index) == 11] == 255).all()


@pytest.mark.parametrize(
    ("size", "world", "message"),
    [
        (SIZE, "mars", "world: expected one of town, game, got 'mars'"),
        ((15, 128), "town", "image_size: expected at least 16 pixels a side, got"),
    ],
)
def test_an_unknown_world_and_an_image_too_small_for_a_street_are_refused(size, world, message):
    with pytest.raises(ValueError, match=message):
        render_scene(size, world=world, seed=0)


def test_dice_are_fair():
    dice = Dice(3)
    throws = [dice.below(6) for _ in range(3000)]
    assert set(throws) == set(range(6))
    assert math.isclose(sum(throws) / 3000, 2.5, abs_tol=0.12)
    assert Dice(3).integer() != Dice(4).integer()
