"""Where do the numbers of a run go? One log line, JSONL record and TensorBoard point per interval."""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.atomic import replace_file
from student.metrics_log import read_records

log = logging.getLogger(__name__)

Row = dict[str, float]
COUNTS = ("skipped",)
"""Scalars that are counts: a record holds their sum, of all others the mean."""


class Recorder:
    """Collects the scalars of every step on their device and writes their means per interval.

    Args:
        out: the run's folder; gets metrics.jsonl and tensorboard/.
        first_step: steps done before; later records of an earlier, killed run are dropped.
        pending: rows of the open interval, from `flush` at the checkpoint the run resumes from.
    """

    def __init__(self, out: Path, *, first_step: int, total_steps: int, pending: list[Row]) -> None:
        self.path = out / "metrics.jsonl"
        self._records = _keep_until(self.path, first_step)
        self._board: Any = None
        self._folder = out / "tensorboard"
        self._first, self._step, self._total = first_step, first_step, total_steps
        self._rows, self._tensors, self._names = list(pending), [], ()
        self._started = self._marked = time.perf_counter()
        self._waited, self._samples = 0.0, 0
        self._counts: list[Mapping[str, int]] = []
        self._totals = {name: sum(r.get(name, 0) for r in self._records) for name in COUNTS}
        self.waited_s = 0.0
        """Time spent waiting for data since this recorder was made."""

    def add(
        self,
        loss: Tensor,
        scalars: Mapping[str, Tensor],
        *,
        samples: int,
        waited_s: float,
        counts: Mapping[str, int],
    ) -> None:
        """Note one step; nothing is copied to the host."""
        self._names = ("loss", *scalars)
        self._tensors.append(
            torch.stack([loss.detach().float(), *(s.detach().float() for s in scalars.values())])
        )
        self._counts.append(counts)
        self._step += 1
        self._samples += samples
        self._waited += waited_s
        self.waited_s += waited_s

    def flush(self) -> list[Row]:
        """Copy what was noted to the host and return the open interval's rows (JSON).

        Raises:
            ValueError: a loss is not finite; names the first such step.
        """
        if self._tensors:
            table = torch.stack(self._tensors).tolist()
            first = self._step - len(table) + 1
            for offset, (values, counts) in enumerate(zip(table, self._counts, strict=True)):
                row = _finite(dict(zip(self._names, values, strict=True)), step=first + offset)
                self._rows.append(row | counts)
            self._tensors, self._counts = [], []
        return self._rows

    def write(self, lr: float) -> Row:
        """Close the interval: means and counts of its rows, learning rate and speed, to all three places."""
        rows, now = self.flush(), time.perf_counter()
        elapsed = max(now - self._marked, 1e-9)
        sums = {name: sum(r[name] for r in rows) for name in rows[0]}
        counts = {name: total for name, total in sums.items() if name in COUNTS}
        self._totals = {name: self._totals[name] + counts.get(name, 0) for name in COUNTS}
        record: Row = (
            {"step": self._step} | {name: total / len(rows) for name, total in sums.items()} | counts
        )
        record |= {"lr": lr, "samples_per_s": self._samples / elapsed, "data_wait": self._waited / elapsed}
        if torch.cuda.is_available():
            record["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        self._rows, self._marked, self._waited, self._samples = [], now, 0.0, 0
        self._append(record)
        log.info("%s", self._line(record, now))
        return record

    def totals(self) -> dict[str, float]:
        """The counts of the whole run, killed and resumed calls included."""
        return {name: total for name, total in self._totals.items() if name in self.last()}

    def last(self) -> Row:
        """The last record of the run, {} before the first."""
        return self._records[-1] if self._records else {}

    def close(self) -> None:
        """Flush and close TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def _append(self, record: Row) -> None:
        self._records = [record]
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if self._board is None:
            self._board = _open_board(self._folder, self._first)
        for name, value in record.items():
            if name != "step":
                self._board.add_scalar(name, value, int(record["step"]))

    def _line(self, record: Row, now: float) -> str:
        done = self._step - self._first
        left_s = (now - self._started) / done * (self._total - self._step)
        losses = "  ".join(
            f"{name} {value:8.4f}" for name, value in record.items() if name.startswith("loss")
        )
        return (
            f"step {self._step:{len(str(self._total))}d}/{self._total}  {losses}  lr {record['lr']:.2e}  "
            f"{record['samples_per_s']:7.1f} samples/s  waiting for data {record['data_wait']:4.0%}  "
            + "".join(f"{name} {record[name]:.0f}  " for name in COUNTS if name in record)
            + f"left {timedelta(seconds=round(left_s))}"
        )


def _keep_until(path: Path, step: int) -> list[Row]:
    records = [record for record in read_records(path) if record["step"] <= step]
    replace_file(path, "".join(json.dumps(record) + "\n" for record in records).encode())
    return records


def _finite(row: Row, *, step: int) -> Row:
    bad = [name for name, value in row.items() if not math.isfinite(value)]
    if bad:
        raise ValueError(
            f"{bad[0]} is {row[bad[0]]} at step {step}; the checkpoints before it are sound: "
            "lower optim.lr, or set precision to fp32, and start from them in a new folder"
        )
    return row


def _open_board(folder: Path, step: int) -> Any:
    with warnings.catch_warnings():  # tensorboard's own dependencies deprecate each other at import
        warnings.simplefilter("ignore")
        from torch.utils.tensorboard import SummaryWriter
    return SummaryWriter(str(folder), purge_step=step + 1)
