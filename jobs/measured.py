"""What did the columns of a cache come to: bits per value and decoding work, for a plan."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.plan_answer import MeasuredColumn
from pipeline.plan_rates import choice_of
from storage.config import CodecConfig


def measured_columns(url: str, teachers: Iterable[str]) -> dict[str, Sequence[MeasuredColumn]]:
    """teacher -> its columns in the cache at `url`, by their commits, or by `calibrate` where there are none.

    Raises:
        ValueError: the cache has nothing of any of these teachers; MissingData: there is no cache.
    """
    from storage.cache import Cache

    cache, wanted = Cache.open(url), set(teachers)
    calibrated = _calibrated(cache)
    found: dict[str, list[MeasuredColumn]] = {}
    for column in cache.columns():
        if column.teacher not in wanted:
            continue
        doc = cache.teacher_doc(column)
        bits = _bits(cache, column) or calibrated.get(str(column))
        if bits:
            codec = CodecConfig.model_validate(doc["codec"])
            gmac = doc["array"]["decode_macs"] / 1e9
            found.setdefault(column.teacher, []).append(
                MeasuredColumn(choice_of(codec), codec.grid, bits, gmac)
            )
    if not found:
        raise ValueError(
            f"cache {url} holds nothing measured of {', '.join(sorted(wanted))}; extract or calibrate them "
            "in it, or leave --measured out"
        )
    return dict(found)


def _bits(cache: Any, column: Any) -> float | None:
    """Bits per value over a column's committed shards; None while there are none."""
    commits = cache.committed(column).values()
    values = sum(int(commit.stats["values"]) for commit in commits)
    return 8 * sum(commit.records.bytes for commit in commits) / values if values else None


def _calibrated(cache: Any) -> dict[str, float]:
    """Column -> bits per value of the few samples that the newest `calibrate` encoded."""
    found: dict[str, float] = {}
    for path in sorted(cache.store.list("logs/")):
        if path.rpartition("/")[2].startswith("calibrate-"):
            rows = json.loads(cache.store.read(path))["teachers"]
            found |= {row["column"]: row["bits_per_value"] for row in rows}
    return found
