"""The records of a run: what each file of results holds, read and checked. What is malformed is refused."""

import json
from collections.abc import Callable, Mapping, Sequence
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
    """What the finished stages of a study found, as records of a run's files with the lines of the study in
    the place of methods."""

    measured_on: MeasuredOn
    records: list[Record]
    references: list[Record]
    selections: list[Record]
    selected: list[Record]  # what the regions selected at each budget hold; no mIoU is known of them
    steps: list[Record]
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


def _is_list_of(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(holds(item) for item in value)


def _is_map_of(value: Any, holds: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(holds(item) for item in value.values())


def _is_region(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and isinstance(value[0], str)
        and all(map(_is_count, value[1:]))
    )


# What a field must be, in words and as a test.
_COUNT = ("an integer of at least 0", _is_count)
_NUMBER = ("a finite number", _is_number)
_NUMBER_OR_NULL = ("a finite number or null", lambda value: value is None or _is_number(value))
_FRACTION = ("a number in 0..1", _is_fraction)
_NAME = ("a string", lambda value: isinstance(value, str))
_CLASS_IOU = (
    "a map from class to a number in 0..1 or null",
    lambda value: _is_map_of(value, lambda item: item is None or _is_fraction(item)),
)
_FRACTIONS = ("a list of numbers in 0..1", lambda value: _is_list_of(value, _is_fraction))
_SECONDS = (
    "a map from phase to a number of at least 0",
    lambda value: _is_map_of(value, lambda item: _is_number(item) and item >= 0),
)
_REGION_SIZE = (
    "two positive integers",
    lambda value: _is_list_of(value, lambda item: _is_count(item) and item > 0) and len(value) == 2,
)
_COUNTS = ("a list of integers of at least 0", lambda value: _is_list_of(value, _is_count))
_REGIONS = ('a list of ["image name", row, column]', lambda value: _is_list_of(value, _is_region))

_Fields = Mapping[str, tuple[str, Callable[[Any], bool]]]

_STEP: _Fields = {
    "seed": _COUNT,
    "episode": _COUNT,
    "step": _COUNT,
    "epsilon": _NUMBER,
    "reward": _NUMBER,
    "miou": _FRACTION,
    "td_loss": _NUMBER_OR_NULL,
    "q_mean": _NUMBER_OR_NULL,
    "seconds": _SECONDS,
}
_REFERENCE: _Fields = {"method": _NAME, "seed": _COUNT, "miou": _FRACTION, "iou": _CLASS_IOU}
_RESULT: _Fields = {
    "method": _NAME,
    "budget": _COUNT,
    "seed": _COUNT,
    "miou": _FRACTION,
    "iou": _CLASS_IOU,
    "selected_class_fraction": _FRACTIONS,
    "selected_entropy": _NUMBER,
}
_SELECTION: _Fields = {
    "method": _NAME,
    "seed": _COUNT,
    "region_size": _REGION_SIZE,
    "budgets": _COUNTS,
    "regions": _REGIONS,
}

# What each file of records holds, and by what its records differ.
RECORD_FILES: Mapping[str, tuple[_Fields, tuple[str, ...]]] = {
    "results.json": (_RESULT, ("method", "budget", "seed")),
    "reference.json": (_REFERENCE, ("method", "seed")),
}


def check_records(records: Any, path: Path) -> list[Record]:
    """`records`, if they are as the file `path`, one of `RECORD_FILES`, must hold them. ValueError names the
    record and what is wrong with it."""
    fields, keys = RECORD_FILES[path.name]
    if not isinstance(records, list):
        raise ValueError(f"{path}: must be a JSON list of records, got {_short(records)}")
    for number, record in enumerate(records, 1):
        _check(record, fields, f"{path}, record {number}")
    _check_unique(records, keys, path)
    _check_classes(records, path)
    return records


def check_step(step: Any, where: str) -> Record:
    """`step`, if it is as a line of steps.jsonl must be."""
    _check(step, _STEP, where)
    return step


def check_selection(selection: Any, path: Path) -> Record:
    """`selection`, if it is as a file of selections/ must be."""
    _check(selection, _SELECTION, str(path))
    if "mistaken_pixels" in selection:
        _check(selection, {"mistaken_pixels": _COUNTS}, str(path))
    return selection


def _check(record: Any, fields: _Fields, where: str) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: must be a JSON object, got {_short(record)}")
    for name, (rule, holds) in fields.items():
        if name not in record:
            raise ValueError(f"{where}: {name} is missing")
        if not holds(record[name]):
            raise ValueError(f"{where}: {name} must be {rule}, got {_short(record[name])}")


def _check_unique(records: Sequence[Record], keys: Sequence[str], path: Path) -> None:
    """Two records of one method, budget and seed would count double in the mean."""
    seen: dict[tuple, int] = {}
    for number, record in enumerate(records, 1):
        key = tuple(record[name] for name in keys)
        if key in seen:
            what = ", ".join(f"{name} {value}" for name, value in zip(keys, key, strict=True))
            raise ValueError(f"{path}, record {number}: {what} is already in record {seen[key]}")
        seen[key] = number


def _check_classes(records: Sequence[Record], path: Path) -> None:
    for number, record in enumerate(records, 1):
        classes = list(records[0]["iou"])
        if list(record["iou"]) != classes:
            raise ValueError(
                f"{path}, record {number}: iou must have the classes of record 1, {classes}, "
                f"got {list(record['iou'])}"
            )
        fractions = record.get("selected_class_fraction", classes)
        if len(fractions) != len(classes):
            raise ValueError(
                f"{path}, record {number}: selected_class_fraction must hold one number for each of the "
                f"{len(classes)} classes, got {len(fractions)}"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# --- reading ----------------------------------------------------------------------------------------------


def read_run(run_dir: Path) -> Run:
    """Reads the run's JSON files. A missing file leaves its part empty; a malformed one raises ValueError."""
    if not run_dir.is_dir():
        raise ValueError(f"run_dir must be the folder of a run, got {run_dir}, which is not a folder")
    return Run(
        config=_read_config(run_dir / "config.json"),
        steps=read_steps(run_dir / "steps.jsonl"),
        results=_read_records(run_dir / "results.json"),
        references=_read_records(run_dir / "reference.json"),
        selections=[
            check_selection(_parse(_read_text(path), path), path)
            for path in sorted((run_dir / "selections").glob("*.json"))
            if not path.name.startswith(".")
        ],
    )


def check_regions(run: Run, names: Sequence[str], image_size: tuple[int, int]) -> None:
    """ValueError where a chosen region is not inside one of the images `names`, each of image_size (H, W)."""
    known = set(names)
    keep_edge = run.config.get("edge") == "keep"  # then a region may be cut at the border
    for selection in run.selections:
        height, width = selection["region_size"]
        where = f"selections/{selection['method']}-seed{selection['seed']}.json"
        for number, (name, row, column) in enumerate(selection["regions"], 1):
            if name not in known:
                raise ValueError(
                    f"{where}, region {number}: must be in one of D_V's {len(names)} images, got {name!r}"
                )
            bottom, right = (row + 1) * height, (column + 1) * width
            if keep_edge:
                bottom, right = row * height + 1, column * width + 1
            if bottom > image_size[0] or right > image_size[1]:
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


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8 text, got other bytes at offset {error.start}") from error


def _read_config(path: Path) -> Record:
    if not path.exists():
        return {}
    config = _parse(_read_text(path), path)
    _check(config, {}, str(path))
    return config


def read_steps(path: Path) -> list[Record]:
    """The lines of steps.jsonl, none where the file is missing; a last one that a kill cut short is left out.
    ValueError names a malformed line."""
    if not path.exists():
        return []
    *lines, unfinished = _read_text(path).split("\n")
    if unfinished and _is_json(unfinished):  # else a kill cut the line short: no step of the run
        lines.append(unfinished)
    steps = []
    for number, line in enumerate(lines, 1):
        steps.append(check_step(_parse(line, path, number), f"{path}, line {number}"))
    return steps


def _read_records(path: Path) -> list[Record]:
    return check_records(_parse(_read_text(path), path), path) if path.exists() else []
