"""What a person sees while a run works."""

import io

import pytest
from rich.console import Console

from ralx.monitor import Monitor


def shown(terminal: bool, seconds: float = 0.0, monkeypatch=None) -> str:
    if monkeypatch:
        monkeypatch.setattr("ralx.monitor.LOG_SECONDS", seconds)
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
