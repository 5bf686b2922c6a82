"""What a person sees while a run works."""

import io

import pytest
from rich.console import Console

from ralx.support.monitor import Monitor


def shown(terminal: bool, seconds: float = 0.0, monkeypatch=None) -> str:
    if monkeypatch:
        monkeypatch.setattr("ralx.support.monitor.LOG_SECONDS", seconds)
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=200, color_system=None)
    with Monitor(console=console).task("learn, seed 0", 3) as update:
        for done in (1, 2, 3):
            update(done, miou=0.25, reward=-1.5, epsilon=0.9, td_loss=None)
    return text.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_title_the_progress_and_the_latest_numbers_are_shown(terminal):
    text = shown(terminal)
    for part in ("learn, seed 0", "3/3", "miou 0.25", "reward -1.5", "epsilon 0.9"):
        assert part in text
    assert "td_loss" not in text  # nothing was learned yet


def test_a_log_gets_a_line_now_and_then_not_one_per_step(monkeypatch):
    assert len(shown(False).splitlines()) == 1
    assert len(shown(False, 0.0, monkeypatch).splitlines()) == 4


def test_brackets_are_text(capsys):
    Monitor(console=Console(width=80)).say("forward[s] 0.5")
    assert capsys.readouterr().out == "forward[s] 0.5\n"


def test_steps_that_are_played_again_replace_what_a_killed_process_wrote(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard, an extra"
    )
    for first, value in ((1, 1.0), (3, 2.0)):  # killed behind step 4, resumed from a checkpoint behind step 2
        monitor = Monitor(tmp_path)
        monitor.forget("learn-seed0", first)
        for step in range(first, 5):
            monitor.scalar("learn-seed0", "miou", value, step)
        monitor.scalar("learn-seed1", "miou", value, 4)
        monitor.close()
    events = accumulator.EventAccumulator(str(tmp_path / "learn-seed0")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("miou")] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]
    others = accumulator.EventAccumulator(str(tmp_path / "learn-seed1")).Reload()
    assert len(others.Scalars("miou")) == 2


def test_nothing_is_written_before_the_first_event(tmp_path):
    pytest.importorskip("tensorboard", reason="an extra")
    Monitor(tmp_path / "tensorboard").close()
    assert not list(tmp_path.iterdir())
