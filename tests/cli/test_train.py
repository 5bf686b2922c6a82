"""`ralx-train` as a user runs it: a tiny run to the end, its files, its refusals, and a killed run."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_options import TINY, contents, kill_after_artifacts, killed_at, records_by_place, start, wait_until

import ralx
from ralx.cli.train import main
from ralx.support.files import load_tensors

METHODS = ["ralis", "entropy", "bald", "uniform"]
RESULTS = ("results.json", "reference.json", "policy.safetensors", "policy-seed1.safetensors")


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """The finished run, to be changed."""
    return shutil.copytree(trained[0], tmp_path / "run")


def train(out: Path, *options: str) -> int:
    return main(["--out", str(out), *TINY, *options])


def told(capsys) -> str:
    """What was printed since the last call, in one line."""
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def steps_of(out: Path) -> list[dict]:
    """The lines of steps.jsonl without their times."""
    lines = (out / "steps.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_same_results(out: Path, whole: Path) -> None:
    for name in RESULTS:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert contents(out / "selections") == contents(whole / "selections")
    assert steps_of(out) == steps_of(whole)
    assert {p.name for p in (out / "checkpoint").iterdir()} == set()


# What a run leaves


def test_every_promised_file_is_there(trained):
    out, output = trained
    assert json.loads((out / "config.json").read_text())["query_size"] == 2
    assert {p.name for p in out.glob("policy*")} == {"policy.safetensors", "policy-seed1.safetensors"}
    assert {p.name for p in (out / "selections").iterdir()} == {
        f"{method}-seed{seed}.json" for method in METHODS for seed in (0, 1)
    }
    assert (out / "report" / "index.html").stat().st_size > 1000
    pictures = sorted((out / "report").glob("*.png"))
    assert len(pictures) >= 4
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.width > 300
    assert not list(out.rglob(".*tmp"))
    assert all(method in output.lower() for method in METHODS), "the table"
    references = json.loads((out / "reference.json").read_text())
    assert [r["method"] for r in references] == ["theta0", "theta0_prime", "full_supervision"]
    assert {r["version"] for r in references} == {ralx.__version__}


def test_results_hold_every_method_budget_and_seed_once(trained):
    results = records_by_place(trained[0] / "results.json")
    assert set(results) == set(itertools.product(METHODS, (3, 6), (0, 1)))
    assert len(json.loads((trained[0] / "results.json").read_text())) == len(results)
    for record in results.values():
        assert 0 <= record["miou"] <= 1 and len(record["iou"]) == 11
        assert record["labelled_regions"] == record["budget"] and record["version"] == ralx.__version__
        assert record["labelled_pixels"] == record["budget"] * 16 * 16
        assert len(record["selected_class_fraction"]) == 11
        assert sum(record["selected_class_fraction"]) == pytest.approx(1)
        entropy = torch.special.entr(torch.tensor(record["selected_class_fraction"])).sum()
        assert record["selected_entropy"] == pytest.approx(float(entropy), abs=1e-5)
        present = [value for value in record["iou"].values() if value is not None]
        assert record["miou"] == pytest.approx(sum(present) / len(present))


def test_steps_tell_reward_epsilon_and_seconds(trained):
    steps = [json.loads(line) for line in (trained[0] / "steps.jsonl").read_text().splitlines()]
    assert [(s["seed"], s["episode"], s["step"]) for s in steps] == [
        (seed, episode, step) for seed in (0, 1) for episode in (0, 1) for step in range(3)
    ]
    for before, after in itertools.pairwise(steps):
        if after["step"]:
            assert after["reward"] == pytest.approx(100 * (after["miou"] - before["miou"]), abs=1e-9)
    assert steps[0]["epsilon"] == pytest.approx(0.9)
    assert all(s["td_loss"] is not None for s in steps if s["step"])
    for step in steps:
        assert {"forward", "select", "train", "reward", "learn"} <= step["seconds"].keys()
        assert all(value >= 0 for value in step["seconds"].values())


def test_selections_name_distinct_regions_and_differ_between_methods(trained):
    chosen = {}
    for path in (trained[0] / "selections").iterdir():
        regions = [tuple(region) for region in json.loads(path.read_text())["regions"]]
        assert len(set(regions)) == len(regions) == 6
        assert all(0 <= row < 3 and 0 <= col < 4 for _, row, col in regions)
        chosen[path.name] = tuple(regions)
    assert len({chosen[f"{method}-seed0.json"] for method in METHODS}) == 4


# Going on


def test_stages_one_after_the_other_give_the_same_results(trained, tmp_path):
    out = tmp_path / "run"
    for stage in ("pretrain", "learn", "evaluate", "report"):
        assert train(out, "--resume", "--stage", stage) == 0
    assert_same_results(out, trained[0])
    assert (out / "report" / "index.html").exists()


def test_a_stage_needs_those_before_it(trained, tmp_path, capsys):
    out, cache = tmp_path / "run", ["--cache", str(trained[0] / "cache")]
    assert train(out, "--stage", "report") == 2
    assert re.search("--stage report: needs results, .*run has none of reference.json", told(capsys))
    assert train(out, "--stage", "evaluate") == 2
    wanted = r"--stage evaluate: .*run/policy.safetensors is missing; --stage learn makes it, or give a --pol"
    assert re.search(wanted, told(capsys))
    assert not list(tmp_path.iterdir())
    assert train(out, *cache, "--stage", "pretrain") == 0
    before = contents(out)
    assert train(out, *cache, "--resume", "--stage", "evaluate") == 2
    assert contents(out) == before


@pytest.mark.parametrize("lost", [None, "checkpoint"])
def test_a_finished_run_is_left_alone(copied, capsys, lost):
    if lost == "checkpoint":
        shutil.rmtree(copied / "checkpoint")
    before = contents(copied)
    if lost is None:
        torch.set_num_threads(2)  # the results are there, whatever this process would compute
    try:
        assert train(copied, "--resume") == 0
    finally:
        torch.set_num_threads(1)
    assert "finished already" in told(capsys)
    assert contents(copied) == before


def test_killed_by_the_system_it_ends_in_the_same_bytes(trained, tmp_path):
    out = tmp_path / "killed"
    for artifacts in (2, 5, 12):
        kill_after_artifacts(start("train", "--out", str(out), *TINY, "--resume"), out, artifacts)
    assert train(out, "--resume") == 0
    assert_same_results(out, trained[0])


@pytest.mark.parametrize("after", [False, True], ids=["before the file is there", "after"])
def test_killed_at_any_write_it_ends_in_the_same_bytes(trained, tmp_path, after):
    out, kills, code = tmp_path / "killed", 0, None
    while code is None:
        with killed_at(3 + 7 * kills % 20, after=after):  # at writes of all kinds
            code = train(out, "--resume", "--cache", str(trained[0] / "cache"))
        kills += code is None
        assert kills < 60
    assert code == 0 and kills >= 5
    assert_same_results(out, trained[0])


def test_interrupted_it_says_how_to_go_on(tmp_path):
    process = start("train", "--out", str(tmp_path / "run"), *TINY)
    wait_until((tmp_path / "run" / "checkpoint").exists, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    # A shell says 130 of both; `python -m` dies of the signal where it came inside of an exec of a string.
    assert process.returncode in (130, -signal.SIGINT)
    assert "interrupted; go on with --resume" in output and "Traceback" not in output


def test_everything_that_a_run_leaves_was_synced(trained, tmp_path, monkeypatch):
    """A power cut empties a file that was moved into its place before it was synced."""
    out, sync, replace, synced = tmp_path / "run", os.fsync, os.replace, set()

    def noting_sync(descriptor):
        found = os.fstat(descriptor)
        synced.add((found.st_ino, found.st_size))
        sync(descriptor)

    def checking_replace(source, target):
        found = os.stat(source)
        assert (found.st_ino, found.st_size) in synced, target
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(os, "replace", checking_replace)
    assert train(out, "--num-seeds", "1", "--methods", "ralis", "uniform") == 0
    files = [path for path in out.rglob("*") if path.is_file()]
    unsynced = [path for path in files if (path.stat().st_ino, path.stat().st_size) not in synced]
    assert [path.name for path in unsynced] == [".lock"] and len(files) > 15


def test_a_full_disk_is_an_error_and_the_run_goes_on_when_there_is_room(trained, tmp_path):
    out, cache = tmp_path / "run", ["--cache", str(trained[0] / "cache")]
    code = (
        "import resource, sys; from ralx.cli.train import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"  # checkpoints are larger
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--out", str(out), *TINY, *cache]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    error = " ".join(result.stderr.split())
    assert result.returncode == 1, error
    assert re.search(
        rf"{out}/checkpoint/learn-seed0-\w+.safetensors: can't be written: File too large", error
    )
    assert not list(out.rglob(".*tmp"))
    assert train(out, "--resume", *cache, "--stage", "learn") == 0
    assert steps_of(out) == steps_of(trained[0])
    for name in RESULTS[2:]:
        assert (out / name).read_bytes() == (trained[0] / name).read_bytes()


# What was lost, changed or damaged


def test_what_was_lost_or_changed_of_a_finished_run_is_written_again(trained, copied, capsys):
    records = json.loads((copied / "results.json").read_text())
    changes = {
        "results.json": json.dumps(records[1:]).encode(),
        "reference.json": None,
        "steps.jsonl": (copied / "steps.jsonl").read_bytes()[:-500],
        "policy-seed1.safetensors": b"x",
        "selections/bald-seed0.json": None,
    }
    for name, content in changes.items():
        (copied / name).unlink()
        if content is not None:
            (copied / name).write_bytes(content)
    assert train(copied, "--resume") == 0
    output = told(capsys)
    assert all(f"{name}: was not as the store has it; written again" in output for name in changes)
    for name, content in contents(trained[0]).items():
        if not name.startswith("report/"):
            assert (copied / name).read_bytes() == content, name


@pytest.mark.parametrize("name", ["selections.png", "index.html"])
def test_a_report_that_is_not_whole_is_made_again(copied, capsys, name):
    path = copied / "report" / name
    content = path.read_bytes()
    path.unlink()
    if name == "index.html":
        path.write_bytes(content[:-9])
    assert train(copied, "--resume") == 0 and "report: " in told(capsys)
    assert path.read_bytes()[-9:] == content[-9:]


@pytest.mark.parametrize("pattern", ["store/*.safetensors", "cache/theta0*"])
def test_lost_artifacts_are_computed_again(trained, copied, pattern):
    for path in copied.glob(pattern):
        path.unlink()
    assert train(copied, "--resume") == 0
    assert_same_results(copied, trained[0])
    for path in trained[0].glob(pattern):
        (tensors, _), (before, _) = (
            load_tensors(run / path.parent.name / path.name) for run in (copied, trained[0])
        )
        assert tensors.keys() == before.keys()
        assert all(torch.equal(tensors[name], before[name]) for name in before)


@pytest.mark.parametrize(
    "pattern", ["cache/theta0_prime-*", "store/select-bald-seed1*", "store/learn-seed1*"]
)
def test_a_flipped_bit_is_named_and_never_used(copied, capsys, pattern):
    for path in [copied / "results.json", *copied.glob("store/final-*")]:
        path.unlink()
    (damaged,) = copied.glob(pattern)
    content = bytearray(damaged.read_bytes())
    content[-9] ^= 1
    damaged.write_bytes(content)
    assert train(copied, "--resume") == 1
    assert f"{damaged}: was damaged or changed since ralx wrote it" in told(capsys)


def test_a_damaged_result_is_named_by_the_report_and_a_pipe_is_not_waited_for(copied, capsys):
    (copied / "steps.jsonl").write_text("{}\n")
    assert train(copied, "--resume", "--stage", "report") == 1
    assert "steps.jsonl, line 1: seed is missing" in told(capsys)
    (copied / "config.json").unlink()
    os.mkfifo(copied / "config.json")
    assert train(copied, "--resume") == 1
    assert "config.json: must be a file, got a folder, pipe or device" in told(capsys)


# What is refused


def test_a_folder_with_another_run_is_left_untouched(trained, tmp_path, capsys):
    out, _ = trained
    before = contents(out)
    assert train(out) == 1
    assert "holds a run already; go on with --resume" in told(capsys)
    assert train(out, "--resume", "--episodes", "9") == 1
    assert "episodes: 2 there, 9 here" in told(capsys)
    assert contents(out) == before
    (tmp_path / "thesis.tex").write_text("x")
    assert train(tmp_path) == 1
    assert "must be empty or hold a run, got thesis.tex" in told(capsys)
    assert contents(tmp_path) == {"thesis.tex": b"x"}


def test_another_thread_count_is_refused_and_nothing_is_lost(trained, tmp_path, capsys):
    out, cache = tmp_path / "run", ["--cache", str(trained[0] / "cache")]
    assert train(out, *cache, "--stage", "learn") == 0
    before = contents(out)
    torch.set_num_threads(2)
    try:
        assert train(out, *cache, "--resume") == 1
    finally:
        torch.set_num_threads(1)
    assert "was started with threads 1, here threads 2" in told(capsys)
    assert contents(out) == before


def test_a_diverging_segmenter_is_an_error_and_earlier_results_stay(trained, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--cache", str(trained[0] / "cache"), "--methods", "uniform", "--num-seeds", "1"]
    options += ["--final-lr", "1e30"]
    assert train(out, *options) == 1
    error = told(capsys)
    assert "final_lr: the segmenter has diverged: its " in error
    assert "at a learning rate of 1e+30; try a lower one (uniform, seed 0, 3 regions, epoch 1)" in error
    selections = contents(out / "selections")
    assert selections and not (out / "results.json").exists()
    assert train(out, *options, "--resume") == 1
    assert contents(out / "selections") == selections


@pytest.mark.parametrize("option", ["source_lr", "target_lr", "segmenter_lr", "dqn_lr"])
def test_what_diverges_names_its_learning_rate(trained, tmp_path, capsys, option):
    cache = ["--cache", str(trained[0] / "cache")]
    assert train(tmp_path / "run", *cache, f"--{option.replace('_', '-')}", "1e30") == 1
    assert f"ralx-train: {option}: " in told(capsys)


# Options


def test_a_policy_from_elsewhere_is_compared_instead_of_a_learned_one(trained, tmp_path):
    whole, out = trained[0], tmp_path / "run"
    options = ["--cache", str(whole / "cache"), "--num-seeds", "1", "--stage", "evaluate"]
    assert train(out, *options, "--policy", str(whole / "policy.safetensors")) == 0
    assert not (out / "steps.jsonl").exists()
    name = "selections/ralis-seed0.json"
    assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_policy_that_is_damaged_or_does_not_fit_is_refused_before_anything_is_trained(
    trained, tmp_path, capsys
):
    out, damaged = tmp_path / "run", tmp_path / "policy"
    damaged.write_bytes(b"x")
    assert train(out, "--policy", str(damaged)) == 2
    assert "policy: expected a safetensors file of ralx" in told(capsys)
    policy = str(trained[0] / "policy.safetensors")
    assert train(out, "--synthetic-images", "3", "4", "6", "2", "2", "--policy", policy) == 2
    assert "this policy has num_regions=24; needed is num_regions=36" in told(capsys)
    assert not out.exists()


def test_ragged_regions_go_through_the_whole_run(trained, tmp_path, capsys):
    out, options = tmp_path / "run", ["--cache", str(trained[0] / "cache"), "--num-seeds", "1"]
    options += ["--edge", "keep", "--region-size", "20", "24"]
    # Of 48×64 pixels: 3 × 3 regions, up to the last one.
    assert train(out, *options, "--budgets", "3", "54") == 0
    assert "54 regions of 20x24; 0.0% of the pixels lie in edge strips" in told(capsys)
    records = json.loads((out / "results.json").read_text())
    assert {r["labelled_pixels"] for r in records if r["budget"] == 54} == {6 * 48 * 64}
    assert (out / "report" / "selections.png").exists()
    # The policy knows what it was learned with.
    policy = ["--policy", str(out / "policy.safetensors"), "--edge", "drop"]
    assert train(tmp_path / "other", *options, *policy) == 2
    assert "this policy has num_regions=18, edge=keep; needed is num_regions=8, edge=drop" in told(capsys)


def test_a_terminal_of_few_letters_is_enough(copied):
    environment = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    process = start("train", "--out", str(copied), *TINY, "--resume", "--stage", "report", **environment)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "theta0" in output


def test_tensorboard_events_hold_the_curves(trained, tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard, an extra"
    )
    out = tmp_path / "run"
    assert train(out, "--tensorboard", "--cache", str(trained[0] / "cache"), "--num-seeds", "1") == 0
    events = event_accumulator.EventAccumulator(str(out / "tensorboard" / "learn-seed0"))
    events.Reload()
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    rewards = [event.value for event in events.Scalars("reward")]
    assert rewards == pytest.approx([step["reward"] for step in steps], rel=1e-5)


def test_published_runs(tmp_path):
    assert train(tmp_path / "run", "--published", "--num-seeds", "1") == 0
    first = json.loads((tmp_path / "run" / "steps.jsonl").read_text().splitlines()[0])
    assert first["reward"] == pytest.approx(100 * first["miou"])  # the whole mIoU, not the gain


def test_camvids_real_images_go_through_the_whole_run(real_camvid, tmp_path, capsys):
    options = """--preset camvid-small --scale 0.15 --pretrain-images 4 --max-epochs 1 --episodes 1
        --budget 24 --budgets 24 48 --num-seeds 1 --num-mc-samples 2""".split()
    out = tmp_path / "run"
    assert main(["--out", str(out), "--data", str(real_camvid), *options]) == 0
    assert "camvid D_V: 257 images of 54x72 pixels" in told(capsys)
    results = json.loads((out / "results.json").read_text())
    assert len(results) == 8 and all(0 < record["miou"] < 0.6 for record in results)
    assert (out / "report" / "selections.png").exists()


def test_check_data_reports_and_trains_nothing(tmp_path, capsys):
    for options, shown, absent in (
        ([], "pretrain_set", "1 problem"),
        (["--pretrain-images", "0"], "0 problems", "pretrain_set"),
        (["--region-size", "20", "24"], "edge strips", "no such"),
        (["--region-size", "20", "24", "--edge", "keep"], "0 problems", "edge strips"),
    ):
        assert main(["--check-data", *TINY, *options]) == 0
        report = told(capsys)
        assert shown in report and absent not in report, options
    assert main(["--check-data", "--preset", "camvid", "--data", str(tmp_path / "missing")]) == 2
    assert "missing" in told(capsys)
    assert main(["--check-data", "--preset", "camvid"]) == 2
    assert "--data: the folder of camvid is needed, got none" in told(capsys)
