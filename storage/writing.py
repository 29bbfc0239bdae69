"""How a shard is written: rows and records are checked against each other, packed, and committed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from storage import layout
from storage.commits import Commit, IndexRef, ObjectRef
from storage.containers.base import Container, Packed, has_crc
from storage.containers.tar import TarContainer
from storage.containers.zarr import ZarrContainer
from storage.errors import CacheError
from storage.identity import sha256, split_sample_key
from storage.layout import Column
from storage.manifest import Invariants, SampleRow, Shard, keys_digest, write_samples
from storage.publish import publish, publish_claimed
from storage.quality import Quality, histogram, summary
from storage.store import Store


def write_images(
    store: Store, shard: Shard, rows: Sequence[SampleRow], jpegs: Sequence[bytes | None]
) -> Commit:
    """Write the crops and the sample table of a shard. Raises CacheError when they contradict each other."""
    _check_rows(shard, rows, jpegs)
    column = Column.images()
    keys = [row.key for row in rows]
    packed = TarContainer(plain=True).pack(keys, jpegs, "jpg")
    tar_ref = _ref(packed, layout.tar_path(column, shard.index, digest := sha256(packed.parts)), digest)
    table = write_samples(rows)
    table_digest = sha256(table)
    table_ref = ObjectRef(
        name=layout.samples_path(shard.index, table_digest), bytes=len(table), sha256=table_digest
    )
    commit = Commit(
        column=column.path,
        shard=shard.index,
        rows=shard.rows,
        keys=keys_digest(keys),
        objects=(tar_ref, table_ref),
        index=_index_ref(packed),
        quarantined=tuple(row.row for row in rows if row.quarantine is not None),
        reasons=tuple(row.quarantine for row in rows if row.quarantine is not None),
        stats={"bytes": sum(len(jpeg) for jpeg in jpegs if jpeg is not None)},
    )
    return publish(store, commit, {tar_ref.name: packed.parts, table_ref.name: table})


class FeatureWriter:
    """Writes shards of one column."""

    def __init__(
        self, store: Store, invariants: Invariants, column: Column, *, ext: str, values: int
    ) -> None:
        self._store = store
        self._invariants = invariants
        self._column = column
        self._ext = ext
        self._values = values
        """Numbers that one record stands for."""

    def write(
        self,
        shard: Shard,
        samples: pa.Table,
        source: str,
        records: Sequence[bytes | None],
        quality: Quality,
        reasons: Sequence[str | None],
    ) -> Commit:
        """Write the records of a shard, one per row of its samples; see Cache.put_features.

        `source` is the digest of the object of images that the records were made from.
        """
        refused = _reasons(self._column, shard, samples, records, reasons)
        keys: list[str] = samples["key"].to_pylist()
        packed, ref = self._pack(shard.index, keys, records)
        used = np.array([record is not None for record in records])
        kept = quality.rows(used)
        commit = Commit(
            column=self._column.path,
            shard=shard.index,
            rows=shard.rows,
            keys=keys_digest(keys),
            source=source,
            objects=(ref,),
            index=_index_ref(packed),
            fidelity=summary(kept.fidelity),
            per_token=summary(kept.per_token),
            rungs=histogram(kept.rungs),
            quarantined=tuple(refused),
            reasons=tuple(refused.values()),
            stats={
                "values": self._values * int(used.sum()),
                "bytes": sum(len(record) for record in records if record is not None),
            },
        )
        return self._publish(commit, packed)

    def copy(self, commit: Commit, keys: Sequence[str], records: Sequence[bytes | None]) -> Commit:
        """Write the records of a shard of another cache's column, whose `commit` holds of them here as well.

        The images that they were made from must be the same to the byte.
        """
        packed, ref = self._pack(commit.shard, keys, records)
        here = {"column": self._column.path, "objects": (ref,), "index": _index_ref(packed)}
        return self._publish(commit.model_copy(update=here), packed)

    def _pack(
        self, shard: int, keys: Sequence[str], records: Sequence[bytes | None]
    ) -> tuple[Packed, ObjectRef]:
        packed = _container(self._invariants).pack(keys, records, self._ext)
        digest = sha256(packed.parts)
        fixed = self._invariants.container == "zarr"
        column = self._column
        name = layout.zarr_shard_path(column, shard) if fixed else layout.tar_path(column, shard, digest)
        return packed, _ref(packed, name, digest)

    def _publish(self, commit: Commit, packed: Packed) -> Commit:
        if self._invariants.container == "zarr":
            return publish_claimed(self._store, commit, packed.parts)
        return publish(self._store, commit, {commit.records.name: packed.parts})


def _container(invariants: Invariants) -> Container:
    return ZarrContainer(invariants.samples_per_shard) if invariants.container == "zarr" else TarContainer()


def _ref(packed: Packed, name: str, digest: str) -> ObjectRef:
    return ObjectRef(name=name, bytes=packed.size, sha256=digest)


def _index_ref(packed: Packed) -> IndexRef:
    return IndexRef(offset=packed.index_offset, size=len(packed.index), sha256=sha256(packed.index))


def _check_rows(shard: Shard, rows: Sequence[SampleRow], jpegs: Sequence[bytes | None]) -> None:
    if [row.row for row in rows] != list(range(shard.rows)) or len(jpegs) != shard.rows:
        raise CacheError(
            f"shard {shard.index} has rows 0 to {shard.rows - 1} in order, got {len(rows)} rows and "
            f"{len(jpegs)} images; a missing image is a row with its reason and None, never left out"
        )
    if len({row.key for row in rows}) != shard.rows:
        raise CacheError(f"shard {shard.index} names a sample twice; the keys of a source must be unique")
    for row, jpeg in zip(rows, jpegs, strict=True):
        if split_sample_key(row.key)[1] != shard.view:
            raise CacheError(
                f"sample {row.key} is no view {shard.view}, the one of shard {shard.index}; see Cache.shards"
            )
        if (jpeg is None) != (row.quarantine is not None):
            raise CacheError(
                f"sample {row.key} has quarantine reason {row.quarantine!r}; "
                "give a reason or an image, not both"
            )


def _reasons(
    column: Column,
    shard: Shard,
    samples: pa.Table,
    records: Sequence[bytes | None],
    reasons: Sequence[str | None],
) -> dict[int, str]:
    """Row -> reason of every row without a record."""
    if len(records) != shard.rows or len(reasons) != shard.rows:
        raise CacheError(
            f"{column} shard {shard.index} has {shard.rows} rows, got {len(records)} records and "
            f"{len(reasons)} reasons"
        )
    refused: dict[int, str] = {}
    for row, bad_image in enumerate(samples["quarantine"].to_pylist()):
        record, reason = records[row], bad_image or reasons[row]
        if (record is None) != (reason is not None):
            raise CacheError(
                f"{column} shard {shard.index} row {row} has quarantine reason {reason!r}; "
                "give a reason or a record, not both"
            )
        if record is not None and not has_crc(record):
            raise CacheError(
                f"{column} shard {shard.index} row {row} does not end with its CRC; use Codec.pack"
            )
        if reason is not None:
            refused[row] = reason
    return refused
