"""What is in a cache: one row per column, from its commits alone."""

from __future__ import annotations

from collections.abc import Sequence

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
    """Per level, over all committed shards; p1 is the lowest of the shards'. Empty for images."""
    codec: str
    grid: str
    """Grids of the levels, h x w, or the size of the crops in pixels."""


HEADERS = [
    *("column", "fingerprint", "shards", "samples", "quarantined", "size", "bits/value"),
    *("fidelity min", "p1", "mean", "codec", "grid"),
]


def inspect_cache(cache: Cache) -> list[ColumnRow]:
    """One row per column, images first. Raises CorruptObject for a damaged document."""
    return [_row(cache, column) for column in cache.columns()]


def format_table(rows: Sequence[ColumnRow]) -> str:
    """The rows as aligned text; of the levels, the worst one's fidelity."""
    return "\n".join(aligned([HEADERS, *(_cells(row) for row in rows)], left=len(HEADERS)))


def _row(cache: Cache, column: Column) -> ColumnRow:
    commits = list(cache.committed(column).values())
    values = sum(commit.stats.get("values", 0) for commit in commits)
    return ColumnRow(
        teacher=column.teacher or "images",
        fingerprint=column.fingerprint or "",
        shards_done=len(commits),
        shards_expected=len(cache.shards()),
        samples=sum(commit.rows for commit in commits),
        quarantined=sum(len(commit.quarantined) for commit in commits),
        bytes=sum(ref.bytes for commit in commits for ref in commit.objects),
        bits_per_value=8 * sum(commit.stats["bytes"] for commit in commits) / values if values else None,
        fidelity=_fidelity(commits),
        codec=_codec(cache, column),
        grid=_grid(cache, column),
    )


def _fidelity(commits: Sequence[Commit]) -> tuple[LevelFidelity, ...]:
    shards = [
        (commit.fidelity, commit.rows - len(commit.quarantined)) for commit in commits if commit.fidelity
    ]
    total = sum(used for _, used in shards)
    levels = len(shards[0][0]) if shards else 0
    return tuple(
        LevelFidelity(
            min=min(fidelity[level].min for fidelity, _ in shards),
            p1=min(fidelity[level].p1 for fidelity, _ in shards),
            mean=sum(fidelity[level].mean * used for fidelity, used in shards) / total,
        )
        for level in range(levels)
    )


def _codec(cache: Cache, column: Column) -> str:
    if column.is_images:
        jpeg = cache.invariants.jpeg
        return f"jpeg {jpeg.quality} {jpeg.subsampling}"
    codec = cache.teacher_doc(column)["codec"]
    stage = "" if codec["lossless"] == "none" else f"+{codec['lossless']}{codec['level']}"
    return f"{codec['name']}{stage}"


def _grid(cache: Cache, column: Column) -> str:
    if column.is_images:
        return f"{cache.invariants.views.size} px"
    grids = dict.fromkeys(f"{height}x{width}" for _, height, width in cache.teacher_doc(column)["shapes"])
    return ",".join(grids)


def _cells(row: ColumnRow) -> list[str]:
    worst = min(row.fidelity, key=lambda level: level.min, default=None)
    fidelity = [f"{value:.5f}" for value in (worst.min, worst.p1, worst.mean)] if worst else ["-"] * 3
    return [
        row.teacher,
        row.fingerprint or "-",
        f"{row.shards_done}/{row.shards_expected}",
        str(row.samples),
        str(row.quarantined),
        format_bytes(row.bytes),
        "-" if row.bits_per_value is None else f"{row.bits_per_value:.2f}",
        *fidelity,
        row.codec,
        row.grid,
    ]
