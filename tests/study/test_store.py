"""The store: a finished cell stays, a claim has one owner, and a dead owner's claim is free."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from ralx.run_dir import LostRun
from ralx.study import store as store_module
from ralx.study.store import STALE_SECONDS, Store
from ralx.support.files import RunError


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out")


def test_a_finished_cell_is_read_back_and_leaves_no_claim(store):
    assert not store.finished("a")
    with store.claim("a") as mine:
        assert mine and list((store.path / "claims").iterdir())
        store.finish("a", {"miou": 0.5})
    assert store.finished("a") and store.read("a") == {"miou": 0.5}
    assert not list((store.path / "claims").iterdir())


def test_a_finished_cell_is_not_claimed_again(store):
    store.finish("a", {})
    with store.claim("a") as mine:
        assert not mine
    assert not list((store.path / "claims").iterdir())


def test_a_claim_has_one_owner_until_it_is_given_up(store):
    other = Store(store.path)
    with store.claim("a") as mine, other.claim("a") as theirs, other.claim("b") as another_cell:
        assert mine and not theirs and another_cell
    with other.claim("a") as theirs, store.claim("a") as mine:
        assert theirs and not mine


def test_foreign_files_and_other_bytes_among_the_claims_are_no_claims(store):
    with store.claim("a"):
        pass
    (claim,) = (store.path / "claims").iterdir()
    claim.write_bytes(b"\xff\xfe")
    os.utime(claim, (0, 0))
    for name in ("a.0~", "a.0.swp", "a.", "a.\N{SUPERSCRIPT TWO}"):
        (store.path / "claims" / name).write_text("")
    with store.claim("a") as mine:
        assert mine


def test_an_owner_that_was_taken_for_dead_writes_nothing_more(store):
    """As one that was suspended for minutes."""
    with store.claim("a") as mine:
        run = store.work("a")
        run.append_step({"step": 0})
        (claim,) = (store.path / "claims").iterdir()
        os.utime(claim, (0, 0))
        with Store(store.path).claim("a") as theirs:
            assert mine and theirs
            for write in (lambda: run.append_step({"step": 1}), lambda: store.finish("a", {})):
                with pytest.raises(LostRun, match="another process has taken over"):
                    write()
            store.fail("a", "it was not mine to fail")
    assert (run.path / "steps.jsonl").read_text() == '{"step": 0}\n'
    assert not store.finished("a") and store.failure("a") is None


@pytest.mark.parametrize("text", ["null", "[]", "{}", "[" * 10**5, "9" * 5000, '{"pid": "x"}'])
def test_a_claim_of_another_shape_is_somebody_elses(store, text):
    make_claim(store, age=0)
    (store.path / "claims" / "a.3").write_text(text)
    with store.claim("a") as mine:
        assert not mine


def test_a_damaged_cell_is_named(store):
    store.finish("a", {"miou": 0.5})
    path = store.path / "cells" / "a.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(RunError, match=r"a.json: was damaged or changed"):
        store.read("a")


def test_many_at_once_have_one_owner(store):
    barrier = threading.Barrier(16)

    def attempt(_):
        barrier.wait()
        with store.claim("a") as mine:
            barrier.wait()
            return mine

    for _ in range(10):  # the second time over the claims that were given up
        with ThreadPoolExecutor(16) as pool:
            assert sum(pool.map(attempt, range(16))) == 1


def make_claim(store, age, **owner):
    folder = store.path / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    claim = folder / "a.3"
    claim.write_text(json.dumps({"system": "elsewhere", "pid": 1, "started": "1"} | owner))
    os.utime(claim, (time.time() - age,) * 2)


@pytest.mark.parametrize(
    ("age", "free"), [(0, False), (STALE_SECONDS - 20, False), (STALE_SECONDS + 20, True)]
)
def test_a_claim_from_elsewhere_is_free_once_it_is_stale(store, age, free):
    make_claim(store, age)
    with store.claim("a") as mine:
        assert mine is free
    assert (store.path / "claims" / "a.4").exists() is free


def test_an_owner_keeps_its_claim_fresh(store, monkeypatch):
    monkeypatch.setattr(store_module, "FRESH_SECONDS", 0.01)
    with store.claim("a"):
        claim = next((store.path / "claims").iterdir())
        os.utime(claim, (1, 1))
        deadline = time.monotonic() + 20
        while claim.stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.mark.parametrize(("age", "free"), [(0, False), (STALE_SECONDS + 20, True)])
def test_a_claim_being_written_is_free_once_it_is_stale(store, age, free):
    make_claim(store, 0)
    claim = store.path / "claims" / "a.3"
    claim.write_text("")
    os.utime(claim, (time.time() - age,) * 2)
    with store.claim("a") as mine:
        assert mine is free


def test_a_killed_owner_on_this_machine_blocks_nobody(store):
    code = (
        "import sys, time; from pathlib import Path; from ralx.study.store import Store\n"
        "with Store(Path(sys.argv[1])).claim('a') as mine: print(mine, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store.path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "True\n"
    with store.claim("a") as mine:
        assert not mine
    process.send_signal(signal.SIGKILL)
    process.wait()
    with store.claim("a") as mine:
        assert mine


def test_a_process_that_got_the_number_of_a_dead_one_is_not_its_owner(store):
    make_claim(store, 0, system=store_module._system(), pid=os.getpid(), started="another time")
    with store.claim("a") as mine:
        assert mine


def test_a_failure_is_kept_until_it_is_forgotten(store):
    assert store.failure("a") is None
    store.fail("a", "diverged")
    assert store.failure("a") == "diverged"
    store.forget_failure("a")
    assert store.failure("a") is None


def test_work_is_a_folder_that_can_be_forgotten(store):
    run = store.work("a")
    run.checkpoint.save("piece", lambda: ({}, 1))
    assert store.work("a").checkpoint.load("piece") == ({}, 1)
    store.forget_work("a")
    assert store.work("a").checkpoint.load("piece") is None


def test_results_of_another_setting_are_refused(store):
    store.refuse_other_setting({"threads": 1, "device": "cpu"})
    store.refuse_other_setting({"threads": 1, "device": "cpu"})
    with pytest.raises(RunError, match="holds results of threads 1, here it is threads 2"):
        store.refuse_other_setting({"threads": 2, "device": "cpu"})


def test_several_cells_can_be_held_at_once(store):
    with ExitStack() as stack:
        assert all(stack.enter_context(store.claim(key)) for key in "abc")
