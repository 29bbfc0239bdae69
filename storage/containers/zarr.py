"""How a shard becomes a shard object of a standard zarr v3 array, so that any zarr reads the codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from storage.config import CodecConfig
from storage.containers.base import MISSING, Packed, encode_index, own_crc
from storage.identity import canonical_json

_FILL: dict[str, int | str] = {"float16": "NaN", "int8": -(2**7), "int16": -(2**15), "int32": -(2**31)}
"""What a reader sees in rows without a record: values that no code has."""

PCODEC: dict[str, Any] = {
    "mode_spec": "classic",
    "delta_spec": "none",
    "paging_spec": "equal_pages_up_to",
    "delta_encoding_order": None,
    "equal_pages_up_to": 32768,
}
"""How pcodec is used: klt's codes fall in variance over a row, and pages this short follow that; neighbours
are no series, so there is nothing to take differences of."""


class ZarrContainer:
    """Records are inner chunks as they are, in row order, then our checksums of them, then zarr's index."""

    def __init__(self, samples_per_shard: int) -> None:
        self.samples_per_shard = samples_per_shard

    def pack(self, keys: Sequence[str], records: Sequence[bytes | None], ext: str) -> Packed:
        """The shard object of these records; rows without one, and those past the end, are empty chunks."""
        ranges = np.full((self.samples_per_shard, 2), MISSING, np.uint64)
        checksums = np.zeros(self.samples_per_shard, np.uint32)
        at = 0
        for row, record in enumerate(records):
            if record is not None:
                ranges[row] = at, len(record)
                checksums[row] = own_crc(record)
                at += len(record)
        index = encode_index(ranges, checksums)
        parts = [record for record in records if record is not None]
        return Packed([*parts, index], index, at)


def array_json(
    codec: CodecConfig,
    *,
    dtype: str,
    symbols: int,
    shards: int,
    samples_per_shard: int,
    shapes: Sequence[Sequence[int]],
) -> bytes:
    """The bytes of zarr.json: an array [shards * samples_per_shard, symbols], chunk = one sample.

    Row r of shard s is row s * samples_per_shard + r. `dtype` is the symbols', `shapes` the
    levels' (C, h, w), kept as an attribute for readers without Cutler.
    """
    return canonical_json(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [shards * samples_per_shard, symbols],
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [samples_per_shard, symbols]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": _FILL[dtype],
            "codecs": [{"name": "sharding_indexed", "configuration": _sharding(codec, dtype, symbols)}],
            "dimension_names": ["sample", "symbol"],
            "attributes": {"codec": codec.name, "levels": [list(shape) for shape in shapes]},
        }
    )


def _sharding(codec: CodecConfig, dtype: str, symbols: int) -> dict[str, Any]:
    codec = codec.resolved()
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    inner: list[dict[str, Any]] = [{"name": "bytes"} if dtype == "int8" else little]
    if codec.lossless == "pcodec":
        # it turns numbers into bytes itself
        inner = [{"name": "numcodecs.pcodec", "configuration": {"level": codec.level, **PCODEC}}]
    if codec.lossless == "zstd":
        inner.append({"name": "zstd", "configuration": {"level": codec.level, "checksum": False}})
    return {
        "chunk_shape": [1, symbols],
        "codecs": [*inner, {"name": "crc32c"}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
