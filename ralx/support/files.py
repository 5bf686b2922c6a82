"""Files of ralx's own: written whole or not at all, also where the power fails, and read back unharmed or not
at all.

A file is filled beside its place, synced, and moved there. JSON objects and tensors carry a checksum of all
that they hold; a file whose checksum differs is named and never used.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

State = dict[str, Tensor]

# A file system that can't sync a folder says one of these; it has no other promise to make.
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
_TORN = re.compile(r"\..+\.(json|jsonl|safetensors|csv|md|png)\.\d+\.tmp")
_NO_SUM = b"0" * 64
_SUM_IN_HEADER = re.compile(rb'\\"sha256\\": \\"([0-9a-f]{64})\\"')


class RunError(RuntimeError):
    """A run can't start or go on; the text says which file or option and why."""


# Writing


def write_whole(path: Path, content: bytes) -> None:
    """Fill a new sibling with `content` and move it onto `path`: readers see the old file or the new one, and
    so do they after a power cut. RunError where that fails; the old file stays."""
    # A number of its own: two containers that share a folder may have a process of the same id.
    temporary = path.with_name(f".{path.name}.{secrets.randbits(64)}.tmp")
    try:
        make_folder(path.parent)
        with temporary.open("xb") as file:  # x: a link that lies there is not followed
            fcntl.flock(file, fcntl.LOCK_EX)  # `clear_torn` leaves it alone while this process lives
            file.write(content)
            file.flush()
            _sync(file.fileno())
            os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Add `line` to a file and sync it. RunError where that fails, also where a link lies in its place."""
    try:
        make_folder(path.parent)
        is_new = not path.exists()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o666), "wb") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            _sync(file.fileno())
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise RunError(f"{path}: can't be written: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """Make `path` and what is missing above it, so that a power cut doesn't take them away again."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def clear_torn(folder: Path) -> None:
    """Remove what `write_whole` left in `folder` when its process was killed: nothing below it, nothing that
    a living process is writing, nothing of anyone else."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _TORN.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


# Reading


def read_bytes(path: Path) -> bytes:
    """The content of a file. RunError where something else has its name: a pipe would be waited for."""
    if path.exists() and not path.is_file():
        raise RunError(f"{path}: must be a file, got a folder, pipe or device")
    return path.read_bytes()


# JSON


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinities are refused."""
    write_whole(path, json_bytes(value))


def read_json(path: Path) -> Any:
    """Read a JSON file; RunError names the file where it is damaged."""
    try:
        return json.loads(read_bytes(path), parse_constant=_refuse_constant)
    # Too many digits are a ValueError, too deep nesting is a RecursionError.
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: expected JSON, got {error}") from error


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant}, which is no JSON number")


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """A JSON object with a checksum of all that it holds, as its entry "sha256"."""
    return json_bytes({**value, "sha256": _sum_of(value)})


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as `sealed_json`."""
    write_whole(path, sealed_json(value))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote, without the checksum. RunError names the file where it is no such
    object, or not the one that was written."""
    value = read_json(path)
    if not isinstance(value, dict) or "sha256" not in value:
        raise RunError(f"{path}: expected a JSON object with its sha256, as ralx writes it")
    found = value.pop("sha256")
    if found != _sum_of(value):
        raise RunError(_changed(path))
    return value


def _sum_of(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _changed(path: Path) -> str:
    return f"{path}: was damaged or changed since ralx wrote it: its checksum differs"


# Tensors


def sealed_tensors(tensors: Mapping[str, Any], note: Any = None) -> bytes:
    """Tensors by name, or dicts of such, and a JSON value as a safetensors file with a checksum of its bytes.
    A dict's name and the names in it, quoted as in a URL, are joined by a slash."""
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _flat(tensors)}
    # One entry of metadata: the order of several would differ from run to run.
    metadata = {"note": json.dumps({"sha256": _NO_SUM.decode(), "value": note}, allow_nan=False)}
    content = save(stored, metadata)  # the header, which begins with the metadata, comes first
    return content.replace(_NO_SUM, hashlib.sha256(content).hexdigest().encode(), 1)


def save_tensors(path: Path, tensors: Mapping[str, Any], note: Any = None) -> None:
    """Write `tensors` and `note` as `sealed_tensors`."""
    write_whole(path, sealed_tensors(tensors, note))


def _flat(tensors: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in tensors.items():
        quoted = prefix + quote(name, safe="")  # a layer's own name may have a slash
        if isinstance(value, Tensor):
            yield quoted, value
        else:
            yield from _flat(value, f"{quoted}/")


def load_tensors(path: Path) -> tuple[dict[str, Any], Any]:
    """Read what `save_tensors` wrote, but for empty dicts; RunError names a file that is something else, or
    that was damaged."""
    content = read_bytes(path)
    end = min(8 + int.from_bytes(content[:8], "little"), len(content))  # of the header
    found = _SUM_IN_HEADER.search(content, 8, end)
    if found is None:
        raise RunError(f"{path}: expected a safetensors file of ralx, got one without its checksum")
    if hashlib.sha256(content.replace(found[1], _NO_SUM, 1)).hexdigest().encode() != found[1]:
        raise RunError(_changed(path))
    try:
        note = json.loads(content[8:end])["__metadata__"]["note"]
        return _nested(load(content)), json.loads(note)["value"]
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise RunError(f"{path}: expected a safetensors file of ralx, got {error}") from error


def _nested(stored: Mapping[str, Tensor]) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for joined, tensor in stored.items():
        *folders, name = map(unquote, joined.split("/"))
        inner = tensors
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = tensor
    return tensors
