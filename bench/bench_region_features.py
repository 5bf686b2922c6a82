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


def make(case: SceneCase) -> Comparison:
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


def bench_region_features(case: SceneCase, compare: Callable[..., None]) -> None:
    compare(case, make)
