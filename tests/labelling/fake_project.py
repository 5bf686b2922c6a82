"""A project in memory, with the methods that the page's server uses.

Its photographs are generated scenes, so the truth is known. With a file to keep its state in, a server that
was killed goes on where it was.
"""

import contextlib
import functools
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ralx.datasets.classes import CAMVID_CLASSES, CAMVID_PALETTE, Colour
from ralx.datasets.errors import DataError
from ralx.datasets.scenes.synthetic import render_scene
from ralx.datasets.scenes.worlds import WORLDS

UNLABELLED = 255


class Box(NamedTuple):
    top: int
    left: int
    height: int
    width: int


class AskedRegion(NamedTuple):
    id: str
    round: int
    image: str
    sha256: str
    box: Box
    image_size: tuple[int, int]
    score: float | None
    kept: bool
    state: str


@dataclass(frozen=True)
class ClassList:
    names: tuple[str, ...]
    colours: tuple[Colour, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class State:
    """What a killed server must find again."""

    round: int = 0
    regions: dict[str, AskedRegion] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    leases: dict[str, tuple[str, float]] = field(default_factory=dict)  # who, until when
    received: list[tuple[str, str, float]] = field(default_factory=list)  # region, annotator, seconds


@functools.cache
def _scene(image: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return render_scene(size, world=next(iter(WORLDS)), seed=sum(map(ord, image)))


class FakeProject:
    def __init__(
        self,
        *,
        regions: int = 6,
        region_size: tuple[int, int] = (48, 64),
        image_size: tuple[int, int] = (144, 192),
        state_file: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = "street scenes"
        self.classes = ClassList(CAMVID_CLASSES, tuple(CAMVID_PALETTE.values()))
        self.has_guess = True
        self.changed_images: set[str] = set()
        self._batch, self._region_size, self._image_size = regions, region_size, image_size
        self._file, self._clock, self._lock = state_file, clock, threading.RLock()
        self._state = State()
        if not state_file or not state_file.exists():
            self.ask()

    @property
    def state(self) -> State:
        """With a file, what is in it now: another process may have asked for more."""
        if self._file and self._file.exists():
            self._state = pickle.loads(self._file.read_bytes())
        return self._state

    def ask(self) -> None:
        """A new round: the middle of each of so many new images."""
        height, width = self._region_size
        top, left = (self._image_size[0] - height) // 2, (self._image_size[1] - width) // 2
        with self._change() as state:
            state.round += 1
            for number in range(self._batch):
                name, image = f"r{state.round}-{number}", f"drive {state.round}/photo_{number}.jpg"
                self._scene(image)  # drawn now: a page that is timed does not wait for it
                state.regions[name] = AskedRegion(
                    name,
                    state.round,
                    image,
                    sha256="",
                    box=Box(top, left, height, width),
                    image_size=self._image_size,
                    score=1 - number / 100,
                    kept=number == 0,
                    state="asked",
                )

    def next_region(self, annotator: str, lease_seconds: float = 600) -> AskedRegion | None:
        with self._change() as state:
            asked = [region for region in state.regions.values() if region.state == "asked"]
            own = [region for region in asked if self._holder(state, region.id) == annotator]
            free = [region for region in asked if self._holder(state, region.id) is None]
            for region in own + free:
                state.leases[region.id] = annotator, self._clock() + lease_seconds
                return region
            return None

    def asked_region(self, id: str) -> AskedRegion:
        regions = self.state.regions
        if id not in regions:
            raise DataError(f"region: expected one that was asked, found {id!r}")
        return regions[id]

    def renew(self, id: str, annotator: str, lease_seconds: float) -> bool:
        with self._change() as state:
            if self._holder(state, id) not in (None, annotator):
                return False
            state.leases[id] = annotator, self._clock() + lease_seconds
            return True

    def release(self, id: str, annotator: str) -> None:
        with self._change() as state:
            if self._holder(state, id) == annotator:
                del state.leases[id]

    def receive(
        self,
        id: str,
        label: np.ndarray,
        annotator: str,
        seconds: float,
        source: str = "page",
        unsure: bool = False,
    ) -> None:
        with self._change() as state:
            is_painted = bool((label != UNLABELLED).any())
            if is_painted:
                state.labels[id] = label.copy()
            else:
                state.labels.pop(id, None)
            told = "labelled" if is_painted else "unsure" if unsure else "asked"
            state.regions[id] = state.regions[id]._replace(state=told)
            state.received.append((id, annotator, seconds))
            state.leases.pop(id, None)

    def label_of(self, id: str) -> np.ndarray | None:
        return self.state.labels.get(id)

    def progress(self) -> dict[str, float]:
        state = self.state
        states = [region.state for region in state.regions.values() if region.round == state.round]
        minutes = sum(
            seconds for name, _, seconds in state.received if state.regions[name].round == state.round
        )
        return {
            "round": state.round,
            "asked": len(states),
            "labelled": states.count("labelled"),
            "unsure": states.count("unsure"),
            "left": states.count("asked"),
            "minutes": minutes / 60,
        }

    def pixels(self, image: str) -> np.ndarray:
        if image in self.changed_images:
            raise DataError(f"{image}: expected the photograph that was added, found other bytes")
        return self._scene(image)[0]

    def prelabel(self, id: str) -> np.ndarray | None:
        """The truth, wrong in its upper left quarter and blind at its right edge."""
        if not self.has_guess:
            return None
        guess = self.truth(id)
        height, width = guess.shape
        guess[: height // 2, : width // 3] = 1
        guess[:, -width // 8 :] = UNLABELLED
        return guess

    def truth(self, id: str) -> np.ndarray:
        top, left, height, width = self.asked_region(id).box
        label = self._scene(self.asked_region(id).image)[1][top : top + height, left : left + width].copy()
        label[label == 11] = UNLABELLED  # void
        return label

    def _scene(self, image: str) -> tuple[np.ndarray, np.ndarray]:
        return _scene(image, self._image_size)

    def _holder(self, state: State, id: str) -> str | None:
        annotator, until = state.leases.get(id, (None, 0.0))
        return annotator if until > self._clock() else None

    @contextlib.contextmanager
    def _change(self) -> Iterator[State]:
        with self._lock:
            state = self.state
            yield state
            if self._file:
                written = self._file.with_suffix(".new")
                written.write_bytes(pickle.dumps(state))
                written.replace(self._file)
