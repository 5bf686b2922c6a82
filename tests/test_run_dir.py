"""The run's folder: whole files, its lock, foreign folders, checkpoints and the cut of steps.jsonl."""

import json
import subprocess
import sys

import pytest
import torch

from ralx.run_dir import Checkpoint, RunError, load_tensors, open_run, save_tensors, write_json

CONFIG = {"seed": 0, "budgets": [2, 4]}


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


def test_a_checkpoint_belongs_to_one_piece_of_work(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    assert checkpoint.load("learn") is None
    checkpoint.save("learn", lambda: ({"x": torch.ones(2)}, {"step": 1}))
    tensors, note = checkpoint.load("learn")
    assert torch.equal(tensors["x"], torch.ones(2)) and note == {"step": 1}
    assert checkpoint.load("select") is None
    checkpoint.clear()
    assert checkpoint.load("learn") is None


def test_a_checkpoint_refuses_another_thread_count(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.safetensors")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        checkpoint.save("learn", lambda: ({"x": torch.ones(2)}, None))
        torch.set_num_threads(1)
        with pytest.raises(RunError, match=r"made with 3 threads, .* set OMP_NUM_THREADS=3"):
            checkpoint.load("learn")
    finally:
        torch.set_num_threads(threads)


def test_a_new_folder_gets_its_config(tmp_path):
    with open_run(tmp_path / "run", CONFIG, resume=False) as run:
        assert run.records() == []
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == CONFIG


def test_resume_with_nothing_saved_starts_afresh(tmp_path):
    with open_run(tmp_path / "run", CONFIG, resume=True) as run:
        assert run.records() == []


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
    with open_run(tmp_path / "run", CONFIG, resume=False):
        pass
    with (
        pytest.raises(RunError, match="holds a run already; go on with --resume"),
        open_run(tmp_path / "run", CONFIG, resume=False),
    ):
        pass
    with (
        pytest.raises(RunError, match=r"holds another run .seed: 0 there, 1 here"),
        open_run(tmp_path / "run", {**CONFIG, "seed": 1}, resume=True),
    ):
        pass


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
            run.append_step({"step": step})
        with (run.path / "steps.jsonl").open("a") as file:
            file.write('{"step": 4, "rew')
        run.cut_steps(lambda line: line["step"] < 2)
        assert (run.path / "steps.jsonl").read_text() == '{"step": 0}\n{"step": 1}\n'
