"""The commands: `ralx-train` and `ralx-experiment`."""

from ralx.cli.train import main

__all__ = ["main"]
