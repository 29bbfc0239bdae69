"""What does opening a large cache cost: all the documents of one, without a single image or feature?"""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from storage.cache import Cache
from storage.commit_log import Commits, Document
from storage.commits import Commit, IndexRef, ObjectRef, write_commit
from storage.config import CodecConfig
from storage.layout import Column, samples_path, tar_path
from storage.manifest import Invariants, Shard
from storage.quality import LevelFidelity

GRIDS = {"dinov2": 27, "clip": 24, "sam": 64}
"""Teacher -> side of its grid, as ViT-B teachers of 384 px crops have."""
_THREADS = 32


@dataclass(frozen=True)
class Size:
    """Of a cache: ImageNet's training set, one view, unless told."""

    samples: int = 1_281_167
    samples_per_shard: int = 256


class Opening(NamedTuple):
    """What opening took a process that had imported everything."""

    seconds: float
    """From nothing to a stream about to read."""
    bytes: int
    """Growth of its memory at the highest."""


def write_index(url: str, size: Size) -> Cache:
    """Make a complete and compacted cache of which only the documents are there: no object of any shard."""
    cache = Cache.create(url, Invariants(samples_per_shard=size.samples_per_shard))
    cache.add_segment("synthetic", size.samples, 1)
    columns = [Column.images(), *(_register(cache, teacher) for teacher in GRIDS)]
    with ThreadPoolExecutor(_THREADS) as threads:
        for column in columns:
            documents = {
                shard.index: Document(write_commit(_commit(column, shard)), "") for shard in cache.shards()
            }
            commits = Commits(column, documents)
            list(threads.map(lambda c: cache.store.replace(c.path, write_commit(c)), commits.values()))
            cache.compact(column)
    return cache


def open_all(url: str) -> None:
    """Open a cache as a training run does: its columns, all commits, the order and a stream's plan."""
    from storage.stream import Stream, make_order

    cache = Cache.open(url)
    teachers = cache.teacher_columns()
    for column in (Column.images(), *teachers.values()):
        if len(cache.committed(column)) != len(cache.shards()):
            raise ValueError(f"{column} of {url} is not complete; write the index anew")
    order = make_order(cache, seed=0, global_batch=128, window=8)
    Stream(cache, order, teachers, first_step=0, steps=0, threads=1).close()


def measure_opening(url: str) -> Opening:
    """`open_all` in a fresh process; its imports, and on S3 those of the client, are not counted."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_measured, url).result()


def _measured(url: str) -> Opening:
    import fsspec

    import storage.stream  # noqa: F401

    if "://" in url:
        fsspec.get_filesystem_class(url.partition("://")[0])
    before, start = _memory("VmRSS"), time.perf_counter()
    open_all(url)
    return Opening(time.perf_counter() - start, _memory("VmHWM") - before)


def _memory(field: str) -> int:
    """A line of Linux's account of this process, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def _register(cache: Cache, teacher: str) -> Column:
    shapes = [(768, GRIDS[teacher], GRIDS[teacher])] * 4
    return cache.register(teacher, {"synthetic": teacher}, CodecConfig(name="f16"), shapes, dict, {})


def _commit(column: Column, shard: Shard) -> Commit:
    """As long as a real one: digests that do not compress, four levels, twenty quantisation steps."""
    digests = _digests(f"{column}/{shard.index}")
    record, size = next(digests), 300_000_000 + shard.index
    refs = [ObjectRef(name=tar_path(column, shard.index, record), bytes=size, sha256=record)]
    if column.is_images:
        table = next(digests)
        refs.append(ObjectRef(name=samples_path(shard.index, table), bytes=20_000, sha256=table))
    levels = tuple(
        LevelFidelity(min=0.995 + at / 7e4, p1=0.9951 + at / 7e4, mean=0.996 + shard.index / 7e9)
        for at in range(4)
    )
    return Commit(
        column=column.path,
        shard=shard.index,
        rows=shard.rows,
        keys=next(digests),
        source=None if column.is_images else next(digests),
        objects=tuple(refs),
        index=IndexRef(offset=size - 10_000, size=20 * shard.rows + 4, sha256=next(digests)),
        fidelity=None if column.is_images else levels,
        per_token=None if column.is_images else levels,
        rungs={} if column.is_images else {str(-rung): 11 * rung for rung in range(10, 30)},
        stats={"bytes": size},
    )


def _digests(text: str) -> Iterator[str]:
    while True:
        text = hashlib.sha256(text.encode()).hexdigest()
        yield text
