"""bald of stacked passes. Work: the logits of all passes, read once. Limit: torch.exp of them."""

from collections.abc import Callable

import eager
import limits
import published
from checks import FLIPPED, NEAR, NEAR_SUM, same_features
from inputs import first_part, make_logits
from results import COMPILED, EAGER, PUBLISHED, Work
from sizes import BaldCase
from timings import Alternative, Comparison

from ralx.ops import bald


def make(case: BaldCase) -> Comparison:
    scene = case.scene
    logits = make_logits(case, case.passes)
    part, part_scene, share = first_part(logits, scene)

    def check(ours, theirs) -> None:
        same_features(ours, theirs, (NEAR, NEAR_SUM, FLIPPED))

    alternatives = [
        Alternative(PUBLISHED, lambda: published.bald(part, part_scene), check, share),
        Alternative(EAGER, lambda: eager.bald(logits, scene), check),
    ]
    if case.compiled:
        compiled = eager.compiled(eager.bald_at_once)
        alternatives.append(Alternative(COMPILED, lambda: compiled(logits, scene), check))
    alternatives.append(limits.exp(logits, scene))

    def run():
        return bald(logits, scene.region, size=scene.size, align_corners=True)

    return Comparison(run, Work(logits.nbytes, "B"), alternatives)


def bench_bald(case: BaldCase, compare: Callable[..., None]) -> None:
    compare(case, make)
