"""Which place does a path mean, to this process and to every worker of a run?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jobs.config import Recipe
from jobs.errors import UsageError
from storage.config import Frozen

OPTIONS = ("cache", "caches", "out", "run", "student", "dir", "source", "photos", "single_task")
"""Options of commands that name files, folders or URLs."""
SETTINGS = (
    ("source", "path"),
    ("dataset", "path"),
    ("evaluate", "similarity_source"),
    ("stage1", "local_cache"),
)
"""Values of a recipe that do."""


def in_ray_job() -> bool:
    """Whether this process is the entry point of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def place(path: str) -> str:
    """The absolute form of a local path, `~` expanded; URLs and the empty path as they are.

    Workers run in other folders, and a Ray job in one that Ray deletes: there a relative path is refused.

    Raises:
        UsageError: a relative path in a Ray job.
    """
    if not path or "://" in path:
        return path
    local = Path(path).expanduser()
    if not local.is_absolute() and in_ray_job():
        raise UsageError(
            f"{path} is relative, and a Ray job runs in a folder of its own that Ray deletes; "
            "give an absolute path that every node sees, or a URL"
        )
    return str(local.absolute())


def place_options(options: Frozen) -> Frozen:
    """A command's options with every path placed."""
    found = {name: getattr(options, name) for name in OPTIONS if hasattr(options, name)}
    return options.model_copy(update={name: _placed(value) for name, value in found.items()})


def place_recipe(recipe: Recipe) -> Recipe:
    """A recipe with every path placed."""
    for section, key in SETTINGS:
        settings = getattr(recipe, section)
        placed = settings.model_copy(update={key: place(getattr(settings, key))})
        recipe = recipe.model_copy(update={section: placed})
    return recipe


def _placed(value: Any) -> Any:
    """A path, a string, several strings or None, in the same form."""
    if isinstance(value, Path):
        return Path(place(str(value)))
    if isinstance(value, tuple):
        return tuple(place(item) for item in value)
    return place(value) if isinstance(value, str) else value
