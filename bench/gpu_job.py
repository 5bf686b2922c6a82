"""The whole system on a device, from Python: part of gpu_check.py.

python bench/gpu_job.py run  [--device cuda]             the main job at its smallest setting, report included
python bench/gpu_job.py step [--device cuda] [--small]   of one active-learning step at CamVid's size: where
                                                         the host waits for the device, and a profile
"""

import argparse
import dataclasses
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch

from ralx.config import Config, preset
from ralx.datasets import SyntheticSizes, load_splits
from ralx.experiments import Experiment
from ralx.loop import PolicyLearner
from ralx.monitor import Monitor
from ralx.report import write_report
from ralx.run_dir import RunDirectory, open_run

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
CAMVID = dict(
    region_size=(90, 80), query_size=24, pool_size=20, budget=480, budgets=(24,), methods=("ralis",)
)
PROFILED = 15  # rows of the profile
SYNC = "synchronizing CUDA operation"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "step"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a step at the smallest setting")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "run":
            run(tiny(options.device), Path(folder))
        else:
            small = options.small
            config = tiny(options.device) if small else camvid(options.device)
            step(config, TINY_IMAGES if small else CAMVID_IMAGES, Path(folder))
    return 0


def tiny(device: str) -> Config:
    return dataclasses.replace(preset("synthetic"), device=device, **TINY)


def camvid(device: str) -> Config:
    """The paper's settings for CamVid, on generated scenes."""
    return dataclasses.replace(preset("camvid"), dataset="synthetic", device=device, **CAMVID)


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
    start = time.perf_counter()
    learner._play_step()
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


if __name__ == "__main__":
    sys.exit(main())
