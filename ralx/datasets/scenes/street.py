"""The still parts of a street scene: sky, ground, buildings, fences; and the camera and canvas.

Screen coordinates are in image heights from the top left corner, the world's in metres: `lateral` to the
right of the camera, `depth` ahead, `height` above the ground.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from ralx.datasets.scenes.noise import Dice, hash_integers, pixel_noise, smooth_noise, unit
from ralx.datasets.scenes.worlds import World

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST, VOID = range(12)
STREET_LENGTH = 110.0
_STOREY = 3.1

Slices = tuple[slice, slice]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks down the street."""

    focal: float  # in image heights
    height: float
    horizon: float  # screen y
    vanish: float  # screen x of the vanishing point

    def x(self, lateral: float, depth: float) -> float:
        return self.vanish + self.focal * lateral / depth

    def y(self, height: float, depth: float) -> float:
        return self.horizon - self.focal * (height - self.height) / depth


@dataclass(frozen=True)
class Side:
    """One side of the street, +1 right or -1 left of the camera."""

    sign: int
    kerb: float  # distance of the kerb from the camera's path
    front: float  # distance of the buildings' fronts
    sunlit: float  # brightness of the fronts


class Canvas:
    """An image and its label map, painted from back to front."""

    def __init__(self, height: int, width: int, camera: Camera, world: World):
        self.size, self.camera, self.world = (height, width), camera, world
        self.image = np.zeros((3, height, width), np.float32)
        self.label = np.full((height, width), SKY, np.uint8)
        self.x = (np.arange(width, dtype=np.float32) + 0.5) / height
        self.y = (np.arange(height, dtype=np.float32) + 0.5) / height

    def box(self, left: float, right: float, top: float, bottom: float) -> Slices:
        """The pixels inside screen coordinates, at least one each way; empty outside the image."""
        return self._span(top, bottom, self.size[0]), self._span(left, right, self.size[1])

    def _span(self, low: float, high: float, count: int) -> slice:
        pixels = self.size[0]
        first, last = math.ceil(low * pixels - 0.5), math.ceil(high * pixels - 0.5)
        if first >= last:
            first = math.floor((low + high) / 2 * pixels)
            last = first + 1
        return slice(min(max(first, 0), count), min(max(last, 0), count))

    def hazy(self, colour: ArrayLike, depth: float) -> np.ndarray:
        """A colour seen from `depth`."""
        far = depth / (depth + self.world.haze)
        return np.asarray(colour) + (np.asarray(self.world.sky_low) - colour) * far

    def fill(self, where: Slices, klass: int, colour: ArrayLike, mask=True, shade=1) -> None:
        """Paint a class in `colour`, times `shade` [h, w], on the pixels of `mask` [h, w]."""
        paint = np.array(colour, np.float32)[:, None, None] * shade
        np.copyto(self.image[:, *where], paint, where=mask)
        np.copyto(self.label[where], np.uint8(klass), where=mask)

    def sprite(self, lateral: float, depth: float, width: float, height: float, base: float = 0.0):
        """An upright rectangle's pixels, and their metres right of its middle [w] and above ground [h, 1]."""
        camera = self.camera
        middle, half = camera.x(lateral, depth), camera.focal * width / 2 / depth
        where = self.box(middle - half, middle + half, camera.y(base + height, depth), camera.y(base, depth))
        metre = depth / camera.focal
        across = (self.x[where[1]] - middle) * metre
        above = (camera.horizon - self.y[where[0]])[:, None] * metre
        return where, across, above + camera.height

    def plane(self, lateral: float, near: float, far: float):
        """Columns where a wall along the street is seen, their depths [w] and all pixels' heights [H, w]."""
        camera = self.camera
        ends = sorted((camera.x(lateral, near), camera.x(lateral, far)))
        where = self.box(ends[0], ends[1], 0.0, 1.0)
        offset = (self.x[where[1]] - camera.vanish) * (1 if lateral > 0 else -1)
        depth = camera.focal * abs(lateral) / np.maximum(offset, 1e-4)
        above = (camera.horizon - self.y)[:, None] * (depth / camera.focal)
        return where, depth, above + camera.height

    def up_to(self, height: float, depth: float, where: Slices, above: np.ndarray):
        """`where` and `above` of `plane`, cut to the rows that show something of that height at `depth`."""
        rows = self._span(self.camera.y(height, depth), self.camera.y(0.0, depth), self.size[0])
        return (rows, where[1]), above[rows]


def scaled(colour: ArrayLike, factor: float) -> np.ndarray:
    return np.asarray(colour) * factor


def fraction(values: np.ndarray) -> np.ndarray:
    return values - np.floor(values)


def cells(first: np.ndarray, second: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each pair of cells (floors of both), of their broadcast shape."""
    rows = np.floor(first).astype(np.int32).astype(np.uint32)
    columns = np.floor(second).astype(np.int32).astype(np.uint32)
    return unit(hash_integers(rows * np.uint32(7919) + columns * np.uint32(104729), seed))


def draw_sky(canvas: Canvas, dice: Dice) -> None:
    height, width = canvas.size
    world = canvas.world
    down = np.minimum(canvas.y / canvas.camera.horizon, 1)[:, None]  # 0 top .. 1 horizon
    top, low = (np.array(colour, np.float32)[:, None, None] for colour in (world.sky_top, world.sky_low))
    canvas.image[:] = top + (low - top) * down
    cover = dice.between(*world.clouds)
    seed = dice.integer()
    cloud = smooth_noise(height, width, height * 0.11, height * 0.33, seed)
    cloud = cloud + 0.5 * smooth_noise(height, width, height * 0.04, height * 0.1, seed + 1)
    amount = np.minimum(np.maximum(cloud - (1.15 - cover), 0) * 2, 1)
    white = np.array(scaled((232, 232, 236), dice.between(0.72, 1.05)), np.float32)[:, None, None]
    canvas.image += (white - canvas.image) * amount


def draw_skyline(canvas: Canvas, dice: Dice) -> None:
    """Far trees and houses along the horizon."""
    height, width = canvas.size
    for klass, colour, low, high in (
        (BUILDING, dice.choice(canvas.world.facades), 0.0, 0.07),
        (TREE, dice.choice(canvas.world.leaves), -0.02, 0.06),
    ):
        seed = dice.integer()
        if klass == BUILDING:
            tops = cells(canvas.x * dice.between(9, 16), np.zeros(width, np.float32), seed)
        else:
            tops = smooth_noise(1, width, 1.0, height * 0.06, seed)[0]
            tops = tops + 0.25 * pixel_noise(1, width, seed + 1)[0]
        tops = low + tops * (high - low)
        rise = (canvas.camera.horizon - canvas.y)[:, None]
        mask = (rise < tops) & (rise > -0.03)
        shade = 0.8 + 0.4 * pixel_noise(height, width, seed + 2)
        canvas.fill((slice(0, height), slice(0, width)), klass, canvas.hazy(colour, 110.0), mask, shade)


def draw_ground(canvas: Canvas, left: Side, right: Side, dice: Dice) -> None:
    """Road, markings, kerbs, pavements, and grass behind the building line."""
    height, width = canvas.size
    camera, world = canvas.camera, canvas.world
    first = math.ceil(camera.horizon * height + 0.5)
    where = (slice(first, height), slice(0, width))
    depth = camera.focal * camera.height / (canvas.y[first:, None] - camera.horizon)  # [h, 1]
    lateral = (canvas.x - camera.vanish) * (depth / camera.focal)  # [h, W]
    seed, rows = dice.integer(), height - first
    grit = pixel_noise(rows, width, seed) - 0.5
    patches = smooth_noise(rows, width, height * 0.05, height * 0.3, seed + 1) - 0.5
    relief = np.float32(world.relief)
    rough = 1 + relief * (0.16 * grit + 0.22 * patches)

    grass = np.asarray(dice.choice(world.leaves)) * (1.15, 1.15, 1)
    canvas.fill(where, TREE, grass, shade=1 + relief * np.float32(0.7) * grit)
    slab = (fraction(lateral * 1.4) < 0.08) | (fraction(depth * 1.4) < 0.08)
    paved = rough - np.float32(0.16) * (slab & (depth < 14))
    pavement = scaled(world.slabs, dice.between(0.78, 1.18))
    before_fronts = (lateral > -left.front) & (lateral < right.front)
    canvas.fill(where, PAVEMENT, pavement, before_fronts, paved)
    kerb = np.float32(0.16)
    inside = (lateral > np.float32(-left.kerb) - kerb) & (lateral < np.float32(right.kerb) + kerb)
    canvas.fill(where, PAVEMENT, scaled(pavement, 1.15), inside, rough)

    asphalt = scaled(world.asphalt, dice.between(0.8, 1.15))
    road = (lateral > -left.kerb) & (lateral < right.kerb)
    if dice.chance(0.5):  # the shadow of the darker side
        shaded = left if left.sunlit < right.sunlit else right
        edge = dice.between(0.3, 0.9) * shaded.kerb + 2 * patches
        rough = rough * (1 - np.float32(0.38) * (lateral * shaded.sign > edge))
    canvas.fill(where, ROAD, asphalt, road, rough)
    _draw_markings(canvas, where, road, lateral, depth, rough, left, right, dice)


def _draw_markings(canvas, where, road, lateral, depth, rough, left: Side, right: Side, dice: Dice) -> None:
    middle = (right.kerb - left.kerb) / 2 + dice.between(-0.8, 0.8)
    thick = np.maximum(0.07, depth * (0.25 / canvas.size[0]))
    dashes = fraction(depth / 7) < 0.55
    lines = (np.abs(lateral - middle) < thick) & dashes
    if dice.chance(0.5):
        lines |= np.abs(lateral + (left.kerb - 0.35)) < thick
        lines |= np.abs(lateral - (right.kerb - 0.35)) < thick
    if dice.chance(0.3):  # a zebra crossing
        start = dice.between(6, 16)
        band = (depth > start) & (depth < start + 3)
        lines |= band & (fraction(lateral * 0.9) < 0.5)
    canvas.fill(where, ROAD, scaled((92, 91, 84), dice.between(1.5, 2.1)), lines & road, rough)


@dataclass(frozen=True)
class Lot:
    """What stands on one stretch of a side: a building, or open ground that may have a fence."""

    near: float
    far: float
    built: bool
    height: float
    colour: ArrayLike
    fenced: bool
    seed: int


def plan_lots(dice: Dice, world: World) -> Iterator[Lot]:
    """The lots of one side, near to far."""
    depth = dice.between(-8, 0)
    open_side = dice.chance(0.16)  # a side without houses: a park or a yard
    built_share = 0.12 if open_side else world.built
    fences = 0.5 if dice.chance(0.6) else 0.0  # share of the open lots that have one
    built = dice.chance(built_share)
    while depth < STREET_LENGTH:
        length = dice.between(7, 15)
        if dice.chance(0.7):  # neighbours are alike
            built = dice.chance(built_share)
        storeys = world.storeys[0] + dice.below(world.storeys[1] - world.storeys[0] + 1)
        height = storeys * _STOREY + dice.between(0.6, 2.6)
        colour = scaled(dice.choice(world.facades), dice.between(0.65, 1.2))
        fenced = not built and dice.chance(fences)
        yield Lot(depth, depth + length, built, height, colour, fenced, dice.integer())
        depth += length


def draw_end_walls(canvas: Canvas, side: Side, lots: list[Lot]) -> None:
    """The walls that face the camera where a building stands beyond a lower one or open ground."""
    camera = canvas.camera
    for nearer, lot in reversed(list(pairwise(lots))):
        if not lot.built or (nearer.built and nearer.height >= lot.height) or lot.near < 3:
            continue
        ends = sorted(camera.x(side.sign * lateral, lot.near) for lateral in (side.front, side.front + 9))
        where = canvas.box(ends[0], ends[1], camera.y(lot.height, lot.near), camera.y(0.0, lot.near))
        rows, columns = (axis.stop - axis.start for axis in where)
        shade = 0.93 + 0.14 * pixel_noise(rows, columns, lot.seed)
        canvas.fill(where, BUILDING, canvas.hazy(scaled(lot.colour, 0.72), lot.near), shade=shade)


def draw_front(canvas: Canvas, side: Side, lot: Lot) -> None:
    """A building's front along the street, with its windows, shop and roof."""
    if not lot.built or lot.far <= 1.0:
        return
    near = max(lot.near, 1.0)
    where, depth, above = canvas.plane(side.sign * side.front, near, lot.far)
    where, above = canvas.up_to(lot.height, near, where, above)
    dice, relief = Dice(lot.seed), np.float32(canvas.world.relief)
    middle = max(lot.near + lot.far, 4.0) / 2
    clear = np.float32(12 / (12 + middle))  # textures blur with distance
    brick = cells(depth * 3, above * 6, lot.seed) - 0.5
    shade = side.sunlit * (1 + relief * clear * np.float32(0.22) * brick)
    mask = (above >= 0) & (above < lot.height)
    canvas.fill(where, BUILDING, canvas.hazy(lot.colour, middle), mask, shade)

    shop = dice.chance(0.45)
    bay, wide, tall = dice.between(1.6, 3.0), dice.between(0.3, 0.6), dice.between(0.4, 0.65)
    along, up = fraction(depth / bay), fraction(above / _STOREY)
    glass = (along > 0.2) & (along < 0.2 + wide) & (up > 0.28) & (up < 0.28 + tall)
    glass &= above < lot.height - 0.9
    if shop:
        glass = (glass & (above > _STOREY)) | ((above > 0.5) & (above < 2.4) & (along > 0.08))
    lit = cells(depth / bay, above / _STOREY, lot.seed + 1)
    pane = side.sunlit * (0.55 + 0.9 * lit * lit)
    canvas.fill(where, BUILDING, canvas.hazy((66, 72, 80), middle), mask & glass, pane)
    roof = mask & (above > lot.height - dice.between(0.3, 1.6))
    canvas.fill(where, BUILDING, canvas.hazy((84, 74, 70), middle), roof, shade)
    if shop:  # boards over shop windows look like signs, and are none
        board = (170 * dice.unit() + 30, 130 * dice.unit() + 30, 130 * dice.unit() + 30)
        canvas.fill(where, BUILDING, canvas.hazy(board, middle), mask & (above > 2.5) & (above < 3.1), shade)


def draw_fences(canvas: Canvas, side: Side, lots: list[Lot]) -> None:
    """Fences, walls and hedges in front of open lots."""
    for lot in lots:
        if lot.fenced and lot.far > 2.0:
            draw_barrier(canvas, side.sign * side.front, max(lot.near, 2.0), lot.far, Dice(lot.seed, 1))


def draw_barrier(canvas: Canvas, lateral: float, near: float, far: float, dice: Dice) -> None:
    """A barrier along the street: bars, boards, a low wall (all FENCE), or a hedge (TREE) much like them."""
    where, depth, above = canvas.plane(lateral, near, far)
    if not depth.size:
        return
    kind, height = dice.below(4), dice.between(0.9, 1.9)
    where, above = canvas.up_to(height, near, where, above)
    mask = (above >= 0) & (above < height)
    if not mask.size:
        return
    rough = cells(depth * 4, above * 4, dice.integer()) - 0.5
    if kind == 3:
        leaf = dice.choice(canvas.world.leaves)
        canvas.fill(where, TREE, canvas.hazy(leaf, near), mask, 1 + 0.8 * rough)
        return
    if kind == 0:  # bars: what is behind shows between them
        behind = canvas.image[:, *where] * 0.8
        bars = (fraction(depth * 2.2) < 0.42) | (above > height - 0.15) | (above < 0.12)
        tone = dice.between(45, 110)
        colour = canvas.hazy((tone, tone * 1.02, tone), near)
        canvas.fill(where, FENCE, colour, mask, 1 + 0.2 * rough)
        np.copyto(canvas.image[:, *where], behind, where=mask & ~bars)
        return
    colour = canvas.hazy(scaled(dice.choice(canvas.world.facades), dice.between(0.6, 1.0)), near)
    boards = np.float32(0.14) * (fraction(depth * (1.6 if kind == 1 else 0.4)) < 0.16)
    canvas.fill(where, FENCE, colour, mask, 1 + 0.25 * rough - boards)
