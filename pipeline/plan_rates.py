"""What does a plan assume of codecs that were not measured: bytes of a record, bits a value, decoding speed.

Bits and speeds are those of synthetic maps as hard as real teachers' (four levels that are one residual
stream, power-law spectra, outlier channels): random-weight teachers take a third of the bits. A calibrated
cache says better: `plan --measured CACHE`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from storage.config import CodecConfig

JPEG_BYTES_PER_PIXEL = 0.45
"""Measured on crops of photos at quality 95, 4:4:4; under 1% of most caches, so an estimate will do."""
JPEG_PIXELS_PER_S = 1.5e8
"""That one core decodes of such crops."""
CRC_BYTES = 4
KLT_BITS = {
    "joint": {0.99: 1.67, 0.995: 2.17, 0.999: 3.33},
    "separable": {0.99: 1.74, 0.995: 2.27, 0.999: 3.42},
}
"""Basis -> fidelity -> bits per value with pcodec."""
DECODE_GB_PER_S = {"none": 10.0, "zstd": 1.37, "pcodec": 1.66}
"""Lossless stage -> 1e9 bytes of fp16 maps per second that one core unpacks; on teachers of a third of the
bits pcodec does 3.0 and zstd 3.8. none: a checksum and a copy."""
KLT_FIDELITIES = (0.99, 0.995, 0.999)
"""What every plan shows beside the recipe's own codec."""

Shapes = Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class CodecChoice:
    """A codec as far as sizes go."""

    name: str
    lossless: str
    fidelity: float = 0.0
    """Of klt; 0 for the others."""

    @property
    def label(self) -> str:
        """As tables and JSON name it: f16, int8, klt 0.995."""
        return f"{self.name} {self.fidelity:g}" if self.fidelity else self.name


def choice_of(codec: CodecConfig) -> CodecChoice:
    """A recipe's codec."""
    plain = codec.resolved()
    return CodecChoice(plain.name, plain.lossless, plain.fidelity if plain.name == "klt" else 0.0)


def choices(codec: CodecConfig) -> tuple[CodecChoice, ...]:
    """What a plan compares; the recipe's own replaces the one of its label."""
    own = choice_of(codec)
    shown = [CodecChoice("f16", "none"), CodecChoice("int8", "none")]
    shown += [CodecChoice("klt", "pcodec", fidelity) for fidelity in KLT_FIDELITIES]
    if own.label not in {choice.label for choice in shown}:
        shown.append(own)
    return tuple(own if choice.label == own.label else choice for choice in shown)


def values_of(shapes: Shapes) -> int:
    """Numbers in the maps of one image."""
    return sum(c * h * w for c, h, w in shapes)


def record_bytes(choice: CodecChoice, shapes: Shapes, *, bits: float) -> int:
    """Bytes of one record whose levels are (C, h, w); exact for f16 and int8 before their lossless stage.

    Args:
        bits: of a value in the record of any other codec.
    """
    values = values_of(shapes)
    if choice.name == "f16":
        return 2 * values + CRC_BYTES
    if choice.name == "int8":
        # one byte a value and one float32 scale a token
        return values + 4 * sum(h * w for _, h, w in shapes) + CRC_BYTES
    return math.ceil(values * bits / 8) + CRC_BYTES


def klt_bits(fidelity: float, basis: str) -> float:
    """Bits per value of klt, from the table: linear in the logarithm of the error, 1 - cosine."""
    known = sorted(KLT_BITS[basis].items())
    low, high = (known[0], known[1]) if fidelity <= known[1][0] else (known[1], known[2])
    at, first, last = (math.log2(1 - cosine) for cosine in (fidelity, low[0], high[0]))
    return max(0.05, low[1] + (high[1] - low[1]) * (at - first) / (last - first))


def unpacking_cores(images_per_s: float, choice: CodecChoice, values: int, pixels: int) -> float:
    """Cores that unpack so many images a second: their maps' codes and their crops."""
    fp16_gb = 2 * values / 1e9
    return images_per_s * (fp16_gb / DECODE_GB_PER_S[choice.lossless] + pixels / JPEG_PIXELS_PER_S)
