"""How the photos of a source become one sorted table of keys; in arrays, for tens of millions of rows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from storage.identity import escape_key

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [("key", pa.string()), ("path", pa.string()), ("offset", pa.int64()), ("size", pa.int64())]
)
CHUNK_ROWS = 1 << 16


class Entry(NamedTuple):
    """One photo: its name in the source, and the bytes that hold it (offset -1: the whole file)."""

    name: str
    path: str
    offset: int
    size: int


def to_chunks(entries: Iterable[Entry]) -> Iterator[pa.Table]:
    """Tables of a bounded number of rows, in the given order, under the photos' keys."""
    entries = iter(entries)
    while rows := list(islice(entries, CHUNK_ROWS)):
        names, *columns = zip(*rows, strict=True)
        yield pa.table([list(map(escape_key, names)), *columns], schema=SCHEMA)


def to_index(chunks: Iterable[pa.Table], source: str) -> pa.Table:
    """One table sorted by key, bytewise; of a name that a tar holds twice the last counts, as unpacked."""
    table = pa.concat_tables([SCHEMA.empty_table(), *chunks])
    table = table.take(pc.sort_indices(table["key"])).combine_chunks()
    if len(table) < 2:
        return table
    keys = table["key"]
    replaced = pc.equal(keys.slice(0, len(keys) - 1), keys.slice(1))
    if not (count := pc.sum(replaced).as_py()):
        return table
    log.warning("%s: %d names occur twice, the later file counts", source, count)
    last = pa.concat_arrays([*pc.invert(replaced).chunks, pa.array([True])])
    return table.filter(last)


def index_fingerprint(table: pa.Table) -> str:
    """Hex SHA-256 over the keys and sizes of an index; where the bytes lie does not matter."""
    digest = sha256()
    for batch in table.select(["key", "size"]).to_batches(CHUNK_ROWS):
        digest.update("".join(f"{key}\n" for key in batch["key"].to_pylist()).encode())
        digest.update(batch["size"].to_numpy().astype("<i8").tobytes())
    return digest.hexdigest()
