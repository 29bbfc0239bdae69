"""How far is extraction: images per second, ETA, bytes written, bits per value, one line per interval."""

from __future__ import annotations

import logging
import sys
import time

from tqdm import tqdm

from pipeline.worker import ShardResult

log = logging.getLogger(__name__)
DAY_S = 86_400


def format_eta(seconds: float) -> str:
    """Seconds as d+hh:mm:ss."""
    days, rest = divmod(int(seconds), DAY_S)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}d+{clock}" if days else clock


class Progress:
    """Totals over the finished shards; a bar on a terminal, else a plain line every `interval_s`.

    Args:
        shards: shards of this run.
        samples: samples in them.
        what: the line's first word, what the shards are done for.
    """

    def __init__(self, shards: int, samples: int, *, what: str = "shards", interval_s: float = 10.0) -> None:
        self.shards, self.samples, self._what = shards, samples, what
        self.done = self.rows = self.quarantined = self.bytes = self.values = self.forwards = 0
        self.feature_bits = 0.0
        self.seconds: dict[str, float] = {}
        self._interval_s = interval_s
        self._start = self._last = time.monotonic()
        self._bar = tqdm(total=samples, unit="img", disable=not sys.stderr.isatty())

    def add(self, result: ShardResult) -> None:
        """Count a finished shard and report if the interval has passed."""
        self.done += 1
        self.rows += result.rows
        self.quarantined += result.quarantined
        self.bytes += result.bytes
        self.values += result.values
        self.feature_bits += 8.0 * result.feature_bytes
        self.forwards += result.forwards
        for stage, spent in result.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
        self._bar.update(result.rows)
        self._bar.set_postfix_str(self._totals())
        now = time.monotonic()
        if self._bar.disable and (now - self._last >= self._interval_s or self.done == self.shards):
            self._last = now
            log.info("%s", self.line())

    def line(self) -> str:
        """One aligned line: shards, rate, ETA and totals."""
        elapsed = time.monotonic() - self._start
        rate = self.rows / max(elapsed, 1e-9)
        eta = format_eta((self.samples - self.rows) / max(rate, 1e-9))
        return f"{self._what} {self.done:>6}/{self.shards}  {rate:8.1f} img/s  ETA {eta}  {self._totals()}"

    def _totals(self) -> str:
        bits = f"  {self.feature_bits / self.values:5.2f} bits/value" if self.values else ""
        return f"{self.bytes / 1e9:9.3f} GB{bits}  {self.quarantined} quarantined"

    def where_time_went(self) -> str:
        """Worker seconds per stage, the longest first."""
        spent = sorted(self.seconds.items(), key=lambda item: -item[1])
        return ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in spent)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
