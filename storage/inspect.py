"""What is in a cache: one row per column, from its documents alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from storage.cache import Cache
from storage.commits import Commit
from storage.config import Frozen
from storage.layout import Column
from storage.quality import LevelFidelity
from storage.text_table import aligned, format_bytes


class ColumnRow(Frozen):
    """One column of a cache."""

    teacher: str
    """Its name, or images."""
    fingerprint: str
    shards_done: int
    """Shards committed."""
    shards_expected: int
    """Shards of the cache."""
    samples: int
    """Samples in committed shards, quarantined ones included."""
    quarantined: int
    bytes: int
    """Size of all committed objects."""
    bits_per_value: float | None
    """Bits of records per number of the maps; None for images."""
    fidelity: tuple[LevelFidelity, ...]
    """Flattened cosines per level, over all committed shards; p1 is the lowest of the shards'. Empty for
    images."""
    per_token: tuple[LevelFidelity, ...]
    """Mean cosines of tokens, likewise."""
    rungs: dict[int, int]
    """Rung j of the step 2^(j/4) -> samples that took it, finest first; empty for codecs without steps."""
    asked: float | None
    """Fidelity that the codec promises; None where it promises none."""
    decode_gmac: float | None
    """Multiply-adds of matrix products, 1e9, that decoding one sample takes; None for images."""
    codec: str
    grid: str
    """Grids of the levels, h x w, or the size of the crops in pixels."""


HEADERS = [
    *("column", "fingerprint", "shards", "samples", "quarantined", "size", "bits/value"),
    *("fidelity min", "per token", "decode GMAC", "codec", "grid"),
]
LEVEL_HEADERS = [
    *("level", "fidelity min", "p1", "mean", "per token min", "p1", "mean"),
]


def inspect_cache(cache: Cache) -> list[ColumnRow]:
    """One row per column, images first. Raises CorruptObject for a damaged document."""
    return [_row(cache, column) for column in cache.columns()]


def format_table(rows: Sequence[ColumnRow]) -> str:
    """The rows as aligned text; of the levels, the worst one's lowest fidelity and mean cosine of tokens."""
    return "\n".join(aligned([HEADERS, *(_cells(row) for row in rows)], left=len(HEADERS)))


def format_levels(rows: Sequence[ColumnRow]) -> str:
    """Cosines of every level of every teacher as aligned text; "" when there are none.

    Levels count from 1, the shallowest.
    """
    lines = [
        [f"{row.teacher} {level}", *_cosines(flat), *_cosines(tokens)]
        for row in rows
        for level, (flat, tokens) in enumerate(zip(row.fidelity, row.per_token, strict=True), 1)
    ]
    return "\n".join(aligned([LEVEL_HEADERS, *lines], left=1)) if lines else ""


def format_steps(rows: Sequence[ColumnRow]) -> str:
    """How many samples took which quantisation step, a line per teacher; "" when there are no steps."""
    return "\n".join(
        f"{row.teacher}: steps in z-scores (samples): "
        + ", ".join(f"{2 ** (rung / 4):.3g} ({count})" for rung, count in row.rungs.items())
        for row in rows
        if row.rungs
    )


def _row(cache: Cache, column: Column) -> ColumnRow:
    commits = list(cache.committed(column).values())
    values = sum(commit.stats.get("values", 0) for commit in commits)
    doc: dict[str, Any] = {} if column.is_images else cache.teacher_doc(column)
    codec = doc.get("codec", {})
    return ColumnRow(
        teacher=column.teacher or "images",
        fingerprint=column.fingerprint or "",
        shards_done=len(commits),
        shards_expected=len(cache.shards()),
        samples=sum(commit.rows for commit in commits),
        quarantined=sum(len(commit.quarantined) for commit in commits),
        bytes=sum(ref.bytes for commit in commits for ref in commit.objects),
        bits_per_value=8 * sum(commit.stats["bytes"] for commit in commits) / values if values else None,
        fidelity=_over_shards(commits, lambda commit: commit.fidelity),
        per_token=_over_shards(commits, lambda commit: commit.per_token),
        rungs=_rungs(commits),
        asked=codec.get("fidelity"),
        decode_gmac=doc["array"]["decode_macs"] / 1e9 if doc else None,
        codec=_codec(cache, codec),
        grid=_grid(cache, doc),
    )


def _over_shards(
    commits: Sequence[Commit], of: Callable[[Commit], tuple[LevelFidelity, ...] | None]
) -> tuple[LevelFidelity, ...]:
    shards = [(found, commit.rows - len(commit.quarantined)) for commit in commits if (found := of(commit))]
    total = sum(used for _, used in shards)
    levels = len(shards[0][0]) if shards else 0
    return tuple(
        LevelFidelity(
            min=min(cosines[level].min for cosines, _ in shards),
            p1=min(cosines[level].p1 for cosines, _ in shards),
            mean=sum(cosines[level].mean * used for cosines, used in shards) / total,
        )
        for level in range(levels)
    )


def _rungs(commits: Sequence[Commit]) -> dict[int, int]:
    counts: Counter[int] = Counter()
    for commit in commits:
        counts.update({int(rung): count for rung, count in commit.rungs.items()})
    return dict(sorted(counts.items()))


def _codec(cache: Cache, codec: dict[str, Any]) -> str:
    if not codec:
        jpeg = cache.invariants.jpeg
        return f"jpeg {jpeg.quality} {jpeg.subsampling}"
    stage = "" if codec["lossless"] == "none" else f"+{codec['lossless']}{codec['level']}"
    asked = f" {codec['fidelity']:g}" if "fidelity" in codec else ""
    return f"{codec['name']}{stage}{asked}"


def _grid(cache: Cache, doc: dict[str, Any]) -> str:
    if not doc:
        return f"{cache.invariants.views.size} px"
    grids = dict.fromkeys(f"{height}x{width}" for _, height, width in doc["shapes"])
    pooled = " pooled" if doc["codec"].get("grid") == "student" else ""
    return ",".join(grids) + pooled


def _cosines(level: LevelFidelity) -> list[str]:
    return [f"{value:.5f}" for value in (level.min, level.p1, level.mean)]


def _cells(row: ColumnRow) -> list[str]:
    worst = min((level.min for level in row.fidelity), default=None)
    tokens = min((level.mean for level in row.per_token), default=None)
    return [
        row.teacher,
        row.fingerprint or "-",
        f"{row.shards_done}/{row.shards_expected}",
        str(row.samples),
        str(row.quarantined),
        format_bytes(row.bytes),
        "-" if row.bits_per_value is None else f"{row.bits_per_value:.2f}",
        *("-" if cosine is None else f"{cosine:.5f}" for cosine in (worst, tokens)),
        "-" if row.decode_gmac is None else f"{row.decode_gmac:.3g}",
        row.codec,
        row.grid,
    ]
