"""Experiments on six tiny scenes of 48×64 pixels, for the tests of what an experiment is made of."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ralx.agent.query_network import QueryNetwork
from ralx.config import Config, preset
from ralx.datasets import SyntheticSizes, load_splits
from ralx.experiments import Experiment
from ralx.loop import Stopwatch
from ralx.run_dir import RunDirectory, open_run
from ralx.support.monitor import Monitor
from ralx.support.randomness import stream

SIZES = SyntheticSizes(
    image_size=(48, 64), state_set=2, train_set=4, eval_set=6, reward_set=2, test_set=2, pretrain_set=3
)
TINY = dict(
    region_size=(16, 16),
    crop_size=(32, 32),
    batch_size=4,
    max_epochs=1,
    query_size=2,
    pool_size=3,
    budget=6,
    episodes=2,
    budgets=(3, 6),
    num_seeds=1,
)


class TinyExperiment(Experiment):
    stopwatch = Stopwatch()

    def save_policies(self) -> None:
        """Untrained query networks in the place of learned ones."""
        for seed in self.config.seeds:
            network = QueryNetwork(**self._network_sizes(), generator=stream("query network", seed)).eval()
            self._save_policy(self._policy_path(seed), network)


def experiment_in(folder: Path) -> Callable[..., TinyExperiment]:
    """make(published=..., scenes=..., **changes): an experiment in `folder`; `scenes` to pretrain on."""

    def make(*, published: bool = False, scenes: int = SIZES.pretrain_set, **changes) -> TinyExperiment:
        config: Config = dataclasses.replace(preset("synthetic", published=published), **(TINY | changes))
        splits = load_splits("synthetic", sizes=dataclasses.replace(SIZES, pretrain_set=scenes))
        with open_run(folder / "run", {}, resume=True) as run:
            run.begin({})
        run = RunDirectory(folder / "run")  # without its lock
        return TinyExperiment(config, splits, run, folder / "cache", Monitor())

    return make
