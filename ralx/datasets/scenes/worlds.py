"""Styles of street scenes. A segmenter trained in one world finds another familiar, but not the same."""

from dataclasses import dataclass

Colour = tuple[float, float, float]
Range = tuple[float, float]


@dataclass(frozen=True)
class World:
    """What distinguishes the streets of one world; lengths in metres, colours 0..255, shares in 0..1."""

    facades: tuple[Colour, ...] = (
        (138, 104, 84),
        (165, 142, 112),
        (120, 82, 68),
        (178, 170, 156),
        (142, 132, 122),
        (196, 186, 168),
    )
    asphalt: Colour = (92, 92, 94)
    slabs: Colour = (124, 120, 116)
    leaves: tuple[Colour, ...] = ((66, 76, 40), (88, 86, 58), (54, 68, 42), (98, 88, 66))
    clothes: tuple[Colour, ...] = ((38, 38, 46), (66, 58, 56), (90, 40, 42), (52, 62, 92), (120, 112, 104))
    sky_top: Colour = (158, 178, 206)
    sky_low: Colour = (226, 226, 222)
    clouds: Range = (0.1, 0.7)

    exposure: Range = (0.7, 1.15)
    tint: Colour = (1.0, 1.0, 1.0)
    saturation: float = 0.85
    contrast: float = 1.0
    haze: float = 150.0  # distance at which half of the light is the sky's
    grain: float = 9.0  # largest error of a pixel, 0..255
    relief: float = 1.0  # strength of textures

    road: Range = (2.1, 4.3)  # from the camera's path to either kerb
    storeys: tuple[int, int] = (2, 4)
    built: float = 0.78  # lots with a building
    bonnet: float = 0.1  # scenes where the camera's own car is seen


WORLDS: dict[str, World] = {
    # An overcast European town.
    "town": World(),
    # A sunny city as a game renders it: saturated, clean, wide.
    "game": World(
        facades=((188, 150, 108), (206, 186, 150), (150, 110, 86), (176, 168, 160), (122, 128, 136)),
        asphalt=(108, 104, 98),
        slabs=(150, 142, 128),
        leaves=((58, 90, 34), (82, 104, 44), (44, 74, 36)),
        clothes=((60, 44, 40), (128, 116, 98), (50, 66, 110), (140, 60, 48), (168, 160, 146)),
        sky_top=(104, 152, 214),
        sky_low=(206, 214, 218),
        clouds=(0.0, 0.4),
        exposure=(0.85, 1.2),
        tint=(1.06, 1.0, 0.9),
        saturation=1.15,
        contrast=1.1,
        haze=260.0,
        grain=5.0,
        relief=0.75,
        road=(3.4, 5.4),
        storeys=(2, 6),
        built=0.72,
        bonnet=0.0,
    ),
}
