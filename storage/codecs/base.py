"""What every codec is, and what they share: level shapes, flat token-major codes, fidelity, refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

Stats = Mapping[str, Tensor]
"""`mean.<level>` and `scale.<level>`, fp32 [C]."""


class LevelShape(NamedTuple):
    """Shape of one level's map."""

    channels: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        """Positions of the grid."""
        return self.height * self.width

    @property
    def values(self) -> int:
        """Numbers in one map."""
        return self.channels * self.tokens


class Encoded(NamedTuple):
    """A batch of samples as codes."""

    codes: np.ndarray
    """[B, symbols]; rows with a reason hold nothing of use."""
    fidelity: np.ndarray
    """Cosine of z-scored original and decoded maps, flattened; float64 [B, levels], NaN beside a reason."""
    reasons: list[str | None]
    """Why a row cannot be stored, None for one that can; length B."""


class Codec(Protocol):
    """Feature maps of one teacher <-> codes <-> records."""

    name: str
    ext: str
    """Extension of its members in a tar."""
    shapes: tuple[LevelShape, ...]
    symbol_dtype: np.dtype
    symbols: int
    """Length of a flat row of codes."""

    def encode(self, levels: Sequence[Tensor]) -> Encoded:
        """Codes of `levels`, each [B, C, h, w] floating point, computed on their device, copied out once.

        Raises ValueError for shapes other than the codec's; content never raises, it gets a reason.
        """

    def pack(self, codes: np.ndarray) -> bytes:
        """The record of one row of codes [symbols]: lossless stage and CRC. Threads may call it at once."""

    def unpack(self, record: bytes) -> np.ndarray:
        """The codes [symbols] of a record whose CRC has been checked. Threads may call it at once.

        Raises FormatError when the record is not of this codec.
        """

    def decode(self, codes: Sequence[np.ndarray | None], device: torch.device | str) -> list[Tensor]:
        """Maps, float32 [B, C, h, w] per level (channels last in memory); zeros for None."""


def check_shapes(levels: Sequence[Tensor], shapes: Sequence[LevelShape]) -> None:
    """Raises ValueError unless `levels` are one batch of maps of these shapes."""
    found = [tuple(level.shape[1:]) for level in levels]
    batches = {level.shape[0] for level in levels}
    if found != [tuple(shape) for shape in shapes] or len(batches) != 1:
        wanted = [tuple(shape) for shape in shapes]
        raise ValueError(
            f"the codec was made for levels of (C, h, w) {wanted}, it was given {found} in batches of "
            f"{sorted(batches)}; extract this teacher into a new column"
        )


def tokens_of(level: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h*w, C] float32, the order on disk."""
    return level.permute(0, 2, 3, 1).flatten(1, 2).float()


def map_of(tokens: Tensor, shape: LevelShape) -> Tensor:
    """[B, h*w, C] -> [B, C, h, w], a view."""
    return tokens.view(len(tokens), shape.height, shape.width, shape.channels).permute(0, 3, 1, 2)


class ChannelStats:
    """Mean and scale per level, fp32 [C] each, moved to a device once: a copy per step would stall it."""

    def __init__(self, stats: Stats, shapes: Sequence[LevelShape]) -> None:
        self._levels = [
            (
                stats.get(f"mean.{level}", torch.zeros(shape.channels)),
                stats.get(f"scale.{level}", torch.ones(shape.channels)),
            )
            for level, shape in enumerate(shapes)
        ]
        self._moved: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}

    def on(self, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """(mean, scale) per level on `device`; 0 and 1 where nothing was calibrated."""
        if device not in self._moved:
            self._moved[device] = [(mean.to(device), scale.to(device)) for mean, scale in self._levels]
        return self._moved[device]


def flat_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of two batches of maps [B, N, C], each map flattened; float64 [B]. Two zero maps are alike.

    Sums are fp32 over a token's channels and fp64 over tokens: exact to 1e-9, and no slower than fp32.
    """
    pairs = ((first, second), (first, first), (second, second))
    dot, aa, bb = ((x * y).sum(2).double().sum(1) for x, y in pairs)
    cosine = (dot / (aa * bb).sqrt()).clamp(-1, 1)
    return torch.where((aa == 0) | (bb == 0), (aa == bb).double(), cosine)


def gather_rows(
    codes: Sequence[np.ndarray | None], dtype: np.dtype, symbols: int, device: torch.device
) -> Tensor:
    """Rows of codes as one tensor [B, symbols] on `device`: one host copy, one transfer; zeros for None."""
    pinned = device.type == "cuda"
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    host = torch.empty((len(codes), symbols), dtype=kind, pin_memory=pinned)
    rows = host.numpy()
    for row, code in zip(rows, codes, strict=True):
        row[:] = 0 if code is None else code
    return host.to(device, non_blocking=pinned)


def missing_rows(codes: Sequence[np.ndarray | None], device: torch.device) -> Tensor | None:
    """Rows that are None, int64 on `device`; None when there are none."""
    rows = [row for row, code in enumerate(codes) if code is None]
    return torch.tensor(rows, device=device) if rows else None


def fetch_report(fidelity: Sequence[Tensor], peaks: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Fidelity and largest |x| per level, [B, levels] float64 each, in one transfer."""
    both = torch.stack([torch.stack(list(fidelity), 1), torch.stack(list(peaks), 1).double()]).cpu().numpy()
    return both[0], both[1]


def refusals(fidelity: np.ndarray, peaks: np.ndarray, limit: float) -> list[str | None]:
    """Per row, why it cannot be stored: NaN, infinity or a value beyond `limit`; its fidelity becomes NaN."""
    reasons: list[str | None] = [None] * len(peaks)
    bad = ~(peaks <= limit) | ~np.isfinite(fidelity)
    for row, level in zip(*np.nonzero(bad), strict=True):
        peak = peaks[row, level]
        what = (
            f"values of magnitude {peak:.6g}, too large for the codec"
            if np.isfinite(peak)
            else "NaN or infinity"
        )
        reasons[row] = reasons[row] or f"level {level} holds {what}"
    fidelity[bad.any(axis=1)] = np.nan
    return reasons
