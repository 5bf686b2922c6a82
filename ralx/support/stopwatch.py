"""Where the time of a step goes."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

from torch import nn


class Stopwatch:
    """Seconds by phase. A phase inside another counts for itself only.

    Nothing is synchronised: on CUDA a phase counts the time to launch its work.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._phases: list[str] = []
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._start(name)
        try:
            yield
        finally:
            self._stop()

    def watch(self, module: nn.Module, name: str) -> None:
        """Make every forward pass of `module` in eval mode a phase."""
        module.register_forward_pre_hook(lambda m, _: None if m.training else self._start(name))
        module.register_forward_hook(lambda m, _, __: None if m.training else self._stop())

    def reset(self) -> None:
        self.seconds.clear()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._phases:
            self.seconds[self._phases[-1]] += now - self._since
        self._since = now

    def _start(self, name: str) -> None:
        self._charge()
        self._phases.append(name)

    def _stop(self) -> None:
        self._charge()
        self._phases.pop()
