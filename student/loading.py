"""How do multi-task samples reach the loop: workers that leave when training ends, however it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from student.tasks.batches import collate

Batch = dict[str, Any]


@contextmanager
def loading(
    dataset: Dataset, batches: Iterable[list[Any]], *, workers: int, device: torch.device
) -> Iterator[Iterator[Batch]]:
    """An iterator over collated batches, in order, read ahead by worker processes (0: by this process).

    The workers are spawned (forking a process that holds a CUDA context or threads is not safe), serve all
    batches of one run, and are gone when the block is left, also by an exception or a signal.

    Args:
        dataset: picklable; its items are the names in `batches`.
        batches: lists of names, one per batch.
        workers: processes.
        device: where the batches go; for CUDA they are pinned.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=_Named(batches),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=prepare_worker if workers else None,
        multiprocessing_context="spawn" if workers else None,
    )
    iterator = iter(loader)
    try:
        yield iterator
    finally:
        # the loader stops its workers when it is collected, which a traceback delays for as long as it lives
        if workers:
            iterator._shutdown_workers()


def prepare_worker(_: int) -> None:
    """One OpenCV thread: the workers are the parallelism. And no part in how a run is stopped.

    Ctrl-C and SIGTERM, which go to the whole process group, are for the process that trains: it finishes its
    step, saves, and stops its workers itself; they also leave when it is gone.
    """
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def to_device(batch: Batch, names: Iterable[str], device: torch.device) -> dict[str, torch.Tensor]:
    """The named tensors of a batch on the device, without waiting for them."""
    return {name: batch[name].to(device, non_blocking=True) for name in names}


class _Named(Sampler[list[Any]]):
    """The batches as the loader wants them."""

    def __init__(self, batches: Iterable[list[Any]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.batches)
