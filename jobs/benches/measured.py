"""What does a codec make of the maps under study: bits, cosines, seconds, bytes at the peak."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.benches.peak import peak_bytes
from jobs.benches.studied import Studied
from jobs.benches.timing import one_thread


@dataclass(frozen=True)
class Measured:
    """One codec on the maps to measure."""

    codec: Any
    records: list[bytes]
    cosines: np.ndarray
    """Of decoded maps, measured independently; float64 [samples, levels]."""
    promised: np.ndarray
    """What the codec says of itself, likewise."""
    encode_s: float
    """CPU seconds per sample: transform and quantisation."""
    pack_s: float
    """The lossless stage."""
    unpack_s: float
    decode_s: float
    """Unpacked codes to maps on the device."""
    peak_bytes: int
    """Most that tensors took at once while one sample was decoded."""

    @property
    def bits(self) -> float:
        """Per value, over all samples."""
        values = sum(shape.values for shape in self.codec.shapes)
        return 8 * sum(map(len, self.records)) / (values * len(self.records))

    @property
    def said(self) -> str:
        """Lowest and mean cosine, for people."""
        return f"cosine min {self.cosines.min():.5f} mean {self.cosines.mean():.5f}"


def measure(studied: Studied, codec: Any, device: str) -> Measured:
    """Encode, pack, unpack and decode every map to measure. Raises ValueError where one is refused."""
    clock = dict.fromkeys(("encode", "pack", "unpack", "decode"), 0.0)
    records: list[bytes] = []
    cosines, promised, peak = [], [], 0

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.process_time()
        done = work()
        clock[name] += time.process_time() - start
        return done

    with one_thread():
        for levels in studied.batches():
            here = [level.to(device) for level in levels]
            encoded = timed("encode", lambda here=here: codec.encode(here))
            if any(encoded.reasons):
                raise ValueError(f"{studied.name}, codec {codec.name}: {next(filter(None, encoded.reasons))}")
            packed = timed("pack", lambda codes=encoded.codes: [codec.pack(row) for row in codes])
            rows = timed("unpack", lambda packed=packed: [codec.unpack(record) for record in packed])
            maps = timed("decode", lambda rows=rows: codec.decode(rows, device))
            peak = peak or peak_bytes(lambda rows=rows: codec.decode(rows[:1], device))
            records += packed
            cosines.append(studied.cosines(levels, maps))
            promised.append(encoded.quality.fidelity)
    seconds = {f"{name}_s": value / len(records) for name, value in clock.items()}
    return Measured(
        codec, records, np.concatenate(cosines), np.concatenate(promised), **seconds, peak_bytes=peak
    )
