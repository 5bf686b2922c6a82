"""A folder that one process at a time works in."""

import contextlib
import fcntl
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ralx.support.files import RunError
from ralx.support.folder import LostFolder, locked, whole_folder


def lock_and_leave(folder):
    with locked(folder):
        pass


def test_one_process_at_a_time_and_a_dead_ones_lock_is_free(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from ralx.support.folder import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=r"--out .*run: another process is running there"):
            lock_and_leave(tmp_path / "run")
    finally:
        process.kill()
        process.wait()
    lock_and_leave(tmp_path / "run")


def test_what_is_empty_and_was_made_here_goes_again(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    for path in (tmp_path / "a" / "b" / "run", there):
        with pytest.raises(KeyError), locked(path):
            assert (path / ".lock").exists()
            raise KeyError
    assert list(tmp_path.rglob("*")) == [there]


def test_a_folder_that_was_filled_keeps_its_lock(tmp_path):
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "config.json").touch()
    assert sorted(os.listdir(tmp_path / "run")) == [".lock", "config.json"]
    lock_and_leave(tmp_path / "run")


def test_a_folder_that_can_not_be_made_leaves_no_part_of_its_path(tmp_path):
    with pytest.raises(RunError, match="can't be written: File name too long"):
        lock_and_leave(tmp_path / "a" / ("x" * 300))
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunError, match=r"--out .*thesis.tex: must be a folder, got a file"):
        lock_and_leave(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to(path.parent.parent / "elsewhere"),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.write_text("theirs"),
    ],
    ids=["link", "folder", "pipe", "file"],
)
def test_what_is_no_lock_is_refused_and_untouched(tmp_path, make):
    path = tmp_path / "run" / ".lock"
    path.parent.mkdir()
    make(path)
    before = path.lstat()
    with pytest.raises(RunError, match=r"\.lock: must be a lock of ralx, which is an empty file"):
        lock_and_leave(path.parent)
    assert os.listdir(tmp_path) == ["run"], "no link was followed"
    assert os.path.samestat(path.lstat(), before) and path.lstat().st_mtime_ns == before.st_mtime_ns


def test_a_lock_that_was_removed_meanwhile_is_not_taken(tmp_path, monkeypatch):
    flock = fcntl.flock

    def remove_first(lock, how):
        (tmp_path / ".lock").unlink()
        flock(lock, how)

    monkeypatch.setattr("ralx.support.folder.fcntl.flock", remove_first)
    with pytest.raises(RunError, match="another process was there a moment ago; try again"):
        lock_and_leave(tmp_path)


def test_who_lost_the_lock_is_refused_and_removes_nothing(tmp_path):
    """As a process that was stopped, and wakes to find that another has taken over."""
    with contextlib.ExitStack() as first:
        lock = first.enter_context(locked(tmp_path / "run"))
        in_a_process_of_the_owner = pickle.loads(pickle.dumps(lock))
        in_a_process_of_the_owner.hold()
        lock.path.unlink()
        with locked(tmp_path / "run") as anothers:
            for lost in (lock, in_a_process_of_the_owner):
                with pytest.raises(LostFolder, match="run: another process has taken over this work"):
                    lost.hold()
            first.close()
            anothers.hold()
    with pytest.raises(LostFolder):  # it was given back
        anothers.hold()


def test_a_whole_folder_never_replaces_the_one_that_the_process_runs_in(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="must not be the folder"), whole_folder(Path(".")):
        pass
    assert os.listdir(tmp_path) == ["here"] and os.listdir(".") == []


def test_what_killed_processes_left_of_a_whole_folder_goes(tmp_path):
    dead, theirs = tmp_path / ".a[1].999999999.tmp", tmp_path / ".a[1].x.tmp"
    dead.mkdir(), theirs.mkdir()
    with whole_folder(tmp_path / "a[1]") as work:
        (work / "file").touch()
    assert sorted(os.listdir(tmp_path)) == [theirs.name, "a[1]"]
