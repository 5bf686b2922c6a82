"""Seeded street scenes in CamVid's classes, byte for byte the same on every machine.

The camera looks down a street; everything has a place in metres and is painted from back to front. Only
integer hashes and + - x / of IEEE floats make the numbers (no sin, no exp, no sums whose order could vary),
so that a seed stands for the same bytes everywhere. A float32 array stays float32 beside a number of Python;
`np.float32` stands where two numbers, or a number and a mask, would give more bits, and where NumPy then
reuses the memory of a large intermediate result. Class shares are as skewed as CamVid's: pedestrians and
bicyclists come in groups in few scenes; shop boards, hedges and bins resemble signs, fences and people.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ralx.datasets.classes import CAMVID_CLASSES, CAMVID_IDS, IGNORE_INDEX
from ralx.datasets.dataset import SegmentationDataset, Source
from ralx.datasets.geometry import Size
from ralx.datasets.scenes import objects, street
from ralx.datasets.scenes.noise import Dice, hash_seed, pixel_noise, smooth_noise
from ralx.datasets.scenes.street import Camera, Canvas, Lot, Side
from ralx.datasets.scenes.worlds import WORLDS, World

_LARGE_CLASSES = (street.SKY, street.BUILDING, street.ROAD, street.PAVEMENT, street.TREE)
_Placed = tuple[float, Callable, float]  # depth, what draws it, lateral


def render_scene(image_size: Size, *, world: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] and label uint8 [H, W] (CamVid's ids, 11 for void) of the scene `seed`.

    ValueError for an unknown world or an image below 16 pixels a side.
    """
    if world not in WORLDS:
        raise ValueError(f"world: expected one of {', '.join(WORLDS)}, got {world!r}")
    if min(image_size) < 16:
        raise ValueError(f"image_size: expected at least 16 pixels a side, got {image_size}")
    style, dice = WORLDS[world], Dice(seed)
    canvas = _canvas(image_size, style, dice)
    left, right = _sides(style, dice)
    lots = {side: list(street.plan_lots(dice, style)) for side in (left, right)}
    street.draw_sky(canvas, dice)
    street.draw_skyline(canvas, dice)
    street.draw_ground(canvas, left, right, dice)
    for side in (left, right):
        street.draw_end_walls(canvas, side, lots[side])
        _draw_placed(canvas, _garden_trees(side, lots[side], dice), dice)
        for lot in lots[side]:
            street.draw_front(canvas, side, lot)
        street.draw_fences(canvas, side, lots[side])
    on_pavement, on_road = list(_furniture(left, right, dice)), list(_traffic(left, right, dice))
    _people(left, right, dice, on_pavement, on_road)
    _draw_placed(canvas, on_pavement, dice)
    for side in (left, right):
        if dice.chance(0.2):
            near = dice.between(4, 12)
            street.draw_barrier(canvas, side.sign * (side.kerb + 0.3), near, near + dice.between(6, 25), dice)
    _draw_placed(canvas, on_road, dice)
    _draw_void(canvas, dice)
    return _developed(canvas, dice), canvas.label


def _canvas(image_size: Size, world: World, dice: Dice) -> Canvas:
    height, width = image_size
    camera = Camera(
        focal=dice.between(1.0, 1.35),
        height=dice.between(1.25, 1.6),
        horizon=dice.between(0.46, 0.55),  # share of the image above it
        vanish=width / height * dice.between(0.36, 0.64),
    )
    return Canvas(height, width, camera, world)


def _sides(world: World, dice: Dice) -> Iterator[Side]:
    for sign in (-1, 1):
        kerb = dice.between(*world.road)
        yield Side(sign, kerb, kerb + dice.between(2.0, 3.8), dice.between(0.62, 1.12))


def _garden_trees(side: Side, lots: list[Lot], dice: Dice) -> Iterator[_Placed]:
    """Trees behind the building line, on lots without a building."""
    for lot in lots:
        if not lot.built and lot.far > 6:
            for _ in range(1 + dice.below(3)):
                depth = max(lot.near, 4.0) + dice.between(0, 8)
                yield depth, objects.draw_tree, side.sign * (side.front + dice.between(0.8, 7))


def _furniture(left: Side, right: Side, dice: Dice) -> Iterator[_Placed]:
    """Trees, poles and bins on the pavements."""
    for side in (left, right):
        planted = dice.chance(0.42)
        depth = dice.between(4, 9)
        while depth < 55:
            edge = side.sign * (side.kerb + dice.between(0.35, 0.7))
            if planted and dice.chance(0.6):
                yield depth + 1.5, objects.draw_tree, edge
            if dice.chance(0.3):
                yield depth, objects.draw_pole, edge
            if dice.chance(0.12):
                yield depth, objects.draw_bin, edge
            depth += dice.between(5, 11)


def _traffic(left: Side, right: Side, dice: Dice) -> Iterator[_Placed]:
    """Parked cars along the kerbs, moving ones in the lanes."""
    for side in (left, right):
        depth = dice.between(5, 14)
        parking = dice.chance(0.75)
        while depth < 60:
            if parking and dice.chance(0.6):
                yield depth, objects.draw_car, side.sign * (side.kerb - dice.between(0.95, 1.1))
            elif dice.chance(0.18):
                yield depth + 3, objects.draw_car, side.sign * dice.between(0.4, 1.4)
            depth += dice.between(5.5, 9)


def _people(left: Side, right: Side, dice: Dice, on_pavement: list, on_road: list) -> None:
    """Pedestrians in groups on a pavement or crossing, bicyclists on the road; in few scenes."""
    walkers = 0
    if dice.chance(0.3):
        walkers = 2 + dice.below(4)
    elif dice.chance(0.2):
        walkers = 1 + dice.below(2)
    side, depth = (left, right)[dice.below(2)], dice.between(5, 9)
    crossing = dice.chance(0.2)
    for _ in range(walkers):
        if crossing:
            lateral = dice.between(-left.kerb, right.kerb)
        else:
            lateral = side.sign * (side.kerb + dice.between(0.2, 1.4))
        walker = (depth + dice.between(0, 3.5), objects.draw_pedestrian, lateral)
        (on_road if crossing else on_pavement).append(walker)
    if dice.chance(0.19):
        depth = dice.between(4.5, 8)
        for _ in range(1 + dice.below(2)):
            lateral = side.sign * dice.between(side.kerb - 2.2, side.kerb - 0.4)
            on_road.append((depth + dice.between(0, 3), objects.draw_bicyclist, lateral))


def _draw_placed(canvas: Canvas, placed: Iterable[_Placed], dice: Dice) -> None:
    for depth, draw, lateral in sorted(placed, key=lambda item: -item[0]):
        draw(canvas, lateral, depth, Dice(dice.integer()))


def _draw_void(canvas: Canvas, dice: Dice) -> None:
    """Void along some borders of large classes, as annotators leave it, and the camera's own car."""
    height, width = canvas.size
    label = canvas.label
    large = np.isin(label, _LARGE_CLASSES)
    reach = max(1, height // 160)
    border = np.zeros_like(large)
    border[:, reach:] |= label[:, reach:] != label[:, :-reach]
    border[reach:] |= label[reach:] != label[:-reach]
    careless = smooth_noise(height, width, height * 0.12, height * 0.12, dice.integer()) > 0.52
    canvas.label[border & large & careless] = street.VOID
    if dice.chance(canvas.world.bonnet):
        rise = dice.between(0.02, 0.07)
        offset = canvas.x * (height / width) - 0.5
        edge = 1 - rise + offset * offset * 0.1
        mask = canvas.y[:, None] > edge
        canvas.fill((slice(0, height), slice(0, width)), street.VOID, (38, 38, 42), mask)


def _developed(canvas: Canvas, dice: Dice) -> np.ndarray:
    """The photograph: a soft lens, the light of the day, the sensor's grain; uint8 [H, W, 3]."""
    height, width = canvas.size
    world, image = canvas.world, canvas.image
    soft = image.copy()
    soft[:, 1:-1] = (image[:, :-2] + image[:, 1:-1] * 2 + image[:, 2:]) * np.float32(0.25)
    image = soft.copy()
    image[..., 1:-1] = (soft[..., :-2] + soft[..., 1:-1] * 2 + soft[..., 2:]) * np.float32(0.25)
    grey = (image[0] + image[1] + image[2]) * np.float32(1 / 3)
    image = grey + (image - grey) * np.float32(world.saturation)
    exposure, seed = dice.between(*world.exposure), dice.integer()
    contrast = world.contrast * dice.between(0.85, 1.1)
    image = (image - np.float32(110)) * np.float32(contrast) + np.float32(110)
    tint = np.array([channel * exposure * dice.between(0.96, 1.04) for channel in world.tint], np.float32)
    glow = smooth_noise(height, width, height * 0.4, height * 0.5, seed) * np.float32(0.24) + np.float32(0.88)
    image *= glow * tint[:, None, None]
    grain = pixel_noise(3 * height, width, seed + 1).reshape(3, height, width)
    image += (grain - np.float32(0.5)) * np.float32(2 * world.grain)
    photograph = np.minimum(np.maximum(image, 0), 255).astype(np.uint8)
    return np.ascontiguousarray(photograph.transpose(1, 2, 0))


class SceneSource(Source):
    """Scenes of one world, made when they are read; each depends on its name, size, world and seed only."""

    def __init__(
        self, names: Iterable[str], image_size: Size, *, world: str, seed: int, classes: tuple[str, ...]
    ):
        self.names = tuple(sorted(names))
        self.image_size, self.world, self.seed = image_size, world, seed
        self._table = CAMVID_IDS[classes]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        seed = hash_seed(self.seed, *self.names[index].encode())
        image, label = render_scene(self.image_size, world=self.world, seed=seed)
        return image, self._table[label]

    def check(self, index: int) -> None:
        """Nothing can be wrong with scenes that the package makes."""

    def fingerprint(self) -> str:
        """A hash of the settings, and of one scene to know the generator itself."""
        digest = hashlib.sha256(repr((self.image_size, self.world, self.seed)).encode())
        for array in self.read(0):
            digest.update(array.tobytes())
        return digest.hexdigest()


def scene_names(part: str, count: int) -> list[str]:
    """`{part}-00000` and so on."""
    return [f"{part}-{index:05d}" for index in range(count)]


def synthetic_dataset(
    names: Iterable[str],
    image_size: Size,
    *,
    world: str = "town",
    seed: int = 0,
    classes: tuple[str, ...] = CAMVID_CLASSES,
    memory_limit: int | None = None,
) -> SegmentationDataset:
    """One street scene per name, labelled in CamVid's classes, or those of Cityscapes that match them."""
    return SegmentationDataset(
        SceneSource(names, image_size, world=world, seed=seed, classes=classes),
        name=f"synthetic {world}",
        classes=classes,
        ignore_index=IGNORE_INDEX[classes],
        memory_limit=memory_limit,
    )
