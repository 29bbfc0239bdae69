"""The layout that Theia keeps features in: per sample one safetensors file of bf16 per level, in a tar.

Read as its users do, with webdataset, decoding left to the caller; made fp32 while a batch is filled.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import webdataset
from safetensors.torch import load, save
from torch import Tensor

from storage.jpeg import decode_jpeg

NAME = "embedding"


def write(path: Path, jpegs: Sequence[bytes], levels: Sequence[Tensor], samples: int) -> None:
    """A tar of `samples` samples: a crop and its maps [n, C, h, w] per level, token-major; both recur."""
    with tarfile.open(path, "w") as tar:
        for sample in range(samples):
            files = {"jpg": jpegs[sample % len(jpegs)]}
            for number, level in enumerate(levels):
                tokens = level[sample % len(level)].permute(1, 2, 0).contiguous().bfloat16()
                files[f"level{number}.safetensors"] = save({NAME: tokens})
            for extension, data in files.items():
                info = tarfile.TarInfo(f"{sample:06d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


Held = list[tuple[np.ndarray, list[Tensor]]]
"""Crops uint8 [H, W, 3] and bf16 tokens [h, w, C] per level of some samples."""


def raw_batches(path: Path, levels: int, batch: int) -> Iterator[Held]:
    """What is in the tar, decoded but not converted."""
    held: Held = []
    for sample in webdataset.WebDataset(str(path), shardshuffle=False):
        maps = [load(sample[f"level{number}.safetensors"])[NAME] for number in range(levels)]
        held.append((decode_jpeg(sample["jpg"]), maps))
        if len(held) == batch:
            yield held
            held = []


def batches(path: Path, levels: int, batch: int, *, device: str) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Crops uint8 [B, H, W, 3] and fp32 maps [B, C, h, w] per level on the device."""
    for held in raw_batches(path, levels, batch):
        images = torch.from_numpy(np.stack([crop for crop, _ in held]))
        columns = zip(*(maps for _, maps in held), strict=True)
        yield images, [_collated(column, device) for column in columns]


def _collated(column: Sequence[Tensor], device: str) -> Tensor:
    level = torch.empty((len(column), *column[0].shape), device=device)
    for row, tokens in zip(level, column, strict=True):
        row.copy_(tokens)
    return level.permute(0, 3, 1, 2)


def plain_records(path: Path) -> Iterator[dict[str, bytes]]:
    """Samples as webdataset gives them, undecoded."""
    yield from webdataset.WebDataset(str(path), shardshuffle=False)
