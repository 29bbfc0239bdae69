"""Which of a cache's columns does a recipe train from, and do they fit it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobs.config import Recipe
from storage.cache import Cache
from storage.layout import Column


def columns_for(recipe: Recipe, cache: Cache) -> dict[str, Column]:
    """teacher -> its column, in the recipe's order.

    Raises:
        ValueError: the cache's views differ from the recipe's, or a teacher has no column; names both values
            and the remedy.
    """
    check_views(recipe, cache)
    held = cache.teacher_columns()
    missing = [name for name in recipe.committee.teachers if name not in held]
    if missing:
        there = ", ".join(sorted(held)) or "no teacher"
        raise ValueError(
            f"cache {cache.url} holds {there}, the recipe asks {', '.join(missing)}; "
            "extract them into it, or change committee.teachers"
        )
    return {name: held[name] for name in recipe.committee.teachers}


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
    """What a checkpoint pins of its data: segments, and the fingerprint of each column."""
    return {
        "segments": [segment.model_dump(mode="json") for segment in cache.segments],
        "columns": {name: column.fingerprint for name, column in columns.items()},
    }
