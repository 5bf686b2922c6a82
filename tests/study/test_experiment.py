"""`ralx-experiment` as a user runs it: whole, killed, twice at once, and what it refuses."""

import contextlib
import csv
import io
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
from tiny_study import TINY

from ralx import cli as train_cli
from ralx.study.cli import main, parse, prepare


def start(name: str, out: Path, *options: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ralx.study.cli", name, "--out", str(out), *TINY, *options]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def experiment(name: str, out: Path, *options: str) -> tuple[int, str]:
    """Exit code and output of a tiny study."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main([name, "--out", str(out), *TINY, *options])
    return code, output.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_thread) -> tuple[Path, str]:
    """The folder of a finished budget curve, and what it printed."""
    out = tmp_path_factory.mktemp("studies") / "whole"
    code, output = experiment("budget-curve", out)
    assert code == 0, output
    return out, output


def wait_for(happened, process: subprocess.Popen) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def results_of(out: Path, name: str = "budget-curve") -> dict[str, bytes]:
    """The files that must not depend on how the work was divided."""
    names = ("results.json", "reference.json", "statistics.json", "results.csv", "table.md")
    return {each: (out / name / each).read_bytes() for each in names}


def cells_of(out: Path) -> dict[str, float]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}


def test_a_budget_curve_leaves_table_figure_and_files(finished):
    out, output = finished
    folder = out / "budget-curve"
    assert (folder / "table.md").read_text() in output
    for picture in ("miou_vs_budget.png", "report/learning_curves.png", "report/selections.png"):
        with Image.open(folder / picture) as image:
            assert image.width > 300
    records = json.loads((folder / "results.json").read_text())
    assert len(records) == 3 * 2 * 2
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert len(rows) == len(records) and float(rows[0]["miou"]) == records[0]["miou"]
    pixels = int(rows[0]["labelled_pixels"])
    assert pixels == 3 * 16 * 16
    assert float(rows[0]["share_of_pool_pixels"]) == pytest.approx(pixels / (6 * 48 * 64))
    assert int(rows[0]["total_labelled_pixels"]) == pixels + (2 + 4 + 2) * 48 * 64
    first = json.loads((folder / "selections" / f"{rows[0]['method']}-seed0.json").read_text())
    assert float(rows[0]["mistaken_share"]) == pytest.approx(sum(first["mistaken_pixels"][:3]) / pixels)
    machine = json.loads((folder / "machine.json").read_text())
    assert machine["cells"]["final entropy"]["cells"] == 4 and machine["machines"][0]["cpu"]
    assert str(out) not in "".join(p.read_text() for p in folder.rglob("*.json"))
    assert not any((out / "work").glob("final-*")) and not list(out.rglob("checkpoint/*.safetensors"))


def test_the_results_are_those_of_ralx_train(finished, tmp_path):
    out, _ = finished
    assert train_cli.main(["--out", str(tmp_path / "run"), *TINY]) == 0

    def by_cell(path: Path) -> dict:
        records = json.loads(path.read_text())
        return {(r["method"], r.get("budget"), r["seed"]): r for r in records}

    curve, run = (by_cell(folder / "results.json") for folder in (out / "budget-curve", tmp_path / "run"))
    assert curve == run
    references = by_cell(out / "budget-curve" / "reference.json")
    assert by_cell(tmp_path / "run" / "reference.json").items() <= references.items()
    assert ("full_supervision", None, 1) in references, "one of every seed"
    for method in ("ralis", "uniform"):
        name = f"selections/{method}-seed1.json"
        assert (out / "budget-curve" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_the_statistics_are_of_the_records(finished):
    folder = finished[0] / "budget-curve"
    statistics = json.loads((folder / "statistics.json").read_text())
    records = json.loads((folder / "results.json").read_text())
    miou = {(r["method"], r["budget"], r["seed"]): r["miou"] for r in records}
    assert list(statistics["methods"]) == ["ralis", "entropy", "uniform"]
    ralis = statistics["methods"]["ralis"]
    at = ralis["budgets"]["6"]
    assert at["mean"] == pytest.approx((miou["ralis", 6, 0] + miou["ralis", 6, 1]) / 2)
    differences = [miou["ralis", 6, seed] - miou["uniform", 6, seed] for seed in (0, 1)]
    assert at["against"]["uniform"]["mean"] == pytest.approx(sum(differences) / 2)
    areas = [(miou["ralis", 3, seed] + miou["ralis", 6, seed]) / 2 for seed in (0, 1)]
    assert ralis["area"]["mean"] == pytest.approx(sum(areas) / 2)
    assert at["total_labelled_pixels"] == 6 * 16 * 16 + 8 * 48 * 64
    full = [r["miou"] for r in json.loads((folder / "reference.json").read_text())[2:]]
    assert statistics["target_miou"] == pytest.approx(0.96 * sum(full) / 2)
    assert ralis["area"]["share_of_way"] is None, "there is no cheat"


def test_finished_cells_are_never_done_again(finished):
    out, _ = finished
    before, results = cells_of(out), results_of(out)
    code, output = experiment("budget-curve", out)
    assert code == 0 and "select" not in output
    assert cells_of(out) == before and results_of(out) == results


def test_other_experiments_share_the_cells(finished, tmp_path):
    out, _ = finished
    before = cells_of(out)
    pictures = {
        "per-class": "per_class_iou.png",
        "selected-classes": "selected_classes.png",
        "selections": "selections.png",
        "upper-bound": "table.md",
    }
    for name, picture in pictures.items():
        assert main([name, "--out", str(out), *TINY]) == 0
        assert (out / name / picture).exists()
    assert "| 3 | ralis | " in (out / "per-class" / "table.md").read_text(), "Table 1"
    assert "| regions | method | entropy [nats] |" in (out / "selected-classes" / "table.md").read_text()
    assert cells_of(out) == before


def test_validation_shows_nothing_of_the_test_set(finished):
    out, _ = finished
    assert main(["budget-curve", "--out", str(out), *TINY, "--split", "validation", "--report"]) == 0
    assert "D_R mIoU" in (out / "budget-curve-validation" / "table.md").read_text()
    assert not (out / "budget-curve-validation" / "report").exists(), "its pages are about the test set"
    shown = json.loads((out / "budget-curve-validation" / "results.json").read_text())
    test = json.loads((out / "budget-curve" / "results.json").read_text())
    assert all(set(record["iou"].values()) == {None} for record in shown)
    assert [r["selected_entropy"] for r in shown] == [r["selected_entropy"] for r in test]
    found = [json.loads(path.read_text()) for path in (out / "cells").glob("final-*")]
    rewards = {(f["cell"]["method"], f["cell"]["budget"], f["cell"]["seed"]): f["reward_miou"] for f in found}
    assert all(rewards[r["method"], r["budget"], r["seed"]] == r["miou"] for r in shown)


def test_killed_again_and_again_it_ends_in_the_same_bytes(finished, tmp_path):
    out, rng = tmp_path / "killed", random.Random(0)
    for done in (1, 5, 9, 14):
        process = start("budget-curve", out)
        wait_for(lambda done=done: len(list((out / "cells").glob("*.json"))) >= done, process)
        time.sleep(rng.random() / 2)  # in the middle of the next cell
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert experiment("budget-curve", out)[0] == 0
    assert results_of(out) == results_of(finished[0])


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_killed_at_any_write_it_ends_in_the_same_bytes(finished, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    shutil.copytree(finished[0] / "cache", out / "cache")
    replace, kills = os.replace, 0

    def run_until(write: int) -> bool:
        """Whether the study came to its end before that write of a file."""
        seen = []

        def replace_or_die(source, target):
            seen.append(target)
            if len(seen) == write:
                raise Killed
            replace(source, target)

        monkeypatch.setattr("ralx.support.files.os.replace", replace_or_die)
        with contextlib.suppress(Killed):
            return experiment("budget-curve", out)[0] == 0
        return False

    while not run_until(2 + 5 * kills % 17):  # at writes of all kinds
        kills += 1
        assert kills < 60
    assert kills >= 5
    assert results_of(out) == results_of(finished[0])


def test_two_commands_of_two_processes_each_divide_the_cells(finished, tmp_path):
    out = tmp_path / "shared"
    processes = [start("budget-curve", out, "--jobs", "2", RANK=str(rank), WORLD_SIZE="2") for rank in (0, 1)]
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert results_of(out) == results_of(finished[0])
    finals = [re.findall(r"^(\w+, seed \d, \d regions):", output, re.MULTILINE) for output in outputs]
    assert len(finals[0]) + len(finals[1]) == len({*finals[0], *finals[1]}) == 3 * 2 * 2
    assert finals[0] and finals[1]


def test_torchrun_divides_the_cells(finished, tmp_path):
    out = tmp_path / "launched"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "ralx.study.cli", "budget-curve", "--out", str(out), *TINY]
    process = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.returncode == 0, process.stderr
    assert results_of(out) == results_of(finished[0])
    finals = re.findall(r"^(\w+, seed \d, \d regions):", process.stdout, re.MULTILINE)
    assert len(finals) == len(set(finals)) == 3 * 2 * 2


def test_processes_of_one_machine_take_turns_at_its_gpus(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        "ralx.experiments.find_device", lambda name: asked.append(name) or torch.device("cpu")
    )
    command = parse(["budget-curve", "--out", str(tmp_path), *TINY, "--device", "auto"])
    for rank, gpu in (0, "cuda:0"), (3, "cuda:1"):
        asked.clear()
        prepare(command, rank)
        assert set(asked) == {gpu}


def test_a_cell_that_fails_stops_no_other_and_is_tried_again(finished, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--methods", "entropy", "uniform", "--num-seeds", "1", "--final-lr", "1e30"]
    for _ in range(2):
        assert main(["budget-curve", "--out", str(out), *TINY, *options]) == 1
        captured = capsys.readouterr()
        error = " ".join(captured.err.split())
        assert "4 of 9 cells failed: final-entropy-seed0-budget3: final_lr: the segmenter has" in error
        assert captured.out.count("failed: final_lr") == 4
    assert len(list((out / "cells").glob("select-*"))) == 2
    assert "Full supervision" in (out / "budget-curve" / "table.md").read_text()


def test_interrupted_it_says_how_to_go_on(tmp_path):
    process = start("budget-curve", tmp_path / "out", "--jobs", "2")
    wait_for(lambda: list((tmp_path / "out").glob("cells/theta0-*")), process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    # A shell says 130 of both; `python -m` dies of the signal where it came inside of an exec of a string.
    assert process.returncode in (130, -signal.SIGINT)
    assert "interrupted; the same command goes on" in output


def test_processes_end_with_the_command_that_started_them(tmp_path):
    process = start("budget-curve", tmp_path / "out", "--jobs", "2")
    wait_for(lambda: list((tmp_path / "out").glob("cells/theta0-*")), process)
    process.kill()
    deadline = time.monotonic() + 120
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            process.poll()
            time.sleep(0.05)
        pytest.fail("a process is still there")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["budget-curve", "--query-size", "0"], "query_size: must be positive, got 0"),
        (["budget-curve", "--jobs", "0"], "--jobs: must be at least 1, got 0"),
        (["budget-curve", "--threads", "0"], "--threads: must be at least 1, got 0"),
        (
            ["budget-curve", "--budgets", "3", "6000"],
            "budgets: must be at most the 72 regions of .*, got 6000",
        ),
        (["budget-curve", "--preset", "camvid"], "--data: the folder of camvid is needed, got none"),
        (["budget-curve", "--dataset", "camvid", "--data", "/nonexistent"], "/nonexistent"),
        (["budget-curve", "--segmenter", "no_such_module:Net"], "can't import 'no_such_module'"),
        (["ablate-regions"], "query_size: must be at most the first of budgets|region_size|budgets"),
        (["best-curve"], "invalid choice|best-curve"),
        (["budget-curve", "--methods", "badge"], "badge"),
    ],
)
def test_wrong_options_end_with_code_2_and_say_why(tmp_path, capsys, options, message):
    try:
        code = main([*options[:1], "--out", str(tmp_path / "out"), *TINY, *options[1:]])
    except SystemExit as exit_:  # the option parser's own
        code = exit_.code
    error = " ".join(capsys.readouterr().err.split())
    assert code == 2, error
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


def test_a_folder_is_needed(capsys):
    assert main(["budget-curve", *TINY]) == 2
    assert "--out: a folder for the results is needed" in " ".join(capsys.readouterr().err.split())


def test_another_thread_count_is_refused_and_the_folders_own_is_taken(finished, capsys):
    out, _ = finished
    assert main(["budget-curve", "--out", str(out), *TINY, "--threads", "2"]) == 2
    assert "holds results of threads 1, here it is threads 2" in " ".join(capsys.readouterr().err.split())
    assert main(["budget-curve", "--out", str(out), *TINY, "--threads", "2", "--report"]) == 0
    assert main(["upper-bound", "--out", str(out), *TINY, "--report"]) == 0
    assert torch.get_num_threads() == 1


def test_what_is_finished_can_be_reported_on_its_own(tmp_path):
    out = tmp_path / "out"
    assert main(["upper-bound", "--out", str(out), *TINY, "--num-seeds", "1"]) == 0
    assert main(["budget-curve", "--out", str(out), *TINY, "--report"]) == 0
    assert not list((out / "cells").glob("select-*"))
    assert "Full supervision" in (out / "budget-curve" / "table.md").read_text()


def test_camvids_real_images_go_through_an_experiment(real_camvid, tmp_path):
    options = """--preset camvid-small --scale 0.15 --pretrain-images 4 --max-epochs 1 --episodes 1
        --budget 24 --budgets 24 48 --num-seeds 1 --loss-weights equal
        --methods ralis uniform class-balanced cheat""".split()
    out = tmp_path / "out"
    assert main(["budget-curve", "--out", str(out), "--data", str(real_camvid), *options]) == 0
    results = json.loads((out / "budget-curve" / "results.json").read_text())
    assert len(results) == 8 and all(0 < record["miou"] < 0.6 for record in results)
    classes = list(results[0]["iou"])
    rare = [classes.index(name) for name in ("pole", "sign", "fence", "pedestrian", "bicyclist")]
    share = {r["method"]: sum(r["selected_class_fraction"][c] for c in rare) for r in results}
    assert share["cheat"] > 2 * share["uniform"]
    assert str(real_camvid) not in (out / "budget-curve" / "config.json").read_text()
