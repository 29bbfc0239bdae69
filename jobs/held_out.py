"""Which held-out images is a student scored on, and what does it see of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from jobs.config import Recipe
from pipeline.config import SourceConfig
from pipeline.decode import Quarantine, decode_rgb
from pipeline.sources import Source, open_source
from pipeline.views import squash

Entry = dict[str, object]


@dataclass(frozen=True)
class HeldOut:
    """Images of a folder, squashed to a square as for the paper's Tables 3 and 17.

    Attributes:
        count: images to use, evenly spread over the sorted keys; 0: all.
    """

    source: SourceConfig
    size: int
    batch_size: int
    count: int = 0

    def pixels(self) -> Iterator[np.ndarray]:
        """uint8 `[size, size, 3]` of each image in turn; what cannot be decoded is passed over."""
        source: Source = open_source(self.source)
        index = source.index()
        wanted = self.count or len(index)
        rows = np.unique(np.linspace(0, len(index) - 1, min(wanted, len(index))).astype(int))
        for entry in index.take(rows).to_pylist():
            try:
                rgb = decode_rgb(
                    source.read(entry["path"], entry["offset"], entry["size"]), self.source.max_pixels
                )
            except Quarantine:
                continue
            yield squash(rgb, self.size)

    def batches(self) -> Iterator[torch.Tensor]:
        """float32 `[b, 3, size, size]` in 0..1, in the order of `pixels`."""
        held: list[np.ndarray] = []
        for pixels in self.pixels():
            held.append(pixels)
            if len(held) == self.batch_size:
                yield unit_batch(held)
                held = []
        if held:
            yield unit_batch(held)


def held_out(recipe: Recipe) -> HeldOut:
    """The held-out images that a recipe names.

    Raises:
        ValueError: it names none.
    """
    ask = recipe.evaluate
    if not ask.similarity_source:
        raise ValueError(
            "evaluate.similarity_source is empty; name a folder of held-out images (ImageNet val)"
        )
    source = recipe.source.model_copy(update={"kind": "folder", "path": ask.similarity_source})
    return HeldOut(source, recipe.views.size, ask.batch_size, ask.similarity_images)


def unit_batch(pixels: list[np.ndarray]) -> torch.Tensor:
    """uint8 pictures `[H, W, 3]` of one size -> float32 `[n, 3, H, W]` in 0..1."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(255)
