"""region_features(regions=…). Work: the logits, read once. Limit: region_features of a grid."""

from collections.abc import Callable

from checks import FLIPPED, NEAR, NEAR_SUM, same_features
from inputs import make_logits, squares
from results import Work
from sizes import SceneCase
from timings import Alternative, Comparison

from ralx.ops import region_features
from ralx.ops.label_map_features import label_map_features_ref


def make(case: SceneCase) -> Comparison:
    scene, logits = case.scene, make_logits(case)
    regions, num_regions = squares(scene)

    def ours():
        return region_features(logits, None, regions=regions, num_regions=num_regions)

    def check(ours, theirs) -> None:
        same_features(ours[:5], theirs[:5], (FLIPPED, NEAR, NEAR, NEAR, NEAR_SUM))
        assert ours.pixel_count.equal(theirs[6])

    alternatives = [
        Alternative("plain torch", lambda: label_map_features_ref(logits, regions, num_regions), check),
        Alternative("ralx plain", lambda: region_features(logits, scene.region)),
    ]
    return Comparison(ours, Work(logits.nbytes, "B"), alternatives)


def bench_label_map_features(case: SceneCase, compare: Callable[..., None]) -> None:
    compare(case, make)
