"""Names: canonical bytes, seals that feel every change, keys that stock readers cannot break."""

from __future__ import annotations

import math
import os
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import CorruptObject, FormatError
from storage.identity import (
    canonical_json,
    escape_key,
    fingerprint,
    sample_key,
    seal,
    sha256,
    split_sample_key,
    unseal,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DOCS = st.dictionaries(st.text().filter(lambda name: name != "checksum"), JSON, max_size=4)
# names as a file system gives them: any bytes but NUL, decoded as Python does
PATHS = st.binary(min_size=1).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)


@given(PATHS)
def test_a_key_is_safe_everywhere_and_gives_its_path_back(path: str) -> None:
    key = escape_key(path)
    assert "." not in key and "~" not in key and not key.startswith("/")
    assert set(key) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-/%")
    assert unquote(key, errors="surrogateescape") == path


def test_keys_as_documented() -> None:
    assert escape_key("n01440764/n01440764_10026.JPEG") == "n01440764/n01440764_10026%2EJPEG"
    assert escape_key("a~b 100%/é.png") == "a%7Eb%20100%25/%C3%A9%2Epng"
    assert escape_key("/abs") == "%2Fabs" != escape_key("abs")
    assert escape_key("../x") == "%2E%2E/x"
    with pytest.raises(ValueError, match="empty"):
        escape_key("")


@given(PATHS.map(escape_key), st.integers(0, 10**6))
def test_sample_keys_split_back(key: str, view: int) -> None:
    assert split_sample_key(sample_key(key, view)) == (key, view)


@pytest.mark.parametrize("name", ["abc", "abc~v", "abc~vx", "abc~v-1", "abc~v²"])
def test_what_is_no_sample_key(name: str) -> None:
    with pytest.raises(FormatError, match="not a sample key"):
        split_sample_key(name)


@given(DOCS)
def test_a_seal_gives_the_document_back(doc: dict) -> None:
    assert unseal(seal(doc), "x.json") == doc
    assert seal(dict(reversed(doc.items()))) == seal(doc)


@given(DOCS, st.data())
def test_a_seal_feels_any_change(doc: dict, data: st.DataObject) -> None:
    whole = seal(doc)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytes([whole[at] ^ data.draw(st.integers(1, 255))])
    for broken in (whole[:at] + changed + whole[at + 1 :], whole[:at], whole + b" "):
        with pytest.raises(CorruptObject, match=r"x\.json"):
            unseal(broken, "x.json")


@pytest.mark.parametrize("data", [b"", b"[]\n", b"{}\n", b"null\n", b"[" * 100_000])
def test_other_json_is_no_sealed_document(data: bytes) -> None:
    with pytest.raises(CorruptObject):
        unseal(data, "x.json")


def test_json_has_no_nan() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError):
            canonical_json({"fidelity": value})


def test_fingerprints_differ_with_their_document() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint({})) == 8


def test_a_digest_does_not_depend_on_the_pieces() -> None:
    assert sha256([b"ab", b"", b"c"]) == sha256(b"abc")
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
