"""Acquisition functions that look beyond one region: at the labels known so far and at the whole batch.

A batch acquisition function maps a `Step` and a CPU generator to one candidate per pool, the places
int64 [K] on the CPU.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ralx.acquisition.scores import pick
from ralx.metrics import kl_divergence, rarity


class Step(NamedTuple):
    """What one step's candidates look like, and what is labelled."""

    predicted: Tensor  # [K, M, C] class distributions of the predictions, fractions
    entropy: Tensor  # [K, M] cumulative entropy in nats
    labelled: Tensor  # [L, C] class distributions of the labelled regions' ground truth
    known: Tensor  # [C] pixels of each class among all labels that the segmenter may learn from


BatchAcquisition = Callable[[Step, torch.Generator], Tensor]


def class_balanced(step: Step, generator: torch.Generator) -> Tensor:
    """Class-balanced entropy: cumulative entropy × Σ_c predicted share of c / √(share of c among the known
    labels). High where the segmenter is unsure and sees classes that it has few labels of."""
    return pick(step.entropy * (step.predicted @ rarity(step.known).to(step.predicted))).cpu()


def k_centre(step: Step, generator: torch.Generator) -> Tensor:
    """A diverse batch, farthest first (Gonzalez 1985) on class distributions: pool after pool the candidate
    whose KL divergence from the nearest centre is largest, KL(candidate ‖ centre).

    Centres are the labelled regions and the candidates chosen before. The first of a game, when there are no
    centres, is the first of its pool: random, as candidates are in random order.
    """
    predicted, labelled = step.predicted, step.labelled
    nearest = torch.full_like(predicted[..., 0], math.inf, dtype=torch.float64)
    if len(labelled):
        nearest = kl_divergence(predicted, labelled).amin(-1)
    places = []
    for pool in range(len(predicted)):
        place = nearest[pool].argmax()
        places.append(place)
        nearest = torch.minimum(nearest, kl_divergence(predicted, predicted[pool, place][None])[..., 0])
    if nearest.isnan().any():
        raise FloatingPointError("class distributions must not be NaN, got a NaN divergence from a centre")
    return torch.stack(places).cpu()


def stratified(step: Step, generator: torch.Generator) -> Tensor:
    """Random with class-stratified prediction: every class has its turn, in random order and again and
    again; each pool gives a candidate drawn in proportion to the predicted share of the pool's class, or any
    where none shows it."""
    predicted = step.predicted.cpu()
    if predicted.isnan().any():
        raise FloatingPointError("class distributions must not be NaN, got NaN among the candidates'")
    pools, _, num_classes = predicted.shape
    rounds = math.ceil(pools / num_classes)
    draws = [torch.randperm(num_classes, generator=generator, device="cpu") for _ in range(rounds)]
    turns = torch.cat(draws)[:pools]
    share = predicted.gather(2, turns[:, None, None].expand(-1, predicted.shape[1], 1)).squeeze(2)
    share = share.where(share.sum(1, keepdim=True) > 0, 1.0)
    return torch.multinomial(share, 1, generator=generator).squeeze(1)
