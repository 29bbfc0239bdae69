"""How maps are kept as quantised transform coefficients: few bits, at a cosine that every sample reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from storage.codecs import base
from storage.codecs.klt_rows import TOP, RowLayout
from storage.codecs.klt_space import Space, group_levels, space_of
from storage.codecs.klt_steps import Measure, choose_steps, estimate_rungs, step_of, widen_dead_zones
from storage.codecs.lossless import RecordCoder
from storage.config import CodecConfig
from storage.quality import Quality

# z-scores beyond this have squares beyond fp32, and no cosine
_LARGEST = 1e15
# a zone that forces a step finer than this many rungs costs more than storing what lies outside it
_WORTH = 2
# rungs that the exact search may go from its estimate: first, and for what missed, with everything
_PATIENCE, _LONG_PATIENCE = 3, 32


class Rows(NamedTuple):
    """A batch of rows."""

    rows: list[np.ndarray | None]


class _Group(NamedTuple):
    """Levels that share a grid."""

    levels: tuple[int, ...]
    space: Space
    first: int
    """Where its symbols start in a row."""


class _Quantised(NamedTuple):
    """A group's part of a batch."""

    codes: Tensor
    """Whole numbers, float32 [B, symbols], in the order of a row."""
    rung: Tensor
    whole: Tensor
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
            self._groups.append(_Group(levels, space, values))
            values += space.symbols
        room = max(group.space.depth for group in self._groups)
        self._layout = RowLayout(values, len(self._groups), room)
        self.symbols = self._layout.symbols
        self._stats = base.ChannelStats(stats, shapes)
        self.decode_macs = sum(group.space.inverse_macs for group in self._groups)
        self._coder = RecordCoder(config, self.symbol_dtype, self.symbols)
        self.pack = self._coder.pack
        self.unpack = self._coder.unpack

    def encode(self, levels: Sequence[Tensor]) -> base.Encoded:
        """See Codec; NaN, infinity, a fidelity out of reach and too many escapes give a row its reason."""
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
            parts.append(self._quantise(torch.where(sound.view(-1, 1, 1), joined, 0), group.space))
        flat = self._by_level([part.cosine for part in parts])
        *cosines, found = base.fetch_report(flat, self._by_level([part.tokenwise for part in parts]), peaks)
        rungs = torch.stack([part.rung for part in parts], 1).cpu().numpy()
        quality = Quality(cosines[0], cosines[1], rungs)
        reasons = self._reasons(quality, found)
        rows = self._rows(parts, reasons)
        refused = [reason is not None for reason in reasons]
        quality.fidelity[refused] = quality.per_token[refused] = np.nan
        return base.Encoded(rows, quality, reasons)

    def _by_level(self, cosines: Sequence[Tensor]) -> list[Tensor]:
        """One per level, of [B, levels] per group."""
        columns = zip(self._groups, cosines, strict=True)
        pairs = [pair for g, cosine in columns for pair in zip(g.levels, cosine.unbind(1), strict=True)]
        return [cosine for _, cosine in sorted(pairs, key=lambda pair: pair[0])]

    def _quantise(self, z: Tensor, space: Space) -> _Quantised:
        frequencies = space.frequencies(z)
        everything = space.basis_on(z.device).forward(frequencies)

        def measure(kept: Tensor, rows: Tensor | slice = slice(None)) -> Measure:
            return Measure(space, frequencies[rows], everything[rows], kept)

        zone = everything * space.mask_on(z.device)
        free = estimate_rungs(measure(everything), self._fidelity)
        cut = estimate_rungs(measure(zone), self._fidelity)
        whole = cut < free - _WORTH
        kept = torch.where(whole.view(-1, 1, 1), everything, zone)
        first = torch.where(whole, free, cut)
        choice = choose_steps(measure(kept), fidelity=self._fidelity, start=first, patience=_PATIENCE)
        missed = (~choice.reached).nonzero()[:, 0]
        if len(missed):
            again = measure(everything[missed], missed)
            start = free[missed]
            found = choose_steps(again, fidelity=self._fidelity, start=start, patience=_LONG_PATIENCE)
            whole[missed], kept[missed] = True, everything[missed]
            for column, better in zip(choice, found, strict=True):
                column[missed] = better
        final = measure(kept)
        dead, cosine = widen_dead_zones(final, fidelity=self._fidelity, choice=choice)
        codes = final.codes(choice.rung, dead)
        tokenwise = final.tokenwise(codes * step_of(choice.rung), z)
        codes = codes.flatten(1).index_select(1, space.order_on(z.device))
        return _Quantised(codes, choice.rung, whole, cosine, tokenwise)

    def _rows(self, parts: Sequence[_Quantised], reasons: list[str | None]) -> np.ndarray:
        """Rows of codes [B, symbols]; one with more escapes than it has room for gets a reason."""
        rows = np.zeros((len(reasons), self.symbols), self.symbol_dtype)
        tables = []
        for index, (group, part) in enumerate(zip(self._groups, parts, strict=True)):
            held = part.codes.clamp(-TOP, TOP)
            rows[:, group.first : group.first + group.space.symbols] = held.short().cpu().numpy()
            self._layout.write_heads(rows, index, part.rung.cpu().numpy(), part.whole.cpu().numpy())
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

    def _reasons(self, quality: Quality, peaks: np.ndarray) -> list[str | None]:
        missed = np.argwhere(quality.fidelity < self._fidelity)
        reached = quality.fidelity.copy()
        reasons = base.refusals(quality, peaks, _LARGEST)
        for row, level in missed:
            reasons[row] = reasons[row] or (
                f"level {level} keeps a cosine of {reached[row, level]:.6f} at the finest step, "
                f"{self._fidelity} is asked"
            )
        return reasons

    def collate(self, rows: Sequence[np.ndarray | None], *, pinned: bool = False) -> Rows:
        """See Codec."""
        return Rows(list(rows))

    def decode(self, batch: Rows | Sequence[np.ndarray | None], device: torch.device | str) -> list[Tensor]:
        """See Codec."""
        device = torch.device(device)
        codes = batch.rows if isinstance(batch, Rows) else batch
        stats, maps = self._stats.on(device), {}
        rows = [row for row, code in enumerate(codes) if code is None]
        missing = torch.tensor(rows, device=device) if rows else None
        for index, group in enumerate(self._groups):
            z = self._z_scores(codes, index, device)
            pieces = z.split(group.space.channels, 2)
            for number, piece in zip(group.levels, pieces, strict=True):
                mean, scale = stats[number]
                tokens = (piece * scale).add_(mean)
                if missing is not None:
                    tokens[missing] = 0
                maps[number] = base.map_of(tokens, self.shapes[number])
        return [maps[number] for number in range(len(self.shapes))]

    def _z_scores(self, codes: Sequence[np.ndarray | None], index: int, device: torch.device) -> Tensor:
        """One group's tokens [B, N, D]: rows that need the zone only, then rows that need everything."""
        space = self._groups[index].space
        grid = torch.zeros(len(codes), space.tokens, space.depth, device=device)
        for whole in (False, True):
            held = [
                (row, code)
                for row, code in enumerate(codes)
                if code is not None and self._layout.head(code, index).whole == whole
            ]
            if not held:
                continue
            symbols, steps = self._symbols([code for _, code in held], index, device, whole=whole)
            some = grid if len(held) == len(codes) else torch.zeros_like(grid[: len(held)])
            space.invert(symbols, steps, some, whole=whole)
            if some is not grid:
                grid[[row for row, _ in held]] = some
        return space.tokens_of(grid)

    def _symbols(
        self, codes: Sequence[np.ndarray], index: int, device: torch.device, *, whole: bool
    ) -> tuple[Tensor, Tensor]:
        """A group's codes [B, symbols of the zone or all] and steps [B, 1, 1] on `device`."""
        group = self._groups[index]
        first, count = group.first, group.space.symbols if whole else group.space.zone_symbols
        rows = [code[first : first + count] for code in codes]
        symbols = base.collate_codes(rows, self.symbol_dtype, count, pinned=False).codes.to(device)
        rungs = torch.tensor([self._layout.head(code, index).rung for code in codes], device=device)
        for row, code in enumerate(codes):
            at, more = self._layout.escapes(code).T
            here = (at >= first) & (at < first + count)
            if here.any():
                symbols = symbols.float()
                places = torch.from_numpy(at[here] - first).long().to(device)
                symbols[row, places] += torch.from_numpy(more[here]).to(device)
        return symbols, step_of(rungs)
