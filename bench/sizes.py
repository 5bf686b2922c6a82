"""The inputs of every benchmark, in one place: the paper's data sets, and small ones for CI."""

from dataclasses import dataclass
from typing import NamedTuple


class Scene(NamedTuple):
    """Images of a data set as a segmenter sees them: logits [N, C, h, w] of images H×W, tiled by regions."""

    images: int
    classes: int
    logits: tuple[int, int]
    image: tuple[int, int]
    region: tuple[int, int]

    @property
    def size(self) -> tuple[int, int] | None:
        """What to upsample to; None at native size."""
        return None if self.logits == self.image else self.image

    @property
    def pixels(self) -> int:
        return self.images * self.image[0] * self.image[1]

    @property
    def regions(self) -> int:
        rows, cols = (whole // part for whole, part in zip(self.image, self.region, strict=True))
        return self.images * rows * cols


@dataclass(frozen=True)
class SceneCase:
    name: str
    scene: Scene


@dataclass(frozen=True)
class BaldCase:
    name: str
    scene: Scene
    passes: int


@dataclass(frozen=True)
class KlCase:
    name: str
    rows: int
    reference: int
    classes: int
    range: tuple[float, float] | None
    bins: int = 32


@dataclass(frozen=True)
class StepCase:
    """State set and candidates' images of one step; K·M candidates, L labelled regions."""

    name: str
    state: Scene
    candidates: Scene
    pools: int
    pool_size: int
    labelled: int


CAMVID = Scene(10, 11, (90, 120), (360, 480), (90, 80))
CAMVID_NATIVE = CAMVID._replace(logits=CAMVID.image)
CITYSCAPES = Scene(2, 19, (256, 512), (1024, 2048), (128, 128))
CITYSCAPES_NATIVE = CITYSCAPES._replace(images=1, logits=CITYSCAPES.image)
TINY = CAMVID._replace(images=2)
TINY_NATIVE = CAMVID_NATIVE._replace(images=2)
FIXED = (0.0, 16.2)

SCENES = [
    SceneCase("CamVid, 10 images", CAMVID_NATIVE),
    SceneCase("CamVid, 10 images, upsampled ×4", CAMVID),
    SceneCase("Cityscapes, 1 image", CITYSCAPES_NATIVE),
    SceneCase("Cityscapes, 2 images, upsampled ×4", CITYSCAPES),
]
SMALL_SCENES = [
    SceneCase("CamVid, 2 images", TINY_NATIVE),
    SceneCase("CamVid, 2 images, upsampled ×4", TINY),
]

FULL = {
    "region_features": SCENES,
    "confusion_matrix": SCENES,
    "bald": [
        BaldCase("CamVid, 2 images, 20 passes", TINY_NATIVE, 20),
        BaldCase("CamVid, 2 images, 20 passes, upsampled ×4", TINY, 20),
        BaldCase("Cityscapes, 1 image, 20 passes, upsampled ×4", CITYSCAPES._replace(images=1), 20),
    ],
    "kl_histogram": [
        KlCase("CamVid's pools, 480×480×11", 480, 480, 11, FIXED),
        KlCase("2560×2560×19, own range", 2560, 2560, 19, None),
        KlCase("2560×2560×19, fixed range", 2560, 2560, 19, FIXED),
        KlCase("Cityscapes' pools, 5120×5120×19", 5120, 5120, 19, FIXED),
    ],
    "step": [StepCase("CamVid", CAMVID, CAMVID._replace(images=100), 24, 20, 480)],
}
SMALL = {
    "region_features": SMALL_SCENES,
    "confusion_matrix": SMALL_SCENES,
    "bald": [BaldCase("CamVid, 1 image, 5 passes, upsampled ×4", TINY._replace(images=1), 5)],
    "kl_histogram": [
        KlCase("480×480×11, own range", 480, 480, 11, None),
        KlCase("480×480×11, fixed range", 480, 480, 11, FIXED),
    ],
    "step": [StepCase("CamVid, fewer images", TINY, CAMVID, 6, 20, 100)],
}
