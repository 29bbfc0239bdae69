"""How maps are kept as quantised transform coefficients: few bits, at a cosine that every sample reaches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from storage.codecs import base
from storage.codecs.klt_inverse import invert
from storage.codecs.klt_rows import TOP, RowLayout
from storage.codecs.klt_search import Choice, Coefficients, fixed, search
from storage.codecs.klt_space import Space, group_levels, space_of
from storage.codecs.klt_travel import Batch, Part, Row, collate, thin
from storage.codecs.lossless import RecordCoder
from storage.config import CodecConfig
from storage.quality import Quality

# z-scores beyond this have squares beyond fp32, and no cosine
_LARGEST = 1e15
# where calibration says nothing: beyond this, what lies outside a zone costs less than a finer step
_WORTH = 2


class _Group(NamedTuple):
    """Levels that share a grid."""

    levels: tuple[int, ...]
    space: Space
    first: int
    """Where its symbols start in a row."""
    worth: int
    """Rungs finer that a sample may go to stay in a smaller zone."""


class _Quantised(NamedTuple):
    """A group's part of a batch."""

    codes: Tensor
    """Whole numbers, float32 [B, symbols], in the order of a row."""
    rung: Tensor
    zone: Tensor
    cosine: Tensor
    tokenwise: Tensor
    """Mean cosine of tokens, float64 [B, levels]."""


class KltCodec:
    """Codes are round(y / 2^(j/4)) of the coefficients y of DCT and KLT; j is chosen per sample and group.

    klt_space.py says in which order they stand in a row, klt_rows.py what follows them.
    """

    name = "klt"
    ext = "klt"
    symbol_dtype = np.dtype("<i2")

    def __init__(self, config: CodecConfig, shapes: tuple[base.LevelShape, ...], stats: base.Stats) -> None:
        self.shapes, self._fidelity = shapes, config.fidelity
        self._groups: list[_Group] = []
        values = 0
        for index, levels in enumerate(group_levels(shapes)):
            space = space_of([shapes[n] for n in levels], index, stats)
            worth = int(stats.get(f"worth.{index}", torch.tensor(_WORTH)))
            self._groups.append(_Group(levels, space, values, worth))
            values += space.symbols
        room = max(group.space.depth for group in self._groups)
        self._zones = [(group.first, group.space.symbols_in) for group in self._groups]
        self._layout = RowLayout(values, len(self._groups), room)
        self.symbols = self._layout.symbols
        self._stats = base.ChannelStats(stats, shapes)
        self.decode_macs = round(
            sum(_mean_macs(group.space, n, stats) for n, group in enumerate(self._groups))
        )
        self._coder = RecordCoder(config, self.symbol_dtype, self.symbols)
        self.pack = self._coder.pack
        self.codes = self._coder.unpack

    def encode(self, levels: Sequence[Tensor]) -> base.Encoded:
        """See Codec; NaN, infinity, a fidelity out of reach and too many escapes give a row its reason."""
        fidelity = self._fidelity
        return self._encode(
            levels, lambda batch, worth: search(batch, fidelity=fidelity, worth=worth), fidelity=fidelity
        )

    def encode_at(self, levels: Sequence[Tensor], place: int) -> base.Encoded:
        """As `encode`, but with one step for all samples, and whatever fidelity comes of it: for comparison.

        `place` is 16 times the rung of the ladder, plus 0 to 15 for how far zeros reach.
        """
        return self._encode(levels, lambda batch, worth: fixed(batch, place), fidelity=0)

    def _encode(
        self,
        levels: Sequence[Tensor],
        choose: Callable[[Coefficients, int], Choice],
        *,
        fidelity: float,
    ) -> base.Encoded:
        base.check_shapes(levels, self.shapes)
        stats = self._stats.on(levels[0].device)
        z = [
            (base.tokens_of(level) - mean) / scale for level, (mean, scale) in zip(levels, stats, strict=True)
        ]
        peaks = [level.abs().amax((1, 2)) for level in z]
        sound = torch.stack([peak <= _LARGEST for peak in peaks]).all(0)
        parts = []
        for group in self._groups:
            joined = torch.cat([z[n] for n in group.levels], 2)
            # what cannot be stored must not hold up its neighbours' search
            joined = torch.where(sound.view(-1, 1, 1), joined, 0)
            batch = Coefficients(group.space, joined)
            parts.append(_in_row_order(batch, choose(batch, group.worth), joined))
        flat = self._by_level([part.cosine for part in parts])
        *cosines, found = base.fetch_report(flat, self._by_level([part.tokenwise for part in parts]), peaks)
        rungs = torch.stack([part.rung for part in parts], 1).cpu().numpy()
        quality = Quality(cosines[0], cosines[1], rungs)
        reasons = _reasons(quality, found, fidelity)
        rows = self._rows(parts, reasons)
        refused = [reason is not None for reason in reasons]
        quality.fidelity[refused] = quality.per_token[refused] = np.nan
        return base.Encoded(rows, quality, reasons)

    def _by_level(self, cosines: Sequence[Tensor]) -> list[Tensor]:
        """One per level, of [B, levels] per group."""
        columns = zip(self._groups, cosines, strict=True)
        pairs = [pair for g, cosine in columns for pair in zip(g.levels, cosine.unbind(1), strict=True)]
        return [cosine for _, cosine in sorted(pairs, key=lambda pair: pair[0])]

    def _rows(self, parts: Sequence[_Quantised], reasons: list[str | None]) -> np.ndarray:
        """Rows of codes [B, symbols]; one with more escapes than it has room for gets a reason."""
        rows = np.zeros((len(reasons), self.symbols), self.symbol_dtype)
        tables = []
        for index, (group, part) in enumerate(zip(self._groups, parts, strict=True)):
            held = part.codes.clamp(-TOP, TOP)
            rows[:, group.first : group.first + group.space.symbols] = held.short().cpu().numpy()
            self._layout.write_heads(rows, index, part.rung.cpu().numpy(), part.zone.cpu().numpy())
            row, symbol = (held != part.codes).nonzero(as_tuple=True)
            more = (part.codes[row, symbol] - held[row, symbol]).double()
            tables.append(torch.stack([row.double(), symbol.double() + group.first, more], 1).cpu().numpy())
        table = np.concatenate(tables)
        for number in np.unique(table[:, 0]).astype(int):
            escapes = table[table[:, 0] == number, 1:]
            if reasons[number] is None and not self._layout.write_escapes(rows[number], escapes):
                reasons[number] = (
                    f"{len(escapes)} of its coefficients are up to {np.abs(escapes[:, 1]).max():.3g} steps "
                    f"beyond int16, a record holds {self._layout.room} of up to 2^31"
                )
        return rows

    def unpack(self, record: bytes) -> Row:
        """See Codec."""
        return thin(self.codes(record), self._layout, self._zones)

    def collate(self, rows: Sequence[Row | None], *, pinned: bool = False) -> Batch:
        """See Codec."""
        return collate(rows, [sizes for _, sizes in self._zones], pinned=pinned)

    def decode(self, batch: Batch | Sequence[Row | None], device: torch.device | str) -> list[Tensor]:
        """See Codec; a quarter of a GiB of tokens at a time; three times that exist beside the maps."""
        ready = batch if isinstance(batch, Batch) else self.collate(batch)
        device = torch.device(device)
        maps = [torch.empty(ready.size, s.tokens, s.channels, device=device) for s in self.shapes]
        stats = self._stats.on(device)
        for group, parts in zip(self._groups, ready.groups, strict=True):
            targets = [(maps[n], *stats[n]) for n in group.levels]
            for part in parts:
                _fill(targets, group.space, part.on(device))
        if len(ready.missing):
            missing = ready.missing.to(device, non_blocking=True)
            for level in maps:
                level.index_fill_(0, missing, 0)
        return [base.map_of(level, shape) for level, shape in zip(maps, self.shapes, strict=True)]


def _in_row_order(batch: Coefficients, found: Choice, z: Tensor) -> _Quantised:
    tokenwise = batch.tokenwise(found.decoded, z)
    codes = found.codes.flatten(1).index_select(1, batch.space.order_on(z.device))
    return _Quantised(codes, found.rung, found.zone, 1 - found.lost, tokenwise)


def _reasons(quality: Quality, peaks: np.ndarray, fidelity: float) -> list[str | None]:
    missed = np.argwhere(quality.fidelity < fidelity)
    reached = quality.fidelity.copy()
    reasons = base.refusals(quality, peaks, _LARGEST)
    for row, level in missed:
        reasons[row] = reasons[row] or (
            f"level {level} keeps a cosine of {reached[row, level]:.6f} at the finest step, "
            f"{fidelity} is asked"
        )
    return reasons


def _mean_macs(space: Space, group: int, stats: base.Stats) -> float:
    """Multiply-adds of decoding a sample, at the shares of zones that calibration found."""
    macs = torch.tensor(space.inverse_macs, dtype=torch.float64)
    usage = stats.get(f"usage.{group}")
    return float(macs[0]) if usage is None else float(usage.double() @ macs)


def _fill(targets: Sequence[tuple[Tensor, Tensor, Tensor]], space: Space, part: Part) -> None:
    """Put the rows of `part` into levels [B, N, C], each beside its mean and scale [C]."""
    tokens = invert(space, part.plane, part.outliers, part.zone)
    for (level, mean, scale), z in zip(targets, tokens.split(space.channels, 2), strict=True):
        # in fp32: a channel of mean 40 and deviation 1 has lost its promise in bf16
        weight = part.steps.view(-1, 1, 1) * scale
        if len(part.rows) == len(level):
            # all rows of the batch, and then they are in its order
            torch.addcmul(mean, z.transpose(0, 1), weight, out=level)
        else:
            level.index_copy_(0, part.rows, torch.addcmul(mean, z.transpose(0, 1), weight))
