"""region_features beside eager torch. Work: the logits, read once."""

from collections.abc import Callable

import eager
import torch
from sizes import SceneCase
from timings import Baseline, Work

from ralx.ops import region_features


def bench_region_features(case: SceneCase, compare: Callable[..., None]) -> None:
    scene = case.scene
    torch.manual_seed(0)
    logits = torch.randn(scene.images, scene.classes, *scene.logits) * 3

    def run():
        return region_features(logits, scene.region, size=scene.size, align_corners=True)

    def baseline():
        return eager.region_features(logits, scene)

    for ours, theirs in zip(run()[1:], baseline()[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    compare(case.name, run, Work(logits.nbytes, "B"), [Baseline("eager torch", baseline)])
