"""How shards are spread over a Ray cluster: one actor per GPU or CPU slot, tries owned by the driver.

One loop for all work on shards: extraction, calibration, anything else whose unit is a shard and whose worker
is a plain class. Pixels and features never cross the object store: an actor reads, decodes, runs the
teachers, writes and commits. What crosses is a shard's file list (in) and what its worker returns: counts, or
a calibration's sums. The only state is on disk: what is committed. The loop's decisions are in
`pipeline/queue.py`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from pipeline.queue import Queue

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
        job: what every worker needs: the argument of its constructor.
        slots: number and size of the actors.
        worker: the class that an actor is made of.
        stall_timeout_s: with nothing finished for this long the run stops and says what it waits for.
    """

    def __init__(self, job: Any, slots: Slots, *, worker: type, stall_timeout_s: float) -> None:
        self._job, self._slots = job, slots
        self._stall_timeout_s = stall_timeout_s
        self._actor = ray.remote(worker).options(
            num_cpus=slots.cpus,
            num_gpus=slots.gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": ENVIRONMENT},
        )
        self._prepare: tuple[str, tuple[Any, ...]] | None = None
        self._actors: list[Any] = []
        self._failed_starts = 0
        self.stopping = False

    def workers(self, units: int) -> str:
        """How many workers so many units keep busy, for a log line."""
        return f"{min(self._slots.actors, units)} workers ({self._slots.device})"

    def call(self, method: str, *arguments: Any) -> Any:
        """What `method` of one worker returns; for what needs a worker but is no shard.

        Raises:
            EngineError: the worker could not be set up, or the call failed.
        """
        actor = self._actors[0] if self._actors else self._start()
        try:
            return ray.get(getattr(actor, method).remote(*arguments))
        except RayTaskError as failed:
            raise EngineError(_first_line(failed)) from failed
        except RayActorError as failed:
            what = "could not be set up" if _never_began(failed) else f"died in {method}"
            raise EngineError(f"the first worker {what}: {_first_line(failed)}") from failed

    def prepare(self, method: str, *arguments: Any) -> None:
        """Call `method` on every worker, and first thing on every later one. Nothing is waited for: what goes
        wrong in it is lost, so it should only set what units then look at."""
        self._prepare = (method, arguments)
        for actor in self._actors:
            getattr(actor, method).remote(*arguments)

    def run(
        self,
        queue: Queue,
        unit: Callable[[int], tuple[Any, ...]],
        *,
        on_result: Callable[[Any], None],
        method: str = "run",
    ) -> None:
        """Execute the queue until it is finished, or `stopping` is set and all hands are empty.

        Args:
            unit: shard -> what `method` of the worker is given beside the shard.
            on_result: called in the driver with what `method` returned for each finished shard.
            method: of the worker, called with a shard and its `unit`.

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
                    call = getattr(actor, method).remote(shard, *unit(shard))
                    pending[call] = (actor, shard)
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
        if self._prepare:
            method, arguments = self._prepare
            getattr(actor, method).remote(*arguments)
        self._actors.append(actor)
        return actor

    def _settle(
        self,
        reference: Any,
        pending: dict[Any, tuple[Any, int]],
        *,
        queue: Queue,
        on_result: Callable[[Any], None],
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
        except RayError as raised:
            # raised by the worker, or the result was lost with its node before it came here
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
