"""How does training run? One loop for both stages: steps, log, checkpoints, resume, clean stop.

A stage gives a step function, a factory of batches and what is trained; the loop knows no teacher, no task.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from student.checkpoint import Checkpoint, Checkpoints
from student.config import OptimConfig, Stage1Config, Stage2Config
from student.record import Recorder
from student.schedule import Schedule

log = logging.getLogger(__name__)

Step = Callable[[Any], tuple[Tensor, Mapping[str, Tensor]]]
"""batch -> (scalar loss, named scalars for the log); tensors on the device, no host sync."""
Batches = Callable[[int, int], AbstractContextManager[Iterable[Any]]]
"""(first step, number of steps) -> context manager over exactly that many batches."""
Counts = Callable[[Any], Mapping[str, int]]
"""batch -> named counts: the log sums them, as it takes the mean of scalars."""

FREE = {"log_every", "checkpoint_every", "threads", "workers", "on_bad_shard"} | {
    "local_cache",
    "local_cache_gb",
}
"""Settings that a resumed run may change: they do not change what is learned from sound data."""


@dataclass(frozen=True)
class Trained:
    """What the loop changes: the model, its optimizer, and the learning rate of each step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule


def adamw(model: nn.Module, optim: OptimConfig, device: torch.device) -> torch.optim.AdamW:
    """The optimizer of both stages: one rate and one decay for every parameter, as the authors have it."""
    return torch.optim.AdamW(
        model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, fused=device.type == "cuda"
    )


@dataclass(frozen=True)
class LoopSettings:
    """How long, how often, and what must not change between a run and its resumption."""

    total_steps: int
    batch_size: int
    """Samples per step over all ranks, for the speed in the log."""
    log_every: int = 50
    checkpoint_every: int = 1000
    clip: float = 0.0
    """Gradient norm clip; 0: none."""
    seed: int = 0
    """Seeds the global generators, with the step, before each step: no generator state to resume."""
    pins: Mapping[str, Any] = field(default_factory=dict)
    """JSON facts that a resumed run must share: recipe values, snapshot of the data."""

    @classmethod
    def of(
        cls, stage: str, config: Stage1Config | Stage2Config, *, total_steps: int, pins: Mapping[str, Any]
    ) -> LoopSettings:
        """The settings that a recipe's section `stage` asks for; pins what shapes the result, and `pins`."""
        values = config.model_dump(mode="json", exclude=FREE)
        values |= {f"optim.{name}": value for name, value in values.pop("optim").items()}
        return cls(
            total_steps=total_steps,
            batch_size=config.batch_size,
            log_every=config.log_every,
            checkpoint_every=config.checkpoint_every,
            clip=config.optim.clip,
            seed=config.seed,
            pins={f"{stage}.{name}": value for name, value in values.items()} | pins,
        )

    def pinned(self) -> dict[str, Any]:
        """Every fact that a resumed run must share."""
        own = {name: getattr(self, name) for name in ("total_steps", "batch_size", "clip", "seed")}
        return {**own, **self.pins}


def run_loop(
    step: Step,
    batches: Batches,
    trained: Trained,
    *,
    settings: LoopSettings,
    out: Path,
    counts: Counts = lambda _: {},
) -> dict[str, Any]:
    """Train from the last checkpoint in `out` (or from the start) to `settings.total_steps`.

    SIGTERM and Ctrl-C save a checkpoint after the current step and leave with exit code 128 + signal; the
    same call then goes on and gives the losses of a run that was never stopped (bit for bit on one CPU).

    Args:
        step: computes loss and scalars of a batch with the model in training mode; the loop does the rest.
        batches: called once with the first step and the number of steps left; not at all where none is left.
        trained: changed in place.
        settings: lengths, intervals, pins.
        out: the run's folder: metrics.jsonl, tensorboard/, checkpoints/.
        counts: what to count of each batch.

    Returns:
        Summary: steps, first_step, steps_run, seconds and data_wait (their share spent waiting for data),
        both of this call; each count over the whole run, and the last record under `last`.

    Raises:
        ValueError: a loss is not finite (names the step), the checkpoint is another run's, too few batches.
        SystemExit: after a signal, with the checkpoint on disk.
    """
    checkpoints = Checkpoints(out / "checkpoints")
    resumed = checkpoints.load_latest(trained.model, trained.optimizer)
    first, pending = _resume(resumed, settings), resumed.state["pending"] if resumed else []
    started = time.perf_counter()
    recorder = Recorder(out, first_step=first, total_steps=settings.total_steps, pending=pending)
    with closing(recorder):
        if first < settings.total_steps:
            run = _Run(step, trained, settings, recorder, checkpoints, counts)
            with batches(first, settings.total_steps - first) as stream:
                run.train(iter(stream), first)
        seconds = time.perf_counter() - started
        return {
            "steps": settings.total_steps,
            "first_step": first,
            "steps_run": settings.total_steps - first,
            "seconds": seconds,
            "data_wait": recorder.waited_s / seconds,
            **recorder.totals(),
            "last": recorder.last(),
        }


@dataclass(frozen=True)
class _Run:
    step: Step
    trained: Trained
    settings: LoopSettings
    recorder: Recorder
    checkpoints: Checkpoints
    counts: Counts

    def train(self, stream: Iterator[Any], first: int) -> None:
        """Take every step from `first` on."""
        self.trained.model.train()
        with _stop_signal() as stop:
            for number in range(first, self.settings.total_steps):
                asked = time.perf_counter()
                batch = self._next(stream, number)
                waited = time.perf_counter() - asked
                loss, scalars = self._update(batch, number)
                self.recorder.add(
                    loss,
                    scalars,
                    samples=self.settings.batch_size,
                    waited_s=waited,
                    counts=self.counts(batch),
                )
                self._after(number + 1, stop)

    def _next(self, stream: Iterator[Any], number: int) -> Any:
        try:
            return next(stream)
        except StopIteration:
            total = self.settings.total_steps
            raise ValueError(
                f"the data ended at step {number} of {total}; give as many batches as asked"
            ) from None

    def _update(self, batch: Any, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        """One optimizer step."""
        trained, clip = self.trained, self.settings.clip
        for group in trained.optimizer.param_groups:
            group["lr"] = trained.schedule(number)
        torch.manual_seed(self.settings.seed * 1_000_003 + number)
        trained.optimizer.zero_grad(set_to_none=True)
        loss, scalars = self.step(batch)
        loss.backward()
        scalars = dict(scalars)
        if clip:
            scalars["grad_norm"] = nn.utils.clip_grad_norm_(trained.model.parameters(), clip)
        trained.optimizer.step()
        return loss, scalars

    def _after(self, done: int, stop: list[int]) -> None:
        """Log, save and stop where it is time to."""
        settings, last = self.settings, done == self.settings.total_steps
        if last or done % settings.log_every == 0:
            self.recorder.write(self.trained.schedule(done - 1))
        if last or stop or done % settings.checkpoint_every == 0:
            state = {"pending": self.recorder.flush(), "pins": settings.pinned()}
            path = self.checkpoints.save(done, self.trained.model, self.trained.optimizer, state)
            log.info("checkpoint %s", path)
        if stop:
            log.warning("stopped by %s; run the same command to go on", signal.Signals(stop[0]).name)
            raise SystemExit(128 + stop[0])


def _resume(checkpoint: Checkpoint | None, settings: LoopSettings) -> int:
    if checkpoint is None:
        return 0
    then, now = checkpoint.state["pins"], settings.pinned()
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name):
            raise ValueError(
                f"checkpoint {checkpoint.path} was made with {name} {then.get(name)}, this run has "
                f"{now.get(name)}; resume with the same recipe and data, or choose another output folder"
            )
    log.info("resuming at step %d from %s", checkpoint.step, checkpoint.path)
    return checkpoint.step


@contextmanager
def _stop_signal() -> Iterator[list[int]]:
    """A list that gets the number of the first SIGTERM or SIGINT; the second one acts as it always did.

    Outside the main thread Python allows no handlers: the list then stays empty.
    """
    stop: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {
        number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGINT)
    }

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: object) -> None:
        stop.append(number)
        log.warning("%s: finishing this step, then saving", signal.Signals(number).name)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
