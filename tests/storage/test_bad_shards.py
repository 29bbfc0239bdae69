"""What a stream does where a shard is damaged, gone or was never committed: stop, or skip and count."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from storage.cache import Cache
from storage.errors import CacheError, CorruptObject
from storage.layout import Column, commit_path
from tests.storage.test_stream import BAD_FEATURE, BAD_IMAGE, World, rows_of, same

STEPS = 12


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def damage(world: World, column: Column, shard: int, how: str) -> set[str]:
    """Damage one object of a shard; the keys that must be lost with it."""
    commit = world.cache.committed(column)[shard]
    place = world.cache.shard(shard)
    keys = [f"{k}~v{place.view}" for k in world.shuffled[place.first : place.first + place.rows]]
    table = how == "table"
    path = Path(world.cache.url) / commit.objects[int(table)].name
    data = bytearray(path.read_bytes())
    if how == "record":
        start, size = world.cache._reader._index(column, shard).range(1)
        data[start + size // 2] ^= 16
        keys = keys[1:2]
    elif how == "index":
        data[commit.index.offset] ^= 1
    elif table:
        data[len(data) // 2] ^= 1
    path.unlink() if how == "gone" else path.write_bytes(data[:40] if how == "cut" else data)
    world.cache = Cache.open(world.cache.url)
    return set(keys) - {BAD_IMAGE}


def places(world: World, batch) -> list[str]:
    return [world.key_at(position, view) for position, view in world.order().batch(batch.step)]


@pytest.mark.parametrize("how", ["record", "index", "cut", "gone", "table"])
@pytest.mark.parametrize("name", ["images", "a", "b"])
def test_what_is_damaged_is_lost_and_nothing_else(world: World, caplog, how: str, name: str) -> None:
    if how == "table" and name != "images":
        return
    with world.stream(steps=STEPS) as stream:
        sound = list(stream)
    lost = damage(world, world.teachers.get(name, Column.images()), 2, how)
    with world.stream(steps=STEPS, on_bad_shard="skip") as stream:
        found = list(stream)
    assert sum(batch.skipped for batch in found) == sum(key in lost for b in sound for key in b.keys) > 0
    for batch, whole in zip(found, sound, strict=True):
        gone = [row for row, key in enumerate(places(world, batch)) if key in lost]
        assert batch.skipped == len(gone) and batch.weight[gone].sum() == 0
        assert not batch.images[gone].any()
        assert all(rows_of(batch, teacher)[row] is None for teacher in world.teachers for row in gone)
        kept = [row for row in range(6) if row not in gone]
        assert torch.equal(batch.images[kept], whole.images[kept])
        assert torch.equal(batch.weight[kept], whole.weight[kept])
        assert [batch.keys[row] for row in kept] == [whole.keys[row] for row in kept]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and warnings[0].startswith("shard 2 has samples that are skipped: ")
    assert "000002" in warnings[0]


def test_threads_and_ranks_lose_the_same_samples(world: World) -> None:
    damage(world, world.teachers["a"], 1, "record")
    damage(world, Column.images(), 3, "record")
    with world.stream(steps=STEPS, threads=1, on_bad_shard="skip") as stream:
        whole = list(stream)
    with world.stream(steps=STEPS, threads=5, on_bad_shard="skip") as stream:
        assert all(same(a, b) and a.skipped == b.skipped for a, b in zip(whole, stream, strict=True))
    weights: list[list[torch.Tensor]] = [[] for _ in whole]
    for rank in range(2):
        with world.stream(steps=STEPS, rank=rank, world=2, on_bad_shard="skip") as stream:
            for batch in stream:
                weights[batch.step].append(batch.weight)
    assert all(torch.equal(b.weight, torch.cat(w)) for b, w in zip(whole, weights, strict=True))


def test_what_was_never_committed_is_named_at_the_start_and_lost(world: World, caplog) -> None:
    for column, shard in ((world.teachers["b"], 3), (world.teachers["b"], 4), (Column.images(), 0)):
        (Path(world.cache.url) / commit_path(column, shard)).unlink()
    world.cache = Cache.open(world.cache.url)
    with world.stream(steps=STEPS, on_bad_shard="skip") as stream:
        said = [r.getMessage() for r in caplog.records]
        batches = list(stream)
    assert [line.split("; ")[0].split(" lacks ")[1] for line in said] == [
        "1 of 10 shards, the first is 0",
        "2 of 10 shards, the first is 3",
    ]
    assert len(caplog.records) == 2, "not again when their turn comes"
    absent = {world.key_at(p, 0) for p in (*range(5), *range(15, 23))}
    expected = [[key in absent for key in places(world, batch)] for batch in batches]
    assert [batch.skipped for batch in batches] == [sum(row) for row in expected]


def test_quarantine_is_not_counted(world: World) -> None:
    with world.stream(steps=STEPS, on_bad_shard="skip") as stream:
        batches = list(stream)
    lacking = {b.keys[row] for b in batches for row in range(6) if not b.weight[row]}
    assert lacking == {BAD_IMAGE, BAD_FEATURE} and not sum(b.skipped for b in batches)


def test_a_batch_of_nothing_stops_the_run(world: World) -> None:
    for shard in range(10):
        damage(world, world.teachers["b"], shard, "gone")
    nothing = pytest.raises(CacheError, match=r"no sample of step 0 can be read: [56] are in damaged or")
    with nothing, world.stream(steps=3, on_bad_shard="skip") as stream:
        list(stream)


def test_stopping_is_the_default(world: World) -> None:
    damage(world, world.teachers["b"], 2, "record")
    with pytest.raises(CorruptObject, match="000002"), world.stream(steps=STEPS) as stream:
        list(stream)


def test_a_fault_of_the_program_is_never_skipped(world: World, monkeypatch) -> None:
    def broken(record: bytes):
        raise TypeError("no such thing")

    monkeypatch.setattr(world.cache.codec(world.teachers["a"]), "unpack", broken)
    stream = world.stream(steps=3, on_bad_shard="skip")
    with pytest.raises(CacheError, match="no such thing"), stream:
        list(stream)
