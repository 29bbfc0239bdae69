"""Batches: the order is pure, workers and resuming change nothing, teachers get true pixels back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from student.config import DatasetConfig
from student.loading import prepare_worker
from student.pixels import denormalise, normalise
from student.tasks import batches
from student.tasks.batches import (
    BatchOrder,
    TrainingSet,
    ValidationSet,
    collate,
    crop_back,
    open_dataset,
)
from student.tasks.losses import task_losses
from student.tasks.metrics import for_task
from student.tasks.spec import out_channels
from student.tasks.visualise import show_prediction
from tests.student.tasks.scene_sets import SIZE, TASKS


def training_set(data: Path, name: str = "nyud", seed: int = 0) -> TrainingSet:
    config = DatasetConfig(name=name, path=str(data), tasks=TASKS[name], size=(64, 80))
    return TrainingSet(open_dataset(config, "train"), size=config.size, seed=seed)


@given(
    samples=st.integers(1, 30),
    batch=st.integers(1, 8),
    first=st.integers(0, 40),
    more=st.integers(0, 40),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_order_is_whole_epochs_and_resumes_anywhere(
    samples: int, batch: int, first: int, more: int, seed: int
) -> None:
    if batch > samples:
        with pytest.raises(ValueError, match="lower batch_size"):
            BatchOrder(samples, batch_size=batch, seed=seed, first=0, stop=1)
        return
    stop = first + more
    whole = list(BatchOrder(samples, batch_size=batch, seed=seed, first=0, stop=stop))
    order = BatchOrder(samples, batch_size=batch, seed=seed, first=first, stop=stop)
    assert list(order) == whole[first:] and len(order) == len(whole[first:])
    per_epoch = samples // batch
    for start in range(0, stop - per_epoch + 1, per_epoch):
        epoch = [item for step in whole[start : start + per_epoch] for item in step]
        assert {e for e, _ in epoch} == {start // per_epoch}
        indices = [i for _, i in epoch]
        assert len(set(indices)) == per_epoch * batch and set(indices) <= set(range(samples))


def test_order_is_the_same_under_every_numpy() -> None:
    """A run must resume after an upgrade: raw Philox output is stable, what is made of it is pinned."""
    epochs = BatchOrder(7, batch_size=7, seed=3, first=0, stop=2)
    assert [[index for _, index in epoch] for epoch in epochs] == [
        [6, 1, 3, 5, 2, 4, 0],
        [1, 4, 6, 2, 0, 3, 5],
    ]


def test_no_sample_is_augmented_from_the_stream_of_the_order(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds, shuffle = [], np.random.SeedSequence

    def spied(words: tuple[int, ...]) -> np.random.SeedSequence:
        seeds.append(shuffle(words))
        return seeds[-1]

    monkeypatch.setattr(batches.np.random, "SeedSequence", spied)
    list(BatchOrder(5, batch_size=5, seed=3, first=0, stop=2))
    monkeypatch.setattr(batches, "augment", lambda sample, rng, size: rng.bit_generator.seed_seq)
    dataset = training_set(data, seed=3)
    seeds += [dataset[epoch, index] for epoch in range(2) for index in range(2)]
    assert len({tuple(seed.generate_state(4)) for seed in seeds}) == len(seeds) == 6


@pytest.mark.parametrize("name", list(TASKS))
def test_workers_do_not_change_the_batches(data: Path, name: str) -> None:
    dataset = training_set(data, name)

    def batches(workers: int, first: int) -> list[dict]:
        order = BatchOrder(len(dataset), batch_size=2, seed=3, first=first, stop=5)
        loader = DataLoader(
            dataset,
            batch_sampler=order,
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=prepare_worker,
        )
        return list(loader)

    one, two, resumed = batches(0, 0), batches(2, 0), batches(0, 3)
    assert len(one) == 5 and [b["id"] for b in one[3:]] == [b["id"] for b in resumed]
    for a, b in [*zip(one, two, strict=True), *zip(one[3:], resumed, strict=True)]:
        assert a["id"] == b["id"]
        assert all(torch.equal(a[k], b[k]) for k in a if k != "id")
    assert one[0]["image"].shape == (2, 3, 64, 80) and one[0]["size"].tolist() == [list(SIZE)] * 2
    assert set(one[0]) == {"id", "size", "image", *TASKS[name]}


def test_epochs_and_seeds_differ(data: Path) -> None:
    dataset = training_set(data)
    assert not np.array_equal(dataset[0, 1]["image"], dataset[1, 1]["image"])
    assert not np.array_equal(dataset[0, 1]["image"], training_set(data, seed=1)[0, 1]["image"])


def test_teachers_get_the_true_pixels_and_padding_is_the_mean(data: Path) -> None:
    config = DatasetConfig(path=str(data), size=(80, 100))
    reader = open_dataset(config, "val")
    batch = collate([ValidationSet(reader, size=config.size)[i] for i in range(2)])
    pixels = denormalise(batch["image"])
    inner = crop_back(pixels, batch["size"][0])
    image = torch.from_numpy(reader.read(0)["image"].copy()).permute(2, 0, 1) / 255
    assert torch.allclose(inner[0], image, atol=1e-6)
    assert torch.allclose(pixels[0, :, 0, 0], torch.tensor([0.485, 0.456, 0.406]))
    assert (batch["image"][:, :, :4] == 0).all()
    # Padding survives the way to pixels and back exactly: a model sees 0 there.
    assert torch.equal(normalise(pixels)[:, :, :4], batch["image"][:, :, :4])
    assert torch.allclose(normalise(pixels), batch["image"], atol=1e-5)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_batch_goes_through_losses_meters_and_pictures(data: Path, name: str) -> None:
    dataset = training_set(data, name)
    batch = collate([dataset[0, i] for i in range(3)])
    torch.manual_seed(0)
    predictions = {
        task: torch.randn(3, channels, 64, 80, requires_grad=True)
        for task, channels in out_channels(name, TASKS[name]).items()
    }
    total, each = task_losses(predictions, batch)
    total.backward()
    assert total.isfinite() and set(each) == set(TASKS[name])
    for task, prediction in predictions.items():
        assert prediction.grad.isfinite().all() and prediction.grad.any()
        meter = for_task(task, name)
        meter.update(prediction, batch[task])
        assert np.isfinite(meter.compute())
        assert show_prediction(task, prediction[0]).shape == (64, 80, 3)
