"""Commands that run while people wait on the page, and what they print."""

import collections
import os
import subprocess
import threading
from collections.abc import Sequence


class Background:
    """Commands that run one after the other; the first that fails ends them.

    Args:
        commands: each an argument list; no shell reads it.
    """

    def __init__(self, *commands: Sequence[str]) -> None:
        self.returncode: int | None = None
        """None while a command runs; then the exit code of the last one that ran."""
        self._lines: collections.deque[str] = collections.deque(maxlen=200)
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._is_stopped = False
        threading.Thread(target=self._run, args=(commands,), daemon=True).start()

    @property
    def lines(self) -> list[str]:
        """The last lines that the commands printed."""
        return list(self._lines)

    def stop(self) -> None:
        """End the command that runs; no other follows."""
        with self._lock:
            self._is_stopped = True
            if self._process:
                self._process.terminate()

    def _run(self, commands: Sequence[Sequence[str]]) -> None:
        code = 1
        try:
            for command in commands:
                code = self._run_one(command)
                if code:
                    break
        except OSError as error:
            self._lines.append(str(error))
        finally:
            self.returncode = code

    def _run_one(self, command: Sequence[str]) -> int:
        with self._lock:
            if self._is_stopped:
                return 1
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                text=True,  # a progress bar's \r ends a line as well
                encoding="utf-8",
                errors="replace",
            )
        with self._process as process:
            assert process.stdout is not None
            self._lines.extend(line.rstrip() for line in process.stdout if line.strip())
        return process.returncode
