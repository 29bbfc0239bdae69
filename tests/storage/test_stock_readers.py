"""A cache opens elsewhere: stock webdataset lists its keys, stock zarr reads its codes; records are alike."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import webdataset
import zarr

from storage.cache import Cache
from storage.config import CodecConfig
from storage.layout import Column, zarr_path
from tests.storage import sample_cache
from tests.storage.sample_cache import KEYS, SHAPES, invariants

CODECS = {
    f"{name}-{lossless}": CodecConfig(name=name, lossless=lossless, fidelity=0.98)
    for name, stages in {
        "f16": ("none", "zstd"),
        "int8": ("none", "zstd"),
        "klt": ("none", "zstd", "pcodec"),
    }.items()
    for lossless in stages
}
FILL = {"float16": np.nan, "int8": -128, "int16": -32768}

pytestmark = [
    # webdataset leaves its files to the garbage collector
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3"),
]


def grow(folder: Path, container: str, config: CodecConfig, views: int) -> tuple[Cache, Column]:
    """A complete cache of one teacher; called again with more views it gets more shards."""
    cache = Cache.create(str(folder), invariants(container))
    cache.add_segment("source-fp", KEYS, views)
    for shard in cache.shards():
        sample_cache.put_images(cache, shard)
    column = sample_cache.register(cache, "alpha", config)
    for shard in cache.shards():
        sample_cache.put_features(cache, column, shard.index)
    return cache, column


def rows_of(cache: Cache, column: Column) -> list[tuple[str, int, int, bytes | None]]:
    """(key, shard, row, record) of a whole column, in order."""
    found = []
    for shard in cache.shards():
        keys = cache.samples(shard.index)["key"].to_pylist()
        read = cache.read_images if column.is_images else lambda *a: cache.read_records(column, *a)
        records = read(shard.index, range(shard.rows))
        found += zip(keys, itertools.repeat(shard.index), range(shard.rows), records, strict=False)
    return found


@pytest.mark.parametrize("codec", CODECS)
def test_stock_webdataset_lists_the_same_keys_and_records(tmp_path: Path, codec: str) -> None:
    cache, column = grow(tmp_path, "wds", CODECS[codec], views=2)
    for each, ext in ((Column.images(), "jpg"), (column, CODECS[codec].name)):
        urls = [str(tmp_path / commit.records.name) for commit in cache.committed(each).values()]
        samples = list(webdataset.WebDataset(urls, shardshuffle=False))
        wanted = [(key, record) for key, _, _, record in rows_of(cache, each) if record is not None]
        assert [(sample["__key__"], sample[ext]) for sample in samples] == wanted
        assert len(samples) == 2 * (KEYS - 1), "all but the quarantined one"


@pytest.mark.parametrize("codec", CODECS)
def test_stock_zarr_reads_the_same_codes(tmp_path: Path, codec: str) -> None:
    """Quarantined rows and those past a short shard's end are fill; shards added later make it longer."""
    for views in (1, 2):
        cache, column = grow(tmp_path, "zarr", CODECS[codec], views)
        array = zarr.open_array(cache.store.local_path(column.path), mode="r")
        coder = cache.codec(column)
        assert array.shape == (3 * 3 * views, coder.symbols) and array.dtype == coder.symbol_dtype
        assert array.chunks == (1, coder.symbols) and array.shards == (3, coder.symbols)
        assert array.attrs["levels"] == [list(shape) for shape in SHAPES["alpha"]]
        wanted = np.full(array.shape, FILL[array.dtype.name], array.dtype)
        for _, shard, row, record in rows_of(cache, column):
            if record is not None:
                wanted[3 * shard + row] = coder.codes(record)
        np.testing.assert_array_equal(array[:], wanted)
        np.testing.assert_array_equal(array[4], wanted[4])


@pytest.mark.parametrize("codec", CODECS)
def test_changing_container_is_a_byte_copy(tmp_path: Path, codec: str) -> None:
    """Chunks found by zarr's own index, parsed here after the standard, are a tar's members."""
    tars, column = grow(tmp_path / "wds", "wds", CODECS[codec], views=1)
    arrays, other = grow(tmp_path / "zarr", "zarr", CODECS[codec], views=1)
    assert rows_of(tars, column) == rows_of(arrays, other)
    for _, shard, row, record in rows_of(tars, column):
        chunk = chunk_of(tmp_path / "zarr" / other.path / "c" / str(shard) / "0", row)
        assert chunk == record
        if record is not None:
            assert int.from_bytes(chunk[-4:], "little") == google_crc32c.value(chunk[:-4])
    assert json.loads((tmp_path / "zarr" / zarr_path(other)).read_bytes())["zarr_format"] == 3


def chunk_of(path: Path, row: int) -> bytes | None:
    """Inner chunk of a zarr shard of three, after the sharding_indexed standard, index at the end."""
    data = path.read_bytes()
    index = data[-(16 * 3 + 4) :]
    assert int.from_bytes(index[-4:], "little") == google_crc32c.value(index[:-4])
    offset, size = (int(n) for n in np.frombuffer(index, "<u8", 2, offset=16 * row))
    return None if offset == size == 2**64 - 1 else data[offset : offset + size]
