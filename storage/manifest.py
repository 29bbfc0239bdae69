"""What a cache should hold: its invariants, its segments of keys, their shards, a shard's samples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError, field_validator

from storage.config import CacheConfig, Frozen, JpegConfig, ViewConfig
from storage.errors import CacheError, FormatError
from storage.identity import seal, sha256, unseal

FORMAT: Final = 2
"""Version of the layout on disk. In format 1 nothing bound a record to its row."""


class Invariants(Frozen):
    """What holds for every sample of a cache, for as long as the cache lives (cache.json)."""

    format: Literal[2] = FORMAT
    """Version of the layout on disk."""
    views: ViewConfig = ViewConfig()
    """How view k of a key is made. Their number belongs to the segments: always 1 here."""
    jpeg: JpegConfig = JpegConfig()
    """How crops are stored."""
    samples_per_shard: int = Field(256, ge=1)
    """Samples in one shard; the last shard of each view may have fewer."""
    container: Literal["wds", "zarr"] = "wds"
    """How the records of features are kept; images are always tars."""

    @field_validator("views")
    @classmethod
    def _without_count(cls, views: ViewConfig) -> ViewConfig:
        return views.model_copy(update={"count": 1})

    @classmethod
    def of(cls, views: ViewConfig, cache: CacheConfig) -> Invariants:
        """The invariants that a recipe asks for."""
        return cls(
            views=views,
            jpeg=cache.jpeg,
            samples_per_shard=cache.samples_per_shard,
            container=cache.container,
        )

    def doc(self) -> dict[str, Any]:
        """As plain JSON."""
        return self.model_dump(mode="json", exclude={"views": {"count"}})


class Segment(Frozen):
    """A run of shards over the keys of one source, for `views` views from `first_view` on.

    Several sources make one cache when images were appended: the source of a segment of first view 0 is new.
    A source is then what was left of a folder (or tars) without the keys of every other source of the cache.
    """

    index: int = Field(ge=1)
    """Number of the segment; its document is segments/<index>.json."""
    source: str
    """Fingerprint of the source: over the names and sizes of its photos."""
    keys: int = Field(ge=1)
    """Number of keys of the source."""
    views: int = Field(ge=1)
    """Number of views of each key in this segment."""
    first_view: int = Field(0, ge=0)
    """Its first view; above 0 when views were added to keys that are cached already."""
    first_shard: int = Field(ge=0)
    """Its first shard."""

    def permutation(self) -> np.ndarray:
        """Position in the segment's key order -> position in the source's sorted keys; int64 [keys]."""
        return permutation(self.source, self.keys)


@dataclass(frozen=True)
class Shard:
    """A fixed run of samples of one view: keys [first, first + rows) of the segment's permuted key list."""

    index: int
    segment: int
    view: int
    first: int
    rows: int


class SampleRow(NamedTuple):
    """One sample of a shard: where its pixels came from."""

    row: int
    """Row in the shard."""
    key: str
    """Sample key, escaped path + ~v<view>."""
    source: str
    """The file of the source that holds the image, relative: the image itself, or a tar."""
    x: int
    """Crop box in the source image, pixels."""
    y: int
    w: int
    h: int
    flip: bool
    """Whether the crop is mirrored."""
    width: int
    """Size of the decoded source image, pixels."""
    height: int
    quarantine: str | None = None
    """Why the image could not be used, None when it could."""


SAMPLES = pa.schema(
    [
        ("row", pa.int32()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("x", pa.int32()),
        ("y", pa.int32()),
        ("w", pa.int32()),
        ("h", pa.int32()),
        ("flip", pa.bool_()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("quarantine", pa.string()),
    ]
)
"""Schema of samples/*.parquet."""


def permutation(seed_text: str, n: int) -> np.ndarray:
    """Seeded permutation of range(n), int64 [n]; the same for ever.

    It sorts raw Philox words, which NumPy keeps stable; Generator.permutation may change between versions.
    """
    seed = int.from_bytes(hashlib.sha256(seed_text.encode()).digest()[:16], "little")
    return np.argsort(np.random.Philox(key=seed).random_raw(n), kind="stable")


def segment_shards(segment: Segment, samples_per_shard: int) -> list[Shard]:
    """The shards of a segment, view-major: all of its first view, then all of the next."""
    starts = range(0, segment.keys, samples_per_shard)
    return [
        Shard(
            index=segment.first_shard + view * len(starts) + at,
            segment=segment.index,
            view=segment.first_view + view,
            first=first,
            rows=min(samples_per_shard, segment.keys - first),
        )
        for view in range(segment.views)
        for at, first in enumerate(starts)
    ]


def refuse_difference(url: str, there: Invariants, wanted: Invariants) -> None:
    """Raises CacheError where a cache's invariants differ from those wanted: the field and both values."""
    _compare(url, there.doc(), wanted.doc(), "")


def _compare(url: str, there: dict[str, Any], wanted: dict[str, Any], prefix: str) -> None:
    for name, value in there.items():
        if isinstance(value, dict):
            _compare(url, value, wanted[name], f"{prefix}{name}.")
        elif value != wanted[name]:
            raise CacheError(
                f"cache {url} holds {prefix}{name} = {value}, the recipe asks {wanted[name]}; "
                f"extract into a new cache or set {prefix}{name} = {value}"
            )


def write_invariants(invariants: Invariants) -> bytes:
    """The bytes of cache.json."""
    return seal(invariants.doc())


def read_invariants(data: bytes, path: str) -> Invariants:
    """The invariants in cache.json. Raises CorruptObject, or FormatError for another format."""
    return validated(Invariants, unseal(data, path), path)


def write_segment(segment: Segment) -> bytes:
    """The bytes of a segment's document."""
    return seal(segment.model_dump(mode="json"))


def read_segment(data: bytes, path: str) -> Segment:
    """The segment in its document. Raises CorruptObject or FormatError."""
    return validated(Segment, unseal(data, path), path)


_Model = TypeVar("_Model", bound=Frozen)


def validated(model: type[_Model], doc: dict[str, Any], path: str) -> _Model:
    """The model in a document. Raises FormatError naming the first field that does not fit."""
    try:
        return model.model_validate(doc)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FormatError(
            f"{path}: field {where} = {first['input']!r} is not of cache format {FORMAT} ({first['msg']}); "
            "read this cache with the version of Cutler that wrote it"
        ) from None


def write_samples(rows: Sequence[SampleRow]) -> bytes:
    """The bytes of a sample table; the same rows give the same bytes."""
    columns = [
        pa.array(values, type=field.type)
        for values, field in zip(zip(*rows, strict=True), SAMPLES, strict=True)
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, schema=SAMPLES), sink, compression="zstd")
    return bytes(sink.getvalue())


def read_samples(data: bytes) -> pa.Table:
    """The sample table in `data`, whose checksum the caller has verified."""
    return pq.ParquetFile(pa.BufferReader(data)).read()


def keys_digest(keys: Sequence[str]) -> str:
    """What a commit says about the samples that it is about: SHA-256 of the sample keys, one a line."""
    return sha256("\n".join(keys).encode())
