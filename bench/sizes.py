"""The inputs of every benchmark, in one place: per op a base case and each axis varied from it, not all
combinations. FULL has the data sets' shapes, GPU those that are worth a GPU's while; SMALL, for CI, the axes
of FULL on inputs that take no time."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from ralx.features import KL_RANGE


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

    def quarter(self) -> "Scene":
        """The same images from logits at a quarter of their resolution."""
        return self._replace(logits=(self.image[0] // 4, self.image[1] // 4))

    def part(self) -> "Scene":
        """What slow loops are timed on: the first image; of a single one its top row of regions, which is
        possible at native size only."""
        if self.images > 1 or self.size:
            return self._replace(images=1)
        rows = self.region[0], self.image[1]
        return self._replace(logits=rows, image=rows)


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    threads: int = 2
    compiled: bool = True  # torch.compile among the alternatives; it takes seconds to compile


@dataclass(frozen=True, kw_only=True)
class SceneCase(Case):
    """Random logits; with `one_class` the first class wins at every pixel. `option` is one of OPTIONS, for
    region_features alone."""

    scene: Scene
    dtype: str = "float32"
    channels_last: bool = False
    one_class: bool = False
    option: str = ""


@dataclass(frozen=True, kw_only=True)
class BaldCase(SceneCase):
    passes: int


@dataclass(frozen=True, kw_only=True)
class KlCase(Case):
    """p [rows, classes] and q [reference, classes], or q = p. With `one_class` all rows are the same one-hot
    row; with `slices` they lie inside wider rows, as class_hist lies inside the regions' features."""

    rows: int
    classes: int
    reference: int | None = None
    range: tuple[float, float] | None = None
    dtype: str = "float32"
    one_class: bool = False
    slices: bool = False


@dataclass(frozen=True, kw_only=True)
class ActionCase(Case):
    """K pools of M candidates whose features are given, L labelled regions."""

    pools: int
    pool_size: int
    labelled: int
    classes: int


@dataclass(frozen=True, kw_only=True)
class StepCase(Case):
    """State set and candidates' images of one step; K·M candidates, L labelled regions. The alternatives take
    the images `batch` at a time."""

    state: Scene
    candidates: Scene
    pools: int
    pool_size: int
    labelled: int
    batch: int = 100


@dataclass(frozen=True, kw_only=True)
class MaskCase(Case):
    """A mask of an image H×W whose blobs are about `blob` pixels wide."""

    image: tuple[int, int]
    blob: int
    compiled: bool = False


def scene_axes(base: SceneCase) -> list[SceneCase]:
    """The base case, then each axis varied from it: dtype, layout, skew, resolution, threads."""
    return [
        base,
        varied(base, "bfloat16", dtype="bfloat16"),
        varied(base, "float16", dtype="float16"),
        varied(base, "channels_last", channels_last=True),
        varied(base, "one class", one_class=True),
        varied(base, "upsampled ×4", scene=base.scene.quarter()),
        varied(base, "1 thread", threads=1),
    ]


def kl_axes(base: KlCase) -> list[KlCase]:
    """The base case, which has each row's own range, then each axis varied from it: range, q = p, dtype,
    layout, skew, threads."""
    fixed = varied(base, "fixed range", range=KL_RANGE)
    return [
        base,
        fixed,
        varied(base, "q = p", reference=None),
        varied(fixed, "q = p", reference=None),
        varied(base, "bfloat16", dtype="bfloat16"),
        varied(base, "float16", dtype="float16"),
        varied(base, "slices of wider rows", slices=True),
        varied(fixed, "one class", one_class=True),
        varied(base, "1 thread", threads=1),
    ]


def varied(base, what: str, **changes):
    return replace(base, name=f"{base.name}, {what}", **changes)


def option_cases(base: SceneCase) -> list[SceneCase]:
    return [varied(base, name, option=name, compiled=False) for name in OPTIONS]


def uncompiled(*cases) -> list:
    return [replace(case, compiled=False) for case in cases]


def compiled_once(cases: list) -> list:
    """torch.compile for the first case alone."""
    return [cases[0], *uncompiled(*cases[1:])]


def in_both_dtypes(base: SceneCase) -> list[SceneCase]:
    """As a segmenter gives logits, without autocast and with it."""
    return [base, varied(base, "bfloat16", dtype="bfloat16")]


CAMVID = Scene(4, 11, (360, 480), (360, 480), (90, 80))
CITYSCAPES = Scene(1, 19, (1024, 2048), (1024, 2048), (128, 128))
ADE20K = Scene(1, 150, (512, 512), (512, 512), (128, 128))
TINY = Scene(2, 11, (64, 96), (64, 96), (32, 32))
KL_BINS = 32
# What region_features does beside its plain call, by name.
OPTIONS = ("ragged edge", "margin and confidence", "impurity")

CAMVID_BASE = SceneCase(name="CamVid 4×11×360×480", scene=CAMVID)
CITYSCAPES_BASE = SceneCase(name="Cityscapes 1×19×1024×2048", scene=CITYSCAPES)
SCENES = [
    *scene_axes(CAMVID_BASE),
    CITYSCAPES_BASE,
    SceneCase(name="ADE20K-like 1×150×512×512", scene=ADE20K),
]
TINY_SCENES = compiled_once(scene_axes(SceneCase(name="2×11×64×96", scene=TINY)))

FULL = {
    "region_features": [
        *SCENES,
        SceneCase(name="Cityscapes 1×19×1024×2048, upsampled ×4", scene=CITYSCAPES.quarter()),
        *option_cases(SCENES[0]),
    ],
    "label_map_features": uncompiled(CAMVID_BASE),
    "confusion_matrix": SCENES,
    "bald": [
        *scene_axes(
            BaldCase(name="CamVid 2×11×360×480, 20 passes", scene=CAMVID._replace(images=2), passes=20)
        ),
        BaldCase(name="Cityscapes 1×19×1024×2048, 4 passes", scene=CITYSCAPES, passes=4),
        BaldCase(name="ADE20K-like 1×150×512×512, 4 passes", scene=ADE20K, passes=4),
    ],
    "kl_histogram": [
        *kl_axes(KlCase(name="2560×2560×19", rows=2560, reference=2560, classes=19)),
        KlCase(name="CamVid's pools 480×480×11, fixed range, q = p", rows=480, classes=11, range=KL_RANGE),
        KlCase(name="ADE20K-like 2560×2560×150", rows=2560, reference=2560, classes=150),
        KlCase(name="Cityscapes' pools 25600×25600×19", rows=25600, reference=25600, classes=19),
        KlCase(
            name="Cityscapes' pools 25600×25600×19, fixed range",
            rows=25600,
            reference=25600,
            classes=19,
            range=KL_RANGE,
        ),
    ],
    "label_rle": [
        MaskCase(name="CamVid 360×480, blobs of 20 pixels", image=CAMVID.image, blob=20),
        MaskCase(name="CamVid 360×480, blobs of 5 pixels", image=CAMVID.image, blob=5),
        MaskCase(name="Cityscapes 1024×2048, blobs of 20 pixels", image=CITYSCAPES.image, blob=20),
    ],
    "action": [
        ActionCase(name="CamVid", pools=24, pool_size=20, labelled=480, classes=11),
        ActionCase(name="Cityscapes", pools=256, pool_size=100, labelled=3840, classes=19),
    ],
    "step": [
        StepCase(
            name="CamVid",
            state=CAMVID.quarter()._replace(images=10),
            candidates=CAMVID.quarter()._replace(images=100),
            pools=24,
            pool_size=20,
            labelled=480,
        )
    ],
}
SMALL = {
    "region_features": [*TINY_SCENES, *option_cases(TINY_SCENES[0])],
    "label_map_features": uncompiled(TINY_SCENES[0]),
    "confusion_matrix": TINY_SCENES,
    "bald": compiled_once(scene_axes(BaldCase(name="2×11×64×96, 3 passes", scene=TINY, passes=3))),
    "kl_histogram": compiled_once(kl_axes(KlCase(name="256×128×11", rows=256, reference=128, classes=11))),
    "label_rle": [MaskCase(name="64×96, blobs of 5 pixels", image=TINY.image, blob=5)],
    "action": [ActionCase(name="4×32 candidates", pools=4, pool_size=32, labelled=64, classes=11)],
    "step": [
        StepCase(
            name="4 images",
            state=TINY.quarter(),
            candidates=TINY.quarter()._replace(images=4),
            pools=4,
            pool_size=4,
            labelled=16,
            compiled=False,
        )
    ],
}

# In the order in which they are timed, the most important first: the time may run out.
UPSAMPLED = varied(CITYSCAPES_BASE, "upsampled ×4", scene=CITYSCAPES.quarter())
OTHERS = uncompiled(
    varied(CITYSCAPES_BASE, "channels_last", channels_last=True),
    *(CAMVID_BASE, varied(CAMVID_BASE, "bfloat16", dtype="bfloat16")),
    varied(CAMVID_BASE, "upsampled ×4", scene=CAMVID.quarter()),
)
PASSES = BaldCase(name="Cityscapes 1×19×1024×2048, 20 passes", scene=CITYSCAPES, passes=20)
PAIRS = KlCase(name="25600×25600×19", rows=25600, reference=25600, classes=19)
GPU = {
    "region_features": [
        *in_both_dtypes(CITYSCAPES_BASE),
        UPSAMPLED,
        *OTHERS,
        *option_cases(CITYSCAPES_BASE),
    ],
    "label_map_features": uncompiled(CITYSCAPES_BASE),
    "bald": [
        *in_both_dtypes(PASSES),
        *uncompiled(BaldCase(name="CamVid 4×11×360×480, 20 passes", scene=CAMVID, passes=20)),
    ],
    "kl_histogram": [varied(PAIRS, "fixed range", range=KL_RANGE), *uncompiled(PAIRS)],
    "confusion_matrix": [*in_both_dtypes(CITYSCAPES_BASE), *uncompiled(UPSAMPLED), *OTHERS],
    "action": [FULL["action"][1], *uncompiled(FULL["action"][0])],
    "step": [
        StepCase(
            name="Cityscapes",
            state=CITYSCAPES.quarter()._replace(images=10),
            candidates=CITYSCAPES.quarter()._replace(images=200),
            pools=256,
            pool_size=100,
            labelled=3840,
            batch=10,
        ),
        *uncompiled(FULL["step"][0]),
    ],
}
