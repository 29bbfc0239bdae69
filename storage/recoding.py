"""How do shards that are whole get into another cache: byte for byte, whatever its container.

Images are copied as they are, and so are features whose codec and grid stay: of these only the container is
made anew, around the same records.
"""

from __future__ import annotations

import math

from storage import layout
from storage.cache import Cache
from storage.columns import values_per_sample
from storage.commits import Commit
from storage.config import CodecConfig
from storage.errors import CacheError, CorruptObject, MissingData
from storage.identity import sha256
from storage.layout import Column
from storage.publish import publish
from storage.segments import create_segment
from storage.writing import FeatureWriter


def copy_segments(source: Cache, target: Cache) -> Cache:
    """Give `target` the segments of `source`; the target with them.

    Raises CacheError where it has others: it was made from another cache.
    """
    for mine, theirs in zip(target.segments, source.segments, strict=False):
        if mine != theirs:
            raise CacheError(
                f"segment {mine.index} of {target.url} holds source {mine.source} with {mine.keys} keys, "
                f"that of {source.url} {theirs.source} with {theirs.keys}; recode into a new cache"
            )
    if len(target.segments) > len(source.segments):
        raise CacheError(
            f"{target.url} has {len(target.segments)} segments, {source.url} {len(source.segments)}; "
            "recode into a new cache"
        )
    for segment in source.segments[len(target.segments) :]:
        create_segment(target.store, segment)
    return Cache.open(target.url)


def require_complete(source: Cache, columns: list[Column]) -> None:
    """Raise MissingData unless all shards of the images and of these columns are committed."""
    for column in [Column.images(), *columns]:
        if missing := source.missing(column):
            raise MissingData(
                f"{source.url} lacks {len(missing)} shards of {column}, the first is {missing[0]:06d}; "
                "finish the extraction first"
            )


def copy_images(source: Cache, target: Cache, shard: int) -> Commit:
    """Copy a shard's crops, sample table and commit. Raises CorruptObject for what is not as committed."""
    commit = source.commit_of(Column.images(), shard)
    if commit is None:
        raise MissingData(f"{source.url} lacks the images of shard {shard}; finish the extraction first")
    objects = {}
    for ref in commit.objects:
        objects[ref.name] = data = source.store.read(ref.name)
        if sha256(data) != ref.sha256:
            raise CorruptObject(ref.name, "its bytes do not match the checksum in its commit")
    return publish(target.store, commit, objects)


def copy_registration(source: Cache, column: Column, target: Cache) -> Column:
    """Make a column known to another cache with the same codec, tensors and libraries.

    Raises CorruptObject for tensors that are not those it was registered with.
    """
    from storage.codecs import load_stats

    doc, tensors = source.teacher_doc(column), source.store.read(layout.codec_path(column))
    if sha256(tensors) != doc["codec_sha256"]:
        raise CorruptObject(layout.codec_path(column), "its bytes do not match the checksum in teacher.json")
    return target.register(
        doc["teacher"],
        doc["identity"],
        CodecConfig.model_validate(doc["codec"]),
        doc["shapes"],
        lambda: load_stats(tensors),
        doc["libraries"],
    )


def copy_features(source: Cache, column: Column, target: Cache, there: Column, shard: int) -> Commit:
    """Copy a shard's records into the column `there` of another cache, in its container.

    The images must be there already. Raises CorruptObject for a record that is not as committed.
    """
    commit = source.committed(column)[shard]
    records = source.read_records(column, shard, range(commit.rows))
    doc = target.teacher_doc(there)
    writer = FeatureWriter(
        target.store, target.invariants, there, ext=doc["codec"]["name"], values=values_per_sample(doc)
    )
    return writer.copy(commit, target.samples(shard)["key"].to_pylist(), records)


def lowest_fidelity(cache: Cache, column: Column) -> float:
    """The least cosine that a complete column keeps of its teacher's own maps, over samples and levels.

    Of a recoded column its commits tell the distance from the column it was made of: the angles add up, in
    the z-scores of two calibrations, which hardly differ.
    """
    levels = [level.min for commit in cache.committed(column).values() for level in commit.fidelity or ()]
    lowest = min(levels, default=1.0)
    before = cache.teacher_doc(column)["identity"].get("recoded_from")
    return lowest if before is None else added(lowest, before["min_fidelity"])


def added(first: float, second: float) -> float:
    """The least cosine of two vectors whose cosines with a third are these: their angles at most add up."""
    angles = (math.acos(max(-1.0, min(1.0, cosine))) for cosine in (first, second))
    return math.cos(min(sum(angles), math.pi))
