"""confusion_matrix from logits. Work: logits and target, read once. Limit: a copy of the logits."""

from collections.abc import Callable

import eager
import limits
import published
from inputs import first_part, make_logits, make_target
from results import COMPILED, EAGER, PUBLISHED, Work
from sizes import Scene, SceneCase
from timings import Alternative, Comparison
from torch import Tensor

from ralx.ops import confusion_matrix

FLIPPED = 1e-4  # share of the pixels whose two best classes changed places, upsampled in another order


def make(case: SceneCase) -> Comparison:
    scene = case.scene
    logits, target = make_logits(case), make_target(case)
    part, part_scene, share = first_part(logits, scene)
    part_target = target[: part_scene.images, : part_scene.image[0]]

    def ours(logits: Tensor, target: Tensor, scene: Scene) -> Tensor:
        return confusion_matrix(logits, target, scene.classes, size=scene.size, align_corners=True)

    def check(ours: Tensor, theirs: Tensor) -> None:
        assert (ours - theirs).abs().sum() <= scene.pixels * FLIPPED

    def check_part(_, theirs: Tensor) -> None:
        check(ours(part, part_target, part_scene), theirs)

    alternatives = [
        Alternative(
            PUBLISHED, lambda: published.confusion_matrix(part, part_target, part_scene), check_part, share
        ),
        Alternative(EAGER, lambda: eager.confusion_matrix(logits, target, scene), check),
    ]
    if case.compiled:
        compiled = eager.compiled(eager.confusion_matrix)
        alternatives.append(Alternative(COMPILED, lambda: compiled(logits, target, scene), check))
    alternatives.append(limits.copy(logits, scene))
    work = Work(logits.nbytes + target.nbytes, "B")
    return Comparison(lambda: ours(logits, target, scene), work, alternatives)


def bench_confusion_matrix(case: SceneCase, compare: Callable[..., None]) -> None:
    compare(case, make)
