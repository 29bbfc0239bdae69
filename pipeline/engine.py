"""How shards are spread over a Ray cluster: one actor per GPU or CPU slot, tries owned by the driver.

Pixels and features never cross the object store: an actor reads, decodes, runs the teachers, writes and
commits. What crosses is a shard's file list (in) and its `ShardResult` (out). The only state is on disk: what
is committed. The loop's decisions are in `pipeline/queue.py`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from pipeline.queue import Queue
from pipeline.worker import ExtractionJob, ExtractionWorker, ShardResult
from storage.layout import Column

log = logging.getLogger(__name__)
POLL_S = 1.0
MAX_FAILED_STARTS = 3
ENVIRONMENT = {"GOMP_SPINCOUNT": "1000"}
"""Of every actor: several share a node, and OpenMP threads that spin long while they wait starve others."""


class EngineError(ValueError):
    """The run cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Slots:
    """How many actors, and what each one holds."""

    actors: int
    cpus: int
    gpus: float
    device: str


def slots_for(*, device: str, actors: int, cpus_per_actor: int) -> Slots:
    """Actors that the cluster has room for: one per GPU, else one per `cpus_per_actor` CPUs.

    Raises:
        EngineError: CUDA is asked for and the cluster has no GPU.
    """
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    if device == "cuda" and not gpus:
        raise EngineError(
            "extract.device is cuda, but the Ray cluster has no GPU; add GPU nodes or set it to cpu"
        )
    if gpus and device != "cpu":
        return Slots(actors or gpus, min(cpus_per_actor, max(1, cpus // gpus)), 1, "cuda")
    per_actor = min(cpus_per_actor, cpus)
    return Slots(actors or max(1, cpus // per_actor), per_actor, 0, "cpu")


class Engine:
    """Actors over one job, and the loop that keeps them busy.

    Args:
        job: what every worker needs.
        slots: number and size of the actors.
        stall_timeout_s: with nothing finished for this long the run stops and says what it waits for.
        worker: what an actor is made of.
    """

    def __init__(
        self,
        job: ExtractionJob,
        slots: Slots,
        *,
        stall_timeout_s: float,
        worker: type[ExtractionWorker] = ExtractionWorker,
    ) -> None:
        self._job, self._slots = job, slots
        self._stall_timeout_s = stall_timeout_s
        self._actor = ray.remote(worker).options(
            num_cpus=slots.cpus,
            num_gpus=slots.gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": ENVIRONMENT},
        )
        self._columns: Mapping[str, Column] = {}
        self._actors: list[Any] = []
        self._failed_starts = 0
        self.stopping = False

    def register(self, calibration: Mapping[int, pa.Table]) -> Mapping[str, Column]:
        """Register (and where new, calibrate) the committee's columns on the first actor."""
        actor = self._start()
        try:
            self._columns = ray.get(actor.register.remote(calibration))
        except RayTaskError as failed:
            raise EngineError(_first_line(failed)) from failed
        except RayActorError as failed:
            raise EngineError(f"the first worker could not be set up: {_first_line(failed)}") from failed
        return self._columns

    def run(
        self,
        queue: Queue,
        unit: Callable[[int], tuple[pa.Table, Sequence[str]]],
        *,
        on_result: Callable[[ShardResult], None],
    ) -> None:
        """Execute the queue until it is finished, or `stopping` is set and all hands are empty.

        Args:
            unit: shard -> (its photos, the teachers whose columns miss it).
            on_result: called in the driver for each finished shard.

        Raises:
            EngineError: no progress for `stall_timeout_s`; names the shards in hand.
        """
        while len(self._actors) < min(self._slots.actors, queue.waiting):
            self._start()
        pending: dict[Any, tuple[Any, int]] = {}
        progress = time.monotonic()
        while not queue.finished:
            for actor in self._actors:
                while not self.stopping and (shard := queue.take(actor)) is not None:
                    pending[actor.run.remote(shard, *unit(shard))] = (actor, shard)
            if not pending:
                break
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=POLL_S)
            for reference in ready:
                if reference in pending and self._settle(
                    reference, pending, queue=queue, on_result=on_result
                ):
                    progress = time.monotonic()
            if time.monotonic() - progress > self._stall_timeout_s:
                hands = sorted(shard for _, shard in pending.values())
                raise EngineError(
                    f"no shard finished for {self._stall_timeout_s:g} s; waiting for shards {hands}; "
                    "look at the workers' logs, or raise extract.stall_timeout_s"
                )

    def close(self) -> None:
        """Stop the actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()

    def _start(self) -> Any:
        actor = self._actor.remote(self._job)
        if self._columns:
            actor.use.remote(self._columns)
        self._actors.append(actor)
        return actor

    def _settle(
        self,
        reference: Any,
        pending: dict[Any, tuple[Any, int]],
        *,
        queue: Queue,
        on_result: Callable[[ShardResult], None],
    ) -> bool:
        """Whether a finished call was an execution: a worker that cannot be reached is no progress."""
        actor, shard = pending.pop(reference)
        try:
            result = ray.get(reference)
        except ActorUnavailableError:
            queue.returned(actor, shard)
            return False
        except RayActorError as died:
            for other in [r for r, (owner, _) in pending.items() if owner == actor]:
                del pending[other]
            self._bury(actor, died, queue)
        except RayTaskError as raised:
            log.warning("shard %06d failed: %s", shard, _first_line(raised))
            queue.failed(actor, shard, _first_line(raised))
        else:
            queue.done(actor, shard)
            on_result(result)
        return True

    def _bury(self, actor: Any, died: RayActorError, queue: Queue) -> None:
        """Take a dead actor's shards back and replace it; one that never began has executed none of them."""
        why = _first_line(died)
        log.warning("a worker died: %s", why)
        self._actors.remove(actor)
        if _never_began(died):
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise EngineError(f"{self._failed_starts} workers could not be set up, the last: {why}")
            for shard in list(queue.in_hand[actor]):
                queue.returned(actor, shard)
        else:
            queue.lost(actor, f"its worker died: {why}")
        if len(self._actors) < min(self._slots.actors, queue.waiting):
            self._start()


def _never_began(died: RayActorError) -> bool:
    """Whether the actor died in its constructor."""
    return "creation task" in str(died)


def _first_line(error: Exception) -> str:
    """The cause's own message, without the traceback that Ray wraps it in."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()] or [type(cause).__name__]
    if isinstance(cause, RayActorError) and _never_began(cause):
        return re.sub(r"^[\w.]+: ", "", lines[-1])
    return f"{type(cause).__name__}: {lines[0]}"
