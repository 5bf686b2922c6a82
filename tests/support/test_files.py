"""Files of ralx's own: whole or not at all, synced, sealed, and nobody else's files touched."""

import fcntl
import json
import os
import random
import stat
import subprocess
import sys

import pytest
import torch

from ralx.support.files import (
    RunError,
    append_line,
    clear_torn,
    load_tensors,
    read_json,
    read_sealed,
    save_tensors,
    write_json,
    write_sealed,
    write_whole,
)


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
        "import resource, sys, torch; from pathlib import Path; from ralx.support.files import *\n"
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


def test_content_and_names_are_synced_before_anyone_sees_them(tmp_path, monkeypatch):
    """What a power cut leaves of a file that was moved before it was synced is 0 bytes."""
    events, sync, replace = [], os.fsync, os.replace

    def noting_sync(descriptor):
        found = os.fstat(descriptor)
        events.append(("folder" if stat.S_ISDIR(found.st_mode) else "file", found.st_ino, found.st_size))
        sync(descriptor)

    def noting_replace(source, target):
        found = os.stat(source)
        events.append(("moved", found.st_ino, found.st_size))
        replace(source, target)

    monkeypatch.setattr("ralx.support.files.os.fsync", noting_sync)
    monkeypatch.setattr("ralx.support.files.os.replace", noting_replace)
    path = tmp_path / "new" / "state.json"
    write_whole(path, b"12345")
    kinds = [kind for kind, _, _ in events]
    assert kinds == ["folder", "file", "moved", "folder"]  # the new folder's own name comes first
    assert events[0][1] == tmp_path.stat().st_ino and events[3][1] == path.parent.stat().st_ino
    assert events[1][1:] == events[2][1:] == (path.stat().st_ino, 5)
    append_line(path, "6")
    assert events[-1] == ("file", path.stat().st_ino, 7)
    append_line(tmp_path / "steps.jsonl", "7")
    assert [kind for kind, _, _ in events[-2:]] == ["file", "folder"]


def test_two_that_write_the_same_file_do_not_meet(tmp_path, monkeypatch):
    """As two containers that share a folder, whose processes may have the same id."""
    replace, path = os.replace, tmp_path / "theta0"

    def write_another_first(source, target):
        monkeypatch.setattr("ralx.support.files.os.replace", replace)
        write_whole(path, b"another's")
        replace(source, target)

    monkeypatch.setattr("ralx.support.files.os.replace", write_another_first)
    write_whole(path, b"mine")
    assert path.read_bytes() == b"mine" and list(tmp_path.iterdir()) == [path]


def test_a_file_system_that_syncs_no_folders_is_enough(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("ralx.support.files.os.fsync", refuse)
    write_whole(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


def test_a_disk_that_fails_to_sync_is_an_error(tmp_path, monkeypatch):
    def fail(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("ralx.support.files.os.fsync", fail)
    with pytest.raises(RunError, match="a: can't be written: Input/output error"):
        write_whole(tmp_path / "a", b"1")


def test_files_have_the_mode_that_the_users_mask_says(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", [])
        save_tensors(tmp_path / "b.safetensors", {})
        append_line(tmp_path / "c.jsonl", "")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_no_link_is_followed(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    for name in ("a.json", "c.jsonl"):
        (tmp_path / name).symlink_to(precious)
    write_json(tmp_path / "a.json", [])
    with pytest.raises(RunError, match=r"c.jsonl: can't be written: Too many levels of symbolic links"):
        append_line(tmp_path / "c.jsonl", "x")
    assert precious.read_text() == "mine"
    assert not (tmp_path / "a.json").is_symlink()


def test_only_what_a_killed_process_left_is_cleared(tmp_path):
    mine = tmp_path / ".learn.safetensors.123.tmp"
    foreign = [".index.lock.tmp", ".notes.json.tmp", "learn.json.1.tmp", ".a.txt.1.tmp", ".git/.a.json.1.tmp"]
    at_work = tmp_path / ".results.json.7.tmp"
    for path in (mine, at_work, *(tmp_path / name for name in foreign)):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    with at_work.open() as writing:  # as a living process has it
        fcntl.flock(writing, fcntl.LOCK_EX)
        clear_torn(tmp_path)
    assert not mine.exists() and at_work.exists()
    assert all((tmp_path / name).exists() for name in foreign)
    clear_torn(tmp_path / "missing")


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


def test_nested_states_survive_whatever_their_layers_are_called(tmp_path):
    layers = {"conv/1.weight": 0, "100%": 1, "%2F": 2, "größe": 3, "": 4, "conv": {"1.weight": 5}}
    states = {"trainer": layers, "game": {"pool": {"order": 6}}, "step": 7, "empty": {}}

    def mapped(function, state):
        return {
            name: mapped(function, value) if isinstance(value, dict) else function(value)
            for name, value in state.items()
        }

    save_tensors(tmp_path / "state", mapped(torch.tensor, states))
    loaded = mapped(int, load_tensors(tmp_path / "state")[0])
    assert loaded | {"empty": {}} == states, "but for empty dicts"


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    found = set()
    for _ in range(8):
        save_tensors(tmp_path / "x", {"a": torch.ones(3), "b": torch.zeros(2)}, {"c": 1, "d": 2})
        found.add((tmp_path / "x").read_bytes())
    assert len(found) == 1


def test_no_damage_of_a_tensor_file_passes(tmp_path):
    path = tmp_path / "state.safetensors"
    save_tensors(path, {"a": torch.arange(4.0)}, {"epoch": 3})
    whole, draw = path.read_bytes(), random.Random(0)
    damaged = [whole[:length] for length in range(0, len(whole), 7)] + [whole + b"\0"]
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"state.safetensors: "):
            load_tensors(path)


def test_a_tensor_file_of_somebody_else_is_named(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "state.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(RunError, match=r"state.safetensors: expected a safetensors file of ralx"):
        load_tensors(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(RunError, match=r"state.safetensors: .*got one without its checksum"):
        load_tensors(path)


def test_no_damage_of_a_sealed_object_passes(tmp_path):
    path = tmp_path / "selection.json"
    value = {"regions": [["image θ", 1, 2]], "share": 0.125}
    write_sealed(path, value)
    assert read_sealed(path) == value
    text = path.read_text()
    for content in (text.replace("1,", "3,"), text.replace("0.125", "0.5"), text.replace("share", "shore")):
        assert content != text
        path.write_text(content)
        with pytest.raises(RunError, match=r"selection.json: was damaged or changed since ralx wrote it"):
            read_sealed(path)


@pytest.mark.parametrize(
    "content", ["null", "5", "[]", "{}", '"x"', "9" * 5000, "[" * 10**5, "\xff", "{", "NaN"]
)
def test_what_is_no_sealed_object_is_named(tmp_path, content):
    path = tmp_path / "numerics.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(RunError, match=r"numerics.json: expected"):
        read_sealed(path)


@pytest.mark.parametrize("content", [b"9" * 5000, b"[" * 10**5, b"\xff", b"{", b"NaN", b"[-Infinity]"])
def test_what_is_no_json_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RunError, match=r"a.json: expected JSON, got "):
        read_json(tmp_path / "a.json")
