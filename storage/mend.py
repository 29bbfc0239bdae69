"""What must leave a cache so that the next extraction makes it again, and nothing more?"""

from __future__ import annotations

from collections.abc import Iterable

from storage import layout
from storage.audit import Problem
from storage.cache import Cache


def discard_damage(cache: Cache, problems: Iterable[Problem]) -> list[str]:
    """Take out what verification found damaged; a sentence for each thing taken out.

    A damaged compaction or zarr.json is deleted alone: extraction writes both again from sound documents. A
    damaged teacher.json or codec.safetensors costs its whole column, for no code can be decoded without them.
    Otherwise one shard of one column goes, or of all columns when it is the images'. cache.json and segments
    cannot be made again and are left alone, and so is what could merely not be read: it may be sound, a host
    out of descriptors must not cost a cache. Nothing may write to the cache meanwhile.
    """
    done, dropped = [], set()
    found = [problem for problem in problems if problem.kind in ("damaged", "gone")]
    for problem in found:
        column = problem.column
        if column is None or problem.shard is not None:
            continue
        if layout.is_compaction(problem.path) or problem.path == layout.zarr_path(column):
            cache.store.delete(problem.path)
            done.append(f"deleted {problem.path}")
        elif column not in dropped and not column.is_images:
            dropped.add(column)
            cache.drop(column)
            done.append(f"dropped the column {column}")
    shards = {(p.column, p.shard) for p in found if p.column and p.shard is not None}
    for column, shard in sorted(shards):
        if column not in dropped:
            cache.discard(column, shard)
            also = " and of every column made from them" if column.is_images else ""
            done.append(f"discarded shard {shard:06d} of {column}{also}")
    return done
