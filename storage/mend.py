"""What must leave a cache so that the next extraction makes it again, and nothing more?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage import layout
from storage.audit import Problem
from storage.cache import Cache
from storage.columns import zarr_json
from storage.config import CodecConfig
from storage.errors import CorruptObject, MissingData
from storage.identity import sha256
from storage.layout import Column

if TYPE_CHECKING:
    from storage.codecs import Stats


@dataclass(frozen=True)
class Damage:
    """What is to be taken out of a cache.

    A damaged compaction or zarr.json is deleted alone: extraction writes both again from sound documents. A
    damaged teacher.json or codec.safetensors costs its whole column, for no code can be decoded without them.
    Otherwise one shard of one column goes, or of all columns when it is the images'. cache.json and segments
    are left alone (mend_documents.py), and so is what could merely not be read: it may be sound, a host out
    of descriptors must not cost a cache.
    """

    files: tuple[str, ...]
    columns: tuple[Column, ...]
    shards: tuple[tuple[Column, int], ...]

    @staticmethod
    def of(problems: Iterable[Problem]) -> Damage:
        """What verification found damaged or gone."""
        found = [problem for problem in problems if problem.kind in ("damaged", "gone") and problem.column]
        files, columns, shards = set[str](), set[Column](), set[tuple[Column, int]]()
        for problem in found:
            column = problem.column
            assert column is not None
            if problem.shard is not None:
                shards.add((column, problem.shard))
            elif layout.is_compaction(problem.path) or problem.path == layout.zarr_path(column):
                files.add(problem.path)
            elif not column.is_images:
                columns.add(column)
        return Damage(tuple(sorted(files)), tuple(sorted(columns)), tuple(sorted(shards)))

    @property
    def images(self) -> list[int]:
        """Shards whose images go: these need the source."""
        return [shard for column, shard in self.shards if column.is_images]

    def of_files(self) -> Damage:
        """The part that nothing else depends on."""
        return Damage(self.files, (), ())

    def told(self) -> list[str]:
        """A phrase for each thing that goes, as `deleted ...`."""
        also = " and of every column made from them"
        return [
            *(f"deleted {path}" for path in self.files),
            *(f"dropped the column {column}" for column in self.columns),
            *(
                f"discarded shard {shard:06d} of {column}{also if column.is_images else ''}"
                for column, shard in self.shards
            ),
        ]

    def take_out(self, cache: Cache) -> None:
        """Delete it all. Nothing may write to the cache meanwhile."""
        self.take_out_shards(cache)
        for column in self.columns:
            cache.drop(column)

    def take_out_shards(self, cache: Cache) -> None:
        """Delete all but the columns, whose codecs may be calibrated again."""
        for path in self.files:
            cache.store.delete(path)
        for column, shard in self.shards:
            cache.discard(column, shard)


def restore_registration(
    cache: Cache,
    column: Column,
    stats: Stats,
    *,
    identity: Mapping[str, Any],
    codec: CodecConfig,
    shapes: Sequence[Sequence[int]],
    libraries: Mapping[str, str],
) -> bool:
    """Write a column's damaged codec.safetensors or teacher.json again; False where that cannot be trusted.

    `stats` are those of a new calibration. They are the old ones when they have the digest in teacher.json;
    or, where it is teacher.json that is damaged, when codec.safetensors has these very bytes.
    """
    from storage.codecs import save_stats

    tensors, paths = save_stats(stats), (layout.codec_path(column), layout.teacher_path(column))
    try:
        wanted = cache.teacher_doc(column)["codec_sha256"]
    except (CorruptObject, MissingData):
        if not cache.store.exists(paths[0]) or cache.store.read(paths[0]) != tensors:
            return False
        cache.store.delete(paths[1])
        cache.register(str(column.teacher), identity, codec, shapes, lambda: stats, libraries)
        return True
    if sha256(tensors) != wanted:
        return False
    cache.store.replace(paths[0], tensors)
    return True


def restore_derived(cache: Cache) -> None:
    """Write what is made of other documents alone: every zarr.json, compactions of complete columns."""
    for column in cache.columns():
        if not column.is_images and cache.invariants.container == "zarr":
            data = zarr_json(cache.teacher_doc(column), cache.invariants, len(cache.shards()))
            cache.store.put_new(layout.zarr_path(column), data)
        if not cache.missing(column):
            cache.compact(column)


def discard_damage(cache: Cache, problems: Iterable[Problem]) -> list[str]:
    """Take out what verification found damaged; a phrase for each thing. Nothing may write meanwhile."""
    damage = Damage.of(problems)
    damage.take_out(cache)
    return damage.told()
