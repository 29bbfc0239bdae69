"""How a shard and its commit reach the store: no reader sees half, no writer overwrites another."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from storage import layout
from storage.commits import Commit, read_commit, write_commit
from storage.errors import CorruptObject
from storage.identity import Data
from storage.layout import Column
from storage.store import Store, measure


def publish(store: Store, commit: Commit, objects: Mapping[str, Data]) -> Commit:
    """Write digest-named objects, then their commit; the commit that holds, ours or an earlier writer's.

    Whoever creates the commit first wins. A loser deletes its own objects, except those that the winner's
    commit names too: those are byte for byte its own.
    """
    for ref in commit.objects:
        _put_object(store, ref.name, objects[ref.name], ref.sha256)
    held = _commit_first(store, commit)
    for name in objects.keys() - {ref.name for ref in held.objects}:
        store.delete(name)
    return held


def publish_claimed(store: Store, commit: Commit, data: Data) -> Commit:
    """Write the object of a fixed name (a zarr shard), then its commit; the commit that holds.

    The name does not tell whose bytes are under it, so every writer first leaves a claim: its prospective
    commit, named by the digest of its object. Then the object is created, which succeeds once. Whoever comes
    later finds an object, and by its digest the claim that describes it, and finishes that commit, whether
    its writer is slow or dead. A claim blocks nobody and never goes stale; it is removed with the commit.

    Raises CorruptObject when the object under the name is nobody's.
    """
    column, shard = Column(commit.column), commit.shard
    mine = layout.claim_path(column, shard, commit.records.sha256)
    store.put_new(mine, write_commit(commit))
    held = commit if store.put_new(commit.records.name, data) else _owner(store, commit)
    held = _commit_first(store, held)
    for claim in {mine, layout.claim_path(column, shard, held.records.sha256)}:
        store.delete(claim)
    return held


def discard(store: Store, column: Column, shard: int) -> None:
    """Take a shard of a column out of a cache, so that extract makes it again. Nothing may write meanwhile.

    In the order that leaves no reader with a commit of objects that are gone: compactions, which are believed
    alone (the commits' own files hold the same), the commit, then claims and objects.
    """
    folder = layout.commit_folder(column)
    documents = store.list(folder + "/")
    compactions = [path for path in documents if layout.is_compaction(path)]
    claims = [path for path in documents if path.startswith(layout.shard_prefix(folder, shard))]
    objects = _objects(store, column.path, shard)
    if column.is_images:
        objects += _objects(store, layout.SAMPLES, shard)
    else:
        objects.append(layout.zarr_shard_path(column, shard))
    for path in [*compactions, layout.commit_path(column, shard), *claims, *objects]:
        store.delete(path)


def drop(store: Store, column: Column) -> None:
    """Take a column of features out of a cache. Nothing may write it meanwhile.

    Compactions before commits, as these are believed alone, and both before objects.
    """
    documents = sorted(store.list(layout.commit_folder(column) + "/"), key=layout.is_compaction, reverse=True)
    for path in [*documents, *store.list(column.path + "/")]:
        store.delete(path)


def _objects(store: Store, folder: str, shard: int) -> list[str]:
    prefix = layout.shard_prefix(folder, shard)
    return [path for path in store.list(folder + "/") if path.startswith(prefix)]


def _put_object(store: Store, name: str, data: Data, digest: str) -> None:
    while not store.put_new(name, data):
        # a loser of the race may delete its object, which was ours as well, between these calls
        with suppress(FileNotFoundError):
            if measure(store, name)[1] != digest:
                # damage, which no commit should be built on
                store.replace(name, data)
            return


def _commit_first(store: Store, commit: Commit) -> Commit:
    if store.put_new(commit.path, write_commit(commit)):
        return commit
    return _committed(store, commit)


def _committed(store: Store, commit: Commit) -> Commit:
    return read_commit(store.read(commit.path), commit.path, Column(commit.column), commit.shard)


def _owner(store: Store, commit: Commit) -> Commit:
    """The commit that describes the object already there: committed, or claimed."""
    name = commit.records.name
    found = measure(store, name)[1]
    if found == commit.records.sha256:
        return commit
    claim = layout.claim_path(Column(commit.column), commit.shard, found)
    try:
        held = read_commit(store.read(claim), claim, Column(commit.column), commit.shard)
    except FileNotFoundError:
        # a winner removes its claim once it has committed
        if store.exists(commit.path):
            return _committed(store, commit)
        raise CorruptObject(name, f"no commit and no claim describes its bytes (digest {found})") from None
    if held.records.sha256 != found:
        raise CorruptObject(claim, f"it claims another object than the one of digest {found}")
    return held
