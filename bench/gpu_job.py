"""The whole system on a device, from Python: part of gpu_check.py.

python bench/gpu_job.py WHAT [--device cuda] [--small]

run       the main job at its smallest setting, report included
step      of one active-learning step at CamVid's size: where the host waits for the device, and a profile
protocol  what one seed of the paper's CamVid protocol takes at least, from a few pieces of each kind of work
"""

import argparse
import functools
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

from ralx.agent.query_network import QueryNetwork
from ralx.cli.train import main as train
from ralx.game.game import Game
from ralx.game.learn import PolicyLearner
from ralx.game.select import Chooser
from ralx.report.records import read_run
from ralx.runs.config import RunConfig
from ralx.runs.engine import Worker
from ralx.runs.plan import Stages
from ralx.runs.presets import preset
from ralx.runs.stage import Artifact, Stage
from ralx.runs.stages import policy_artifact
from ralx.runs.store import Store
from ralx.segmentation import SegmenterTrainer, train_epoch
from ralx.support.devices import find_device
from ralx.support.folder import locked
from ralx.support.monitor import Monitor
from ralx.support.randomness import stream

ROOT = Path(__file__).resolve().parent.parent
TINY = dict(
    synthetic_image_size=(48, 64),
    synthetic_images=(2, 4, 6, 2, 2),
    pretrain_images=3,
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
ONE_STEP = dict(
    synthetic_image_size=(360, 480),
    synthetic_images=(10, 40, 1, 10, 1),
    pretrain_images=1,
    budgets=(24,),
    methods=("ralis",),
)
# As many images as CamVid has; the test set is measured once per network.
PROTOCOL = dict(synthetic_image_size=(360, 480), synthetic_images=(10, 100, 257, 101, 1), pretrain_images=1)
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
    with tempfile.TemporaryDirectory() as name, locked(Path(name)) as lock:
        if options.what == "run":
            return run(options.device, Path(name) / "run")
        changes = TINY if options.small else ONE_STEP if options.what == "step" else PROTOCOL
        config = preset("synthetic" if options.small else "camvid").changed(dataset="synthetic", **changes)
        store = Store(Path(name), Path(name) / "cache", lock)
        worker = Untrained(store, find_device(options.device), Monitor(), config)
        (step if options.what == "step" else protocol)(worker)
    return 0


def run(device: str, folder: Path) -> int:
    """`ralx-train` with the smallest setting."""
    options = [f"--{name.replace('_', '-')} {value}" for name, value in TINY.items()]
    words = " ".join(options).replace("(", "").replace(")", "").replace(",", "").split()
    if train(["--out", str(folder), "--device", device, *words]):
        raise SystemExit("FAILED main job")
    records = read_run(folder).results
    expected = 4 * len(TINY["budgets"])
    if len(records) != expected or not (folder / "report" / "index.html").exists():
        raise SystemExit(f"FAILED main job: {len(records)} results of {expected}")
    mious = ", ".join(f"{record['miou']:.3f}" for record in records)
    print(f"{len(records)} results, mIoU {mious}")
    return 0


class Untrained(Worker):
    """Nothing is pretrained or learned: a step takes as long with any weights."""

    def __init__(self, store: Store, device: torch.device, monitor: Monitor, config: RunConfig):
        super().__init__(store, device, monitor)
        self.config = config
        self.stages = Stages(config)
        self.on_gpu = device.type == "cuda"

    def artifact(self, stage: Stage) -> Artifact:
        if stage.is_pretraining:
            classes = self.splits(self.config).train_set.classes
            return Artifact(self.stages.segmenter.segmenter(len(classes), self.device).state_dict(), {})
        sees, state_set = self.stages.sees, self.splits(self.config).state_set
        network = QueryNetwork(**sees.sizes(state_set), generator=stream("query network"))
        return policy_artifact(network, sees.metadata(state_set), [])

    def learner(self) -> PolicyLearner:
        return self.stages.policy(self.config.seed).learner(self)


def step(worker: Untrained) -> None:
    """Steps of an episode: the first two warm up, the others are counted, timed and profiled."""
    learner = worker.learner()
    learner.play_step()
    learner.play_step()
    seconds = timed_step(learner, worker.on_gpu)
    waits = waits_in_step(learner) if worker.on_gpu else Counter()
    print(profile_of_step(learner, worker.on_gpu))
    for place, count in waits.most_common():
        print(f"{count:4d} waits at {place}")
    print(f"a step takes {seconds:.3f} s, the host waits for the device {waits.total()} times in one")


def timed_step(learner: PolicyLearner, on_gpu: bool) -> float:
    return seconds_of(learner.play_step, on_gpu)


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
            learner.play_step()
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


def protocol(worker: Untrained) -> None:
    """A line per kind of work, then what one seed of all methods and budgets takes: at least, for a training
    is taken to be as short as its patience allows, and nothing is measured on the test set."""
    minutes = {True: 0.0, False: 0.0}
    for work, seconds, times, shared in pieces(worker):
        minutes[shared] += seconds * times / 60
        print(f"{work:36} {seconds:8.3f} s × {times:6,} = {seconds * times / 60:6.1f} min", flush=True)
    print(f"one seed takes at least {minutes[False]:.1f} min, what all seeds share {minutes[True]:.1f} min")


def play_step(game: Game, choose: Chooser, query_size: int, generator: torch.Generator) -> None:
    """A step of `select_regions`."""
    regions = choose(game, query_size, generator)
    game.mistaken_pixels(regions)
    game.label(regions, generator)


def pieces(worker: Untrained) -> Iterator[Piece]:
    """One of each kind of work."""
    config, stages, splits = worker.config, worker.stages, worker.splits(worker.config)
    recipe, options, evaluation = stages.segmenter, config.pretraining, config.evaluation
    generator = torch.Generator().manual_seed(0)

    def median(work: Callable[[], object]) -> float:
        seconds = [seconds_of(work, worker.on_gpu) for _ in range(5)]
        return sorted(seconds[2:])[1]  # the first two warm up

    def epochs(patience: int | None) -> int:
        return options.max_epochs if patience is None else min(patience + 1, options.max_epochs)

    def epoch(trainer: SegmenterTrainer, data: Any, **how: Any) -> float:
        def work() -> None:
            train_epoch(trainer, data, generator=generator, **how)
            recipe.miou(trainer, splits.reward_set)

        return median(work)

    for work, data, patience in (
        ("θ0′: epoch", splits.train_set, options.target_patience),
        ("full supervision: epoch", splits.full_set, options.full_patience),
    ):
        trainer = recipe.trainer(options.target_lr, data, worker.device)
        yield Piece(work, epoch(trainer, data), epochs(patience), shared=True)
    steps = math.ceil(config.learning.budget / config.game.query_size)
    yield Piece("learn: step", median(worker.learner().play_step), config.learning.episodes * steps)
    for method in evaluation.methods:
        select = stages.select(method, config.seed)
        game = select.new_game(worker)
        choose = select.chooser(game, worker)
        play = functools.partial(play_step, game, choose, config.game.query_size, generator)
        times = math.ceil(evaluation.budgets[-1] / config.game.query_size)
        yield Piece(f"select, {method}: step", median(play), times)
    for budget in evaluation.budgets:
        final = stages.final("uniform", config.seed, budget)
        game = final.select.new_game(worker)
        regions = torch.randperm(game.grid.num_regions, generator=generator)[:budget]
        data, pool, crops = final.to_train_on(regions, worker)
        seconds = epoch(game.trainer, data, pool=pool, crops=crops)
        times = len(evaluation.methods) * epochs(config.final.final_patience)
        yield Piece(f"final training, {budget:,} regions: epoch", seconds, times)


if __name__ == "__main__":
    sys.exit(main())
