"""What every codec is, and what they share: level shapes, flat token-major codes, fidelity, refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from storage.quality import Quality

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
    quality: Quality
    """What decoding would give back; NaN beside a reason."""
    reasons: list[str | None]
    """Why a row cannot be stored, None for one that can; length B."""


Row = Any
"""Codes of one sample as `Codec.unpack` returns them and `Codec.collate` takes them."""


class Codec(Protocol):
    """Feature maps of one teacher <-> codes <-> records."""

    name: str
    ext: str
    """Extension of its members in a tar."""
    shapes: tuple[LevelShape, ...]
    symbol_dtype: np.dtype
    symbols: int
    """Length of a flat row of codes."""
    decode_macs: int
    """Multiply-adds that decoding one sample takes on the trainer's device, of matrix products alone."""

    def encode(self, levels: Sequence[Tensor]) -> Encoded:
        """Codes of `levels`, each [B, C, h, w] floating point, computed on their device, copied out once.

        Raises ValueError for shapes other than the codec's; content never raises, it gets a reason.
        """

    def pack(self, codes: np.ndarray) -> bytes:
        """The record of one row of codes [symbols]: lossless stage and CRC. Threads may call it at once."""

    def codes(self, record: bytes) -> np.ndarray:
        """The row [symbols] that `pack` got, of a record whose CRC has been checked. Threads may call it.

        Raises FormatError when the record is not of this codec.
        """

    def unpack(self, record: bytes) -> Row:
        """The row of a record as `collate` takes it; otherwise as `codes`."""

    def collate(self, rows: Sequence[Row | None], *, pinned: bool = False) -> Any:
        """A batch of rows as host tensors, `pinned` for a GPU. Threads may call it at once."""

    def decode(self, batch: Any, device: torch.device | str) -> list[Tensor]:
        """Maps of a collated batch, float32 [B, C, h, w] per level (channels last in memory).

        Zeros for rows of None. A sequence of rows is collated first.
        """


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


def token_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of every token of two batches [B, N, C], meaned over the tokens; float64 [B].

    Two zero tokens are alike.
    """
    pairs = ((first, second), (first, first), (second, second))
    dot, aa, bb = ((x * y).sum(2).double() for x, y in pairs)
    cosine = (dot / (aa * bb).sqrt()).clamp(-1, 1)
    return torch.where((aa == 0) | (bb == 0), (aa == bb).double(), cosine).mean(1)


def unstepped(fidelity: np.ndarray, per_token: np.ndarray) -> Quality:
    """The quality of codecs that have no steps."""
    return Quality(fidelity, per_token, np.zeros((len(fidelity), 0), np.int64))


class Collated(NamedTuple):
    """Rows of codes as one tensor in host memory."""

    codes: Tensor
    """[B, symbols]; zeros for rows of None."""
    missing: Tensor
    """Rows that are None, int64."""

    def on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """The codes and the missing rows (None when there are none) on `device`."""
        codes, missing = (tensor.to(device, non_blocking=True) for tensor in self)
        return codes, missing if len(missing) else None


class PlainRows:
    """How a codec whose rows are one array of codes collates them, and finds them on a device again."""

    symbol_dtype: np.dtype
    symbols: int

    def collate(self, rows: Sequence[np.ndarray | None], *, pinned: bool = False) -> Collated:
        """See Codec."""
        return collate_codes(rows, self.symbol_dtype, self.symbols, pinned=pinned)

    def arrived(
        self, batch: Collated | Sequence[np.ndarray | None], device: torch.device | str
    ) -> tuple[Tensor, Tensor | None]:
        """As Collated.on; a sequence of rows is collated first."""
        return (batch if isinstance(batch, Collated) else self.collate(batch)).on(torch.device(device))


def collate_codes(
    rows: Sequence[np.ndarray | None], dtype: np.dtype, symbols: int, *, pinned: bool
) -> Collated:
    """Rows of plain codes as one tensor: one copy."""
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    host = torch.empty((len(rows), symbols), dtype=kind, pin_memory=pinned)
    for row, code in zip(host.numpy(), rows, strict=True):
        row[:] = 0 if code is None else code
    missing = torch.tensor([number for number, code in enumerate(rows) if code is None], dtype=torch.int64)
    return Collated(host, missing.pin_memory() if pinned else missing)


def fetch_report(
    fidelity: Sequence[Tensor], per_token: Sequence[Tensor], peaks: Sequence[Tensor]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both cosines and the largest |x| per level, [B, levels] float64 each, in one transfer."""
    columns = [torch.stack(list(column), 1).double() for column in (fidelity, per_token, peaks)]
    found = torch.stack(columns).cpu().numpy()
    return found[0], found[1], found[2]


def refusals(quality: Quality, peaks: np.ndarray, limit: float) -> list[str | None]:
    """Per row, why it cannot be stored: NaN, infinity or a value beyond `limit`; its cosines become NaN."""
    reasons: list[str | None] = [None] * len(peaks)
    bad = ~(peaks <= limit) | ~np.isfinite(quality.fidelity)
    for row, level in zip(*np.nonzero(bad), strict=True):
        peak = peaks[row, level]
        what = (
            f"values of magnitude {peak:.6g}, too large for the codec"
            if np.isfinite(peak)
            else "NaN or infinity"
        )
        reasons[row] = reasons[row] or f"level {level} holds {what}"
    quality.fidelity[bad.any(axis=1)] = np.nan
    quality.per_token[bad.any(axis=1)] = np.nan
    return reasons
