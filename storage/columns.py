"""What a column of features is: whose, under which fingerprint, in which codec (teacher.json)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from storage import layout
from storage.config import CodecConfig
from storage.containers.zarr import array_json
from storage.errors import CorruptObject, FormatError, MissingData, StaleColumn
from storage.identity import fingerprint, seal, sha256, unseal
from storage.layout import Column
from storage.manifest import FORMAT, Invariants
from storage.store import Store

if TYPE_CHECKING:
    from storage.codecs import Codec, Stats

TeacherDoc = dict[str, Any]
"""teacher.json: teacher, fingerprint, identity, codec, shapes, array, codec_sha256, libraries."""
_FIELDS = {"teacher", "fingerprint", "identity", "codec", "shapes", "array", "codec_sha256", "libraries"}


def column_fingerprint(
    invariants: Invariants,
    identity: Mapping[str, Any],
    codec: Mapping[str, Any],
    shapes: Sequence[Sequence[int]],
) -> str:
    """Eight hex characters over all that decides a column's codes; `codec` as plain JSON."""
    levels = [list(shape) for shape in shapes]
    return fingerprint(
        {"identity": identity, "codec": codec, "shapes": levels, "invariants": invariants.doc()},
    )


def make_doc(
    invariants: Invariants,
    teacher: str,
    *,
    identity: Mapping[str, Any],
    codec: CodecConfig,
    shapes: Sequence[Sequence[int]],
) -> TeacherDoc:
    """What is known of a column before its codec is calibrated."""
    plain = codec.model_dump(mode="json")
    return {
        "teacher": teacher,
        "fingerprint": column_fingerprint(invariants, identity, plain, shapes),
        "identity": dict(identity),
        "codec": plain,
        "shapes": [list(shape) for shape in shapes],
    }


def register(
    store: Store, doc: TeacherDoc, calibrate: Callable[[], Stats], libraries: Mapping[str, str]
) -> Column:
    """Write codec.safetensors, then teacher.json, unless they are there; the column."""
    from storage.codecs import make_codec, save_stats

    column = Column.features(doc["teacher"], doc["fingerprint"])
    if store.exists(layout.teacher_path(column)):
        return column
    stats = calibrate()
    codec = make_codec(CodecConfig.model_validate(doc["codec"]), doc["shapes"], stats)
    tensors = save_stats(stats)
    if not store.put_new(layout.codec_path(column), tensors):
        # calibrated by another writer: its tensors hold for all
        tensors = store.read(layout.codec_path(column))
    doc = {
        **doc,
        "array": {
            "dtype": codec.symbol_dtype.name,
            "symbols": codec.symbols,
            "decode_macs": codec.decode_macs,
        },
        "codec_sha256": sha256(tensors),
        "libraries": dict(libraries),
    }
    store.put_new(layout.teacher_path(column), seal(doc))
    return column


def read_teacher(store: Store, column: Column, invariants: Invariants) -> TeacherDoc:
    """teacher.json of a column.

    Raises MissingData when there is no such column, CorruptObject when it is damaged or in another's place,
    StaleColumn when it was made under other invariants than this cache's.
    """
    path = layout.teacher_path(column)
    try:
        doc = unseal(store.read(path), path)
    except FileNotFoundError:
        raise MissingData(f"{store.url} has no column {column}; extract that teacher first") from None
    if doc.keys() != _FIELDS:
        raise FormatError(
            f"{path} has fields {sorted(doc)}, cache format {FORMAT} has {sorted(_FIELDS)}; "
            "use a matching version"
        )
    if (doc["teacher"], doc["fingerprint"]) != (column.teacher, column.fingerprint):
        raise CorruptObject(path, f"it describes {doc['teacher']} {doc['fingerprint']}")
    found = column_fingerprint(invariants, doc["identity"], doc["codec"], doc["shapes"])
    if found != column.fingerprint:
        raise StaleColumn(
            f"column {column}",
            found=doc["fingerprint"],
            wanted=found,
            remedy="it was made for a cache with other views, JPEG settings or shards; extract it again here",
        )
    return doc


def load_codec(store: Store, column: Column, doc: TeacherDoc) -> Codec:
    """The codec of a column. Raises CorruptObject when its tensors are not those it was registered with."""
    from storage.codecs import load_stats, make_codec

    path = layout.codec_path(column)
    try:
        data = store.read(path)
    except FileNotFoundError:
        raise CorruptObject(path, "it is gone") from None
    if sha256(data) != doc["codec_sha256"]:
        raise CorruptObject(path, "its bytes do not match the checksum in teacher.json")
    return make_codec(CodecConfig.model_validate(doc["codec"]), doc["shapes"], load_stats(data))


def zarr_json(doc: TeacherDoc, invariants: Invariants, shards: int) -> bytes:
    """The zarr.json of a column in a cache of so many shards."""
    return array_json(
        CodecConfig.model_validate(doc["codec"]),
        dtype=doc["array"]["dtype"],
        symbols=doc["array"]["symbols"],
        shards=shards,
        samples_per_shard=invariants.samples_per_shard,
        shapes=doc["shapes"],
    )


def values_per_sample(doc: TeacherDoc) -> int:
    """Numbers in the maps of one sample, all levels."""
    return sum(channels * height * width for channels, height, width in doc["shapes"])
