"""The index of a source is sorted, unique and the same however it was cut into chunks."""

from __future__ import annotations

from urllib.parse import unquote

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.source_index import SCHEMA, Entry, index_fingerprint, to_chunks, to_index


@given(st.lists(st.text("ab./%~é", min_size=1, max_size=5), max_size=30))
@settings(max_examples=60, deadline=None)
def test_index_is_sorted_unique_and_keeps_the_last(names: list[str]) -> None:
    entries = [Entry(name, "p", i, i) for i, name in enumerate(names)]
    table = to_index(to_chunks(entries), "s")
    last = {name: i for i, name in enumerate(names)}
    assert {
        unquote(k): o for k, o in zip(table["key"].to_pylist(), table["offset"].to_pylist(), strict=True)
    } == last
    assert table["key"].to_pylist() == sorted(table["key"].to_pylist())
    shuffled = to_index(to_chunks(Entry(n, "q", -1, i) for n, i in sorted(last.items())), "s")
    assert index_fingerprint(shuffled) == index_fingerprint(table)


@given(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=30, unique=True), st.data())
@settings(max_examples=30, deadline=None)
def test_chunks_do_not_show(names: list[str], draw: st.DataObject) -> None:
    entries = [Entry(name, "p", -1, i) for i, name in enumerate(names)]
    cut = draw.draw(st.integers(0, len(entries)))
    parts = [*to_chunks(entries[:cut]), *to_chunks(entries[cut:])]
    whole, apart = to_index(to_chunks(entries), "s"), to_index(parts, "s")
    assert whole == apart and index_fingerprint(whole) == index_fingerprint(apart)


def test_no_photo_is_an_empty_table() -> None:
    assert to_index([], "s") == pa.table(SCHEMA.empty_table())
