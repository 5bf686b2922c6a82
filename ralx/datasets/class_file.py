"""The classes of somebody's own images: a file of names, colours, and what is nothing in their masks."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ralx.datasets.classes import Colour
from ralx.datasets.errors import DataError

UNLABELLED = 255  # in masks, so that a class id is at most 254
MOST_CLASSES = UNLABELLED

# Okabe's and Ito's colours, which colour-blind people tell apart, then Paul Tol's muted ones.
_TOLD_APART = (
    "E69F00 56B4E9 009E73 F0E442 0072B2 D55E00 CC79A7 "
    "332288 882255 117733 88CCEE 44AA99 999933 DDCC77 CC6677 AA4499"
)
_STEPS = (0, 42, 85, 127, 170, 212, 255)  # of a colour cube, for the classes after them
_STRIDE = 100  # through the cube's 343 colours: it visits all of them, and neighbours differ


@dataclass(frozen=True)
class ClassList:
    """C classes in the order of their ids, and what stands for nothing in masks beside `UNLABELLED`.

    Args:
        names: all different.
        colours: all different; where the class file gives none, of a default palette whose first seven
            colours colour-blind people tell apart.
        void_ids: numbers in masks that are no class and mean unlabelled.
        void_colours: colours in masks that mean unlabelled.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    void_ids: frozenset[int] = frozenset()
    void_colours: frozenset[Colour] = frozenset()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def palette(self) -> np.ndarray:
        """The colours, uint8 [C, 3]."""
        return np.array(self.colours, np.uint8)

    def to_json(self) -> dict[str, Any]:
        """What a class file in JSON holds."""
        classes = [
            {"name": name, "colour": list(colour)}
            for name, colour in zip(self.names, self.colours, strict=True)
        ]
        return {"classes": classes, "void": [*sorted(self.void_ids), *map(list, sorted(self.void_colours))]}


def read_classes(path: Path) -> ClassList:
    """The classes of a file: names, one a line, or JSON.

    In JSON, `{"classes": [{"name": "sky", "colour": [128, 128, 128]}, …], "void": [11, [0, 0, 0]]}`: class c
    is the c-th, its colour may be left out, `void` lists ids or colours of masks that are nothing. DataError:
    unreadable, fewer than 2 or more than 255 classes, a name or a colour twice, a void that is a class.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a file of class names in UTF-8: {error}") from error
    if text.lstrip().startswith("{"):
        return _of_json(path, text)
    names = [name for line in text.splitlines() if (name := line.strip())]
    return _checked(path, names, {}, frozenset(), frozenset())


def _of_json(path: Path, text: str) -> ClassList:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected class names a line, or JSON: {error}") from error
    _refuse_other_keys(path, value, ("classes", "void"))
    entries, void = value.get("classes"), value.get("void", [])
    if not isinstance(entries, list) or not isinstance(void, list):
        raise DataError(f'{path}: expected a list of "classes" and perhaps one of "void", found others')
    names, given = [], {}
    for klass, entry in enumerate(entries):
        if not isinstance(entry, dict) or "name" not in entry:
            raise DataError(f'{path}: expected classes {{"name": …, "colour": …}}, found {entry!r}')
        _refuse_other_keys(path, entry, ("name", "colour"))
        names.append(entry["name"])
        if "colour" in entry:
            given[klass] = _colour(path, entry["colour"])
    ids = [each for each in void if not isinstance(each, list)]
    for each in ids:
        if type(each) is not int or not 0 <= each <= UNLABELLED:
            raise DataError(f'{path}: expected "void" to list ids 0..{UNLABELLED} or colours, found {each!r}')
    colours = frozenset(_colour(path, each) for each in void if isinstance(each, list))
    return _checked(path, names, given, frozenset(ids), colours)


def _refuse_other_keys(path: Path, value: dict[str, Any], known: Iterable[str]) -> None:
    if others := sorted(value.keys() - set(known)):
        raise DataError(f"{path}: expected only {' and '.join(known)}, found {others[0]!r} too")


def _colour(path: Path, value: Any) -> Colour:
    if (
        isinstance(value, list)
        and len(value) == 3
        and all(type(each) is int and 0 <= each <= 255 for each in value)
    ):
        return value[0], value[1], value[2]
    raise DataError(f"{path}: expected a colour of three numbers 0..255, found {value!r}")


def _checked(
    path: Path,
    names: list[Any],
    given: dict[int, Colour],
    void_ids: frozenset[int],
    void_colours: frozenset[Colour],
) -> ClassList:
    """The class list; `given` are the colours of the file by class."""
    if not 2 <= len(names) <= MOST_CLASSES:
        raise DataError(f"{path}: expected 2..{MOST_CLASSES} classes, found {len(names)}")
    for name in names:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise DataError(f"{path}: expected class names of letters that can be seen, found {name!r}")
    names = [name.strip() for name in names]
    if twice := _first_twice(names):
        raise DataError(f"{path}: expected different class names, found {twice!r} twice")
    if twice := _first_twice(given.values()):
        raise DataError(f"{path}: expected a colour for each class alone, found {twice} twice")
    for klass, name in enumerate(names):
        for code in {klass, given.get(klass)} & {*void_ids, *void_colours}:
            raise DataError(
                f'{path}: expected "void" to list what is no class, found {code}, which is {name!r}'
            )
    free = _default_colours(void_colours.union(given.values()))
    colours = tuple(given[klass] if klass in given else next(free) for klass in range(len(names)))
    return ClassList(tuple(names), colours, void_ids, void_colours)


def _first_twice(values: Iterable[Any]) -> Any:
    seen = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _default_colours(taken: Iterable[Colour]) -> Iterator[Colour]:
    """Colours that are neither taken nor grey: a grey in a mask is an id."""
    count = len(_STEPS)
    cube = [(red, green, blue) for red in _STEPS for green in _STEPS for blue in _STEPS]
    scattered = (cube[place * _STRIDE % count**3] for place in range(count**3))
    seen = set(taken)
    for red, green, blue in (*map(bytes.fromhex, _TOLD_APART.split()), *scattered):
        if (red, green, blue) not in seen and not red == green == blue:
            seen.add((red, green, blue))
            yield red, green, blue
