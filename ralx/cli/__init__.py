"""The commands: `ralx-train` and `ralx-experiment`."""


def main(arguments: list[str] | None = None) -> int:
    """Run `ralx-train`; returns its exit code."""
    from ralx.cli.train import main as train  # here, because ralx.cli.train is run as a module, too

    return train(arguments)
