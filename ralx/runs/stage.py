"""What a stage of a run is: a pure function from its own fields to an artifact.

A stage is a frozen dataclass. Its fields are all that it is given: options, images, and the stages whose
artifacts it takes. Its key is the hash of just that, so that an artifact is found again wherever a stage is
given the same, and nowhere else.
"""

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch

from ralx.datasets import SegmentationDataset
from ralx.runs.config import DataConfig
from ralx.support.checkpoint import Checkpoint
from ralx.support.monitor import Monitor


class Artifact(NamedTuple):
    """What a stage leaves: tensors by name, or dicts of such, and JSON values."""

    tensors: dict[str, Any]
    found: dict[str, Any]


@dataclass(frozen=True)
class Images:
    """A split of a data set, by its name in `ralx.datasets.Splits`."""

    data: DataConfig
    split: str
    seed: int  # that the splits are drawn with, where that is done


class Place(Protocol):
    """Where a stage runs: what it works with, none of which its result may depend on."""

    device: torch.device
    monitor: Monitor
    # Of a policy that is being learned: all lines of steps.jsonl so far.
    show_steps: Callable[["Stage", list[dict[str, Any]]], None]

    def images(self, images: Images) -> SegmentationDataset:
        """The data set, with batches on `device`."""

    def artifact(self, stage: "Stage") -> Artifact:
        """Of a stage that is finished."""

    def checkpoint(self, stage: "Stage") -> Checkpoint: ...


class Stage(ABC):
    is_pretraining: ClassVar[bool] = False  # its artifact may be shared with other runs

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the stage does, say "final entropy"."""

    @property
    def name(self) -> str:
        """As people read it, say final-entropy-seed0-budget480; not unique."""
        numbers = (f"{each}{getattr(self, each)}" for each in ("seed", "budget") if hasattr(self, each))
        return "-".join([*self.kind.split(), *numbers])

    @abstractmethod
    def run(self, place: Place) -> Artifact: ...

    @property
    def needs(self) -> list["Stage"]:
        """The stages that must be finished before."""
        return [value for value in _values(self) if isinstance(value, Stage)]


def _values(owner: Any) -> Iterator[Any]:
    """The values of a dataclass's fields, and of the dataclasses among them that are no stages."""
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        yield value
        if dataclasses.is_dataclass(value) and not isinstance(value, Stage):
            yield from _values(value)


def in_order(stages: Iterable[Stage]) -> list[Stage]:
    """The stages and all that they need, each once, what is needed first."""
    ordered: dict[Stage, None] = {}

    def add(stage: Stage) -> None:
        if stage not in ordered:
            for needed in stage.needs:
                add(needed)
            ordered[stage] = None

    for stage in stages:
        add(stage)
    return list(ordered)


def all_needs(plan: Iterable[Stage]) -> dict[Stage, set[Stage]]:
    """Of every stage of a plan, all stages that it needs, directly or not: a final training takes θ0′ through
    its selection."""
    found: dict[Stage, set[Stage]] = {}
    for stage in plan:
        found[stage] = {*stage.needs}.union(*(found.get(needed, ()) for needed in stage.needs))
    return found


def key_of(
    stage: Stage,
    *,
    numerics: dict[str, Any],
    key: Callable[[Stage], str],
    content: Callable[[Images | Path], str],
) -> str:
    """The stage's name and a hash of all that it is given.

    Args:
        numerics: what the last bits of every result depend on.
        key: of another stage.
        content: a hash of what images or a file hold.
    """

    def described(value: Any) -> Any:
        if isinstance(value, Stage):
            return key(value)
        if isinstance(value, Images | Path):
            return content(value)
        if dataclasses.is_dataclass(value):
            return fields(value)
        if isinstance(value, tuple):
            return [described(each) for each in value]
        return value

    def fields(owner: Any) -> dict[str, Any]:
        return {field.name: described(getattr(owner, field.name)) for field in dataclasses.fields(owner)}

    given = json.dumps([type(stage).__name__, numerics, fields(stage)], sort_keys=True)
    return f"{stage.name}-{hashlib.sha256(given.encode()).hexdigest()[:16]}"
