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
SIDES: tuple[Side, Side] = ("cache", "RAM")
READERS = Stage1Config().threads
WARM = 2
"""First steps of a block, in which the stream fills its batches ahead: not counted."""
Maps = Mapping[str, list[torch.Tensor]]


def run(material: Material) -> list[Section]:
    """Steps of recipe mini, of real size with maps pooled to the student's grid, and with SAM's own grid."""
    device, rows = material.ask.device, [_row(case, material.ask.device) for case in cases(material)]
    notes = [
        f"wall clock on {device}, torch on {torch.get_num_threads()} threads, {READERS} threads read",
        f"blocks of steps alternate in one run, the first {WARM} of each are not counted",
        "real size: ViT-B/16 student at 384 px, fp32, maps with HARD4's statistics, default klt codec",
    ]
    return [Section("stage-1 step from the cache", rows, notes)]


def _row(case: Case, device: str) -> Row:
    clock = _measured(case, device)
    wall, cpu = clock.seconds(0), clock.seconds(1)
    cache, ram = (statistics.median(wall[side]) for side in SIDES)
    work = statistics.median(cpu["RAM"]) / statistics.median(cpu["cache"])
    spread = "; ".join(f"{side} {min(wall[side]):.2f} to {max(wall[side]):.2f} s" for side in SIDES)
    remarks = f"{case.said}; {len(wall['cache'])} steps a side, {spread}; by CPU seconds {work:.3g}x"
    asked = Asked(case.asked, "ratio", "least")
    return Row(case.name, 1 / cache, "steps/s", "features in RAM", 1 / ram, asked, remarks)


@dataclass
class _Clock:
    """When each batch was asked for (wall clock, CPU seconds of the process), and which side it came from."""

    block: int
    """Steps of a block."""
    sides: list[Side] = field(default_factory=list)
    asked: list[tuple[float, float]] = field(default_factory=list)

    def tick(self, side: Side) -> None:
        """A batch is asked for."""
        self.sides.append(side)
        self.asked.append((time.perf_counter(), time.process_time()))

    def seconds(self, clock: int) -> dict[Side, list[float]]:
        """Per side, seconds from one batch's request to the next, in the counted part of each block."""
        found: dict[Side, list[float]] = {side: [] for side in SIDES}
        for at, (side, now, then) in enumerate(zip(self.sides, self.asked, self.asked[1:], strict=False)):
            if at % self.block >= WARM and (at + 1) % self.block:
                found[side].append(then[clock] - now[clock])
        return found


def _measured(case: Case, device: str) -> _Clock:
    """One run of stage 1 that takes every step of both sides."""
    clock = _Clock(WARM + case.steps + 1)
    with tempfile.TemporaryDirectory() as folder:
        cache = make_cache(
            Path(folder, "cache"),
            case.jpegs,
            case.fillings,
            samples=case.samples,
            samples_per_shard=case.batch,
        )
        order = make_order(cache, seed=0, global_batch=case.batch, window=2)
        data = _Sides(cache, order, case, device, clock)
        channels = {name: tuple(s[0] for s in filling.shapes) for name, filling in case.fillings.items()}
        config = StudentConfig(arch=case.student, weights="random:0")
        student = build_student(config, channels, 0, image_size=case.crop)
        steps = 2 * case.blocks * clock.block
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
    return clock


class _Sides:
    """Batches of both sides in alternating blocks, and their targets."""

    def __init__(self, cache: Cache, order: Any, case: Case, device: str, clock: _Clock) -> None:
        self._cache, self._order, self._clock = cache, order, clock
        self._columns = cache.teacher_columns()
        self._codecs = {name: cache.codec(column) for name, column in self._columns.items()}
        self._device = device
        self._ram = self._decoded(case)

    @contextmanager
    def stream(self, first: int, steps: int) -> Iterator[Iterator[Batch]]:
        """As Stage1Data asks for it."""
        yield self._batches(steps)

    def _batches(self, steps: int) -> Iterator[Batch]:
        block = self._clock.block
        for number in range(steps // block):
            side = SIDES[number % 2]
            columns = self._columns if side == "cache" else {}
            # more steps than are taken: reading ahead goes on to the end of the block, as in training
            with Stream(self._cache, self._order, columns, 0, 2 * block, READERS) as stream:
                for _ in range(block):
                    self._clock.tick(side)
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
