"""confusion_matrix beside eager torch. Work: logits and target, read once."""

from collections.abc import Callable

import eager
import torch
from sizes import SceneCase
from timings import Baseline, Work

from ralx.ops import confusion_matrix


def bench_confusion_matrix(case: SceneCase, compare: Callable[..., None]) -> None:
    scene = case.scene
    torch.manual_seed(0)
    logits = torch.randn(scene.images, scene.classes, *scene.logits)
    target = torch.randint(scene.classes, (scene.images, *scene.image), dtype=torch.uint8)
    target[:, :20] = 255

    def run():
        return confusion_matrix(logits, target, scene.classes, size=scene.size, align_corners=True)

    def baseline():
        return eager.confusion_matrix(logits, target, scene)

    # Upsampled in another order of additions, two nearly equal classes may change places.
    assert (run() - baseline()).abs().sum() <= scene.pixels * 1e-4
    work = Work(logits.nbytes + target.nbytes, "B")
    compare(case.name, run, work, [Baseline("eager torch", baseline)])
