"""Which of a cache's columns does a recipe train from, and do they fit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobs.config import Recipe
from storage.cache import Cache
from storage.errors import AmbiguousColumn
from storage.identity import canonical_json, sha256
from storage.layout import Column
from storage.replacing import refuse_half_replaced


def columns_for(recipe: Recipe, cache: Cache) -> dict[str, Column]:
    """teacher -> its column made with the recipe's settings, in the recipe's order.

    Where a teacher has several such columns, the one whose codec document is the recipe's is meant, else the
    only one of that codec's name.

    Raises:
        ValueError: the cache's views differ from the recipe's, a teacher has no column, none was made with
            the recipe's settings, or several were, or one is half replaced; names the values and the remedy.
    """
    check_views(recipe, cache)
    return {name: column_for(name, recipe, cache) for name in recipe.committee.teachers}


def column_for(name: str, recipe: Recipe, cache: Cache) -> Column:
    """The column of one teacher; raises as `columns_for`."""
    refuse_half_replaced(cache, name)
    fitting = fitting_columns(name, recipe, cache)
    codecs = {column: cache.teacher_doc(column)["codec"] for column in fitting}
    asked = recipe.cache.codec.model_dump(mode="json")
    same = [column for column in fitting if codecs[column] == asked]
    named = [column for column in fitting if codecs[column]["name"] == asked["name"]]
    for chosen in (fitting, same, named):
        if len(chosen) == 1:
            return chosen[0]
    raise AmbiguousColumn(
        f"cache {cache.url} holds {name} {len(fitting)} times, made as the recipe says: "
        f"{differences(cache, fitting)}; set cache.codec to the one that is meant, or drop the others"
    )


def fitting_columns(name: str, recipe: Recipe, cache: Cache) -> list[Column]:
    """The columns of a teacher that were made with the recipe's [committee]; raises where there is none."""
    held = [column for column in cache.columns() if column.teacher == name]
    if not held:
        there = ", ".join(sorted({c.teacher for c in cache.columns() if c.teacher})) or "no teacher"
        raise ValueError(
            f"cache {cache.url} holds {there}, the recipe asks {name}; extract it into the cache, "
            "or change committee.teachers"
        )
    found = {column: misfit(cache.teacher_doc(column)["identity"], name, recipe) for column in held}
    fitting = [column for column, what in found.items() if what is None]
    if not fitting:
        what = "; ".join(f"{column} has {what}" for column, what in found.items())
        raise ValueError(
            f"cache {cache.url}: {what}; change the recipe's [committee], or extract {name} again"
        )
    return fitting


def differences(cache: Cache, columns: Sequence[Column]) -> str:
    """Fingerprint and settings of each column, of the settings only those in which they differ."""
    told = {column: settings_of_column(cache, column) for column in columns}
    keys = sorted({key for settings in told.values() for key in settings})
    differing = [key for key in keys if len({canonical_json(s.get(key)) for s in told.values()}) > 1]
    return "; ".join(
        f"{column.fingerprint} ({', '.join(f'{key} {told[column].get(key)}' for key in differing)})"
        for column in columns
    )


def settings_of_column(cache: Cache, column: Column) -> dict[str, Any]:
    """What may differ between columns of one teacher: codec, grid, shapes, what it was recoded from."""
    doc = cache.teacher_doc(column)
    codec = {"grid": "teacher", **doc["codec"]}
    recoded = doc["identity"].get("recoded_from")
    return {**codec, "shapes": doc["shapes"], "recoded from": recoded["fingerprint"] if recoded else None}


def misfit(identity: Mapping[str, Any], name: str, recipe: Recipe) -> str | None:
    """The first setting in which a column's identity differs from the recipe's, with both values."""
    from pipeline.teachers.committee import settings_of
    from pipeline.teachers.spec import spec_of
    from pipeline.teachers.weights import known_digest

    for key, value in settings_of(name, recipe.committee).items():
        if identity.get(key) != value:
            return f"{key} {identity.get(key)}, the recipe asks {value}"
    digest = known_digest(spec_of(name), recipe.committee.weights)
    if digest not in (None, identity["weights_sha256"]):
        asked = f"{recipe.committee.weights}, which are {digest[:8]}"
        return f"weights {identity['weights_sha256'][:8]}, the recipe asks {asked}"
    return None


def check_views(recipe: Recipe, cache: Cache) -> None:
    """Raise unless the cache's crops are those that the recipe asks for."""
    asked, held = (
        recipe.views.model_dump(exclude={"count"}),
        cache.invariants.views.model_dump(exclude={"count"}),
    )
    for key, value in asked.items():
        if held[key] != value:
            raise ValueError(
                f"cache {cache.url} holds views with {key} {held[key]}, the recipe asks {value}; "
                f"extract into a new cache or set views.{key} to {held[key]}"
            )


def snapshot(cache: Cache, columns: Mapping[str, Column]) -> dict[str, Any]:
    """What a checkpoint pins of its data: segments; of each column fingerprint, codec and every object."""
    features = {
        name: {
            "fingerprint": column.fingerprint,
            "codec": cache.teacher_doc(column)["codec_sha256"],
            "objects": objects_digest(cache, column),
        }
        for name, column in columns.items()
    }
    return {
        "segments": [segment.model_dump(mode="json") for segment in cache.segments],
        "images": objects_digest(cache, Column.images()),
        "columns": features,
    }


def objects_digest(cache: Cache, column: Column) -> str:
    """SHA-256 over the digests of a column's committed objects, in the order of the shards."""
    objects = {f"{shard:06d}": c.records.sha256 for shard, c in cache.committed(column).items()}
    return sha256(canonical_json(objects))
