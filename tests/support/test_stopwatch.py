"""Where the time of a step goes."""

import torch
from torch import nn

from ralx.support.stopwatch import Stopwatch


def test_a_phase_inside_another_counts_for_itself_only(monkeypatch):
    now = iter([0, 1, 3, 7, 15, 31])
    monkeypatch.setattr("ralx.support.stopwatch.time.perf_counter", lambda: next(now))
    watch = Stopwatch()  # at 0
    with watch.phase("outer"), watch.phase("inner"):  # from 1, from 3
        pass  # inner until 7, outer until 15
    assert watch.seconds == {"outer": (3 - 1) + (15 - 7), "inner": 7 - 3}
    watch.reset()
    assert not watch.seconds


def test_forward_passes_are_timed_in_eval_mode_only():
    watch, network = Stopwatch(), nn.Linear(2, 2)
    watch.watch(network, "forward")
    network.train()(torch.zeros(1, 2))
    assert "forward" not in watch.seconds
    network.eval()(torch.zeros(1, 2))
    assert watch.seconds["forward"] > 0
