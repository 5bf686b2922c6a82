"""What stands and moves in a street scene: trees, poles, signs, cars, pedestrians, bicyclists."""

import numpy as np

from ralx.datasets.scenes import street
from ralx.datasets.scenes.noise import Dice, pixel_noise, smooth_noise
from ralx.datasets.scenes.street import Canvas, fraction, scaled
from ralx.datasets.scenes.worlds import Colour

_SKIN: Colour = (150, 116, 98)
_TYRE: Colour = (36, 36, 38)
_BODYWORK: tuple[Colour, ...] = (
    (150, 152, 156),
    (44, 46, 50),
    (122, 30, 32),
    (40, 58, 104),
    (196, 196, 194),
    (96, 100, 104),
    (60, 84, 66),
)
_REFLECTIVE: tuple[Colour, ...] = ((196, 196, 60), (214, 116, 50))
_SIGN_FACES: tuple[Colour, ...] = (
    (176, 44, 42),
    (40, 74, 150),
    (206, 204, 196),
    (44, 104, 66),
    (200, 158, 48),
)


def _ellipse(across, above, middle: float, height: float, x_radius: float, y_radius: float) -> np.ndarray:
    """Squared distance from an ellipse's middle, 1 on its edge, [h, w]."""
    x = (across - middle) / x_radius
    y = (above - height) / y_radius
    return x * x + y * y


def _bar(across, above, left: float, right: float, low: float, high: float) -> np.ndarray:
    inside = (across >= left) & (across < right)
    return inside & (above >= low) & (above < high)


def draw_tree(canvas: Canvas, lateral: float, depth: float, dice: Dice) -> None:
    """A trunk under a ragged crown, or a bush."""
    bush = dice.chance(0.25)
    clear = 0.0 if bush else dice.between(1.6, 3.0)  # under the crown
    radius = dice.between(0.7, 1.6) if bush else dice.between(1.3, 3.2)
    tall = dice.between(1.2, 2.4) if bush else dice.between(2.6, 5.5)
    leaf = scaled(dice.choice(canvas.world.leaves), dice.between(0.7, 1.25))
    if not bush:
        thick = dice.between(0.22, 0.5)
        trunk, _, _ = canvas.sprite(lateral, depth, thick, clear + tall / 3)
        canvas.fill(trunk, street.TREE, canvas.hazy((70, 60, 50), depth))
    where, across, above = canvas.sprite(lateral, depth, 2 * radius, tall, clear)
    if not (across.size and above.size):
        return
    rows, columns = (axis.stop - axis.start for axis in where)
    blob = canvas.size[0] * canvas.camera.focal * radius / depth / 2.5
    seed = dice.integer()
    lumps = smooth_noise(rows, columns, max(blob, 1.5), max(blob, 1.5), seed)
    leaves = pixel_noise(rows, columns, seed + 1)
    edge = _ellipse(across, above, 0.0, clear + tall / 2, radius, tall / 2)
    bare = dice.between(0.0, 0.55)  # how much sky shows through
    mask = edge + 0.9 * lumps + bare * leaves < 1.35
    shade = 0.55 + 0.5 * lumps + 0.6 * canvas.world.relief * leaves
    canvas.fill(where, street.TREE, canvas.hazy(leaf, depth), mask, shade)


def draw_pole(canvas: Canvas, lateral: float, depth: float, dice: Dice) -> None:
    """A lamp post, a sign's or a traffic light's pole, with what it carries."""
    lamp, tone = dice.chance(0.5), dice.between(50, 150)
    height, thick = (dice.between(5, 8.5), 0.3) if lamp else (dice.between(2.6, 4.0), 0.22)
    colour = canvas.hazy((tone, tone, tone * 0.97), depth)
    pole, _, _ = canvas.sprite(lateral, depth, thick, height)
    canvas.fill(pole, street.POLE, colour)
    if lamp and dice.chance(0.7):
        reach = dice.between(0.8, 1.8) * (-1 if lateral > 0 else 1)  # over the road
        arm, _, _ = canvas.sprite(lateral + reach / 2, depth, abs(reach), 0.2, height - 0.2)
        canvas.fill(arm, street.POLE, colour)
    if dice.chance(0.6):
        draw_sign(canvas, lateral, depth, dice)


def draw_sign(canvas: Canvas, lateral: float, depth: float, dice: Dice) -> None:
    """A round, triangular or square sign, a traffic light, or a banner, at `lateral`."""
    kind, face = dice.below(5), dice.choice(_SIGN_FACES)
    worn = dice.between(0.6, 1.05)
    face, pale = (canvas.hazy(scaled(colour, worn), depth) for colour in (face, (205, 203, 196)))
    if kind == 4:  # a banner or board
        wide, tall, base = dice.between(1.2, 2.4), dice.between(1.5, 3.0), dice.between(0.8, 2.0)
        where, across, above = canvas.sprite(lateral, depth, wide, tall, base)
        canvas.fill(where, street.SIGN, face)
        stripes = (fraction(above * 2.3) < 0.35) & (np.abs(across) < wide * 0.36)
        canvas.fill(where, street.SIGN, pale, stripes)
        return
    if kind == 3:  # a traffic light
        where, across, above = canvas.sprite(lateral, depth, 0.5, 1.1, 2.2)
        canvas.fill(where, street.SIGN, canvas.hazy((34, 36, 36), depth))
        light = ((190, 50, 44), (200, 150, 50), (60, 190, 130))[dice.below(3)]
        lamp = _ellipse(across, above, 0.0, dice.between(2.4, 3.0), 0.15, 0.15) < 1
        canvas.fill(where, street.SIGN, light, lamp)
        return
    size, base = dice.between(0.85, 1.3), dice.between(1.6, 2.2)
    where, across, above = canvas.sprite(lateral, depth, size, size, base)
    if kind == 0:
        distance = _ellipse(across, above, 0.0, base + size / 2, size / 2, size / 2)
        shape, inner = distance < 1.1, distance < 0.45
    elif kind == 1:
        left = (base + size - above) * 0.55 - np.abs(across)
        shape, inner = left > -0.05, left > 0.14
    else:
        shape = np.ones(np.broadcast(across, above).shape, bool)
        inner = (np.abs(across) < size * 0.2) & (above > base + size * 0.2)
    canvas.fill(where, street.SIGN, face, shape)
    canvas.fill(where, street.SIGN, pale, shape & inner)


def draw_car(canvas: Canvas, lateral: float, depth: float, dice: Dice) -> None:
    """A car seen from behind or ahead, with the side that faces the camera's path; or a van."""
    van = dice.chance(0.12)
    wide, tall = (2.0, dice.between(2.1, 2.7)) if van else (dice.between(1.6, 1.85), dice.between(1.35, 1.6))
    length = dice.between(3.6, 4.8)
    colour = canvas.hazy(scaled(dice.choice(_BODYWORK), dice.between(0.75, 1.15)), depth)
    glass = canvas.hazy((46, 54, 62), depth)
    waist = tall * (0.5 if van else 0.58)
    shadow, _, _ = canvas.sprite(lateral, depth, wide * 1.1, 0.2, -0.12)
    canvas.fill(shadow, street.ROAD, (34, 34, 36))
    _draw_car_side(canvas, lateral, depth, wide, length, waist, tall, van, colour, glass)
    where, across, above = canvas.sprite(lateral, depth, wide, tall)
    half, off = np.float32(wide / 2), np.abs(across)
    slope = np.maximum(above - waist, 0) * (0.08 if van else 0.28)
    body = (off < half - slope) & (above > 0.17) & (above < tall)
    shade = np.float32(1.12) - np.float32(0.3) * (above < waist) + 0 * across
    canvas.fill(where, street.CAR, colour, body, shade)
    window = (off < half * np.float32(0.86) - slope) & (above > waist + 0.05)
    canvas.fill(where, street.CAR, glass, window & (above < tall - 0.1))
    wheels = (off > half * np.float32(0.66)) & (off < half) & (above < 0.34)
    canvas.fill(where, street.CAR, (30, 30, 32), wheels)
    lamps = (off > half * np.float32(0.68)) & (off < half) & (above > waist - 0.28) & (above < waist - 0.08)
    canvas.fill(where, street.CAR, (168, 40, 38) if dice.chance(0.6) else (226, 224, 208), lamps)


def _draw_car_side(canvas, lateral, depth, wide, length, waist, tall, van, colour, glass) -> None:
    inner = lateral - wide / 2 if lateral > 0 else lateral + wide / 2
    if inner * lateral <= 0 or abs(inner) < 0.2:  # straight ahead: no side is seen
        return
    where, distance, above = canvas.plane(inner, depth, depth + length)
    where, above = canvas.up_to(tall, depth, where, above)
    along = (distance - depth) / length  # 0 at the near end
    cabin = (along < (0.95 if van else 0.72)) & (along > (-1 if van else 0.05))
    top = np.float32(waist) + np.float32(tall - waist) * cabin
    body = (above > 0.2) & (above < top)
    canvas.fill(where, street.CAR, scaled(colour, 0.72), body)
    pillars = fraction(along * 3) > 0.14
    window = body & cabin & pillars & (above > waist + 0.05) & (above < tall - 0.12)
    canvas.fill(where, street.CAR, glass, window)
    hub = np.minimum(np.abs(along - 0.18), np.abs(along - 0.8)) * length
    wheels = (hub < 0.32) & (above >= 0) & (above < 0.6)
    canvas.fill(where, street.CAR, (28, 28, 30), wheels)


def draw_pedestrian(canvas: Canvas, lateral: float, depth: float, dice: Dice) -> None:
    tall = dice.between(1.5, 1.88)
    part = tall / 1.75
    where, across, above = canvas.sprite(lateral, depth, 0.62 * part, tall)
    coat, trousers = dice.choice(canvas.world.clothes), dice.choice(canvas.world.clothes)
    across, above = across / part, above / part
    step, broad = dice.between(0.02, 0.2), dice.between(0.2, 0.29)
    left_leg = _bar(across, above, -step - 0.09, -step + 0.1, 0.0, 0.9)
    right_leg = _bar(across, above, step - 0.1, step + 0.09, 0.0, 0.9)
    torso = _ellipse(across, above, 0.0, 1.12, broad, 0.44) < 1
    head = _ellipse(across, above, 0.0, 1.6, 0.13, 0.16) < 1
    for colour, mask in ((trousers, left_leg | right_leg), (coat, torso), (_SKIN, head)):
        canvas.fill(where, street.PEDESTRIAN, canvas.hazy(colour, depth), mask)


def draw_bicyclist(canvas: Canvas, lateral: float, depth: float, dice: Dice) -> None:
    """A rider with the bicycle, seen from behind or from the side."""
    coat, trousers = dice.choice(canvas.world.clothes), dice.choice(canvas.world.clothes)
    if dice.chance(0.5):
        coat = dice.choice(_REFLECTIVE)
    aside = dice.chance(0.6)
    where, across, above = canvas.sprite(lateral, depth, 1.8 if aside else 0.62, 1.8)
    if dice.chance(0.5):
        across = -across
    if aside:
        front, back = (_ellipse(across, above, middle, 0.35, 0.36, 0.36) for middle in (0.52, -0.52))
        wheels = ((front < 1) & (front > 0.5)) | ((back < 1) & (back > 0.5))
        frame = _bar(across, above, -0.5, 0.45, 0.5, 0.62) | _bar(across, above, -0.1, 0.05, 0.3, 0.9)
        lean = across - (above - 0.9) * 0.45
        torso = _bar(lean, above, -0.26, 0.14, 0.85, 1.48)
        legs = _bar(across, above, -0.16, 0.14, 0.3, 0.95)
        head = _ellipse(across, above, 0.3, 1.62, 0.14, 0.16) < 1
    else:
        wheels = _bar(across, above, -0.05, 0.05, 0.0, 0.7)
        frame = _bar(across, above, -0.28, 0.28, 0.95, 1.03)
        torso = _ellipse(across, above, 0.0, 1.2, 0.25, 0.38) < 1
        legs = _bar(across, above, -0.19, 0.19, 0.35, 0.95)
        head = _ellipse(across, above, 0.0, 1.63, 0.13, 0.16) < 1
    for colour, mask in ((_TYRE, wheels | frame), (trousers, legs), (coat, torso), (_SKIN, head)):
        canvas.fill(where, street.BICYCLIST, canvas.hazy(colour, depth), mask)


def draw_bin(canvas: Canvas, lateral: float, depth: float, dice: Dice) -> None:
    """Street furniture that no class names."""
    tone = dice.between(30, 90)
    where, _, _ = canvas.sprite(lateral, depth, dice.between(0.4, 0.7), dice.between(0.8, 1.2))
    canvas.fill(where, street.VOID, canvas.hazy((tone, tone * 1.05, tone), depth))
