"""How multi-task samples become batches: training and validation sets, their order, collate.

    train = TrainingSet(open_dataset(config.dataset, "train"), size=config.dataset.size, seed=0)
    order = BatchOrder(len(train), batch_size=4, seed=0, first=iteration, stop=40_000)
    with student.loading.loading(train, order, workers=2, device=device) as batches: ...

A batch is a dict: `image` float32 [B, 3, H, W] normalised by the ImageNet mean and deviation, padding 0;
`semseg`, `human_parts`, `sal`, `edge` uint8 [B, H, W], 255 = ignored; `depth` float32 [B, 1, H, W] metres and
`normals` float32 [B, 3, H, W], 255 = ignored in all channels; `id` list of B names; `size` int64 [B, 2],
height and width of the pixels read from disk (validation: `crop_back` cuts predictions to it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from student.config import DatasetConfig
from student.tasks.augment import augment, centre
from student.tasks.nyud import Nyud
from student.tasks.pascal_context import PascalContext

Sample = dict[str, Any]

ORDER, AUGMENTATION = 0, 1
"""First word of every seed here: no sample's augmentation draws from the stream that orders an epoch."""


class Reader(Protocol):
    """A split of a data set on disk: `ids`, `tasks` and `read(index)`."""

    ids: list[str]
    tasks: tuple[str, ...]

    def read(self, index: int) -> Sample:
        """One sample: `id`, `image` uint8 [H, W, 3] and an array per task (nyud.py, pascal_context.py)."""
        ...


def open_dataset(config: DatasetConfig, split: str) -> Reader:
    """The reader of one split ("train" or "val"); DatasetError names what is missing and the remedy."""
    reader = {"nyud": Nyud, "pascal_context": PascalContext}[config.name]
    return reader(config.path, split, config.tasks, compat=config.compat)


class TrainingSet(Dataset):
    """Augmented samples; an item is named (epoch, index): a sample is a pure function of name and seed."""

    def __init__(self, reader: Reader, *, size: tuple[int, int], seed: int) -> None:
        self.reader, self.size, self.seed = reader, size, seed

    def __len__(self) -> int:
        return len(self.reader.ids)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, index = item
        rng = np.random.default_rng((AUGMENTATION, self.seed, epoch, index))
        return augment(self.reader.read(index), rng, self.size)


class ValidationSet(Dataset):
    """Samples at their own size, centred on the input size: validation never resizes."""

    def __init__(self, reader: Reader, *, size: tuple[int, int]) -> None:
        self.reader, self.size = reader, size

    def __len__(self) -> int:
        return len(self.reader.ids)

    def __getitem__(self, index: int) -> Sample:
        return centre(self.reader.read(index), self.size)


class BatchOrder:
    """Which samples are in iterations [first, stop): lists of (epoch, index), pure in the arguments.

    Every epoch is a fresh permutation cut into whole batches (the last incomplete one is dropped), so a run
    resumed at iteration n reads exactly what it would have read. ValueError if a batch exceeds the data set.
    """

    def __init__(self, samples: int, *, batch_size: int, seed: int, first: int, stop: int) -> None:
        if batch_size > samples:
            raise ValueError(
                f"a batch of {batch_size} images exceeds the training split of {samples}; lower batch_size"
            )
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.first, self.stop = first, stop

    def __len__(self) -> int:
        return max(0, self.stop - self.first)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = self.samples // self.batch_size
        epoch, order = -1, np.empty(0, int)
        for iteration in range(self.first, self.stop):
            if iteration // per_epoch != epoch:
                epoch = iteration // per_epoch
                order = _shuffled(self.samples, (ORDER, self.seed, epoch))
            start = iteration % per_epoch * self.batch_size
            yield [(epoch, int(index)) for index in order[start : start + self.batch_size]]


def _shuffled(count: int, words: tuple[int, ...]) -> np.ndarray:
    """A permutation of `count` drawn from the words, int64 [count].

    Sorts raw Philox output, which NumPy keeps stable across releases, as it does not Generator.permutation: a
    run must resume under another NumPy.
    """
    raw = np.random.Philox(np.random.SeedSequence(words)).random_raw(count)
    return np.argsort(raw, kind="stable")


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """Stack samples of one size into the batch described above."""
    batch: dict[str, Any] = {
        "id": [sample["id"] for sample in samples],
        "size": torch.tensor([sample["size"] for sample in samples]),
    }
    for name in samples[0]:
        if name not in batch:
            stacked = np.stack([sample[name] for sample in samples])
            batch[name] = torch.from_numpy(stacked)
    return batch


def crop_back(padded: Tensor, size: Sequence[int]) -> Tensor:
    """The centre [..., h, w] of a padded validation map [..., H, W], where the image of that size lies."""
    (height, width), (h, w) = padded.shape[-2:], (int(size[0]), int(size[1]))
    top, left = (height - h) // 2, (width - w) // 2
    return padded[..., top : top + h, left : left + w]
