"""The run's folder: whole files, its lock, foreign folders, checkpoints and the cut of steps.jsonl."""

import fcntl
import json
import subprocess
import sys

import pytest
import torch

from ralx.run_dir import Checkpoint, RunDirectory, open_run
from ralx.support.files import RunError, load_tensors, save_tensors, write_json

CONFIG = {"seed": 0, "budgets": [2, 4]}
STEP = {"seed": 0, "episode": 0, "step": 0, "epsilon": 0.5, "reward": 0.1, "miou": 0.25, "td_loss": None}
STEP |= {"q_mean": None, "seconds": {"forward": 0.1}}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, [1])
    with pytest.raises(ValueError):
        write_json(path, [float("nan")])
    with pytest.raises(TypeError):
        write_json(path, [object()])
    assert json.loads(path.read_text()) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    code = (
        "import resource, sys, torch; from pathlib import Path; from ralx.run_dir import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "for write in (lambda path: write_json(path, list(range(9999))),\n"
        "              lambda path: save_tensors(path, {'x': torch.ones(9999)})):\n"
        "    try: write(Path(sys.argv[1]))\n"
        "    except RunError as error: print(error)"
    )
    path = tmp_path / "state"
    path.write_text("old")
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert [line.split(":")[:2] for line in result.stdout.splitlines()] == 2 * [
        [str(path), " can't be written"]
    ]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_and_their_note_survive(tmp_path):
    path = tmp_path / "state.safetensors"
    tensors = {
        "a": torch.arange(6.0).view(2, 3).T,
        "b": torch.tensor(3, dtype=torch.int64),
        "c": torch.zeros(0),
    }
    save_tensors(path, tensors, {"epoch": 3, "miou": 0.1})
    loaded, note = load_tensors(path)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert note == {"epoch": 3, "miou": 0.1}


def test_a_damaged_tensor_file_is_named(tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(RunError, match=r"state.safetensors: expected a safetensors file"):
        load_tensors(path)


def test_each_piece_of_work_has_a_checkpoint_of_its_own(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.load("learn") is None
    checkpoint.save("learn", lambda: ({"x": torch.ones(2)}, {"step": 1}))
    Checkpoint(tmp_path).save("select", lambda: ({"x": torch.zeros(2)}, None))
    tensors, note = checkpoint.load("learn")
    assert torch.equal(tensors["x"], torch.ones(2)) and note == {"step": 1}
    checkpoint.clear("learn")
    assert checkpoint.load("learn") is None and checkpoint.load("select") is not None


def test_saving_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr("ralx.run_dir.time.monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path)

    def state():
        now[0] += 1.0  # a save that takes a second
        saved.append(now[0])
        return {}, None

    for _ in range(100):
        now[0] += 1.0
        checkpoint.save("learn", state)
    assert 4 <= len(saved) <= 6  # one in twenty-one seconds


def begin(path, config=CONFIG, resume=False):
    """The folder of a run that has begun, as code sees it that holds no lock."""
    with open_run(path, config, resume=resume) as run:
        run.begin(config)
    return RunDirectory(path)


def test_a_new_folder_gets_its_config_when_the_run_begins(tmp_path):
    with open_run(tmp_path / "run", CONFIG, resume=False) as run:
        assert not (tmp_path / "run" / "config.json").exists()
        run.begin(CONFIG)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == CONFIG


def test_a_run_that_never_begins_leaves_nothing(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    for path in (tmp_path / "a" / "b" / "run", there):
        with pytest.raises(KeyError), open_run(path, CONFIG, resume=False):
            assert (path / ".lock").exists()
            raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_folder_that_can_not_be_made_leaves_no_part_of_its_path(tmp_path):
    with (
        pytest.raises(RunError, match="can't be written: File name too long"),
        open_run(tmp_path / "a" / ("x" * 300), CONFIG, resume=False),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_removed_meanwhile_is_not_taken(tmp_path, monkeypatch):
    flock = fcntl.flock

    def remove_first(lock, how):
        (tmp_path / "run" / ".lock").unlink()
        flock(lock, how)

    monkeypatch.setattr("ralx.run_dir.fcntl.flock", remove_first)
    with (
        pytest.raises(RunError, match="another process was there a moment ago; try again"),
        open_run(tmp_path / "run", CONFIG, resume=False),
    ):
        pass


def test_resume_with_nothing_saved_starts_afresh(tmp_path):
    assert begin(tmp_path / "run", resume=True).records() == []


def test_what_a_kill_left_half_written_is_cleared(tmp_path):
    run = begin(tmp_path / "run")
    torn = run.path / "checkpoint" / ".learn.safetensors.123.tmp"
    torn.parent.mkdir()
    torn.write_bytes(b"half")
    begin(tmp_path / "run", resume=True)
    assert not torn.exists()


def test_another_thread_count_torch_or_device_is_refused(tmp_path):
    run = begin(tmp_path / "run")
    run.refuse_other_numerics(threads=2, torch="2.13.0", device="cpu")
    run.refuse_other_numerics(threads=2, torch="2.13.0", device="cpu")
    with pytest.raises(RunError, match=r"was started with threads 2, here threads 1: .*OMP_NUM_THREADS"):
        run.refuse_other_numerics(threads=1, torch="2.13.0", device="cpu")
    with pytest.raises(RunError, match=r"was started with torch 2.13.0, device cpu, here torch 2.12.0, dev"):
        run.refuse_other_numerics(threads=2, torch="2.12.0", device="cuda")


def test_foreign_folders_are_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with (
        pytest.raises(RunError, match=r"must be empty or hold a run, got thesis.tex"),
        open_run(tmp_path, CONFIG, resume=True),
    ):
        pass
    with (
        pytest.raises(RunError, match="must be a folder, got a file"),
        open_run(tmp_path / "thesis.tex", CONFIG, resume=False),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_run_is_refused(tmp_path):
    begin(tmp_path / "run")
    with pytest.raises(RunError, match="holds a run already; go on with --resume"):
        begin(tmp_path / "run")
    with pytest.raises(RunError, match=r"holds another run .seed: 0 there, 1 here"):
        begin(tmp_path / "run", {**CONFIG, "seed": 1}, resume=True)


@pytest.mark.parametrize("stored", [{}, [], {"seed": 0}, {"seed": 0, "budgets": [2, 4], "old": 1}])
def test_a_config_with_other_fields_is_refused_in_one_short_line(tmp_path, stored):
    begin(tmp_path / "run")
    write_json(tmp_path / "run" / "config.json", stored)
    with pytest.raises(RunError, match=r"its config.json is damaged or of another version of ralx$"):
        begin(tmp_path / "run", resume=True)


def test_only_a_few_of_many_differing_options_are_named(tmp_path):
    begin(tmp_path / "run", {str(option): 0 for option in range(9)})
    with pytest.raises(RunError, match=r"\(0: 0 there, 1 here, .*3: 0 there, 1 here, and 5 options more\)$"):
        begin(tmp_path / "run", {str(option): 1 for option in range(9)}, resume=True)


def test_one_process_at_a_time_and_a_dead_ones_lock_is_free(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from ralx.run_dir import open_run\n"
        f"with open_run(Path(sys.argv[1]), {CONFIG}, resume=True):\n"
        "    print('locked', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "locked\n"
        with (
            pytest.raises(RunError, match="another process is running there"),
            open_run(tmp_path / "run", CONFIG, resume=True),
        ):
            pass
    finally:
        process.kill()
        process.wait()
    with open_run(tmp_path / "run", CONFIG, resume=True):
        pass


def test_steps_are_cut_back_and_a_torn_line_is_dropped(tmp_path):
    with open_run(tmp_path / "run", CONFIG, resume=False) as run:
        for step in range(4):
            run.append_step({**STEP, "step": step})
        path = run.path / "steps.jsonl"
        two = path.read_bytes().splitlines(keepends=True)[:2]
        with path.open("a") as file:
            file.write('{"step": 4, "rew')
        run.cut_steps(lambda line: line["step"] < 2)
        assert path.read_bytes() == b"".join(two)
