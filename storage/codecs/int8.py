"""How maps are kept as one byte a value: per-channel z-score, then one scale per token."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from storage.codecs import base
from storage.codecs.lossless import RecordCoder
from storage.config import CodecConfig

_TOP = 127
# z-scores beyond this have squares beyond fp32, and no cosine
_LARGEST = 1e18


class Int8Codec(base.PlainRows):
    """z = (x - mean) / scale; a token's step s = max|z| / 127 (fp32); codes round(z / s).

    A record holds the codes of all levels, each token-major [h*w, C], then the bytes of all steps,
    float32 little-endian [h*w] level after level.
    """

    name = "int8"
    ext = "int8"
    symbol_dtype = np.dtype(np.int8)
    decode_macs = 0

    def __init__(self, config: CodecConfig, shapes: tuple[base.LevelShape, ...], stats: base.Stats) -> None:
        self.shapes = shapes
        self._values = sum(shape.values for shape in shapes)
        self.symbols = self._values + 4 * sum(shape.tokens for shape in shapes)
        self._stats = base.ChannelStats(stats, shapes)
        self._coder = RecordCoder(config, self.symbol_dtype, self.symbols)
        self.pack = self._coder.pack
        self.codes = self.unpack = self._coder.unpack

    def encode(self, levels: Sequence[Tensor]) -> base.Encoded:
        """See Codec; NaN and infinity give a row its reason."""
        base.check_shapes(levels, self.shapes)
        codes, steps, flat, tokenwise, peaks = [], [], [], [], []
        for level, (mean, scale) in zip(levels, self._stats.on(levels[0].device), strict=True):
            tokens = base.tokens_of(level)
            z = (tokens - mean) / scale
            code, step = _quantise(z)
            decoded = _dequantise(code, step, mean, scale)
            back = (decoded - mean) / scale
            flat.append(base.flat_cosine(z, back))
            tokenwise.append(base.token_cosine(z, back))
            peaks.append(z.abs().amax((1, 2)))
            codes.append(code.to(torch.int8).flatten(1))
            steps.append(step.flatten(1).view(torch.int8))
        *cosines, found = base.fetch_report(flat, tokenwise, peaks)
        quality = base.unstepped(*cosines)
        reasons = base.refusals(quality, found, _LARGEST)
        return base.Encoded(torch.cat([*codes, *steps], 1).cpu().numpy(), quality, reasons)

    def decode(
        self, batch: base.Collated | Sequence[np.ndarray | None], device: torch.device | str
    ) -> list[Tensor]:
        """See Codec."""
        flat, missing = self.arrived(batch, device)
        # the copy of the few steps aligns their bytes, as a float's must be
        steps = flat[:, self._values :].clone().view(torch.float32).split([s.tokens for s in self.shapes], 1)
        pieces = flat[:, : self._values].split([shape.values for shape in self.shapes], 1)
        stats, maps = self._stats.on(flat.device), []
        for piece, step, shape, (mean, scale) in zip(pieces, steps, self.shapes, stats, strict=True):
            code = piece.unflatten(1, (shape.tokens, shape.channels))
            tokens = _dequantise(code, step.unsqueeze(2), mean, scale)
            if missing is not None:
                tokens[missing] = 0
            maps.append(base.map_of(tokens, shape))
        return maps


def _quantise(z: Tensor) -> tuple[Tensor, Tensor]:
    """Codes as whole floats [B, N, C] and steps [B, N, 1] of z-scored tokens; a zero token has step 0."""
    step = z.abs().amax(2, keepdim=True) / _TOP
    # a step too small to divide by would turn codes into infinities
    safe = torch.where(step > math.ldexp(1, -126), step, torch.inf)
    return (z / safe).round_().clamp_(-_TOP, _TOP), torch.where(
        torch.isinf(safe), torch.zeros_like(step), step
    )


def _dequantise(code: Tensor, step: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Tokens fp32 [B, N, C] of codes and steps: what the trainer sees, and what fidelity is measured on."""
    return (code * step).mul_(scale).add_(mean)
