"""How is what a cache lacks made again in the columns that exist, by the recipe that made them?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobs.config import Recipe
from jobs.work import Work
from storage.layout import Column

if TYPE_CHECKING:
    from storage.cache import Cache

log = logging.getLogger(__name__)


def remake(recipe: Recipe, url: str, unreadable: Sequence[Column], *, photos: Any, workers: Any) -> list[str]:
    """Calibrate the `unreadable` columns again, extract what is missing; a sentence for what is left."""
    from jobs.extract import fill
    from jobs.register import execute
    from storage.cache import Cache

    cache = Cache.open(url)
    teachers, unfit = remakeable(recipe, cache, unreadable)
    images = cache.missing(Column.images())
    if not teachers and not images:
        return unfit
    # one view: what a cache lacks of more views is no damage
    ask: dict[str, Any] = {"views": recipe.views.model_copy(update={"count": 1})}
    names = tuple(teachers or recipe.committee.teachers[:1])
    ask["committee"] = recipe.committee.model_copy(update={"teachers": names})
    asked, work = recipe.model_copy(update=ask), Work(cache, photos)
    with workers(asked) as engine:
        if unreadable and teachers:
            if wrong := restore_registrations(engine, asked, work, unreadable):
                # to extract now would add the recipe's columns beside those that are meant
                return unfit + wrong
            work = Work(Cache.open(url), photos)
        if teachers and lacks_anything(work.cache, teachers):
            fill(engine, asked, work, command="repair")
        elif not teachers:
            units = {shard: (work.entries(shard),) for shard in images}
            execute(engine, asked, cache, units, method="images")
    return unfit


def lacks_anything(cache: Cache, teachers: Sequence[str]) -> bool:
    """Whether a teacher has no column, or one that is not complete."""
    columns = [column for column in cache.columns() if column.teacher in teachers]
    return {column.teacher for column in columns} != set(teachers) or any(map(cache.missing, columns))


def restore_registrations(engine: Any, recipe: Recipe, work: Work, columns: Sequence[Column]) -> list[str]:
    """Write the columns' damaged documents again, from a new calibration; a sentence for what cannot be.

    Where the calibration comes out otherwise (on other hardware), the codes mean nothing any more, and the
    column is dropped, to be extracted again.
    """
    from jobs.register import calibrate, commit_calibration_images, decode_budgets_of
    from storage.mend import restore_registration

    cache, codec = work.cache, recipe.cache.codec
    described, libraries = engine.call("describe")
    made = {
        Column.features(name, cache.column_fingerprint(it.identity, codec, it.shapes)): name
        for name, it in described.items()
    }
    mine = {column: made[column] for column in columns if column in made}
    if mine:
        budgets = decode_budgets_of(recipe, described)
        shares = commit_calibration_images(engine, recipe, work)
        merged = calibrate(engine, recipe, cache, shares, {name: budgets[name] for name in mine.values()})
    for column, name in mine.items():
        it, stats = described[name], merged.finish(name)
        facts = {"identity": it.identity, "codec": codec, "shapes": it.shapes, "libraries": libraries}
        if restore_registration(cache, column, stats, **facts):
            log.warning("written the codec of %s again: it calibrates to the same tensors", column)
        else:
            log.warning("dropped %s: its codec is lost, and a new one came out otherwise", column)
            cache.drop(column)
    others = [column for column in columns if column not in made]
    return [f"{column} cannot be decoded, and the recipe makes another one" for column in others]


def remakeable(recipe: Recipe, cache: Cache, unreadable: Sequence[Column]) -> tuple[list[str], list[str]]:
    """Teachers with a column that lacks something and that the recipe makes; why others cannot be made.

    Where a column is calibrated again, with all that the recipe makes: they share the budget of decoding.
    """
    fitting, unfit = {column.teacher for column in unreadable}, []
    lacking = set(fitting)
    for column in unreadable:
        if column.teacher not in recipe.committee.teachers:
            unfit.append(f"{column} cannot be decoded, and the recipe does not name its teacher")
    for column in cache.columns():
        if column.is_images or column in unreadable:
            continue
        why, missing = misfit_of(recipe, cache, column), cache.missing(column)
        if why is None:
            fitting.add(column.teacher)
        if missing and why:
            unfit.append(f"{column} lacks {len(missing)} shards: {why}")
        elif missing:
            lacking.add(column.teacher)
    wanted = fitting if unreadable else lacking
    return [name for name in recipe.committee.teachers if name in wanted], unfit


def misfit_of(recipe: Recipe, cache: Cache, column: Column) -> str | None:
    """Why an extraction with the recipe would not make this column; None where it would."""
    from jobs.cache_columns import misfit

    doc = cache.teacher_doc(column)
    if "recoded_from" in doc["identity"]:
        return "it was recoded, run the same `recode` again"
    if column.teacher not in recipe.committee.teachers:
        return "the recipe does not name its teacher"
    if what := misfit(doc["identity"], str(column.teacher), recipe):
        return f"it has {what}"
    asked = recipe.cache.codec.model_dump(mode="json")
    differing = [key for key in {**asked, **doc["codec"]} if asked.get(key) != doc["codec"].get(key)]
    if differing:
        key = "name" if "name" in differing else sorted(differing)[0]
        return f"it has codec.{key} {doc['codec'].get(key)}, the recipe asks {asked.get(key)}"
    return None
