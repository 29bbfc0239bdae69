"""What a step leaves beside its output so that anyone can tell, and repeat, what ran."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.config import Recipe
from jobs.provenance import provenance
from storage.atomic import write_json

RECORD = "run.json"
CHECKPOINTS = "checkpoints"
FREE = {"log_every", "checkpoint_every", "threads", "workers", "path", "on_bad_shard"} | {
    "local_cache",
    "local_cache_gb",
}
"""Settings that a resumed run may change: they do not change what is learned."""


@contextmanager
def recorded(
    out: Path, recipe: Recipe, command: str, *, device: str = "cpu", inputs: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Write run.json before the step, and again with its duration after it (also when it fails).

    A resumed run keeps the time it was first started and adds up its seconds.

    Args:
        inputs: digests of files that the step starts from.
    """
    out.mkdir(parents=True, exist_ok=True)
    before, now, clock = read_record(out), datetime.now(UTC), time.monotonic()
    facts = provenance(recipe, command) | {
        "started": before.get("started") or now.isoformat(timespec="seconds"),
        "seconds": before.get("seconds"),
        "device": device,
        "inputs": dict(inputs or {}),
    }
    write_json(out / RECORD, facts)
    try:
        yield
    finally:
        seconds = (before.get("seconds") or 0) + time.monotonic() - clock
        write_json(out / RECORD, facts | {"seconds": round(seconds, 1)})


def complete(
    out: Path,
    recipe: Recipe,
    *,
    marker: str,
    sections: tuple[str, ...],
    inputs: Mapping[str, str] | None = None,
) -> bool:
    """Whether `out` holds the finished step `marker` of this very recipe.

    Args:
        marker: file that the step writes last.
        sections: the recipe's sections that the step depends on; intervals, threads and paths do not count.
        inputs: digests of files that the step starts from.

    Raises:
        ValueError: the folder holds a step of another recipe or input; names the first value that differs.
    """
    record = read_record(out)
    if not record or not (out / CHECKPOINTS).is_dir():
        return False  # a run that stopped before its first checkpoint holds nothing that could be mixed up
    saved, now = record["recipe"], recipe.model_dump(mode="json")
    for name, there, asked in [
        *((f"[{section}]", saved.get(section, {}), now[section]) for section in sections),
        ("input", record.get("inputs", {}), dict(inputs or {})),
    ]:
        if what := difference(there, asked):
            raise ValueError(
                f"{out} holds a run with another {name}: {what}; choose another --out, or delete it"
            )
    return (out / marker).is_file()


def read_record(out: Path) -> dict[str, Any]:
    """run.json of a step, {} where there is none.

    Raises:
        ValueError: it is damaged.
    """
    path = out / RECORD
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete the folder, or choose another --out"
        ) from error


def difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first key that matters and whose value differs, with both values."""
    for key, value in now.items():
        if key not in FREE and saved.get(key) != value:
            return f"{key} = {saved.get(key)!r} there, {value!r} now"
    return None
