"""bald beside eager torch. Work: the logits of all passes, read once."""

from collections.abc import Callable

import eager
import torch
from sizes import BaldCase
from timings import Baseline, Work

from ralx.ops import bald


def bench_bald(case: BaldCase, compare: Callable[..., None]) -> None:
    scene = case.scene
    torch.manual_seed(0)
    logits = torch.randn(case.passes, scene.images, scene.classes, *scene.logits) * 3

    def run():
        return bald(logits, scene.region, size=scene.size, align_corners=True)

    def baseline():
        return eager.bald(logits, scene)

    torch.testing.assert_close(run()[0], baseline()[0], rtol=1e-4, atol=1e-4)
    compare(case.name, run, Work(logits.nbytes, "B"), [Baseline("eager torch", baseline)])
