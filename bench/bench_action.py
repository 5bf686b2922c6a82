"""Featurizer.action: one step's candidates, whose region features are given, against the labelled regions and
against each other. Work: a multiply-add per pair and class. Limit: the bare matrix products."""

from collections.abc import Callable

import eager
import limits
import published
import torch
from checks import same_histograms
from inputs import FEATURES
from results import COMPILED, EAGER, PUBLISHED, Work
from sizes import KL_BINS, ActionCase
from timings import Alternative, Comparison
from torch import Tensor, nn

from ralx.features import KL_RANGE, Featurizer

LOOP_ROWS = 32  # of the candidates, that the loop is timed on; each costs the same


def make(case: ActionCase) -> Comparison:
    torch.manual_seed(0)
    regions = torch.rand(case.pools, case.pool_size, case.classes + FEATURES)
    regions[..., : case.classes] = (torch.randn(case.pools, case.pool_size, case.classes) * 2).softmax(-1)
    labelled = (torch.randn(case.labelled, case.classes) * 2).softmax(-1)
    candidates = regions.flatten(0, 1)
    predicted = candidates[:, : case.classes]
    featurizer = Featurizer(
        nn.Identity(), (8, 8), kl_bins=KL_BINS
    )  # neither segmenter nor region size is used

    def action(kl_histogram: Callable[..., Tensor], rows: int) -> Tensor:
        kl = [kl_histogram(predicted[:rows], q, KL_BINS, KL_RANGE) for q in (labelled, predicted)]
        return torch.cat([candidates[:rows], *kl], dim=1)

    def check(ours: Tensor, theirs: Tensor) -> None:
        same_histograms(ours.flatten(0, 1)[:, -2 * KL_BINS :], theirs[:, -2 * KL_BINS :])

    everyone = len(candidates)
    share = LOOP_ROWS / everyone
    alternatives = [
        Alternative(PUBLISHED, lambda: action(published.kl_histogram, LOOP_ROWS), check, share),
        Alternative(EAGER, lambda: action(eager.kl_histogram, everyone), check),
    ]
    if case.compiled:
        compiled = eager.compiled_kl_histogram()
        alternatives.append(Alternative(COMPILED, lambda: action(compiled, everyone), check))
    alternatives.append(limits.gemm(predicted, labelled, predicted))
    work = Work(2 * everyone * (case.labelled + everyone) * case.classes, "flop")
    return Comparison(lambda: featurizer.action(regions, labelled), work, alternatives)


def bench_action(case: ActionCase, compare: Callable[..., None]) -> None:
    compare(case, make)
