"""How does a mistake of the user's become one readable line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError


class UsageError(ValueError):
    """The command cannot be run as asked; the message is one line with the remedy. Exit code 2."""


class IncompleteError(Exception):
    """The command ran, and what it was asked for is not complete. Exit code 1."""


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Every fault of a validation error on one line, each with its key, its value and the remedy."""
    return "; ".join(_fault(fault, model) for fault in error.errors(include_url=False))


def _fault(fault: Any, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{path}: unknown key{suggestion(path, key_paths(model))}"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{path} = {fault['input']!r}: {message}"


def key_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a nested config model."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from key_paths(field.annotation, f"{prefix}{name}.")


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """`, did you mean ...?` for the nearest known name, or nothing."""
    known = list(known)
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    if not near:
        last = wrong.rsplit(".", 1)[-1]
        near = [path for path in known if path.rsplit(".", 1)[-1] == last][:1]
    return f", did you mean {near[0]}?" if near else f"; known: {', '.join(p for p in known if '.' not in p)}"
