"""The work of an extraction in this process: the same workers and decisions, without a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobs.config import Recipe
from jobs.extract import fill
from jobs.work import open_work
from jobs.workers import stored_grid
from pipeline.queue import Queue
from pipeline.worker import ExtractionJob, ExtractionWorker
from storage.cache import Cache


class HereEngine:
    """One worker in this process, behind the engine's calls."""

    stopping = False

    def __init__(self, worker: Any) -> None:
        self.worker = worker

    def call(self, method: str, *arguments: Any) -> Any:
        """As Engine.call."""
        return getattr(self.worker, method)(*arguments)

    prepare = call

    def workers(self, units: int) -> str:
        """As Engine.workers."""
        return f"{units} units in this process"

    def run(
        self,
        queue: Queue,
        unit: Callable[[int], tuple[Any, ...]],
        *,
        on_result: Callable[[Any], None],
        method: str = "run",
    ) -> None:
        """As Engine.run; what goes wrong is raised."""
        while (shard := queue.take("here")) is not None:
            on_result(self.call(method, shard, *unit(shard)))
            queue.done("here", shard)


def extract_here(
    recipe: Recipe,
    url: str,
    *,
    append: bool = False,
    replace: bool = False,
    worker: Callable[[ExtractionJob], Any] = ExtractionWorker,
) -> Cache:
    """A complete cache."""
    work = open_work(recipe, url, append=append)
    fill(HereEngine(worker(job_of(recipe, url))), recipe, work, replace=replace)
    return Cache.open(url)


def job_of(recipe: Recipe, url: str) -> ExtractionJob:
    """What a worker of this process is made from."""
    return ExtractionJob(
        cache=url,
        source=recipe.source,
        views=recipe.views,
        committee=recipe.committee,
        codec=recipe.cache.codec,
        extract=recipe.extract,
        device="cpu",
        threads=1,
        grid=stored_grid(recipe),
    )
