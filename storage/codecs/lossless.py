"""How codes are squeezed without loss: the last stage before a record, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numcodecs
import numpy as np

from storage.config import CodecConfig
from storage.containers.base import CRC_BYTES, add_crc
from storage.containers.zarr import PCODEC
from storage.errors import FormatError


@dataclass(frozen=True)
class Lossless:
    """Symbols to bytes and back, without a copy of the symbols; both release the GIL where there is work."""

    compress: Callable[[np.ndarray], bytes]
    expand: Callable[[memoryview], bytes | memoryview]


def _none(level: int) -> Lossless:
    return Lossless(compress=lambda codes: codes.tobytes(), expand=lambda data: data)


def _zstd(level: int) -> Lossless:
    stage = numcodecs.Zstd(level=level, checksum=False)
    return Lossless(
        compress=lambda codes: bytes(stage.encode(codes)), expand=lambda data: bytes(stage.decode(data))
    )


def _pcodec(level: int) -> Lossless:
    from numcodecs.pcodec import PCodec

    stage = PCodec(level=level, **PCODEC)
    return Lossless(
        compress=lambda codes: bytes(stage.encode(codes)),
        expand=lambda data: memoryview(stage.decode(data)).cast("B"),
    )


STAGES: dict[str, Callable[[int], Lossless]] = {"none": _none, "zstd": _zstd, "pcodec": _pcodec}
"""Name in a recipe -> stage of a level."""


class RecordCoder:
    """One row of codes <-> one record: little-endian symbols, the lossless stage, a CRC-32C."""

    def __init__(self, config: CodecConfig, dtype: np.dtype, symbols: int) -> None:
        config = config.resolved()
        self._stage = STAGES[config.lossless](config.level)
        self._dtype = dtype.newbyteorder("<")
        self._symbols = symbols

    def pack(self, codes: np.ndarray) -> bytes:
        """The record of codes [symbols]. Raises ValueError for another length or type."""
        if codes.shape != (self._symbols,) or codes.dtype != self._dtype:
            raise ValueError(
                f"a record holds {self._symbols} {self._dtype} codes, got {codes.shape} of {codes.dtype}"
            )
        return add_crc(self._stage.compress(np.ascontiguousarray(codes)))

    def unpack(self, record: bytes) -> np.ndarray:
        """The codes [symbols], read-only; a view of the record when there is no lossless stage."""
        try:
            data = self._stage.expand(memoryview(record)[:-CRC_BYTES])
        except (RuntimeError, ValueError) as error:
            raise FormatError(
                f"a record of {len(record)} bytes does not expand ({error}); is it another codec's?"
            ) from None
        if len(data) != self._symbols * self._dtype.itemsize:
            wanted = self._symbols * self._dtype.itemsize
            raise FormatError(
                f"a record expands to {len(data)} bytes, the codec's are {wanted}; is it another codec's?"
            )
        return np.frombuffer(data, self._dtype)
