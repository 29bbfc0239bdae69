"""How are a cache's own documents mended: cache.json and a segment's, from the recipe and its source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jobs.config import Recipe

if TYPE_CHECKING:
    from storage.mend_documents import Photos


def mend_documents(recipe: Recipe, url: str, *, dry_run: bool) -> list[str]:
    """Write cache.json and a segment's document again where they are damaged or lost; a phrase for each.

    Raises:
        CacheError: they cannot be known for certain; says what is missing. MissingData: there is no cache.
    """
    from storage import layout, manifest
    from storage.mend_documents import look_at_segments, mended_invariants, mended_segment
    from storage.store import open_store

    store, phrases = open_store(url), []
    asked = manifest.Invariants.of(recipe.views, recipe.cache)
    if (data := mended_invariants(store, asked)) is not None:
        phrases.append(f"written {layout.INVARIANTS} again: every column's fingerprint confirms it")
        if not dry_run:
            store.replace(layout.INVARIANTS, data)
    else:
        asked = manifest.read_invariants(store.read(layout.INVARIANTS), layout.INVARIANTS)
    found = look_at_segments(store, asked)
    if found.lost:
        path = layout.segment_path(found.lost[0])
        keys = found.held_keys(store, asked.samples_per_shard)
        named = list(candidates(recipe, path, keys))
        segment = mended_segment(found, asked, named, views=recipe.views.count)
        phrases.append(f"written {path} again: the keys that its shards were committed with confirm it")
        if not dry_run:
            store.replace(path, manifest.write_segment(segment))
    return phrases


def candidates(recipe: Recipe, path: str, held: Any) -> Iterator[Photos]:
    """The photos of the recipe's source, and those of them that are not among the keys `held`.

    Raises CacheError where no source is named.
    """
    from jobs.work import fingerprint_of, listed, without
    from storage.errors import CacheError
    from storage.mend_documents import Photos

    if not recipe.source.path:
        raise CacheError(
            f"{path} is damaged or lost; it is written again from the source whose images it places: name "
            "that with --source.path"
        )
    index = listed(recipe)
    for photos in (index, without(index, [held])):
        if len(photos):
            yield Photos(fingerprint_of(photos), photos["key"].to_pylist())
