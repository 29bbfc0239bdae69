"""Who does the work on a cache's shards: an engine over extraction workers, on the cluster joined."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jobs.config import Recipe

log = logging.getLogger(__name__)


@contextmanager
def extraction_workers(recipe: Recipe, url: str) -> Iterator[Any]:
    """Workers with the recipe's teachers for the cache at `url`; SIGTERM lets them finish what they hold.

    Yields:
        An Engine.
    """
    from pipeline.worker import ExtractionJob, ExtractionWorker

    def job(device: str, threads: int) -> ExtractionJob:
        return ExtractionJob(
            cache=url,
            source=recipe.source,
            views=recipe.views,
            committee=recipe.committee,
            codec=recipe.cache.codec,
            extract=recipe.extract,
            device=device,
            threads=threads,
            grid=stored_grid(recipe),
        )

    with engine_of(recipe, ExtractionWorker, job) as engine:
        yield engine


@contextmanager
def engine_of(recipe: Recipe, worker: type, job: Callable[[str, int], Any]) -> Iterator[Any]:
    """An Engine over workers made from what `job` returns for a device and a number of threads."""
    from pipeline.engine import Engine, slots_for

    ask = recipe.extract
    slots = slots_for(device=ask.device, actors=ask.actors, cpus_per_actor=ask.cpus_per_actor)
    engine = Engine(job(slots.device, slots.cpus), slots, worker=worker, stall_timeout_s=ask.stall_timeout_s)
    try:
        with stop_on_sigterm(engine):
            yield engine
    finally:
        engine.close()


def stored_grid(recipe: Recipe) -> tuple[int, int] | None:
    """The student's grid where the recipe pools larger maps to it; None where teachers keep their own."""
    from student.archs import arch_of

    size = recipe.views.size
    return arch_of(recipe.student.arch).grid(size, size) if recipe.cache.codec.grid == "student" else None


class stop_on_sigterm:
    """While entered, SIGTERM lets the shards in hand finish and starts no other."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGTERM, self._stop)

    def __exit__(self, *exc: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _stop(self, *_: object) -> None:
        log.warning("SIGTERM: finishing the shards in hand, then stopping")
        self._engine.stopping = True
