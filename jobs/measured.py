"""What did the columns of a cache come to: bits per value and decoding work, for a plan."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.plan_answer import MeasuredColumn
from pipeline.plan_rates import choice_of
from storage.config import CodecConfig
from storage.layout import codec_path


def measured_columns(url: str, teachers: Iterable[str]) -> dict[str, Sequence[MeasuredColumn]]:
    """teacher -> its columns in the cache at `url`: of their commits, or as calibration estimated them.

    Raises:
        ValueError: the cache has nothing of any of these teachers; MissingData: there is no cache.
    """
    from storage.cache import Cache

    cache, wanted = Cache.open(url), set(teachers)
    found: dict[str, list[MeasuredColumn]] = {}
    for column in cache.columns():
        if column.teacher not in wanted:
            continue
        doc = cache.teacher_doc(column)
        bits = _committed_bits(cache, column) or _estimated_bits(cache, column)
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


def _committed_bits(cache: Any, column: Any) -> float | None:
    """Bits per value over a column's committed shards; None while there are none."""
    commits = cache.committed(column).values()
    values = sum(int(commit.stats["values"]) for commit in commits)
    return 8 * sum(commit.records.bytes for commit in commits) / values if values else None


def _estimated_bits(cache: Any, column: Any) -> float | None:
    """Bits per value that klt's calibration foresaw, from its tensors; None for other codecs.

    The one number is read from the file's header and bytes: loading all of it would take torch.
    """
    data = cache.store.read(codec_path(column))
    start = 8 + int.from_bytes(data[:8], "little")
    entry = json.loads(data[8:start]).get("estimate.bits")
    if entry is None:
        return None
    assert entry["dtype"] == "F32", entry
    return float(struct.unpack_from("<f", data, start + entry["data_offsets"][0])[0])
