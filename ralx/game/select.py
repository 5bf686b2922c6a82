"""One game for evaluation: a method chooses the regions that are labelled, up to a budget."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ralx.game.game import Game
from ralx.support.checkpoint import Checkpoint
from ralx.support.divergence import naming_divergence
from ralx.support.monitor import Monitor
from ralx.support.randomness import stream

# Of the game, the number of regions to pick and a generator: the regions [K] to label next.
Chooser = Callable[[Game, int, torch.Generator], Tensor]


@runtime_checkable
class Learner(Protocol):
    """A chooser that changes as it chooses."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def select_regions(
    game: Game,
    choose: Chooser,
    budgets: Sequence[int],
    *,
    method: str,
    seed: int,
    checkpoint: Checkpoint,
    monitor: Monitor,
) -> Tensor:
    """Play one game until the last of `budgets`. A step never crosses a budget, so that the regions of one
    budget are the first ones of the next.

    Returns int64 [L]: of each region, in the order they were labelled, the pixels that the segmenter had
    wrong when it was asked for.
    """
    mistaken = torch.zeros(0, dtype=torch.int64, device="cpu")
    saved = checkpoint.load()
    if saved:
        tensors, _ = saved
        mistaken = tensors["mistaken"]
        game.load_state_dict(tensors["game"])
        if isinstance(choose, Learner):
            choose.load_state_dict(tensors["chooser"])

    def state() -> tuple[dict[str, Any], None]:
        learned: dict[str, Any] = choose.state_dict() if isinstance(choose, Learner) else {}
        return {"game": game.state_dict(), "chooser": learned, "mistaken": mistaken}, None

    with monitor.task(f"{method}, seed {seed}: select", budgets[-1], game.pool.num_labelled) as update:
        while (labelled := game.pool.num_labelled) < budgets[-1]:
            # Not keyed by the method: methods of one seed share their pools and crops as far as they can, so
            # that what differs between them is their choice.
            generator = stream("select", seed, labelled)
            with naming_divergence("segmenter_lr", f"{method}, seed {seed}, {labelled} regions labelled"):
                regions = choose(game, _step_size(game, budgets), generator)
                mistaken = torch.cat([mistaken, game.mistaken_pixels(regions).sum(1)])
                game.label(regions, _crops(seed, labelled))
            checkpoint.save(state)
            update(game.pool.num_labelled)
    return mistaken


def label_again(game: Game, regions: Tensor, budgets: Sequence[int], *, seed: int) -> None:
    """Label `regions` [L], the first ones of what `select_regions` chose with this seed, in the same steps:
    the segmenter ends as it stood there."""
    while (labelled := game.pool.num_labelled) < len(regions):
        step = regions[labelled : labelled + _step_size(game, budgets)]
        game.label(step, _crops(seed, labelled))


def _step_size(game: Game, budgets: Sequence[int]) -> int:
    labelled = game.pool.num_labelled
    return min(game.options.query_size, next(budget for budget in budgets if budget > labelled) - labelled)


def _crops(seed: int, labelled: int) -> torch.Generator:
    return stream("crops", seed, labelled)
