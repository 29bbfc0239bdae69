"""How maps are kept as half precision: the reference codec, which loses nothing that fp16 can hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from storage.codecs import base
from storage.codecs.lossless import RecordCoder
from storage.config import CodecConfig

LARGEST = 65504.0
"""Largest number of fp16."""


class F16Codec(base.PlainRows):
    """Codes are the values as fp16, level after level, each token-major [h*w, C]."""

    name = "f16"
    ext = "f16"
    symbol_dtype = np.dtype("<f2")
    decode_macs = 0

    def __init__(self, config: CodecConfig, shapes: tuple[base.LevelShape, ...], stats: base.Stats) -> None:
        self.shapes = shapes
        self.symbols = sum(shape.values for shape in shapes)
        self._stats = base.ChannelStats(stats, shapes)
        self._coder = RecordCoder(config, self.symbol_dtype, self.symbols)
        self.pack = self._coder.pack
        self.codes = self.unpack = self._coder.unpack

    def encode(self, levels: Sequence[Tensor]) -> base.Encoded:
        """See Codec; |x| > 65504, NaN and infinity give a row its reason."""
        base.check_shapes(levels, self.shapes)
        codes, flat, tokenwise, peaks = [], [], [], []
        for level, (mean, scale) in zip(levels, self._stats.on(levels[0].device), strict=True):
            tokens = base.tokens_of(level)
            half = tokens.half()
            pair = (tokens - mean) / scale, (half.float() - mean) / scale
            flat.append(base.flat_cosine(*pair))
            tokenwise.append(base.token_cosine(*pair))
            peaks.append(tokens.abs().amax((1, 2)))
            codes.append(half.flatten(1))
        *cosines, found = base.fetch_report(flat, tokenwise, peaks)
        quality = base.unstepped(*cosines)
        reasons = base.refusals(quality, found, LARGEST)
        return base.Encoded(torch.cat(codes, 1).cpu().numpy(), quality, reasons)

    def decode(
        self, batch: base.Collated | Sequence[np.ndarray | None], device: torch.device | str
    ) -> list[Tensor]:
        """See Codec."""
        flat, _ = self.arrived(batch, device)
        pieces = flat.split([shape.values for shape in self.shapes], dim=1)
        return [
            base.map_of(piece.unflatten(1, (shape.tokens, shape.channels)).float(), shape)
            for piece, shape in zip(pieces, self.shapes, strict=True)
        ]
