"""The whole system on a device, from Python: part of gpu_check.py.

python bench/gpu_job.py WHAT [--device cuda] [--small]

run       the main job at its smallest setting, report included
step      of one active-learning step at CamVid's size: where the host waits for the device, and a profile
protocol  what one seed of the paper's CamVid protocol takes at least, from a few pieces of each kind of work
"""

import argparse
import dataclasses
import math
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ralx.config import Config, preset
from ralx.datasets import SyntheticSizes, load_splits
from ralx.experiments import Experiment
from ralx.loop import Chooser, Game, PolicyLearner
from ralx.report import write_report
from ralx.run_dir import RunDirectory, open_run
from ralx.segmentation import SegmenterTrainer
from ralx.support.monitor import Monitor

ROOT = Path(__file__).resolve().parent.parent
TINY_IMAGES = SyntheticSizes(
    image_size=(48, 64), state_set=2, train_set=4, eval_set=6, reward_set=2, test_set=2, pretrain_set=3
)
TINY = dict(
    region_size=(16, 16),
    crop_size=(32, 32),
    batch_size=4,
    max_epochs=1,
    query_size=2,
    pool_size=3,
    pool_size_ralis=3,
    budget=6,
    episodes=2,
    budgets=(3, 6),
    num_seeds=1,
)
CAMVID_IMAGES = SyntheticSizes(
    image_size=(360, 480), state_set=10, train_set=40, eval_set=1, reward_set=10, test_set=1, pretrain_set=1
)
ONE_STEP = dict(budgets=(24,), methods=("ralis",))
PROTOCOL_IMAGES = SyntheticSizes(  # as many as CamVid has; the test set is measured once per network
    image_size=(360, 480),
    state_set=10,
    train_set=100,
    eval_set=257,
    reward_set=101,
    test_set=1,
    pretrain_set=1,
)
PROFILED = 15  # rows of the profile
SYNC = "synchronizing CUDA operation"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "step", "protocol"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="everything at the smallest setting")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, device, small = Path(name), options.device, options.small
        if options.what == "run":
            run(tiny(device), folder)
        elif options.what == "step":
            config = tiny(device) if small else camvid(device, **ONE_STEP)
            step(config, TINY_IMAGES if small else CAMVID_IMAGES, folder)
        else:
            config = tiny(device) if small else camvid(device)
            protocol(config, TINY_IMAGES if small else PROTOCOL_IMAGES, folder)
    return 0


def tiny(device: str) -> Config:
    return dataclasses.replace(preset("synthetic"), device=device, **TINY)


def camvid(device: str, **changes: Any) -> Config:
    """The paper's settings for CamVid, on generated scenes."""
    return dataclasses.replace(preset("camvid"), dataset="synthetic", device=device, **changes)


def run(config: Config, folder: Path) -> None:
    """What `ralx-train` does, without its command line."""
    with open_run(folder / "run", {}, resume=True) as run_dir:
        experiment = experiment_of(config, TINY_IMAGES, run_dir)
        experiment.pretrain()
        experiment.learn()
        experiment.evaluate()
        page = write_report(run_dir.path, pictures=experiment.splits.eval_set)
        records = run_dir.records()
    cells = len(config.methods) * len(config.budgets)
    if len(records) != cells or not page.exists():
        raise SystemExit(f"FAILED main job: {len(records)} results of {cells}")
    mious = ", ".join(f"{record['miou']:.3f}" for record in records)
    print(f"{len(records)} results, mIoU {mious}")


def experiment_of(config: Config, images: SyntheticSizes, run_dir: RunDirectory) -> Experiment:
    splits = load_splits("synthetic", sizes=images)
    run_dir.begin(config.to_json())
    return Experiment(config, splits, run_dir, run_dir.path / "cache", Monitor())


def step(config: Config, images: SyntheticSizes, folder: Path) -> None:
    """Steps of an episode: the first two warm up, the others are counted, timed and profiled."""
    on_gpu = config.device != "cpu"
    with open_run(folder / "run", {}, resume=True) as run_dir:
        learner = learner_of(experiment_of(config, images, run_dir))
        learner._play_step()
        learner._play_step()
        seconds = timed_step(learner, on_gpu)
        waits = waits_in_step(learner) if on_gpu else Counter()
        table = profile_of_step(learner, on_gpu)
    print(table)
    for place, count in waits.most_common():
        print(f"{count:4d} waits at {place}")
    print(f"a step takes {seconds:.3f} s, the host waits for the device {waits.total()} times in one")


def learner_of(experiment: Experiment) -> PolicyLearner:
    """Nothing is pretrained: a step takes as long with any weights."""
    trainer = experiment.segmenters.new_trainer(experiment.config.segmenter_lr)
    experiment.pretraining.theta0 = trainer.state_dict()
    return experiment._learner(0)


def timed_step(learner: PolicyLearner, on_gpu: bool) -> float:
    return seconds_of(learner._play_step, on_gpu)


def seconds_of(work: Callable[[], object], on_gpu: bool) -> float:
    start = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def waits_in_step(learner: PolicyLearner) -> Counter[str]:
    """How often the host waits for the device, by the line that makes it wait."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learner._play_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return Counter(place(each) for each in caught if SYNC in str(each.message))


def place(warning: warnings.WarningMessage) -> str:
    path = Path(warning.filename)
    short = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(*path.parts[-2:])
    return f"{short}:{warning.lineno}"


def profile_of_step(learner: PolicyLearner, on_gpu: bool) -> str:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        timed_step(learner, on_gpu)
    by = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return profile.key_averages().table(sort_by=by, row_limit=PROFILED, max_name_column_width=60)


class Piece(NamedTuple):
    work: str
    seconds: float  # the median of a few
    times: int  # that one seed of the protocol does it
    shared: bool = False  # by all seeds


def protocol(config: Config, images: SyntheticSizes, folder: Path) -> None:
    """A line per kind of work, then what one seed of all methods and budgets takes: at least, for a training
    is taken to be as short as its patience allows, and nothing is measured on the test set."""
    with open_run(folder / "run", {}, resume=True) as run_dir:
        minutes = {True: 0.0, False: 0.0}
        for work, seconds, times, shared in pieces(experiment_of(config, images, run_dir)):
            minutes[shared] += seconds * times / 60
            print(f"{work:36} {seconds:8.3f} s × {times:6,} = {seconds * times / 60:6.1f} min", flush=True)
    print(f"one seed takes at least {minutes[False]:.1f} min, what all seeds share {minutes[True]:.1f} min")


def pieces(experiment: Experiment) -> Iterator[Piece]:
    """One of each kind of work. Nothing is pretrained, see `learner_of`."""
    config, splits, segmenters = experiment.config, experiment.splits, experiment.segmenters
    generator = torch.Generator().manual_seed(0)

    def median(work: Callable[[], object]) -> float:
        seconds = [seconds_of(work, config.device != "cpu") for _ in range(5)]
        return sorted(seconds[2:])[1]  # the first two warm up

    def epochs(patience: int | None) -> int:
        return config.max_epochs if patience is None else min(patience + 1, config.max_epochs)

    def epoch(trainer: SegmenterTrainer, *data: Any) -> float:
        def work() -> None:
            segmenters.train_epoch(trainer, data[0], generator, *data[1:])
            segmenters.reward_miou(trainer)

        return median(work)

    learner = learner_of(experiment)
    start = experiment.pretraining.theta0
    trainer = segmenters.new_trainer(config.target_lr)
    for work, data, patience in (
        ("θ0′: epoch", splits.train_set, config.target_patience),
        ("full supervision: epoch", splits.full_set, config.full_patience),
    ):
        yield Piece(work, epoch(trainer, data), epochs(patience), shared=True)
    steps = math.ceil(config.budget / config.query_size)
    yield Piece("learn: step", median(learner._play_step), config.episodes * steps)
    experiment._save_policy(experiment._policy_path(config.seed), learner.agent.query_network)
    for method in config.methods:
        game = experiment._game(splits.eval_set)
        game.start(start)
        choose = experiment._chooser(method, config.seed, game)

        def step(game: Game = game, choose: Chooser = choose) -> None:
            regions = choose(game, config.query_size, generator)
            game.mistaken_pixels(regions)
            game.label(regions, generator)

        times = math.ceil(config.budgets[-1] / config.query_size)
        yield Piece(f"select, {method}: step", median(step), times)
    for budget in config.budgets:
        game = experiment._game(splits.eval_set)
        game.start(start)
        regions = torch.randperm(game.grid.num_regions, generator=generator)[:budget]
        seconds = epoch(game.trainer, *experiment._to_train_on(regions))
        yield Piece(
            f"final training, {budget:,} regions: epoch",
            seconds,
            len(config.methods) * epochs(config.final_patience),
        )


if __name__ == "__main__":
    sys.exit(main())
