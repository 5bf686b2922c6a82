"""The state of work in progress: saved often, but never for long."""

import torch

from ralx.support.checkpoint import Checkpoint


def test_each_piece_of_work_has_a_checkpoint_of_its_own(tmp_path, lock):
    learn, select = (Checkpoint(tmp_path / name, lock) for name in ("learn", "select"))
    assert learn.load() is None
    learn.save(lambda: ({"x": torch.ones(2)}, {"step": 1}))
    select.save(lambda: ({"x": torch.zeros(2)}, None))
    tensors, note = Checkpoint(tmp_path / "learn", lock).load()
    assert torch.equal(tensors["x"], torch.ones(2)) and note == {"step": 1}
    learn.clear()
    learn.clear()  # as a process that died behind it does
    assert learn.load() is None and select.load() is not None


def test_saving_takes_a_small_share_of_the_time(tmp_path, lock, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr("ralx.support.checkpoint.time.monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "learn", lock)

    def state():
        now[0] += 1.0  # a save that takes a second
        saved.append(now[0])
        return {}, None

    for _ in range(100):
        now[0] += 1.0
        checkpoint.save(state)
    assert 4 <= len(saved) <= 6  # one in twenty-one seconds
