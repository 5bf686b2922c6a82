"""Functions and classes that a user names by their import path."""

import importlib
from collections.abc import Callable
from typing import Any


def import_callable(option: str, path: str) -> Callable[..., Any]:
    """What `package.module:name` names. ValueError, beginning with `option`, where it is nothing to call."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(f"{option}: expected an import path package.module:name, got {path!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{option}: can't import {module_name!r} of {path!r}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise ValueError(f"{option}: module {module_name!r} has no function or class {name!r}")
    return found
