"""The run's folder: whole files, foreign folders, records and the cut of steps.jsonl."""

import json

import pytest

from ralx.run_dir import LostRun, RunDirectory, open_run
from ralx.support.files import RunError, write_json

CONFIG = {"seed": 0, "budgets": [2, 4]}
STEP = {"seed": 0, "episode": 0, "step": 0, "epsilon": 0.5, "reward": 0.1, "miou": 0.25, "td_loss": None}
STEP |= {"q_mean": None, "seconds": {"forward": 0.1}}


RECORD = {"method": "uniform", "budget": 2, "seed": 0, "miou": 0.5, "iou": {"sky": 0.5}, "version": "0.1.0"}
RECORD |= {"selected_class_fraction": [1.0], "selected_entropy": 0.0}


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


def test_resume_with_nothing_saved_starts_afresh(tmp_path):
    assert begin(tmp_path / "run", resume=True).records() == []


def test_what_a_kill_left_half_written_is_cleared(tmp_path):
    run = begin(tmp_path / "run")
    torn = run.path / "checkpoint" / ".learn.safetensors.123.tmp"
    torn.parent.mkdir()
    torn.write_bytes(b"half")
    begin(tmp_path / "run", resume=True)
    assert not torn.exists()


def test_foreign_files_that_look_half_written_stay(tmp_path):
    run = begin(tmp_path / "run")
    foreign = run.path / ".git" / ".index.lock.tmp"
    foreign.parent.mkdir()
    foreign.write_text("theirs")
    begin(tmp_path / "run", resume=True)
    assert foreign.read_text() == "theirs"


def test_who_lost_the_lock_writes_nothing_more(tmp_path):
    """As a process that was stopped, and wakes to find that another has taken over."""
    writes = (
        lambda run: run.add_record(RECORD),
        lambda run: run.append_step(STEP),
        lambda run: run.cut_steps(bool),
        lambda run: run.write_selection({"method": "uniform", "seed": 0}),
        lambda run: run.save_segmenter("uniform", 0, 2, {}),
        lambda run: run.refuse_other_numerics(threads=1),
    )
    with open_run(tmp_path / "run", CONFIG, resume=False) as run:
        run.begin(CONFIG)
        run.append_step(STEP)
        (run.path / ".lock").unlink()
        before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
        for write in writes:
            with pytest.raises(LostRun, match="another process has taken over"):
                write(run)
        assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def test_records_that_were_lost_or_changed_are_written_again(tmp_path):
    run = begin(tmp_path / "run")
    run.add_record(RECORD)
    path = run.path / "results.json"
    whole = path.read_bytes()
    assert run.restore_records() == []
    for change in (
        lambda: path.unlink(),
        lambda: path.write_text("[null]"),
        lambda: path.write_bytes(whole[:9]),
    ):
        change()
        assert run.restore_records() == ["results.json"]
        assert path.read_bytes() == whole
    (run.path / "checkpoint" / "records.json").unlink()  # with the checkpoint's folder, to save room
    assert run.records() == [RECORD]


@pytest.mark.parametrize(
    "content", ["null", "5", "[null]", "[{}]", "9" * 5000, "[" * 10**5, '[{"method": "uniform"}]']
)
@pytest.mark.parametrize("name", ["results.json", "reference.json"])
def test_records_of_another_shape_are_named(tmp_path, name, content):
    run = begin(tmp_path / "run")
    (run.path / name).write_text(content)
    with pytest.raises(RunError, match=name):
        run.records()


def test_damaged_files_of_the_run_are_named(tmp_path):
    run = begin(tmp_path / "run")
    run.append_step(STEP)
    (run.path / "steps.jsonl").write_text("[]\n" + (run.path / "steps.jsonl").read_text())
    with pytest.raises(RunError, match=r"steps.jsonl, line 1: must be a JSON object, got \[\]"):
        run.cut_steps(bool)
    run.write_selection({"method": "uniform", "seed": 0})
    with pytest.raises(RunError, match=r"uniform-seed0.json: region_size is missing"):
        run.read_selection("uniform", 0)
    (run.path / "checkpoint").mkdir(exist_ok=True)
    (run.path / "checkpoint" / "numerics.json").write_text("[]")
    with pytest.raises(RunError, match=r"numerics.json: expected a JSON object"):
        run.refuse_other_numerics(threads=1)


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
