"""`ralx-train` as a user runs it: a tiny run to the end, its files, its refusals, and a killed run."""

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import ralx
from ralx.cli import exit_code, is_finished, main, parse
from ralx.run_dir import RunDirectory

TINY = """
    --synthetic-image-size 48 64 --region-size 16 16 --crop-size 32 32 --synthetic-images 2 4 6 2 2
    --pretrain-images 4 --batch-size 4 --max-epochs 2 --query-size 2 --pool-size 3 --budget 6 --episodes 2
    --budgets 3 6 --pool-size-uniform 4 --num-mc-samples 2 --num-seeds 2 --replay-capacity 20
""".split()
METHODS = ["ralis", "entropy", "bald", "uniform"]


def start(out: Path, *options: str) -> subprocess.Popen:
    """A tiny run in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ralx.cli", "--out", str(out), *TINY, *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        # A shell's background jobs, and so these tests if run as one, are started with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def train(out: Path, *options: str) -> tuple[int, str]:
    """Exit code and output of a tiny run."""
    process = start(out, *options)
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a finished tiny run, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    code, output = train(out)
    assert code == 0, output
    return out, output


def test_every_promised_file_is_there(finished):
    out, _ = finished
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
    assert {p.name for p in (out / "checkpoint").iterdir()} == {"numerics.json", "records.json"}


def test_results_hold_every_method_budget_and_seed_once(finished):
    results = json.loads((finished[0] / "results.json").read_text())
    cells = {(r["method"], r["budget"], r["seed"]) for r in results}
    assert len(results) == len(cells) == 4 * 2 * 2
    assert {m for m, _, _ in cells} == set(METHODS)
    for record in results:
        assert 0 <= record["miou"] <= 1 and len(record["iou"]) == 11
        assert record["labelled_regions"] == record["budget"] and record["version"] == ralx.__version__
        assert record["labelled_pixels"] == record["budget"] * 16 * 16
        assert len(record["selected_class_fraction"]) == 11
        assert sum(record["selected_class_fraction"]) == pytest.approx(1)
        fraction = torch.tensor(record["selected_class_fraction"])
        assert record["selected_entropy"] == pytest.approx(
            float(torch.special.entr(fraction).sum()), abs=1e-5
        )
        present = [value for value in record["iou"].values() if value is not None]
        assert record["miou"] == pytest.approx(sum(present) / len(present))


def test_references_are_kept_apart(finished):
    references = json.loads((finished[0] / "reference.json").read_text())
    assert [r["method"] for r in references] == ["theta0", "theta0_prime", "full_supervision"]
    assert {r["version"] for r in references} == {ralx.__version__}


def test_steps_tell_reward_epsilon_and_seconds(finished):
    steps = [json.loads(line) for line in (finished[0] / "steps.jsonl").read_text().splitlines()]
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


def test_selections_name_distinct_regions(finished):
    for path in (finished[0] / "selections").iterdir():
        selection = json.loads(path.read_text())
        regions = [tuple(region) for region in selection["regions"]]
        assert len(set(regions)) == len(regions) == 6
        assert all(0 <= row < 3 and 0 <= col < 4 for _, row, col in regions)


def test_methods_with_one_seed_choose_differently_but_reproducibly(finished, tmp_path):
    out, _ = finished
    code, output = train(tmp_path / "again", "--cache", str(out / "cache"))
    assert code == 0, output
    for name in ("results.json", "reference.json", "policy.safetensors", "policy-seed1.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes(), name
    chosen = {
        method: json.loads((out / "selections" / f"{method}-seed0.json").read_text())["regions"]
        for method in METHODS
    }
    assert len({json.dumps(regions) for regions in chosen.values()}) == 4


def test_the_table_compares_the_four_methods(finished):
    output = finished[1].lower()
    assert all(method in output for method in METHODS)


def test_a_finished_run_is_left_alone(finished):
    out, _ = finished
    before = contents(out)
    code, output = train(out, "--resume")
    assert code == 0 and "finished already" in output
    assert contents(out) == before


def written(out: Path) -> set[tuple[str, int, int]]:
    """What changes whenever a file below `out` is written."""
    found = set()
    for path in out.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # moved into its place just now
            found.add((path.name, path.stat().st_mtime_ns, path.stat().st_size))
    return found


def kill_after_writes(process: subprocess.Popen, out: Path, wanted: int) -> bool:
    """SIGKILL the run after `wanted` new files were seen; False where it ended before. However slow the
    machine is, the kill comes while the run is at work."""
    known, seen = written(out), 0
    while process.poll() is None:
        new = written(out) - known
        known |= new
        seen += bool(new)
        if seen >= wanted:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.01)
    return False


def steps_of(out: Path) -> list[dict]:
    """The lines of steps.jsonl without their times."""
    lines = (out / "steps.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_killed_again_and_again_it_ends_in_the_same_bytes(finished, tmp_path):
    out = tmp_path / "killed"
    rng = random.Random(0)
    kills = 0
    # Each attempt gets at least one write further than where it started.
    while kill_after_writes(process := start(out, "--resume"), out, 4 + 4 * kills + rng.randrange(3)):
        kills += 1
        assert kills < 60
    assert process.wait() == 0
    assert kills >= 2
    whole = finished[0]
    for name in ("results.json", "reference.json", "policy.safetensors", "policy-seed1.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert contents(out / "selections") == contents(whole / "selections")
    assert steps_of(out) == steps_of(whole)


def test_interrupted_it_says_how_to_go_on(tmp_path):
    process = start(tmp_path / "run")
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoint").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    # A shell says 130 of both; `python -m` dies of the signal where it came inside of an exec of a string.
    assert process.returncode in (130, -signal.SIGINT)
    assert "interrupted; go on with --resume" in output and "Traceback" not in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--query-size", "0"], "query_size: must be positive, got 0"),
        (["--preset", "pascal"], "preset: must be one of"),
        (["--budgets", "3", "6000"], "budgets: must be at most the 72 regions of .*, got 6000"),
        (["--preset", "camvid"], "--data: the folder of camvid is needed, got none"),
        (["--preset", "camvid", "--check-data"], "--data: the folder of camvid is needed, got none"),
        (["--data", "x"], "data: must not be given with dataset synthetic"),
        (["--stage", "report"], "--stage report: needs results, .*run has none of reference.json"),
        (["--stage", "evaluate"], "--stage evaluate: .*run/policy.safetensors is missing; --stage learn"),
        (["--tensorboard", "--dataset", "camvid", "--data", "/nonexistent"], "/nonexistent"),
        (["--data", "/nonexistent", "--dataset", "camvid"], "/nonexistent"),
        (["--segmenter", "no_such_module:Net"], "can't import 'no_such_module'"),
        (["--device", "quantum"], "device: must be auto, cpu, cuda or cuda:N, got 'quantum'"),
    ],
)
def test_wrong_options_end_with_code_2_and_say_why(tmp_path, capsys, options, message):
    try:
        code = main(["--out", str(tmp_path / "run"), *TINY, *options])
    except SystemExit as exit_:  # the option parser's own
        code = exit_.code
    assert code == 2
    assert not list(tmp_path.iterdir())
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error


def test_an_unknown_option_ends_with_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--out", str(tmp_path / "run"), "--no-such-option", "1"])
    assert exit_.value.code == 2
    assert not (tmp_path / "run").exists()


def test_a_diverging_segmenter_is_an_error_and_earlier_results_stay(finished, tmp_path):
    out = tmp_path / "run"
    options = ["--cache", str(finished[0] / "cache"), "--methods", "uniform", "--num-seeds", "1"]
    options += ["--final-lr", "1e30"]
    code, output = train(out, *options)
    assert code == 1 and "final_lr: the segmenter has diverged: its " in output
    assert "at a learning rate of 1e+30; try a lower one (uniform, seed 0, 3 regions, epoch 1)" in output
    selections = contents(out / "selections")
    assert selections and not (out / "results.json").exists()
    assert train(out, *options, "--resume")[0] == 1
    assert contents(out / "selections") == selections


@pytest.mark.parametrize("option", ["source_lr", "target_lr", "segmenter_lr", "dqn_lr"])
def test_what_diverges_names_its_learning_rate(finished, tmp_path, capsys, option):
    cache = ["--cache", str(finished[0] / "cache")]
    changed = [f"--{option.replace('_', '-')}", "1e30"]
    assert main(["--out", str(tmp_path / "run"), *TINY, *cache, *changed]) == 1
    assert f"ralx-train: {option}: " in capsys.readouterr().err


def test_a_folder_with_another_run_is_left_untouched(finished, capsys):
    out, _ = finished
    before = contents(out)
    assert main(["--out", str(out), *TINY]) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert main(["--out", str(out), *TINY, "--resume", "--episodes", "9"]) == 1
    assert "episodes: 2 there, 9 here" in " ".join(capsys.readouterr().err.split())
    assert contents(out) == before


def test_a_missing_or_damaged_policy_of_the_run_is_an_error_not_a_random_one(finished, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--out", str(out), *TINY, "--cache", str(finished[0] / "cache"), "--resume"]
    assert main([*options, "--stage", "pretrain"]) == 0
    before = contents(out)
    assert main([*options, "--stage", "evaluate"]) == 2
    assert "policy.safetensors is missing" in capsys.readouterr().err
    (out / "policy-seed1.safetensors").write_bytes(b"x")
    (out / "policy.safetensors").write_bytes((finished[0] / "policy.safetensors").read_bytes())
    assert main([*options, "--stage", "evaluate"]) == 1
    assert "policy-seed1.safetensors: expected a safetensors file of ralx" in capsys.readouterr().err
    for path in out.glob("policy*"):
        path.unlink()
    assert contents(out) == before


def test_a_damaged_policy_file_is_wrong_input(tmp_path, capsys):
    (tmp_path / "policy").write_bytes(b"x")
    assert main(["--out", str(tmp_path / "run"), *TINY, "--policy", str(tmp_path / "policy")]) == 2
    assert "policy: expected a safetensors file of ralx" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_damaged_result_is_named_by_the_report(finished, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(finished[0], out, ignore=shutil.ignore_patterns("cache", "report"))
    (out / "steps.jsonl").write_text("{}\n")
    assert main(["--out", str(out), *TINY, "--resume", "--stage", "report"]) == 1
    assert "steps.jsonl, line 1: seed is missing" in capsys.readouterr().err


def test_a_policy_from_elsewhere_is_compared_instead_of_a_learned_one(finished, tmp_path):
    whole, _ = finished
    out = tmp_path / "run"
    options = ["--cache", str(whole / "cache"), "--num-seeds", "1", "--stage", "evaluate"]
    code, output = train(out, *options, "--policy", str(whole / "policy.safetensors"))
    assert code == 0, output
    assert not (out / "steps.jsonl").exists()
    name = "selections/ralis-seed0.json"
    assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_policy_that_does_not_fit_is_refused_before_anything_is_trained(finished, tmp_path, capsys):
    policy = str(finished[0] / "policy.safetensors")
    options = ["--synthetic-images", "3", "4", "6", "2", "2", "--policy", policy]
    assert main(["--out", str(tmp_path / "run"), *TINY, *options]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "this policy has num_regions=24; needed is num_regions=36" in error
    assert not (tmp_path / "run").exists()


def test_ragged_regions_go_through_the_whole_run(finished, tmp_path, capsys):
    out, edge = tmp_path / "run", ["--edge", "keep", "--region-size", "20", "24", "--num-seeds", "1"]
    edge += ["--budgets", "3", "54"]  # of 48×64 pixels: 3 × 3 regions, up to the last one
    options = [*edge, "--cache", str(finished[0] / "cache")]
    code, output = train(out, *options)
    assert code == 0, output
    assert "54 regions of 20x24; 0.0% of the pixels lie in edge strips" in output
    records = json.loads((out / "results.json").read_text())
    assert {r["labelled_pixels"] for r in records if r["budget"] == 54} == {6 * 48 * 64}
    assert (out / "report" / "selections.png").exists()
    # The policy knows what it was learned with.
    policy = ["--policy", str(out / "policy.safetensors"), "--edge", "drop"]
    assert main(["--out", str(tmp_path / "other"), *TINY, *options, *policy, "--budgets", "3", "6"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "this policy has num_regions=18, edge=keep; needed is num_regions=8, edge=drop" in error


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("after", [False, True], ids=["before the file is there", "after"])
def test_killed_at_any_write_it_ends_in_the_same_bytes(finished, tmp_path, monkeypatch, after):
    whole, _ = finished
    replace, seen = os.replace, []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run_until(write: int | None, out: Path) -> int | None:
        """The exit code, or None if killed at that write of a file. Every write is one at which it may be."""
        seen.clear()

        def replace_or_die(source, target):
            if len(seen) + 1 == write and not after:
                raise Killed
            replace(source, target)
            seen.append(target)
            if len(seen) == write:
                raise Killed

        monkeypatch.setattr("ralx.support.files.os.replace", replace_or_die)
        try:
            return main(["--out", str(out), *TINY, "--resume", "--cache", str(whole / "cache")])
        except Killed:
            return None

    try:
        out = tmp_path / "killed"
        kills = 0
        while run_until(3 + 7 * kills % 20, out) is None:  # at writes of all kinds
            kills += 1
            assert kills < 60
        assert kills >= 5
    finally:
        torch.set_num_threads(threads)
    for name in ("results.json", "reference.json", "policy.safetensors", "policy-seed1.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert contents(out / "selections") == contents(whole / "selections")
    assert {p.name for p in (out / "checkpoint").iterdir()} == {"numerics.json", "records.json"}


def test_everything_that_a_run_leaves_was_synced(tmp_path, monkeypatch):
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
    options = ["--cache", str(tmp_path / "cache"), "--num-seeds", "1", "--methods", "ralis", "uniform"]
    assert main(["--out", str(out), *TINY, *options]) == 0
    files = [path for path in (*out.rglob("*"), *(tmp_path / "cache").iterdir()) if path.is_file()]
    unsynced = [path for path in files if (path.stat().st_ino, path.stat().st_size) not in synced]
    assert [path.name for path in unsynced] == [".lock"] and len(files) > 15


def copy_of(finished: tuple[Path, str], out: Path) -> list[str]:
    """Copies the finished run; returns the options to go on with it here."""
    shutil.copytree(finished[0], out)
    return ["--out", str(out), *TINY, "--resume"]


def test_what_was_lost_of_a_finished_run_is_made_again(finished, tmp_path, capsys, one_thread):
    out = tmp_path / "run"
    options = copy_of(finished, out)
    (out / "results.json").unlink()
    assert main(options) == 0
    assert "results.json: was lost or changed; written again" in " ".join(capsys.readouterr().out.split())
    lost = ["results.json", "checkpoint/records.json", "selections/entropy-seed0.json", "policy.safetensors"]
    for name in [*lost, "steps.jsonl"]:
        (out / name).unlink()
    records = json.loads((finished[0] / "results.json").read_text())
    kept = [record for record in records if record["method"] != "entropy"]
    (out / "results.json").write_text(json.dumps(kept))
    assert main(options) == 0
    for name in ("policy.safetensors", "selections/entropy-seed0.json", "reference.json"):
        assert (out / name).read_bytes() == (finished[0] / name).read_bytes(), name
    again = json.loads((out / "results.json").read_text())
    assert sorted(again, key=str) == sorted(records, key=str)
    assert steps_of(out) == steps_of(finished[0])


@pytest.mark.parametrize(
    "name", ["steps.jsonl", "policy-seed1.safetensors", "selections/bald-seed0.json", "report/selections.png"]
)
def test_a_run_that_lost_a_part_is_not_called_finished(finished, tmp_path, name):
    options = copy_of(finished, tmp_path / "run")
    folder, config = RunDirectory(tmp_path / "run"), parse(options).config
    assert is_finished(folder, config)
    (folder.path / name).unlink()
    assert not is_finished(folder, config)


def test_a_lost_line_of_learning_or_the_end_of_the_page_is_missed(finished, tmp_path):
    options = copy_of(finished, tmp_path / "run")
    folder, config = RunDirectory(tmp_path / "run"), parse(options).config
    for name, cut in (("steps.jsonl", -500), ("report/index.html", -9)):
        content = (folder.path / name).read_bytes()
        (folder.path / name).write_bytes(content[:cut])
        assert not is_finished(folder, config), name
        (folder.path / name).write_bytes(content)
    assert is_finished(folder, config)


def test_a_pipe_in_the_place_of_a_file_is_refused_instead_of_waited_for(finished, tmp_path, capsys):
    out = tmp_path / "run"
    options = copy_of(finished, out)
    (out / "config.json").unlink()
    os.mkfifo(out / "config.json")
    assert main(options) == 1
    assert "config.json: must be a file, got a folder, pipe or device" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["cache/theta0_prime-*", "selections/bald-seed1*", "policy-seed1*"])
def test_a_flipped_bit_is_named_and_never_used(finished, tmp_path, capsys, one_thread, pattern):
    out = tmp_path / "run"
    options = copy_of(finished, out)
    (out / "results.json").unlink()
    (out / "checkpoint" / "records.json").unlink()
    (damaged,) = out.glob(pattern)
    content = bytearray(damaged.read_bytes())
    content[-9] ^= 1
    damaged.write_bytes(content)
    assert main(options) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(f"{damaged.name}: (was damaged or changed|expected)", error), error


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_few_letters_is_enough(finished, tmp_path, encoding):
    out = tmp_path / "run"
    options = copy_of(finished, out)
    command = [sys.executable, "-m", "ralx.cli", *options, "--stage", "report"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, timeout=120, env=environment)
    assert result.returncode == 0, result.stderr
    assert "theta0" in result.stdout.decode(encoding)


def test_a_second_interrupt_ends_by_the_signal(capsys):
    def pressed_once():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        return 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert exit_code("ralx-train", pressed_once, interrupted="") == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_a_library_turns_into_another_error_is_one(capsys):
    def interrupted_inside_a_library():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt as error:
            raise ValueError("could not determine the shape of object type 'UntypedStorage'") from error

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # these tests may run in the background
    try:
        assert exit_code("ralx-train", interrupted_inside_a_library, interrupted="interrupted") == 130
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "ralx-train: interrupted\n"
    with pytest.raises(ValueError, match="a defect"):
        exit_code("ralx-train", lambda: (_ for _ in ()).throw(ValueError("a defect")), interrupted="")


def test_a_full_disk_is_an_error_and_the_run_goes_on_when_there_is_room(finished, tmp_path):
    whole, _ = finished
    out, cache = tmp_path / "run", ["--cache", str(whole / "cache")]
    code = (
        "import resource, sys; from ralx.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"  # checkpoints are larger
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--out", str(out), *TINY, *cache]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    error = " ".join(result.stderr.split())
    assert result.returncode == 1 and "File too large" in error, error
    assert f"{out}/checkpoint/learn-seed0.safetensors: can't be written" in error
    assert not list(out.rglob(".*tmp"))
    code, output = train(out, "--resume", *cache)
    assert code == 0, output
    assert (out / "results.json").read_bytes() == (whole / "results.json").read_bytes()


def test_another_thread_count_is_refused_and_nothing_is_lost(finished, tmp_path):
    out = tmp_path / "run"
    options = ["--cache", str(finished[0] / "cache")]
    assert train(out, *options, "--stage", "learn")[0] == 0
    before = contents(out)
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "ralx.cli", "--out", str(out), *TINY, *options, "--resume"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 1
    assert "was started with threads 1, here threads 2" in " ".join(result.stderr.split())
    assert contents(out) == before


def test_tensorboard_events_hold_the_curves(finished, tmp_path):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard, an extra"
    )
    out = tmp_path / "run"
    code, output = train(out, "--tensorboard", "--cache", str(finished[0] / "cache"), "--num-seeds", "1")
    assert code == 0, output
    events = event_accumulator.EventAccumulator(str(out / "tensorboard" / "learn-seed0"))
    events.Reload()
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    rewards = [event.value for event in events.Scalars("reward")]
    assert rewards == pytest.approx([step["reward"] for step in steps], rel=1e-5)


def test_camvids_real_images_go_through_the_whole_run(real_camvid, tmp_path):
    options = """--preset camvid-small --scale 0.15 --pretrain-images 4 --max-epochs 1 --episodes 1
        --budget 24 --budgets 24 48 --num-seeds 1 --num-mc-samples 2""".split()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = tmp_path / "run"
    command = [sys.executable, "-m", "ralx.cli", "--out", str(out), "--data", str(real_camvid), *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert result.returncode == 0, result.stderr
    assert "camvid D_V: 257 images of 54x72 pixels" in result.stdout
    results = json.loads((out / "results.json").read_text())
    assert len(results) == 8 and all(0 < record["miou"] < 0.6 for record in results)
    assert (out / "report" / "selections.png").exists()


def test_stages_one_after_the_other_give_the_same_results(finished, tmp_path):
    out = tmp_path / "run"
    for stage in ("pretrain", "learn", "evaluate", "report"):
        code, output = train(out, "--resume", "--stage", stage)
        assert code == 0, output
    assert (out / "results.json").read_bytes() == (finished[0] / "results.json").read_bytes()
    assert (out / "report" / "index.html").exists()


def test_published_runs(finished, tmp_path):
    code, output = train(tmp_path / "run", "--published", "--num-seeds", "1")
    assert code == 0, output
    first = json.loads((tmp_path / "run" / "steps.jsonl").read_text().splitlines()[0])
    assert first["reward"] == pytest.approx(100 * first["miou"])  # the whole mIoU, not the gain


def test_the_command_line_starts_from_its_preset():
    command = parse(["--preset", "cityscapes", "--seed", "3"])
    assert (command.config.query_size, command.config.seed) == (256, 3)
    assert parse([]).config.preset == "synthetic"
    assert parse(["--preset=camvid", "--published"]).config.kl_range == "minmax"


def test_check_data_counts_no_strips_where_the_edge_is_kept(capsys):
    command = ["--check-data", *TINY, "--region-size", "20", "24"]
    strips = []
    for edge in "drop", "keep":
        assert main([*command, "--edge", edge]) == 0
        strips.append("edge strips" in capsys.readouterr().out)
    assert strips == [True, False]


def test_check_data_reports_and_trains_nothing(tmp_path, capsys):
    assert main(["--check-data", *TINY]) == 0
    assert "0 problems" in capsys.readouterr().out
    assert main(["--check-data", *TINY, "--pretrain-images", "0"]) == 0
    assert "pretrain_set" not in capsys.readouterr().out
    assert main(["--check-data", "--preset", "camvid", "--data", str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().out
