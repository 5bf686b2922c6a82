"""The commands: `ralx-train` and `ralx-experiment`."""
