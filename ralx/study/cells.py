"""The pieces of work that studies are made of, and what each depends on.

A cell's key holds a hash of what it depends on and of nothing else, so that studies share what they have in
common: entropy sampling is the same whatever the policy's features are.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ralx.config import POLICY_METHODS, Config
from ralx.dependencies import Kind, depends_on
from ralx.version import __version__


class Content(NamedTuple):
    """Hashes of what a config names: the data set, and the files of weights and policy."""

    data: str
    weights: str | None
    policy: str | None


@dataclass(frozen=True)
class Cell:
    """One piece of work of one seed; θ0 and θ0′ have the config's first one."""

    kind: Kind
    config: Config
    seed: int
    method: str = ""  # of select and final
    budget: int = 0  # of final

    @property
    def name(self) -> str:
        """final-entropy-seed0-budget480"""
        parts = (self.kind, self.method, f"seed{self.seed}", f"budget{self.budget}" if self.budget else "")
        return "-".join(part for part in parts if part)

    @property
    def needs(self) -> list["Cell"]:
        """The cells that must be finished before."""
        first = self.config.seed
        theta0, theta0_prime = Cell("theta0", self.config, first), Cell("theta0_prime", self.config, first)
        learned = [Cell("learn", self.config, self.seed)] if self.method in POLICY_METHODS else []
        return {
            "theta0": [],
            "theta0_prime": [theta0],
            "full_supervision": [theta0],
            "learn": [theta0],
            "select": [theta0_prime, *learned],
            "final": [dataclasses.replace(self, kind="select", budget=0)],
        }[self.kind]

    def key(self, content: Content) -> str:
        """The cell's name in the store: its own name and a hash of what it depends on."""
        policy = content.policy if self.kind == "learn" or self.method in POLICY_METHODS else None
        settings = [__version__, self.depends_on(), content.data, content.weights, policy]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:12]}"

    def depends_on(self) -> dict[str, Any]:
        """The options that the cell depends on."""
        return depends_on(self.config, self.kind, self.method)


def with_needs(cells: Iterable[Cell]) -> list[Cell]:
    """The cells and all that they need, each once, what is needed first."""
    ordered: dict[Cell, None] = {}
    for cell in cells:
        for needed in with_needs(cell.needs):
            ordered.setdefault(needed)
        ordered.setdefault(cell)
    return list(ordered)
