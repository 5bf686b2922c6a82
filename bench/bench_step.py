"""The features of one active-learning step, from logits that are given.

The state set's regions, the candidates' regions, and the candidates' KL histograms to the labelled regions
and to each other. Work: the logits, read once.
"""

from collections.abc import Callable

import eager
import published
import torch
from results import COMPILED, EAGER, PUBLISHED, Work
from sizes import KL_BINS, Scene, StepCase
from timings import Alternative, Comparison
from torch import Tensor, nn

from ralx.features import KL_RANGE, Featurizer


class GivenLogits(nn.Module):
    """A segmenter that has its logits already, whatever the images."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


def make(case: StepCase) -> Comparison:
    torch.manual_seed(0)
    state_logits, candidate_logits = make_logits(case.state), make_logits(case.candidates)
    labelled = torch.rand(case.labelled, case.state.classes).softmax(1)
    chosen = torch.randperm(case.candidates.regions)[: case.pools * case.pool_size]
    pools = case.pools, case.pool_size
    state = Featurizer(GivenLogits(state_logits), case.state.region, kl_bins=KL_BINS)
    candidates = Featurizer(GivenLogits(candidate_logits), case.candidates.region, kl_bins=KL_BINS)
    # All that the featurizer asks of its images is their size.
    state_images = torch.empty(0, 3, *case.state.image)
    candidate_images = torch.empty(0, 3, *case.candidates.image)

    def run() -> tuple[Tensor, Tensor]:
        regions = candidates.regions(candidate_images).flatten(0, 1)[chosen]
        return state.state(state_images), candidates.action(regions.unflatten(0, pools), labelled)

    def features(region_features: Callable, logits: Tensor, scene: Scene) -> Tensor:
        return torch.cat([vectors(region_features(part, scene)) for part in logits.split(case.batch)])

    def step(region_features: Callable, kl_histogram: Callable) -> tuple[Tensor, Tensor]:
        regions = features(region_features, candidate_logits, case.candidates)[chosen]
        predicted = regions[:, : case.candidates.classes]
        kl = [kl_histogram(predicted, q, KL_BINS, KL_RANGE) for q in (labelled, predicted)]
        action = torch.cat([regions, *kl], dim=1).unflatten(0, pools)
        return features(region_features, state_logits, case.state), action

    alternatives = [
        Alternative(PUBLISHED, lambda: step(published.region_features, published.kl_histogram), check),
        Alternative(EAGER, lambda: step(eager.region_features, eager.kl_histogram), check),
    ]
    if case.compiled:
        compiled, kl_histogram = eager.compiled(eager.region_features), eager.compiled_kl_histogram()
        alternatives.append(Alternative(COMPILED, lambda: step(compiled, kl_histogram), check))
    work = Work(state_logits.nbytes + candidate_logits.nbytes, "B")
    return Comparison(run, work, alternatives)


def make_logits(scene: Scene) -> Tensor:
    return torch.randn(scene.images, scene.classes, *scene.logits) * 3


def vectors(features: tuple[Tensor, ...]) -> Tensor:
    """[N·R, C + 3·8·8]"""
    return torch.cat([part.flatten(2) for part in features[:4]], dim=2).flatten(0, 1)


def check(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert (mine - other).abs().mean() < 1e-3


def bench_step(case: StepCase, compare: Callable[..., None]) -> None:
    compare(case, make)
