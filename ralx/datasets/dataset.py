"""A labelled data set in memory: decoded once as uint8 where it fits, else decoded again for every batch."""

import copy
import hashlib
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ralx.datasets.classes import palette
from ralx.datasets.errors import DataError
from ralx.metrics import class_counts
from ralx.support.devices import to_device

Size = tuple[int, int]
BYTES_PER_PIXEL = 4  # three of the image, one of the label
_COUNTED_AT_ONCE = 16  # images


class Source(Protocol):
    """Where pixels come from: files or a generator. Reading one index twice gives the same bytes.

    A subclass has `read_image` and `read_label` from here if it makes both at once.
    """

    names: tuple[str, ...]
    image_size: Size

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3] and label uint8 [H, W] in train ids. DataError if the files are bad."""

    def read_image(self, index: int) -> np.ndarray:
        return self.read(index)[0]

    def read_label(self, index: int) -> np.ndarray:
        return self.read(index)[1]

    def check(self, index: int) -> None:
        """Raise DataError for what can be found without decoding the image."""

    def fingerprint(self) -> str:
        """A hash that changes when the pixels do, the same on every machine."""


def free_memory(device: torch.device) -> float:
    """Bytes that are free on `device`; on the CPU what the system, or this container, can give."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_system_memory(), _container_memory())


def _system_memory() -> float:
    try:
        with open("/proc/meminfo") as meminfo:
            return next(int(line.split()[1]) * 1024 for line in meminfo if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _container_memory() -> float:
    """What is left below the control group's limit; a container's processes are killed above it."""
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{kind}").read_text() for kind in ("max", "current"))
        return max(int(limit) - int(used), 0)
    except (OSError, ValueError):  # no control group, or "max": no limit
        return math.inf


_decoding = threading.local()  # .here is true on a thread that decodes


def _threads() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cpus)


def in_threads(function: Callable, items: Iterable) -> list:
    """`[function(item) for item in items]`, by this thread and others; the first item's error is raised.

    The others live for this call only. A pool that is kept has no threads in a forked process, which would
    wait for it, and none that are free where a source reads another data set. For that a thread that decodes
    gets no others. They are no ThreadPoolExecutor's, which works off its whole queue before a program ends.
    """
    items = list(items)
    results, errors = [None] * len(items), dict[int, BaseException]()
    todo, main = iter(range(len(items))), threading.main_thread()

    def work(goes_on: Callable[[], bool]) -> None:
        index, _decoding.here = -1, True
        try:
            for index in todo:
                results[index] = function(items[index])
                if errors or not goes_on():
                    return
        except BaseException as error:
            errors[index] = error

    decodes = getattr(_decoding, "here", False)
    count = 0 if decodes or not main.is_alive() else min(_threads(), len(items)) - 1
    # They leave work to this thread where the main thread has ended: the program waits for them alone.
    others = [threading.Thread(target=work, args=(main.is_alive,), name="ralx-decode") for _ in range(count)]
    try:
        for other in others:
            other.start()
        work(lambda: True)
        for error in list(errors.values()):
            if not isinstance(error, Exception):  # an interrupt must not wait for files that nobody will use
                raise error
        for other in others:
            other.join()
    except BaseException as error:
        errors[-1] = error
        raise
    finally:
        _decoding.here = decodes
    if errors:
        raise errors[min(errors)]
    return results


class _Storage:
    """The pixels of one source, shared by every subset: on the device, in host memory, or not kept."""

    def __init__(self, source: Source, device: torch.device, memory_limit: int | None):
        self.source, self.device, self.memory_limit = source, device, memory_limit
        self.images: Tensor | None = None  # uint8 [N, 3, H, W]
        self.labels: Tensor | None = None  # uint8 [N, H, W]
        self.loaded = False
        self._on_device: weakref.WeakValueDictionary[torch.device, _Storage] = weakref.WeakValueDictionary()
        self._share()

    def _share(self) -> None:
        self._lock = threading.Lock()
        self._on_device[self.device] = self
        _storages.add(self)

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, or another process: with the pixels, that torch's queues share, but its own lock."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_on_device")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._on_device = weakref.WeakValueDictionary()
        self._share()

    def fits(self, device: torch.device) -> bool:
        limit = free_memory(device) // 2 if self.memory_limit is None else self.memory_limit
        return len(self.source.names) * math.prod(self.source.image_size) * BYTES_PER_PIXEL <= limit

    def load(self) -> None:
        """Decode everything if it fits, else only read every label once, so that bad files show up now."""
        with self._lock:
            if self.loaded:
                return
            self.check()
            if self.fits(torch.device("cpu")):
                self._keep(*self._decoded(range(len(self.source.names))))
            else:
                in_threads(self._check_label, range(len(self.source.names)))
            self.loaded = True

    def check(self) -> None:
        """DataError for the first image, by name, whose files are missing, of a wrong size or cut off."""
        in_threads(self.source.check, range(len(self.source.names)))

    def _check_label(self, index: int) -> None:
        self.source.read_label(index)

    def _decoded(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        size = self.source.image_size
        images, labels = np.empty((len(rows), 3, *size), np.uint8), np.empty((len(rows), *size), np.uint8)

        def decode(place: int) -> None:
            image, labels[place] = self.source.read(rows[place])
            images[place] = image.transpose(2, 0, 1)

        in_threads(decode, range(len(rows)))
        return torch.from_numpy(images), torch.from_numpy(labels)

    def _keep(self, images: Tensor, labels: Tensor) -> None:
        if self.device.type != "cpu" and self.fits(self.device):
            images, labels = images.to(self.device), labels.to(self.device)
        self.images, self.labels = images, labels

    def to(self, device: torch.device) -> "_Storage":
        """The same pixels for another device; subsets that move separately still share them."""
        moved = self._on_device.get(device)
        if moved is None:
            moved = _Storage(self.source, device, self.memory_limit)
            moved._on_device = self._on_device
            self._on_device[device] = moved
            if self.images is not None and self.labels is not None:
                moved._keep(self.images.cpu(), self.labels.cpu())
            moved.loaded = self.loaded
        return moved

    def images_of(self, rows: Tensor) -> Tensor:
        if self.images is not None:
            return self._rows_of(self.images, rows)
        read = in_threads(self.source.read_image, rows.tolist())
        return self._stacked([image.transpose(2, 0, 1) for image in read], 3)

    def labels_of(self, rows: Tensor) -> Tensor:
        if self.labels is not None:
            return self._rows_of(self.labels, rows)
        return self._stacked(in_threads(self.source.read_label, rows.tolist()))

    def pairs_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if self.images is not None:
            return self.images_of(rows), self.labels_of(rows)
        images, labels = self._decoded(rows.tolist())
        return to_device(images, self.device), to_device(labels, self.device)

    def _rows_of(self, kept: Tensor, rows: Tensor) -> Tensor:
        if kept.device.type == "cpu":
            # By NumPy: torch would use OpenMP's threads, which a forked process doesn't have and waits for.
            return to_device(torch.from_numpy(kept.numpy().take(rows.numpy(), axis=0)), self.device)
        return to_device(kept[to_device(rows, kept.device)], self.device)

    def _stacked(self, arrays: list[np.ndarray], *channels: int) -> Tensor:
        stacked = np.array(arrays, np.uint8).reshape(len(arrays), *channels, *self.source.image_size)
        return to_device(torch.from_numpy(stacked), self.device)


_storages: weakref.WeakSet[_Storage] = weakref.WeakSet()


def _unlock() -> None:
    """In a forked process, a lock may be held by a thread that only its parent has."""
    for storage in _storages:
        storage._lock = threading.Lock()


os.register_at_fork(after_in_child=_unlock)


class SegmentationDataset:
    """Images with their labels, in the order of their sorted names.

    Args:
        source: where the pixels come from.
        name: the data set's name, for messages and reports.
        classes: C class names in the order of their ids; label value `ignore_index` is void.
        memory_limit: bytes that decoded pixels may take; None is half of what is free when they are decoded.
        sizes: int64 [N, 2], height and width of each image of the source, which has it at the top left of
            a canvas of its `image_size`, with labels `ignore_index` beside it; None: images fill it.
        colours: uint8 [C, 3], a colour per class; None: those that ralx knows for the classes.

    Everything is decoded at the first use (or by `load()`), so that a bad file is found before anything is
    learned from the others.
    """

    def __init__(
        self,
        source: Source,
        *,
        name: str,
        classes: tuple[str, ...],
        ignore_index: int,
        memory_limit: int | None = None,
        sizes: Tensor | None = None,
        colours: np.ndarray | None = None,
    ):
        if not source.names:
            raise DataError(f"{name}: expected at least one image, found none")
        if list(source.names) != sorted(set(source.names)):
            raise DataError(f"{name}: expected sorted image names without duplicates")
        if wrong := [each for each in source.names if each.encode(errors="ignore").decode() != each]:
            raise DataError(f"{name}: expected image names in UTF-8, found {wrong[0]!a}")
        self.name, self.classes, self.ignore_index = name, classes, ignore_index
        self.names, self.image_size = source.names, source.image_size
        self._storage = _Storage(source, torch.device("cpu"), memory_limit)
        self._rows = torch.arange(len(source.names), device="cpu")
        self._colours = colours
        whole = torch.tensor([source.image_size], device="cpu").expand(len(source.names), 2)
        self._sizes = whole if sizes is None else sizes

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def device(self) -> torch.device:
        """Where batches are returned."""
        return self._storage.device

    @property
    def palette(self) -> np.ndarray:
        """uint8 [C, 3], a colour per class."""
        return palette(self.classes) if self._colours is None else self._colours

    @property
    def sizes(self) -> Tensor:
        """int64 [N, 2], height and width of each image; batches have it at the top left of `image_size`."""
        return self._sizes[self._rows]

    @property
    def resident(self) -> bool:
        """Whether the decoded pixels are kept (on the device or in host memory)."""
        return self._storage.images is not None

    def load(self) -> "SegmentationDataset":
        """Decode now what fits in memory and check the rest. DataError names the first bad file."""
        self._storage.load()
        return self

    @property
    def source(self) -> Source:
        """Where the pixels come from; its images are those of every subset together."""
        return self._storage.source

    def check(self) -> "SegmentationDataset":
        """Check every file as far as that goes without decoding it. DataError names the first bad one."""
        self._storage.check()
        return self

    def fingerprint(self) -> str:
        """A hash of the names, the classes and what the files hold, to know a cached result's data again."""
        parts = (self.names, self.classes, self.ignore_index, self.source.fingerprint())
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images uint8 [n, 3, H, W] and labels uint8 [n, H, W] of images `index` [n], on the device."""
        return self._storage.pairs_of(self._select(index))

    def images(self, index: Tensor) -> Tensor:
        """Images uint8 [n, 3, H, W], on the device."""
        return self._storage.images_of(self._select(index))

    def labels(self, index: Tensor) -> Tensor:
        """Labels uint8 [n, H, W], on the device."""
        return self._storage.labels_of(self._select(index))

    def class_counts(self) -> Tensor:
        """Pixels of each class in each image, int64 [N, C], on the CPU; void is left out.

        ValueError where a label is neither one of the classes nor void.
        """
        batches = torch.arange(len(self), device="cpu").split(_COUNTED_AT_ONCE)
        return torch.cat(
            [class_counts(self.labels(i), self.num_classes, self.ignore_index).cpu() for i in batches]
        )

    def _select(self, index: Tensor) -> Tensor:
        self._storage.load()
        index = torch.as_tensor(index, dtype=torch.int64, device="cpu")
        if index.ndim != 1 or (len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self)):
            raise ValueError(f"index: expected image indices [n] in 0..{len(self) - 1}, got {index.tolist()}")
        return self._rows[index]

    def subset(self, chosen: Iterable[str] | Tensor, name: str | None = None) -> "SegmentationDataset":
        """The chosen images (by name, or by index), in the order of their names; pixels are shared.

        DataError for a name that is not here or for an empty choice.
        """
        if isinstance(chosen, Tensor):
            chosen = [self.names[i] for i in chosen.tolist()]
        name = self.name if name is None else name
        row_of = dict(zip(self.names, self._rows.tolist(), strict=True))
        names = sorted(set(chosen))
        if unknown := [each for each in names if each not in row_of]:
            raise DataError(f"{name}: image {unknown[0]} is listed, but is none of {self.name}")
        if not names:
            raise DataError(f"{name}: expected at least one image, found none")
        part = copy.copy(self)
        part.name, part.names = name, tuple(names)
        part._rows = torch.tensor([row_of[each] for each in names], device="cpu")
        return part

    def to(self, device: torch.device | str) -> "SegmentationDataset":
        """The same images with batches on `device`, kept there if they fit."""
        moved = copy.copy(self)
        device = torch.device(device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        moved._storage = self._storage.to(device)
        return moved
