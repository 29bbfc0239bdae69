"""What a step leaves beside its output so that anyone can tell, and repeat, what ran."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from jobs.config import Recipe
from jobs.provenance import provenance
from storage.atomic import write_json

RECORD = "run.json"


@contextmanager
def recorded(out: Path, recipe: Recipe, command: str, *, device: str = "cpu") -> Iterator[None]:
    """Write run.json before the step, and again with its duration after it (also when it fails)."""
    out.mkdir(parents=True, exist_ok=True)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    facts = provenance(recipe, command) | {"started": started, "seconds": None, "device": device}
    write_json(out / RECORD, facts)
    try:
        yield
    finally:
        write_json(out / RECORD, facts | {"seconds": round(time.monotonic() - clock, 1)})


def complete(out: Path, recipe: Recipe, *, marker: str, sections: tuple[str, ...]) -> bool:
    """Whether `out` holds the finished step `marker` of this very recipe.

    Args:
        marker: file that the step writes last.
        sections: the recipe's sections that the step depends on.

    Raises:
        ValueError: the folder holds a step of another recipe; names the first value that differs.
    """
    if not (out / RECORD).is_file():
        return False
    saved, now = json.loads((out / RECORD).read_text())["recipe"], recipe.model_dump(mode="json")
    for section in sections:
        if saved.get(section) != now[section]:
            what = difference(saved.get(section, {}), now[section])
            raise ValueError(
                f"{out} holds a run with another [{section}]: {what}; choose another --out, or delete it"
            )
    return (out / marker).is_file()


def difference(saved: dict, now: dict) -> str:
    """The first key whose value differs, with both values."""
    for key, value in now.items():
        if saved.get(key) != value:
            return f"{key} = {saved.get(key)!r} there, {value!r} now"
    return "keys differ"
