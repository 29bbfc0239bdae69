"""What can be done with a cache: create or open it, see what is there or missing, write and read shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from storage import columns, layout, manifest
from storage.column_folders import every_column, registered_columns
from storage.columns import TeacherDoc
from storage.commit_log import CommitLog, Commits, compact
from storage.commits import Commit
from storage.config import CodecConfig
from storage.errors import AmbiguousColumn, CacheError, CorruptObject, MissingData
from storage.layout import Column
from storage.manifest import Invariants, SampleRow, Segment, Shard, segment_shards
from storage.publish import discard, drop
from storage.quality import Quality
from storage.reading import Reader
from storage.segments import create_segment, load_segments, next_segment
from storage.store import Store, open_store
from storage.writing import FeatureWriter, write_images

if TYPE_CHECKING:
    from storage.codecs import Codec, Stats


class Cache:
    """A feature cache in a folder or at an fsspec URL. Threads may share one; processes open their own."""

    def __init__(self, store: Store, invariants: Invariants) -> None:
        self.store = store
        self.invariants = invariants
        self.segments: tuple[Segment, ...] = ()
        self._shards: tuple[Shard, ...] = ()
        self._log = CommitLog(store)
        self._reader = Reader(store, self._log, self.shard)
        self._docs: dict[Column, TeacherDoc] = {}
        self._codecs: dict[Column, Codec] = {}
        self._load_segments()

    @staticmethod
    def create(url: str, invariants: Invariants) -> Cache:
        """Make a cache, or open the one that is there.

        Raises CacheError when that one has other invariants, with the field and both values.
        """
        store = open_store(url)
        if not store.put_new(layout.INVARIANTS, manifest.write_invariants(invariants)):
            there = manifest.read_invariants(store.read(layout.INVARIANTS), layout.INVARIANTS)
            manifest.refuse_difference(url, there, invariants)
        return Cache(store, invariants)

    @staticmethod
    def open(url: str) -> Cache:
        """Open a cache. Raises MissingData when there is none, CorruptObject when it is damaged."""
        store = open_store(url)
        try:
            data = store.read(layout.INVARIANTS)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingData(
                f"{url} is no cache: it has no {layout.INVARIANTS}; name a cache, or make one with extract"
            ) from None
        return Cache(store, manifest.read_invariants(data, layout.INVARIANTS))

    @property
    def url(self) -> str:
        """Where the cache is."""
        return self.store.url

    # what should be there

    def shards(self, view: int | None = None) -> tuple[Shard, ...]:
        """All shards, or those of one view, by index."""
        return self._shards if view is None else tuple(shard for shard in self._shards if shard.view == view)

    def shard(self, index: int) -> Shard:
        """A shard. Raises MissingData when the cache has no such shard."""
        if not 0 <= index < len(self._shards):
            raise MissingData(
                f"{self.url} has shards 0 to {len(self._shards) - 1}, no shard {index}; see Cache.shards"
            )
        return self._shards[index]

    def add_segment(self, source_fingerprint: str, keys: int, views: int, *, append: bool = False) -> Segment:
        """Say that the cache holds `views` views of the `keys` (a number) images of a source.

        Saying it again does nothing; saying more views adds a segment with the new ones, another source adds
        one when it is to be appended: its keys must be in no other source. Raises CacheError for another
        source or number of keys, and when somebody else appended meanwhile.
        """
        segment = next_segment(
            self.segments,
            source=source_fingerprint,
            keys=keys,
            views=views,
            first_shard=len(self._shards),
            append=append,
        )
        if segment is None:
            return next(held for held in reversed(self.segments) if held.source == source_fingerprint)
        created = create_segment(self.store, segment)
        self._load_segments()
        if not created:
            return self.add_segment(source_fingerprint, keys, views)
        for column in self.columns():
            self._write_array(column)
        return segment

    # what is there

    def columns(self) -> list[Column]:
        """The columns, complete or not: images first when any are committed, then features by teacher."""
        images = [Column.images()] if self.committed(Column.images()) else []
        return images + registered_columns(self.store)

    def teacher_columns(self) -> dict[str, Column]:
        """Teacher -> its column. Raises AmbiguousColumn when one has two."""
        found: dict[str, Column] = {}
        for column in registered_columns(self.store):
            teacher = str(column.teacher)
            if other := found.get(teacher):
                raise AmbiguousColumn(
                    f"{self.url} has {teacher} twice, as {other.fingerprint} and "
                    f"{column.fingerprint}; say which fingerprint is meant, or drop the other column"
                )
            found[teacher] = column
        return found

    def every_feature_column(self) -> list[Column]:
        """Columns with objects or commits, those without teacher.json included."""
        return every_column(self.store)

    def commit_of(self, column: Column, shard_index: int) -> Commit | None:
        """The commit of one shard, None while there is none; asks for that shard's document alone."""
        return self._log.get(column, shard_index)

    def committed(self, column: Column) -> Commits:
        """Shard -> commit, of all shards committed now; a commit is parsed when it is asked for.

        Raises CorruptObject for a shard that no segment has.
        """
        found = self._log.read(column, len(self._shards))
        if max(found, default=-1) >= len(self._shards):
            # another writer may have added a segment
            self._load_segments()
        if extra := [shard for shard in found if shard >= len(self._shards)]:
            raise CorruptObject(layout.commit_path(column, extra[0]), "no segment has this shard")
        return found

    def missing(self, column: Column) -> list[int]:
        """Shards not committed yet: the work that is left."""
        done = self.committed(column).keys()
        return [shard.index for shard in self._shards if shard.index not in done]

    def compact(self, column: Column) -> None:
        """Put the column's commits into one file, which readers on object stores open much faster."""
        compact(self.store, column, self.committed(column))

    def discard(self, column: Column, shard_index: int) -> None:
        """Take a shard of a column out of the cache, to be extracted again. Nothing may write meanwhile.

        A shard of images takes with it that shard of every column, which was made from its pixels.
        """
        # the images last: no reader meets features without them
        made_from_it = every_column(self.store) if column.is_images else []
        for each in [*made_from_it, column]:
            discard(self.store, each, shard_index)
            self._log.forget(each)
        self._reader.forget()

    def drop(self, column: Column) -> None:
        """Take a teacher's column out of the cache, its commits first. Nothing may write it meanwhile.

        Raises CacheError for the images, which every column is about.
        """
        if column.is_images:
            raise CacheError(
                f"every column of {self.url} is about its images; delete the whole cache instead"
            )
        drop(self.store, column)
        self._log.forget(column)
        self._docs.pop(column, None)
        self._codecs.pop(column, None)
        self._reader.forget()

    # columns of features

    def column_fingerprint(
        self, identity: Mapping[str, Any], codec: CodecConfig, shapes: Sequence[Sequence[int]]
    ) -> str:
        """Fingerprint that a teacher's column has in this cache; `shapes` are the levels' (C, h, w)."""
        return columns.column_fingerprint(self.invariants, identity, codec.model_dump(mode="json"), shapes)

    def register(
        self,
        teacher: str,
        identity: Mapping[str, Any],
        codec: CodecConfig,
        shapes: Sequence[Sequence[int]],
        calibrate: Callable[[], Stats],
        libraries: Mapping[str, str],
    ) -> Column:
        """Make a teacher's column, or find it; the first writer's statistics and `libraries` hold.

        `calibrate` gives the statistics of the codec; it is called only where the column is new.
        """
        doc = columns.make_doc(self.invariants, teacher, identity=identity, codec=codec, shapes=shapes)
        column = columns.register(self.store, doc, calibrate, libraries)
        self._write_array(column)
        return column

    def teacher_doc(self, column: Column) -> TeacherDoc:
        """teacher.json. Raises MissingData, CorruptObject, or StaleColumn naming both fingerprints."""
        if column not in self._docs:
            self._docs[column] = columns.read_teacher(self.store, column, self.invariants)
        return self._docs[column]

    def codec(self, column: Column) -> Codec:
        """The codec of a column, made once. Raises as teacher_doc."""
        if column not in self._codecs:
            self._codecs[column] = columns.load_codec(self.store, column, self.teacher_doc(column))
        return self._codecs[column]

    # shards

    def put_images(
        self, shard_index: int, rows: Sequence[SampleRow], jpegs: Sequence[bytes | None]
    ) -> Commit:
        """Write and commit a shard's crops; the commit that holds, which may be an earlier writer's.

        Raises CacheError unless there is one row per sample, with either an image or a quarantine reason.
        """
        return write_images(self.store, self.shard(shard_index), rows, jpegs)

    def put_features(
        self,
        column: Column,
        shard_index: int,
        records: Sequence[bytes | None],
        quality: Quality,
        reasons: Sequence[str | None],
    ) -> Commit:
        """Write and commit a shard's records (of Codec.pack), in the order of its committed samples.

        `quality` is NaN where there is no record; a row without one has a reason here or in the samples.
        Raises MissingData before the images are committed, CacheError when rows contradict each other.
        """
        doc, shard = self.teacher_doc(column), self.shard(shard_index)
        writer = FeatureWriter(
            self.store,
            self.invariants,
            column,
            ext=doc["codec"]["name"],
            values=columns.values_per_sample(doc),
        )
        samples, images = self.samples(shard_index), self._reader.commit(Column.images(), shard_index)
        return writer.write(shard, samples, images.records.sha256, records, quality, reasons)

    def samples(self, shard_index: int) -> pa.Table:
        """The sample table of a shard (manifest.SAMPLES), verified. Raises MissingData or CorruptObject."""
        return self._reader.samples(shard_index)

    def read_images(self, shard_index: int, rows: Sequence[int]) -> list[bytes | None]:
        """JPEG bytes of rows of a shard, None for quarantined ones. Raises MissingData or CorruptObject."""
        return self._reader.read(Column.images(), shard_index, rows)

    def read_records(self, column: Column, shard_index: int, rows: Sequence[int]) -> list[bytes | None]:
        """Records of rows of a shard, None for quarantined ones. Raises MissingData or CorruptObject."""
        return self._reader.read(column, shard_index, rows)

    def _load_segments(self) -> None:
        per_shard = self.invariants.samples_per_shard
        self.segments = load_segments(self.store, per_shard)
        self._shards = tuple(
            shard for segment in self.segments for shard in segment_shards(segment, per_shard)
        )

    def _write_array(self, column: Column) -> None:
        if column.is_images or self.invariants.container != "zarr":
            return
        path = layout.zarr_path(column)
        data = columns.zarr_json(self.teacher_doc(column), self.invariants, len(self._shards))
        # views added to the cache make the array longer
        if not self.store.put_new(path, data) and self.store.read(path) != data:
            self.store.replace(path, data)
