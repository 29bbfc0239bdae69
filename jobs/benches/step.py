"""How much longer is a stage-1 step from the cache than the same step with the features already in RAM?

Both sides run student/stage1.py's own loop: one run in which blocks of steps fed from the cache alternate
with blocks whose targets lie in RAM. Crops come through the same kind of stream on both sides.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from jobs.benches.made_cache import make_cache
from jobs.benches.material import Material
from jobs.benches.step_cases import Case, cases
from jobs.benches.table import Asked, Row, Section
from storage.cache import Cache
from storage.stream import Batch, Stream, make_order
from student.config import Stage1Config, StudentConfig
from student.sak import build_student
from student.stage1 import Stage1Data, run_stage1

Side = Literal["cache", "RAM"]
READERS = Stage1Config().threads
WARM = 2
"""First steps of a block, in which the stream fills its batches ahead: not counted."""
Maps = Mapping[str, list[torch.Tensor]]


def run(material: Material) -> list[Section]:
    """Seconds of a step, wall clock: recipe mini, real size pooled, real size with SAM's full grid."""
    rows, notes = [], []
    for case in cases(material):
        taken = _measured(case, material.ask.device)
        medians = {side: statistics.median(seconds) for side, seconds in taken.items()}
        spread = "; ".join(
            f"{side} {len(s)} steps {min(s):.2f} to {max(s):.2f} s" for side, s in taken.items()
        )
        rows.append(
            Row(
                case.name,
                1 / medians["cache"],
                "steps/s",
                "features in RAM",
                1 / medians["RAM"],
                Asked(case.asked, "ratio", "least"),
                f"{case.said}; {spread}",
            )
        )
    threads = torch.get_num_threads()
    notes.append(
        f"wall clock on {material.ask.device}, torch on {threads} threads, {READERS} threads read; "
        f"blocks of steps alternate in one run, the first {WARM} of each are not counted"
    )
    notes.append(
        "real size: ViT-B/16 student at 384 px, fp32, maps with HARD4's statistics, default klt codec"
    )
    return [Section("stage-1 step from the cache", rows, notes)]


@dataclass
class _Clock:
    """When each batch was asked for, and from which side it came."""

    sides: list[Side] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)

    def seconds(self, block: int) -> dict[Side, list[float]]:
        """Per side, seconds from one batch's request to the next, in the counted part of each block."""
        found: dict[Side, list[float]] = {"cache": [], "RAM": []}
        for at, side in enumerate(self.sides[:-1]):
            if at % block >= WARM and (at + 1) % block:
                found[side].append(self.asked[at + 1] - self.asked[at])
        return found


def _measured(case: Case, device: str) -> dict[Side, list[float]]:
    """Seconds of each counted step."""
    block, clock = WARM + case.steps + 1, _Clock()
    with tempfile.TemporaryDirectory() as folder:
        cache = make_cache(
            Path(folder, "cache"),
            case.jpegs,
            case.fillings,
            samples=case.samples,
            samples_per_shard=case.batch,
        )
        order = make_order(cache, seed=0, global_batch=case.batch, window=2)
        data = _Sides(cache, order, case, device, clock, block)
        channels = {name: tuple(s[0] for s in filling.shapes) for name, filling in case.fillings.items()}
        config = StudentConfig(arch=case.student, weights="random:0")
        student = build_student(config, channels, 0, image_size=case.crop)
        steps = 2 * case.blocks * block
        stage1 = Stage1Config(
            epochs=1, warmup_epochs=0, batch_size=case.batch, precision="fp32", log_every=steps
        )
        run_stage1(
            student,
            Stage1Data(stream=data.stream, targets=data.targets, steps_per_epoch=steps),
            stage1,
            out=Path(folder, "run"),
            device=device,
        )
    return clock.seconds(block)


class _Sides:
    """Batches of both sides in alternating blocks, and their targets."""

    def __init__(self, cache: Cache, order: Any, case: Case, device: str, clock: _Clock, block: int) -> None:
        self._cache, self._order, self._clock, self._block = cache, order, clock, block
        self._columns = cache.teacher_columns()
        self._codecs = {name: cache.codec(column) for name, column in self._columns.items()}
        self._device = device
        self._ram = self._decoded(case)

    @contextmanager
    def stream(self, first: int, steps: int) -> Iterator[Iterator[Batch]]:
        """As Stage1Data asks for it."""
        yield self._batches(steps)

    def _batches(self, steps: int) -> Iterator[Batch]:
        for number in range(steps // self._block):
            side: Side = "cache" if number % 2 == 0 else "RAM"
            columns = self._columns if side == "cache" else {}
            # more steps than are taken: reading ahead goes on to the end of the block, as in training
            stream = Stream(self._cache, self._order, columns, 0, 2 * self._block, READERS)
            with stream:
                for _ in range(self._block):
                    self._clock.sides.append(side)
                    self._clock.asked.append(time.perf_counter())
                    yield next(stream)

    def targets(self, batch: Batch) -> Mapping[str, list[torch.Tensor]]:
        """Decoded as training does, or gathered from RAM."""
        if batch.codes:
            return _Lazy(
                lambda name: self._codecs[name].decode(batch.codes[name], self._device), self._codecs
            )
        return _Lazy(lambda name: self._gathered(name, batch.keys), self._codecs)

    def _gathered(self, teacher: str, keys: list[str]) -> list[torch.Tensor]:
        maps = [self._ram[key][teacher] for key in keys]
        return [torch.cat(level).to(self._device) for level in zip(*maps, strict=True)]

    def _decoded(self, case: Case) -> dict[str, Maps]:
        """key -> teacher -> maps [1, C, h, w]; distinct maps are kept once."""
        unique = [
            {
                name: [level[at : at + 1].contiguous() for level in f.levels]
                for name, f in case.fillings.items()
            }
            for at in range(case.distinct)
        ]
        keys = {}
        for shard in self._cache.shards():
            names = self._cache.samples(shard.index)["key"].to_pylist()
            keys |= {key: unique[(shard.first + row) % case.distinct] for row, key in enumerate(names)}
        return keys


class _Lazy(Mapping[str, Any]):
    """teacher -> maps, made when asked for: one teacher at a time is in memory."""

    def __init__(self, make: Callable[[str], list[torch.Tensor]], names: Mapping[str, Any]) -> None:
        self._make, self._names = make, names

    def __getitem__(self, name: str) -> list[torch.Tensor]:
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
