"""kl_histogram beside a SciPy loop and eager torch. Work: a multiply-add per pair and class."""

from collections.abc import Callable

import eager
import numpy as np
import torch
from scipy import stats
from sizes import KlCase
from timings import Baseline, Work
from torch import Tensor

from ralx.ops import kl_histogram

LOOP_ROWS = 32  # of p that the loop is timed on; each row costs the same


def scipy_loop(p: Tensor, q: Tensor, bins: int, range: tuple[float, float] | None) -> np.ndarray:
    """Row by row, as research code does it: scipy.stats.entropy against all of q, then numpy.histogram."""
    reference = q.numpy().T + 1e-7
    histograms = []
    for row in p.numpy() + 1e-7:
        values = stats.entropy(row[:, None], reference)
        histograms.append(np.histogram(values, bins, range)[0] / len(q))
    return np.stack(histograms)


def bench_kl_histogram(case: KlCase, compare: Callable[..., None]) -> None:
    torch.manual_seed(0)
    p = (torch.randn(case.rows, case.classes) * 2).softmax(1)
    q = (torch.randn(case.reference, case.classes) * 2).softmax(1)
    part = p[:LOOP_ROWS]

    def run():
        return kl_histogram(p, q, bins=case.bins, range=case.range)

    def loop():
        return scipy_loop(part, q, case.bins, case.range)

    def whole():
        return eager.kl_histogram(p, q, case.bins, case.range)

    # float32 lets a value near an edge change its bin: few do.
    ours = run()
    assert (ours[:LOOP_ROWS].double() - torch.from_numpy(loop())).abs().sum(1).max() < 0.02
    assert (ours - whole()).abs().sum(1).max() < 0.02
    compare(
        case.name,
        run,
        Work(2 * case.rows * case.reference * case.classes, "flop"),
        [Baseline("SciPy loop", loop, share=len(part) / len(p)), Baseline("eager torch", whole)],
    )
