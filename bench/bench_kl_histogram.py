"""kl_histogram. Work: a multiply-add per pair and class. Limit: the bare matrix product, in float32 as the
rows are given and in float64 as ralx computes it."""

from collections.abc import Callable

import eager
import limits
import published
import torch
from checks import same_histograms
from inputs import make_rows
from results import COMPILED, EAGER, PUBLISHED, Work
from sizes import KL_BINS, KlCase
from timings import Alternative, Comparison

from ralx.ops import kl_histogram

LOOP_ROWS = 32  # of p that the loop is timed on; each row costs the same


def make(case: KlCase) -> Comparison:
    p, q = make_rows(case)
    part = p[:LOOP_ROWS]

    def run():
        return kl_histogram(p, q, bins=KL_BINS, range=case.range)

    alternatives = [
        Alternative(
            PUBLISHED,
            lambda: published.kl_histogram(part, q, KL_BINS, case.range),
            same_histograms,
            len(part) / len(p),
        ),
        Alternative(EAGER, lambda: eager.kl_histogram(p, q, KL_BINS, case.range), same_histograms),
    ]
    if case.compiled:
        compiled = eager.compiled_kl_histogram()
        alternatives.append(
            Alternative(COMPILED, lambda: compiled(p, q, KL_BINS, case.range), same_histograms)
        )
    alternatives += [limits.gemm(p, q), limits.gemm(p, q, dtype=torch.float64)]
    return Comparison(run, Work(2 * len(p) * len(q) * case.classes, "flop"), alternatives)


def bench_kl_histogram(case: KlCase, compare: Callable[..., None]) -> None:
    compare(case, make)
