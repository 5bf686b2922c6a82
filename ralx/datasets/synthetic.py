"""Seeded street scenes, byte for byte the same on every machine."""

from collections.abc import Iterable

import numpy as np

from ralx.datasets.classes import CAMVID_CLASSES, CAMVID_IGNORE
from ralx.datasets.dataset import SegmentationDataset
from ralx.datasets.geometry import Size
from ralx.datasets.noise import Dice, hash_seed, pixel_noise, smooth_noise

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
WORLDS = ("town", "game")


def render_scene(image_size: Size, *, world: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] and label uint8 [H, W] of one scene."""
    height, width = image_size
    dice = Dice(seed, WORLDS.index(world))
    y, x = np.mgrid[0:height, 0:width]
    y, x = (y + 0.5) / height, (x + 0.5) / width
    horizon, vanish = dice.between(0.4, 0.55), dice.between(0.4, 0.6)
    label = np.full(image_size, SKY, np.uint8)
    shade = np.empty((height, width, 3), np.float32)
    shade[:] = np.float32([170, 185, 200]) * np.float32(dice.between(0.8, 1.1))

    def paint(mask: np.ndarray, klass: int, colour: tuple[float, float, float]) -> None:
        label[mask] = klass
        shade[mask] = np.float32(colour)

    left = vanish - (horizon - y + 0.4) * dice.between(0.3, 1.2)
    paint((y < horizon) & (abs(x - vanish) > (horizon - y) * dice.between(0.2, 0.9)), BUILDING, (110, 90, 80))
    paint((y < horizon) & (y > horizon - 0.1) & (x > left) & (abs(x - vanish) < 0.2), TREE, (70, 90, 50))
    depth = np.maximum(y - horizon, 0)
    paint(y >= horizon, PAVEMENT, (120, 115, 115))
    paint((y >= horizon) & (abs(x - vanish) < depth * dice.between(0.9, 2) + 0.02), ROAD, (95, 95, 98))
    for klass, count, wide, tall, colour in (
        (TREE, 2, 0.12, 0.4, (60, 80, 40)), (FENCE, 1, 0.2, 0.06, (95, 90, 85)), (CAR, 3, 0.14, 0.11, (90, 30, 40)),
        (POLE, 3, 0.008, 0.4, (90, 92, 90)), (SIGN, 3, 0.03, 0.05, (150, 60, 50)),
        (PEDESTRIAN, 1, 0.02, 0.12, (60, 50, 55)), (BICYCLIST, 1, 0.025, 0.09, (50, 55, 70)),
    ):  # fmt: skip
        for _ in range(dice.below(2 * count + 1)):
            centre, zoom = dice.unit(), dice.between(0.4, 1.3)
            bottom = horizon + 0.2 * zoom * dice.unit()
            inside = (abs(x - centre) < wide * zoom / 2) & (y < bottom) & (y > bottom - tall * zoom)
            gain = dice.between(0.6, 1.4)
            paint(inside, klass, (colour[0] * gain, colour[1] * gain, colour[2] * gain))
    light = smooth_noise(height, width, height / 4, hash_seed(seed, 1)) * np.float32(0.4) + np.float32(0.8)
    grain = pixel_noise(height, width, hash_seed(seed, 2)) * np.float32(24) - np.float32(12)
    image = shade * light[..., None] + grain[..., None]
    if world == "game":
        image = image * np.float32([1.1, 1.0, 0.85]) + np.float32(8)
    return np.minimum(np.maximum(image, 0), 255).astype(np.uint8), label


class SceneSource:
    """Scenes of one world, made when they are read. A scene depends on its name, its size, world and seed only."""

    def __init__(self, names: Iterable[str], image_size: Size, *, world: str, seed: int):
        self.names = tuple(sorted(names))
        self.image_size, self.world, self.seed = image_size, world, seed

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        seed = hash_seed(self.seed, *self.names[index].encode())
        return render_scene(self.image_size, world=self.world, seed=seed)

    def read_image(self, index: int) -> np.ndarray:
        return self.read(index)[0]

    def read_label(self, index: int) -> np.ndarray:
        return self.read(index)[1]

    def verify(self) -> None:
        """Nothing can be wrong with scenes that the package makes."""


def scene_names(part: str, count: int) -> list[str]:
    """`{part}-00000` and so on."""
    return [f"{part}-{index:05d}" for index in range(count)]


def synthetic_dataset(
    names: Iterable[str],
    image_size: Size,
    *,
    world: str = "town",
    seed: int = 0,
    memory_limit: int | None = None,
) -> SegmentationDataset:
    """One street scene per name, in CamVid's classes."""
    return SegmentationDataset(
        SceneSource(names, image_size, world=world, seed=seed),
        name=f"synthetic {world}",
        classes=CAMVID_CLASSES,
        ignore_index=CAMVID_IGNORE,
        memory_limit=memory_limit,
    )
