"""What looks beyond one region: class-balanced entropy, k-centre and stratified drawing, on made-up steps."""

import math

import pytest
import torch

from ralx.acquisition import BATCH_ACQUISITIONS, Step, class_balanced, k_centre, stratified
from ralx.metrics import RAREST_SHARE


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def one_hot(*classes, num_classes=3):
    return torch.nn.functional.one_hot(torch.tensor(classes), num_classes).float()


def step(predicted, entropy=None, labelled=None, known=None):
    classes = predicted.shape[-1]
    return Step(
        predicted,
        torch.ones(predicted.shape[:2]) if entropy is None else entropy,
        torch.zeros(0, classes) if labelled is None else labelled,
        torch.ones(classes) if known is None else known,
    )


def test_class_balanced_weighs_entropy_by_the_root_of_rarity():
    predicted = one_hot(0, 1).expand(2, -1, -1)  # candidate 0 shows class 0, candidate 1 class 1
    known = torch.tensor([64, 4, 32])  # weights 1.25 and 5, but for a factor
    entropy = torch.tensor([[3.9, 1.0], [4.1, 1.0]])
    assert class_balanced(step(predicted, entropy, known=known), generator()).tolist() == [1, 0]


def test_class_balanced_mixes_the_weights_of_all_predicted_classes():
    predicted = torch.tensor([[[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]])
    known = torch.tensor([64, 4, 32])  # 0.5 · 1.25 + 0.5 · 5 = 3.125 against 1.768
    for entropy, chosen in ((1.76, 0), (1.78, 1)):
        candidates = step(predicted, torch.tensor([[1.0, entropy]]), known=known)
        assert class_balanced(candidates, generator()).tolist() == [chosen]


def test_a_class_without_labels_has_a_bounded_weight():
    predicted, known = one_hot(0, 1)[None], torch.tensor([0, 100, 0])
    bound = math.sqrt(1 / RAREST_SHARE)
    for entropy, chosen in ((bound * 0.99, 0), (bound * 1.01, 1)):
        candidates = step(predicted, torch.tensor([[1.0, entropy]]), known=known)
        assert class_balanced(candidates, generator()).tolist() == [chosen]


def test_k_centre_avoids_what_is_labelled_and_what_is_chosen():
    pools = one_hot(0, 1, 2).expand(3, -1, -1)
    chosen = k_centre(step(pools, labelled=one_hot(0)), generator()).tolist()
    assert sorted(chosen[:2]) == [1, 2], "every class but the labelled one, each once"


def test_k_centre_takes_the_farthest_from_its_nearest_centre():
    # Against centres at classes 0 and 1: the mixture is near both, class 2 far from both.
    pool = torch.tensor([[[0.5, 0.5, 0.0], [0.9, 0.0, 0.1], [0.1, 0.0, 0.9]]])
    assert k_centre(step(pool, labelled=one_hot(0, 1)), generator()).tolist() == [2]


def test_k_centre_starts_with_any_where_nothing_is_labelled():
    first, second = k_centre(step(one_hot(1, 2, 0).expand(2, -1, -1)), generator()).tolist()
    assert first == 0, "all are equally far: the first"
    assert second in (1, 2), "any but the one chosen"


@pytest.mark.parametrize("labelled", [None, one_hot(0)])
@pytest.mark.parametrize("name", BATCH_ACQUISITIONS)
def test_undefined_class_distributions_are_no_choice(name, labelled):
    predicted = one_hot([0, 1], [2, 0])
    predicted[1, 0, 2] = math.nan
    with pytest.raises(FloatingPointError, match="must not be NaN, got "):
        BATCH_ACQUISITIONS[name](step(predicted, labelled=labelled), generator())


def test_stratified_gives_every_class_its_turn():
    pools = one_hot(0, 1, 2).expand(6, -1, -1)  # a candidate of each class in every pool
    chosen = stratified(step(pools), generator())
    assert sorted(chosen[:3].tolist()) == sorted(chosen[3:].tolist()) == [0, 1, 2]
    orders = {tuple(stratified(step(pools), generator(seed)).tolist()) for seed in range(8)}
    assert len(orders) > 1, "the order of the classes is random"


def test_stratified_draws_in_proportion_to_the_predicted_share():
    pool = torch.tensor([[[0.9, 0.1], [0.3, 0.7]]]).expand(4000, -1, -1)
    chosen = stratified(step(pool), generator())
    # Class 0 draws candidate 1 with 0.3/1.2, class 1 with 0.7/0.8; half of the pools each.
    assert chosen.double().mean().item() == pytest.approx((0.25 + 0.875) / 2, abs=0.03)


def test_stratified_draws_any_where_no_candidate_shows_the_class():
    pool = one_hot(0, 0, num_classes=1000).expand(500, -1, -1)  # hardly a pool whose turn is class 0
    assert 200 < stratified(step(pool), generator()).sum() < 300


@pytest.mark.parametrize("name", BATCH_ACQUISITIONS)
def test_one_place_in_every_pool(name):
    predicted = torch.rand(5, 4, 7, generator=generator()).softmax(-1)
    candidates = step(predicted, torch.rand(5, 4, generator=generator(1)), labelled=predicted[0])
    places = BATCH_ACQUISITIONS[name](candidates, generator(2))
    assert places.shape == (5,) and places.dtype == torch.int64 and places.max() < 4
    again = BATCH_ACQUISITIONS[name](candidates, generator(2))
    assert torch.equal(places, again)
