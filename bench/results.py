"""What a benchmark run leaves: one Report, kept as JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

PUBLISHED, EAGER, COMPILED = "published loops", "eager torch", "torch.compile"
BANDWIDTH = "copy bandwidth"
SDK = "label-studio-sdk"


@dataclass(frozen=True)
class Work:
    """What a call does, to tell how fast it is: bytes that it has to read, or floating-point operations."""

    amount: float
    unit: str  # "B" or "flop"


@dataclass(frozen=True)
class Timing:
    """Of one alternative. `seconds_…` are scaled up to the whole work where a `share` was done; `ratio` is
    how many times as long as the op it took, the median over the rounds."""

    name: str
    limit: bool
    share: float
    rounds: int
    seconds_min: float
    seconds_median: float
    ratio: float
    extra_bytes: int | None


@dataclass(frozen=True)
class Result:
    """Of one case. `extra_bytes`: peak memory beyond input and output, None where nothing measures it.
    `not_run`: alternatives that couldn't be, and why."""

    op: str
    case: str
    threads: int
    work: Work
    rounds: int
    seconds_min: float
    seconds_median: float
    extra_bytes: int | None
    alternatives: list[Timing]
    not_run: dict[str, str]

    def alternative(self, name: str) -> Timing | None:
        return next((each for each in self.alternatives if each.name == name), None)

    @property
    def limits(self) -> list[Timing]:
        return [each for each in self.alternatives if each.limit]


@dataclass(frozen=True)
class Check:
    """One part of gpu_check.py. `told`: what it said of itself, and all that failed."""

    name: str
    passed: bool
    seconds: float
    told: list[str]


@dataclass(frozen=True)
class Report:
    machine: dict[str, str | int]
    small: bool
    results: list[Result]
    checks: list[Check] = field(default_factory=list)

    @property
    def gpu(self) -> bool:
        return "GPU" in self.machine


def save(report: Report, path: Path) -> None:
    path.write_text(json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> Report:
    kept = json.loads(path.read_text(encoding="utf-8"))
    results = [_result(each) for each in kept["results"]]
    checks = [Check(**each) for each in kept.get("checks", [])]
    return Report(kept["machine"], kept["small"], results, checks)


def _result(kept: dict[str, Any]) -> Result:
    alternatives = [Timing(**each) for each in kept["alternatives"]]
    return Result(**kept | {"work": Work(**kept["work"]), "alternatives": alternatives})
