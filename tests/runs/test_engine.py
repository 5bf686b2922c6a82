"""Plans of made-up stages, in this process and in several: order, failures, and what is kept."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_runs import worker_in

from ralx.runs import engine as engine_module
from ralx.runs.engine import Processes, run_here
from ralx.runs.stage import Artifact, Stage, in_order
from ralx.runs.store import Store
from ralx.support.files import RunError
from ralx.support.folder import LostFolder


@dataclass(frozen=True)
class Sum(Stage):
    """One more than the sum of its inputs; 13 fails, 14 takes its process with it, and 15 takes long."""

    place: int
    inputs: tuple["Sum", ...] = ()

    @property
    def kind(self):
        return f"sum {self.place}"

    @property
    def needs(self):
        return list(self.inputs)

    def run(self, place):
        if self.place == 13:
            raise RunError("unlucky")
        if self.place == 14:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.place == 15:
            time.sleep(1.5)
        values = [place.artifact(stage).tensors["value"] for stage in self.inputs]
        return Artifact({"value": 1 + sum(values, torch.zeros(1))}, {"pid": os.getpid()})


@dataclass(frozen=True)
class Through(Stage):
    """Takes what its stage's first input left, as a final training takes θ0′ through its selection."""

    stage: Sum
    kind = "through"

    def run(self, place):
        return place.artifact(self.stage.inputs[0])


@dataclass(frozen=True)
class Reads(Stage):
    file: Path
    kind = "reads"

    def run(self, place):
        return Artifact({}, {"text": self.file.read_text()})


A, B = Sum(0), Sum(1)
C = Sum(2, (A, B))
BAD = Sum(13, (A,))
AFTER = Sum(4, (BAD,))
ENGINES = [run_here, Processes(jobs=2, device="cpu")]


@pytest.fixture(params=ENGINES, ids=["here", "processes"])
def engine(request):
    return request.param


def value(worker, stage):
    return worker.artifact(stage).tensors["value"].item()


def test_a_plan_is_done_in_order_and_only_once(tmp_path, engine):
    worker, finished = worker_in(tmp_path), []
    assert engine(in_order([C]), worker, on_finished=finished.append) == {}
    assert value(worker, C) == 3 and set(finished) == {A, B, C} and finished[-1] == C
    assert not list((tmp_path / "checkpoint").glob("*.safetensors"))
    finished.clear()
    engine(in_order([C, Sum(5, (C,))]), worker_in(tmp_path), on_finished=finished.append)
    assert finished == [Sum(5, (C,))], "what is finished is not done again"


def test_a_failed_stage_takes_only_those_with_it_that_need_it(tmp_path, engine):
    worker = worker_in(tmp_path)
    failed = engine(in_order([AFTER, C]), worker, keep_going=True)
    assert failed == {BAD: "unlucky"}
    assert worker.finished(C) and not worker.finished(AFTER)
    with pytest.raises(RunError, match="unlucky"):
        engine(in_order([AFTER, C]), worker)


def test_what_was_lost_below_a_finished_stage_is_done_again_first(tmp_path, engine):
    worker, slow = worker_in(tmp_path), Sum(15)
    last = Through(Sum(16, (slow,)))
    run_here(in_order(last.needs), worker)
    (lost,) = tmp_path.glob("store/sum-15-*")
    lost.unlink()
    engine(in_order([last]), worker)
    assert value(worker, last) == value(worker, slow)
    assert engine(in_order([Through(Sum(3, (BAD,)))]), worker, keep_going=True) == {BAD: "unlucky"}


def test_a_file_that_changes_during_a_run_is_never_taken_for_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_text("old")
    worker, stage = worker_in(tmp_path / "run"), Reads(file)
    old = worker.key(stage)
    file.write_text("new")
    with pytest.raises(RunError, match="weights: was changed while the run uses it; begin again"):
        worker.do(stage)
    assert not worker.finished(stage)
    later = worker_in(tmp_path / "run")
    monkeypatch.setattr(engine_module, "_worker", later, raising=False)
    with pytest.raises(RunError, match="reads: a file or image that it is given was changed"):
        engine_module._do(stage, old)
    later.do(stage)
    assert later.found(stage) == {"text": "new"} and later.key(stage) != old


def test_processes_share_the_work_and_end_with_the_plan(tmp_path):
    worker = worker_in(tmp_path)
    Processes(jobs=2, device="cpu")([Sum(n) for n in range(40, 50)], worker)
    pids = {worker.found(Sum(n))["pid"] for n in range(40, 50)}
    assert os.getpid() not in pids
    deadline = time.monotonic() + 60
    for pid in pids:
        while os.path.exists(f"/proc/{pid}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_ctrl_c_is_not_lost_while_a_process_is_started(tmp_path, monkeypatch):
    submit = ProcessPoolExecutor.submit

    def press_and_submit(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return submit(*arguments)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", press_and_submit)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Processes(jobs=1, device="cpu")([A], worker_in(tmp_path))
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_process_that_dies_is_an_error_and_not_a_hang(tmp_path):
    anothers = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    anothers.start()
    with pytest.raises(RunError, match="--jobs: a process ended early; the same command goes on"):
        Processes(jobs=2, device="cpu")([Sum(14)], worker_in(tmp_path), keep_going=True)
    assert anothers.is_alive(), "only the engine's own processes end with it"
    anothers.kill()


def test_who_lost_the_folder_writes_nothing_more(tmp_path):
    """As a process that was stopped, and wakes to find that another has taken over."""
    worker = worker_in(tmp_path)
    worker.do(A)
    checkpoint = worker.checkpoint(B)
    (tmp_path / ".lock").unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for write in (
        lambda: worker.do(B),
        lambda: checkpoint.save(lambda: ({}, None)),
        checkpoint.clear,
        lambda: worker.store.refuse_other_numerics({"threads": 1}),
    ):
        with pytest.raises(LostFolder, match="another process has taken over"):
            write()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_damaged_artifact_is_named(tmp_path):
    worker = worker_in(tmp_path)
    worker.do(A)
    (path,) = (tmp_path / "store").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(RunError, match=r"sum-0-[0-9a-f]{16}.safetensors: was damaged or changed"):
        worker.do(C)


def test_pretrained_artifacts_lie_in_the_cache(tmp_path):
    store = Store(tmp_path / "run", tmp_path / "cache", worker_in(tmp_path).store.lock)
    assert store.path("a", shared=True) == tmp_path / "cache" / "a.safetensors"
    assert store.path("a", shared=False) == tmp_path / "run" / "store" / "a.safetensors"


def test_another_thread_count_torch_or_device_is_refused(tmp_path):
    store = worker_in(tmp_path).store
    assert store.numerics is None
    for _ in range(2):
        store.refuse_other_numerics({"threads": 2, "torch": "2.13.0", "device": "cpu"})
    with pytest.raises(RunError, match=r"was started with threads 2, here threads 1: .*OMP_NUM_THREADS"):
        store.refuse_other_numerics({"threads": 1, "torch": "2.13.0", "device": "cpu"})
    with pytest.raises(RunError, match=r"was started with torch 2.13.0, device cpu, here torch 2.12.0, dev"):
        store.refuse_other_numerics({"threads": 2, "torch": "2.12.0", "device": "cuda"})
    (tmp_path / "store" / "numerics.json").write_text("[]")
    with pytest.raises(RunError, match=r"numerics.json: expected a JSON object"):
        store.refuse_other_numerics({"threads": 1})


def test_artifacts_are_found_again_with_other_numerics(tmp_path, monkeypatch):
    worker = worker_in(tmp_path)
    worker.store.refuse_other_numerics(worker.numerics)
    worker.do(A)
    monkeypatch.setattr("ralx.runs.engine.__version__", "99")
    elsewhere = worker_in(tmp_path)
    assert elsewhere.finished(A) and elsewhere.numerics != elsewhere.store.numerics


def test_what_a_kill_left_half_written_is_cleared(tmp_path):
    store = worker_in(tmp_path).store
    torn = [tmp_path / folder / ".a.safetensors.123.tmp" for folder in ("store", "checkpoint", "cache")]
    foreign = tmp_path / ".git" / ".index.lock.tmp"
    for path in (*torn, foreign):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    store.clear_torn()
    assert not any(path.exists() for path in torn) and foreign.exists()
