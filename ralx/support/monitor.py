"""What a person sees while a run works: progress bars, plain lines in a log, TensorBoard events."""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOG_SECONDS = 15.0  # between the lines of one task where there is no terminal


class Monitor:
    """Progress on a terminal, a line now and then elsewhere, and scalars for TensorBoard if asked for.

    Each curve set, say "learn-seed0", has a folder of its own below `tensorboard`, made with its first event.
    """

    def __init__(self, tensorboard: Path | None = None, console: Console | None = None):
        self.console = console or Console()
        self._new_writer = _summary_writer(tensorboard) if tensorboard else None
        self._writers: dict[str, Any] = {}

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def scalar(self, curves: str, name: str, value: float, step: int) -> None:
        if self._new_writer:
            if curves not in self._writers:
                self._writers[curves] = self._new_writer(curves)
            self._writers[curves].add_scalar(name, value, step)

    def forget(self, curves: str, first_step: int) -> None:
        """Make TensorBoard drop what an earlier process wrote of these curves from `first_step` on."""
        if self._new_writer:
            self._writers[curves] = self._new_writer(curves, purge_step=first_step)

    def task(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Callable[..., None]]:
        """Gives `update(done, **numbers)`, which shows how far the task is and its latest numbers."""
        return (self._bar if self.console.is_terminal else self._lines)(title, total, done)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    @contextlib.contextmanager
    def _bar(self, title: str, total: int, done: int) -> Iterator[Callable[..., None]]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[numbers]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            bar = progress.add_task(title, total=total, completed=done, numbers="")

            def update(done: int, **numbers: float | None) -> None:
                progress.update(bar, completed=done, numbers=_format(numbers))

            yield update

    @contextlib.contextmanager
    def _lines(self, title: str, total: int, done: int) -> Iterator[Callable[..., None]]:
        shown_at = start = time.monotonic()
        latest = ""

        def update(done: int, **numbers: float | None) -> None:
            nonlocal shown_at, latest
            latest = f"{title}: {done}/{total} {_format(numbers)}"
            if time.monotonic() - shown_at >= LOG_SECONDS:
                shown_at = time.monotonic()
                self.say(latest)

        yield update
        self.say(f"{latest or title} ({time.monotonic() - start:.1f} s)")


def _format(numbers: dict[str, float | None]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in numbers.items() if value is not None)


def _summary_writer(folder: Path) -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("tensorboard: needs the package, pip install 'ralx[report]'") from error
    return lambda curves, **options: SummaryWriter(str(folder / curves), **options)
