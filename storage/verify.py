"""Is every byte of a cache what was written, and is all there that should be?"""

from __future__ import annotations

import os
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from storage import layout
from storage.audit import (
    ColumnAudit,
    Kind,
    Problem,
    audit_commit,
    audit_registration,
    audit_samples,
    caught,
)
from storage.cache import Cache
from storage.commits import Commit
from storage.errors import CacheError, CorruptObject, FormatError
from storage.identity import unseal
from storage.layout import Column
from storage.store import Store

Depth = Literal["commits", "checksums"]
Progress = Callable[[int, int], None]
"""(commits checked, commits in all)."""

__all__ = ["Problem", "VerifyReport", "verify"]


@dataclass
class VerifyReport:
    """What a verification found."""

    problems: list[Problem] = field(default_factory=list)
    """What is damaged, missing or could not be looked at, by path."""
    notes: list[str] = field(default_factory=list)
    """Files that no commit names: left by a crash, harmless."""
    counts: dict[str, int] = field(default_factory=dict)
    """columns, shards (committed), objects, bytes, samples: what was looked at."""

    @property
    def whole(self) -> bool:
        """Whether nothing that was committed is damaged or could not be looked at."""
        return all(problem.kind == "missing" for problem in self.problems)

    @property
    def ok(self) -> bool:
        """Whether all was looked at and nothing is damaged or missing."""
        return not self.problems


def verify(
    cache: Cache | str,
    depth: Depth = "checksums",
    progress: Progress | None = None,
    *,
    only: Set[tuple[Column, int]] | None = None,
) -> VerifyReport:
    """Check a cache, given open or as its URL, without believing anything read before.

    `commits` reads every document and asks the size of every object; `checksums` reads every byte, of the
    shards in `only` where it is given. Nothing found raises: it is all in the report, damage to cache.json
    itself included.
    """
    report = VerifyReport(counts=dict.fromkeys(("columns", "shards", "objects", "bytes", "samples"), 0))
    try:
        fresh = Cache.open(cache if isinstance(cache, str) else cache.url)
    except CorruptObject as error:
        report.problems.append(Problem(error.path, None, None, error.why))
        return report
    except CacheError as error:
        report.problems.append(Problem(layout.INVARIANTS, None, None, str(error)))
        return report
    except OSError as error:
        report.problems.append(Problem.unreadable(layout.INVARIANTS, None, None, error))
        return report
    try:
        _Verification(fresh, depth, progress or (lambda done, total: None), report, only).run()
    except OSError as error:
        # not even a listing: the rest was not looked at
        report.problems.append(Problem.unreadable(".", None, None, error))
    report.problems.sort(key=lambda problem: (problem.path, problem.what))
    return report


class _Verification:
    """One pass over a cache."""

    def __init__(
        self,
        cache: Cache,
        depth: Depth,
        progress: Progress,
        report: VerifyReport,
        only: Set[tuple[Column, int]] | None,
    ) -> None:
        self.cache = cache
        self.store: Store = cache.store
        self.deep = depth == "checksums"
        self.only = only
        self.progress = progress
        self.report = report
        self.named = {layout.INVARIANTS, *(layout.segment_path(segment.index) for segment in cache.segments)}
        """Every path that should be there."""

    def run(self) -> None:
        """Fill the report."""
        paths = self.store.list()
        columns = [Column.images(), *_feature_columns(paths)]
        audits = [ColumnAudit(self.store, column, paths) for column in columns]
        images = audits[0].commits
        for audit in audits:
            self._column(audit, images)
        self._shards(audits)
        self._replacements(paths)
        self._orphans(paths)

    def _column(self, audit: ColumnAudit, images: dict[int, Commit]) -> None:
        """A column's registration and commits, and how these agree with the images'."""
        column = audit.column
        self.report.problems += audit.problems
        self.report.counts["columns"] += 1
        self.named |= audit.named
        if not column.is_images:
            problems, named = audit_registration(self.cache, column)
            self.report.problems += problems
            self.named |= named
        for shard in self.cache.shards():
            path = layout.commit_path(column, shard.index)
            commit = audit.commits.get(shard.index)
            if commit is None:
                if path not in self.named:
                    self._problem(path, column, shard.index, "the shard is not committed", "missing")
            elif commit.rows != shard.rows:
                self._problem(path, column, shard.index, f"it has {commit.rows} rows, the shard {shard.rows}")
            elif shard.index in images and (fault := commit.mismatch(images[shard.index])):
                self._problem(path, column, shard.index, fault)
        for index in audit.commits.keys() - {shard.index for shard in self.cache.shards()}:
            path = layout.commit_path(column, index)
            self._problem(path, column, index, "no segment has this shard", "unplaced")

    def _shards(self, audits: list[ColumnAudit]) -> None:
        commits = [commit for audit in audits for commit in audit.commits.values()]
        container = self.cache.invariants.container
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
            jobs = threads.map(
                lambda commit: audit_commit(self.store, commit, container, deep=self._is_deep(commit)),
                commits,
            )
            for done, (commit, problems) in enumerate(zip(commits, jobs, strict=True), 1):
                self.report.problems += problems
                self.named |= {ref.name for ref in commit.objects}
                self._count(commit)
                self.progress(done, len(commits))
        if self.deep and self.only is None:
            damaged = {problem.path for problem in self.report.problems}
            self.report.problems += audit_samples(self.cache, audits[0].commits, damaged)

    def _is_deep(self, commit: Commit) -> bool:
        return self.deep and (self.only is None or (Column(commit.column), commit.shard) in self.only)

    def _count(self, commit: Commit) -> None:
        counts = self.report.counts
        counts["shards"] += 1
        counts["objects"] += len(commit.objects)
        counts["bytes"] += sum(ref.bytes for ref in commit.objects)
        counts["samples"] += commit.rows if commit.column == "images" else 0

    def _replacements(self, paths: list[str]) -> None:
        """What is half replaced is sound, and nobody should train from it."""
        for path in paths:
            parts = path.split("/")
            if len(parts) == 3 and path == layout.replacing_path(parts[1]):
                self.named.add(path)
                with caught(self.report.problems, path):
                    unseal(self.store.read(path), path)
                    self.report.notes.append(
                        f"{path}: a column is half replaced; finish it with the same `extract ... --replace`"
                    )

    def _orphans(self, paths: list[str]) -> None:
        if any(problem.kind == "unreadable" for problem in self.report.problems):
            # what could not be read may name them
            return
        for path in paths:
            if path not in self.named and not path.startswith(layout.LOGS + "/"):
                self.report.notes.append(
                    f"{path}: no commit names it; it may be deleted while nothing is writing"
                )

    def _problem(self, path: str, column: Column, shard: int, what: str, kind: Kind = "damaged") -> None:
        self.report.problems.append(Problem(path, column, shard, what, kind))


def _feature_columns(paths: list[str]) -> list[Column]:
    """Columns that have a teacher.json, or commits; by name."""
    found: set[Column] = set()
    for path in paths:
        parts = path.removeprefix(layout.COMMITS + "/").split("/")
        if len(parts) < 4 or parts[0] != layout.FEATURES:
            continue
        committed = layout.committed_shard(parts[3]) is not None or layout.is_compaction(path)
        if committed or parts[3:] == ["teacher.json"]:
            # a folder of no possible name is no column: its files are reported as strays
            with suppress(FormatError):
                found.add(Column.features(parts[1], parts[2]))
    return sorted(found)
