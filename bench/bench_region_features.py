"""region_features. Work: the logits, read once. Limit: torch.exp of them."""

from collections.abc import Callable

import eager
import limits
import published
from checks import FLIPPED, NEAR, NEAR_SUM, same_features
from inputs import first_part, make_logits
from results import COMPILED, EAGER, PUBLISHED, Work
from sizes import SceneCase
from timings import Alternative, Comparison
from torch import Tensor

from ralx.ops import region_features
from ralx.ops.region_features import region_features_ref


def make(case: SceneCase) -> Comparison:
    return make_option(case) if case.option else make_plain(case)


def make_plain(case: SceneCase) -> Comparison:
    scene = case.scene
    logits = make_logits(case)
    part, part_scene, share = first_part(logits, scene)

    def ours(logits: Tensor):
        return region_features(logits, scene.region, size=scene.size, align_corners=True)

    def check(ours, theirs) -> None:
        same_features(ours, theirs, (FLIPPED, NEAR, NEAR, NEAR, NEAR_SUM))

    alternatives = [
        Alternative(PUBLISHED, lambda: published.region_features(part, part_scene), check, share),
        Alternative(EAGER, lambda: eager.region_features(logits, scene), check),
    ]
    if case.compiled:
        compiled = eager.compiled(eager.region_features)
        alternatives.append(Alternative(COMPILED, lambda: compiled(logits, scene), check))
    if case.dtype != "float32":
        widened = logits.float()
        alternatives.append(Alternative("ralx float32", lambda: ours(widened), check))
    alternatives.append(limits.exp(logits, scene))
    return Comparison(lambda: ours(logits), Work(logits.nbytes, "B"), alternatives)


def make_option(case: SceneCase) -> Comparison:
    """What an option adds to the plain call, which is its limit, beside the same in plain torch."""
    scene, logits = case.scene, make_logits(case)
    wider = scene.region[0] + 7, scene.region[1] + 7  # so that an edge remains
    both, impurity = (1, 1, 0), (0, 0, 3)
    ours, theirs = {
        "ragged edge": (
            lambda: region_features(logits, wider, edge="keep"),
            lambda: region_features_ref(logits, wider, keep_edge=True),
        ),
        "margin and confidence": (
            lambda: region_features(logits, scene.region, scores=("margin", "least_confidence")),
            lambda: region_features_ref(logits, scene.region, scores=both),
        ),
        "impurity": (
            lambda: region_features(logits, scene.region, scores=("impurity",)),
            lambda: region_features_ref(logits, scene.region, scores=impurity),
        ),
    }[case.option]

    def check(ours, theirs) -> None:
        same_features(ours[:5], theirs[:5], (FLIPPED, NEAR, NEAR, NEAR, NEAR_SUM))
        sums = [part for part in ours[6:] if part is not None]
        same_features(sums, theirs[5], [NEAR_SUM] * len(sums))

    alternatives = [
        Alternative("plain torch", theirs, check),
        Alternative("ralx plain", lambda: region_features(logits, scene.region)),
    ]
    return Comparison(ours, Work(logits.nbytes, "B"), alternatives)


def bench_region_features(case: SceneCase, compare: Callable[..., None]) -> None:
    compare(case, make)
