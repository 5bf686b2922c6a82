"""`ralx-experiment` as a user runs it: whole, killed, by several processes, and what it refuses."""

import contextlib
import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_options import TINY, contents, kill_after_artifacts, killed_at, records_by_place, start, wait_until

from ralx.cli.experiment import main
from ralx.runs import engine
from ralx.support.files import load_tensors

METHODS = ["ralis", "entropy", "uniform"]


def arguments(name: str, out: Path, *options: str) -> list[str]:
    return [name, "--out", str(out), *TINY, "--methods", *METHODS, *options]


def experiment(name: str, out: Path, *options: str) -> int:
    return main(arguments(name, out, *options))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, trained) -> Path:
    """The folder of a finished budget curve."""
    out = tmp_path_factory.mktemp("studies") / "whole"
    shutil.copytree(trained[0] / "cache", out / "cache")
    assert experiment("budget-curve", out) == 0
    return out


def results_of(out: Path, name: str = "budget-curve") -> dict[str, bytes]:
    """The files that must not depend on how the work was divided."""
    names = ("results.json", "reference.json", "statistics.json", "results.csv", "table.md")
    return {each: (out / name / each).read_bytes() for each in names} | contents(out / name / "selections")


def artifacts_of(out: Path) -> dict[Path, int]:
    """When each artifact was written."""
    return {path: path.stat().st_mtime_ns for path in out.glob("*/*.safetensors")}


# What an experiment leaves


def test_a_budget_curve_leaves_table_figure_and_files(finished):
    folder, out = finished / "budget-curve", finished
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
    assert machine["stages"]["final entropy"]["stages"] == 4 and machine["machines"][0]["cpu"]
    assert str(out) not in "".join(p.read_text() for p in folder.rglob("*.json"))
    assert {p.name for p in (out / "checkpoint").iterdir()} == set()


def test_the_results_are_those_of_ralx_train(finished, trained):
    curve, run = (records_by_place(each / "results.json") for each in (finished / "budget-curve", trained[0]))
    assert curve == {place: record for place, record in run.items() if place[0] in METHODS}
    references = records_by_place(finished / "budget-curve" / "reference.json")
    assert records_by_place(trained[0] / "reference.json").items() <= references.items()
    assert ("full_supervision", None, 1) in references, "one of every seed"
    selections = contents(finished / "budget-curve" / "selections")
    assert len(selections) == 6 and selections.items() <= contents(trained[0] / "selections").items()


def test_the_statistics_are_of_the_records(finished):
    folder = finished / "budget-curve"
    statistics = json.loads((folder / "statistics.json").read_text())
    miou = {place: record["miou"] for place, record in records_by_place(folder / "results.json").items()}
    assert list(statistics["methods"]) == METHODS
    ralis = statistics["methods"]["ralis"]
    differences = [miou["ralis", 6, seed] - miou["uniform", 6, seed] for seed in (0, 1)]
    assert ralis["budgets"]["6"]["against"]["uniform"]["mean"] == pytest.approx(sum(differences) / 2)
    assert ralis["budgets"]["6"]["total_labelled_pixels"] == 6 * 16 * 16 + 8 * 48 * 64
    full = [r["miou"] for r in json.loads((folder / "reference.json").read_text())[2:]]
    assert statistics["target_miou"] == pytest.approx(0.96 * sum(full) / 2)


def test_what_is_finished_is_never_done_again(finished, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "out")
    before, results = artifacts_of(out), results_of(out)
    shutil.rmtree(out / "budget-curve")
    (out / "store" / "numerics.json").unlink()
    assert experiment("budget-curve", out) == 0
    assert (out / "budget-curve" / "table.md").read_text() in capsys.readouterr().out
    assert artifacts_of(out) == before and results_of(out) == results


def test_experiments_share_what_they_have_in_common(finished):
    before = artifacts_of(finished)
    pictures = {
        "per-class": "per_class_iou.png",
        "selected-classes": "selected_classes.png",
        "selections": "selections.png",
        "upper-bound": "table.md",
    }
    for name, picture in pictures.items():
        assert experiment(name, finished) == 0
        assert (finished / name / picture).exists()
    assert "| 3 | ralis | " in (finished / "per-class" / "table.md").read_text(), "Table 1"
    table = (finished / "selected-classes" / "table.md").read_text()
    assert "| regions | method | entropy [nats] |" in table
    assert artifacts_of(finished) == before


def test_validation_shows_nothing_of_the_test_set(finished):
    assert experiment("budget-curve", finished, "--split", "validation", "--report") == 0
    folder = finished / "budget-curve-validation"
    assert "D_R mIoU" in (folder / "table.md").read_text()
    assert not (folder / "report").exists(), "its pages are about the test set"
    shown, test = (records_by_place(each / "results.json") for each in (folder, finished / "budget-curve"))
    assert shown.keys() == test.keys()
    assert all(set(record["iou"].values()) == {None} for record in shown.values())
    assert all(shown[place]["selected_entropy"] == test[place]["selected_entropy"] for place in shown)
    found = [load_tensors(path)[1]["found"] for path in finished.glob("store/final-*")]
    rewards = {(f["record"]["method"], f["record"]["budget"], f["record"]["seed"]): f for f in found}
    assert all(rewards[place]["reward_miou"] == record["miou"] for place, record in shown.items())


# Going on


def test_killed_at_any_write_it_ends_in_the_same_bytes(finished, tmp_path):
    out, kills, code = tmp_path / "killed", 0, None
    shutil.copytree(finished / "cache", out / "cache")
    while code is None:
        with killed_at(2 + 5 * kills % 29):  # at writes of all kinds
            code = experiment("budget-curve", out)
        kills += code is None
        assert kills < 60
    assert code == 0 and kills >= 5
    assert results_of(out) == results_of(finished)


def test_two_processes_killed_by_the_system_end_in_the_same_bytes(finished, tmp_path):
    out = tmp_path / "killed"
    for artifacts in (4, 11):
        process = start("experiment", *arguments("budget-curve", out, "--jobs", "2"))
        kill_after_artifacts(process, out, artifacts)
    process = start("experiment", *arguments("budget-curve", out, "--jobs", "2"))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert results_of(out) == results_of(finished)


def wait_until_gone(process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            process.poll()
            time.sleep(0.05)
        pytest.fail("a process is still there")


def test_interrupted_it_says_how_to_go_on(tmp_path):
    out = tmp_path / "out"
    process = start("experiment", *arguments("budget-curve", out, "--jobs", "2"))
    wait_until(lambda: list(out.glob("cache/theta0-*")), process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    # A shell says 130 of both; `python -m` dies of the signal where it came inside of an exec of a string.
    assert process.returncode in (130, -signal.SIGINT)
    assert "interrupted; the same command goes on" in output and "Traceback" not in output
    wait_until_gone(process)


def test_processes_end_with_the_command_that_started_them(tmp_path):
    out = tmp_path / "out"
    process = start("experiment", *arguments("budget-curve", out, "--jobs", "2"))
    wait_until(lambda: list(out.glob("cache/theta0-*")), process)
    process.kill()
    wait_until_gone(process)


def test_processes_of_one_machine_take_turns_at_its_gpus(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(engine, "_end_with_parent", lambda: None)
    monkeypatch.setattr(engine, "find_device", lambda name: asked.append(name) or torch.device("cpu"))
    started = engine.multiprocessing.Value("i", 0)
    for device in ("auto", "auto", "auto", "cuda:1"):
        engine._start(None, device, 1, started)
    assert asked == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


def test_a_stage_that_fails_takes_only_those_with_it_that_need_it(finished, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(finished / "cache", out / "cache")
    for jobs in ("2", "1"):  # what failed is tried again
        options = ["--num-seeds", "1", "--jobs", jobs]
        assert experiment("budget-curve", out, *options, "--dqn-lr", "1e30") == 1
        captured = capsys.readouterr()
        assert "learn-seed0: failed: dqn_lr: " in captured.out
        error = " ".join(captured.err.split())
        assert re.search(r"1 of \d+ stages failed: learn-seed0: dqn_lr: ", error), error
        found = records_by_place(out / "budget-curve" / "results.json")
        assert set(found) == set(itertools.product(("entropy", "uniform"), (3, 6), (0,)))
    assert experiment("budget-curve", out, "--num-seeds", "1", "--final-lr", "1e30") == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "6 of " in error and "final-entropy-seed0-budget3: final_lr: the segmenter has diverged" in error
    assert "Full supervision" in (out / "budget-curve" / "table.md").read_text()


def test_who_lost_the_folder_computes_nothing_more(finished, tmp_path, capsys, monkeypatch):
    out, do, done = tmp_path / "out", engine.Worker.do, []
    shutil.copytree(finished / "cache", out / "cache")

    def do_and_lose(worker, stage):
        done.append(stage)
        (out / ".lock").unlink(missing_ok=True)
        do(worker, stage)

    monkeypatch.setattr(engine.Worker, "do", do_and_lose)
    assert experiment("budget-curve", out) == 1
    assert "another process has taken over" in " ".join(capsys.readouterr().err.split())
    assert len(done) == 1 and not (out / "budget-curve").exists()
    assert not list(out.glob("store/*.safetensors"))


# Threads, reports, real images


def test_another_thread_count_is_refused_and_the_folders_own_is_taken(finished, capsys):
    before = artifacts_of(finished)
    assert experiment("budget-curve", finished, "--threads", "2") == 2
    assert "was started with threads 1, here threads 2" in " ".join(capsys.readouterr().err.split())
    assert experiment("budget-curve", finished, "--threads", "2", "--report") == 0
    assert experiment("upper-bound", finished) == 0
    assert torch.get_num_threads() == 1
    assert artifacts_of(finished) == before


def test_what_is_finished_can_be_reported_on_its_own(tmp_path):
    out = tmp_path / "out"
    assert experiment("upper-bound", out, "--num-seeds", "1") == 0
    before = artifacts_of(out)
    assert experiment("budget-curve", out, "--report") == 0
    assert artifacts_of(out) == before
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
