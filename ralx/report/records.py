"""The records of a run: what each file of results holds, read and checked. What is malformed is refused."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ralx.support.files import read_bytes

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run directory holds; a part whose file is missing is empty."""

    config: Record
    steps: list[Record]
    results: list[Record]
    references: list[Record]
    selections: list[Record]


MeasuredOn = Literal["test", "validation"]  # the images that a study's mIoU is of; validation: D_R


class StudyResults(NamedTuple):
    """What the finished stages of a study found: a run whose methods are the lines of the study."""

    run: Run
    measured_on: MeasuredOn
    selected: list[Record]  # what the regions selected at each budget hold; no mIoU is known of them
    work: list[Record]  # of every stage: what it was, its seconds, and the machine
    classes: tuple[str, ...]
    known_pixels: int  # labelled before the first region: D_S, D_T and D_R
    pool_pixels: int  # of D_V


# --- checks -----------------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    # An integer of 400 digits is no float, and sums and axes of much less overflow. ralx's own are float32's.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e100


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and -1e-6 <= value <= 1 + 1e-6


def _is_region(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    name, *place = value
    return isinstance(name, str) and all(map(_is_count, place))


def _list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _map_to(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _or_null(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


# What a field must be, in words and as a test.
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("seed", "episode", "step", "budget"), ("an integer of at least 0", _is_count)),
    **dict.fromkeys(("epsilon", "reward", "selected_entropy"), ("a finite number", _is_number)),
    **dict.fromkeys(("td_loss", "q_mean"), ("a finite number or null", _or_null(_is_number))),
    **dict.fromkeys(
        ("budgets", "mistaken_pixels"), ("a list of integers of at least 0", _list_of(_is_count))
    ),
    "method": ("a string", lambda value: isinstance(value, str)),
    "miou": ("a number in 0..1", _is_fraction),
    "iou": ("a map from class to a number in 0..1 or null", _map_to(_or_null(_is_fraction))),
    "selected_class_fraction": ("a list of numbers in 0..1", _list_of(_is_fraction)),
    "seconds": (
        "a map from phase to a number of at least 0",
        _map_to(lambda item: _is_number(item) and item >= 0),
    ),
    "region_size": (
        "two positive integers",
        lambda value: _list_of(_is_count)(value) and len(value) == 2 and all(value),
    ),
    "regions": ('a list of ["image name", row, column]', _list_of(_is_region)),
}

_STEP = ("seed", "episode", "step", "epsilon", "reward", "miou", "td_loss", "q_mean", "seconds")
_REFERENCE = ("method", "seed", "miou", "iou")
_RESULT = ("method", "budget", "seed", "miou", "iou", "selected_class_fraction", "selected_entropy")
_SELECTION = ("method", "seed", "region_size", "budgets", "regions")


def _check(record: Any, fields: Sequence[str], where: str) -> Record:
    """`record`, if it is an object whose `fields` are as they must be."""
    if not isinstance(record, dict):
        raise ValueError(f"{where}: must be a JSON object, got {_short(record)}")
    for name in fields:
        rule, holds = _RULES[name]
        if name not in record:
            raise ValueError(f"{where}: {name} is missing")
        if not holds(record[name]):
            raise ValueError(f"{where}: {name} must be {rule}, got {_short(record[name])}")
    return record


def _check_classes(record: Record, classes: Sequence[str], where: str) -> None:
    if list(record["iou"]) != classes:
        raise ValueError(
            f"{where}: iou must have the classes of record 1, {classes}, got {list(record['iou'])}"
        )
    fractions = record.get("selected_class_fraction", classes)
    if len(fractions) != len(classes):
        raise ValueError(
            f"{where}: selected_class_fraction must hold one number for each of the {len(classes)} classes, "
            f"got {len(fractions)}"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# --- reading ----------------------------------------------------------------------------------------------


def read_run(run_dir: Path) -> Run:
    """Reads the run's JSON files. A missing file leaves its part empty; a malformed one raises ValueError."""
    if not run_dir.is_dir():
        raise ValueError(f"run_dir must be the folder of a run, got {run_dir}, which is not a folder")
    config = run_dir / "config.json"
    return Run(
        config=_check(_read_json(config), (), str(config)) if config.exists() else {},
        steps=_read_steps(run_dir / "steps.jsonl"),
        results=_read_records(run_dir / "results.json", _RESULT, ("method", "budget", "seed")),
        references=_read_records(run_dir / "reference.json", _REFERENCE, ("method", "seed")),
        selections=[_read_selection(path) for path in sorted((run_dir / "selections").glob("[!.]*.json"))],
    )


def check_regions(run: Run, sizes: Mapping[str, tuple[int, int]]) -> None:
    """ValueError where a chosen region is not inside one of the images, whose (H, W) `sizes` has by name."""
    may_be_cut = run.config.get("edge") == "keep"  # at the border
    for selection in run.selections:
        height, width = selection["region_size"]
        where = f"selections/{selection['method']}-seed{selection['seed']}.json"
        for number, (name, row, column) in enumerate(selection["regions"], 1):
            if name not in sizes:
                raise ValueError(
                    f"{where}, region {number}: must be in one of D_V's {len(sizes)} images, got {name!r}"
                )
            image_size = sizes[name]
            least = (1, 1) if may_be_cut else (height, width)  # what the image has of the region
            if row * height + least[0] > image_size[0] or column * width + least[1] > image_size[1]:
                raise ValueError(
                    f"{where}, region {number}: must lie inside the image of {image_size[0]}×{image_size[1]} "
                    f"pixels with regions of {height}×{width}, got row {row}, column {column}"
                )


def _parse(text: str, path: Path, first_line: int = 1) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise ValueError(f"{path}, line {line}, column {error.colno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # too many digits, or nested too deeply
        raise ValueError(f"{path}, line {first_line}: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8 text, got other bytes at offset {error.start}") from error


def _read_json(path: Path) -> Any:
    return _parse(_read_text(path), path)


def _read_steps(path: Path) -> list[Record]:
    if not path.exists():
        return []
    *lines, unfinished = _read_text(path).split("\n")
    with suppress(ValueError, RecursionError):  # a kill cut the line short: no step of the run
        json.loads(unfinished)
        lines.append(unfinished)
    return [
        _check(_parse(line, path, number), _STEP, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
    ]


def _read_records(path: Path, fields: Sequence[str], keys: Sequence[str]) -> list[Record]:
    """The records of a file, which differ by their `keys`."""
    if not path.exists():
        return []
    records = _read_json(path)
    if not isinstance(records, list):
        raise ValueError(f"{path}: must be a JSON list of records, got {_short(records)}")
    seen: dict[str, int] = {}
    for number, record in enumerate(records, 1):
        where = f"{path}, record {number}"
        _check(record, fields, where)
        key = ", ".join(f"{name} {record[name]}" for name in keys)
        if seen.setdefault(key, number) != number:  # it would count double in the mean
            raise ValueError(f"{where}: {key} is already in record {seen[key]}")
        _check_classes(record, list(records[0]["iou"]), where)
    return records


def _read_selection(path: Path) -> Record:
    selection = _check(_read_json(path), _SELECTION, str(path))
    return _check(selection, [name for name in ("mistaken_pixels",) if name in selection], str(path))
