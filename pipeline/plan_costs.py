"""What does each teacher and each codec of a recipe cost: the arithmetic behind a plan's rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

from pipeline.grid import pooled_shapes
from pipeline.macs import decode_budgets, step_macs, teacher_macs
from pipeline.plan_answer import CodecRow, MeasuredColumn, PlanInput, TeacherRow
from pipeline.plan_rates import (
    JPEG_BYTES_PER_PIXEL,
    CodecChoice,
    choices,
    klt_bits,
    record_bytes,
    unpacking_cores,
    values_of,
)
from pipeline.teachers.spec import LEVELS, TeacherSpec, spec_of

Shapes = tuple[tuple[int, int, int], ...]


class Costs:
    """One recipe's costs. Hours are those of one GPU; one multiply-add is two operations.

    Raises:
        ValueError: a teacher is unknown, or a crop is smaller than its patch.
    """

    def __init__(self, asked: PlanInput) -> None:
        self._asked, self._size = asked, asked.views.size
        self.specs = [spec_of(name) for name in asked.committee.teachers]
        self.grids = ("teacher", "student") if asked.student_grid else ("teacher",)
        self.crop_bytes = self._size**2 * JPEG_BYTES_PER_PIXEL
        self.step = step_macs(asked.student, self._size, [spec.width for spec in self.specs])
        self.live = sum(self._hours(teacher_macs(spec, self._size).total) for spec in self.specs)
        """Hours for one forward of all teachers on every image."""
        self.trained = self._hours(self.step)
        """Hours for one training step on every image."""
        per_s = asked.images * asked.assume.gpus / (self.trained * 3600)
        self.speed = asked.assume.images_per_s or per_s
        """Images per second of all GPUs together."""

    @cached_property
    def decode_budget_gmac(self) -> float:
        """Of decoding one image's maps of all teachers."""
        gmac = self._asked.cache.codec.decode_gmac_per_image
        return sum(decode_budgets({"all": 1}, asked_gmac=gmac, step=self.step).values())

    def teacher_row(self, spec: TeacherSpec) -> TeacherRow:
        """Sizes of one teacher on each grid, in each codec; its work."""
        macs, stored = teacher_macs(spec, self._size), {grid: self._shapes(spec, grid) for grid in self.grids}
        return TeacherRow(
            teacher=spec.name,
            grid=spec.grid(self._size, self._size),
            student_grid=stored["student"][0][1:] if "student" in stored else None,
            channels=spec.width,
            values_per_image={grid: values_of(shapes) for grid, shapes in stored.items()},
            bytes_per_image={
                grid: {choice.label: self._record(spec, choice, grid)[0] for choice in self._choices}
                for grid in self.grids
            },
            gmac=macs.linear / 1e9,
            gmac_with_attention=macs.total / 1e9,
            gpu_hours=self._hours(macs.total),
            bf16_cosine=self._asked.bf16_cosine.get(spec.name),
        )

    def codec_row(self, choice: CodecChoice, grid: str) -> CodecRow:
        """What training from the cache takes with one codec on one grid."""
        asked, assume = self._asked, self._asked.assume
        records = [self._record(spec, choice, grid) for spec in self.specs]
        image, sources = sum(size for size, _ in records), {source for _, source in records}
        values = sum(values_of(self._shapes(spec, grid)) for spec in self.specs)
        gmac = self._decode_gmac(choice, grid)
        view_gb = asked.images * (image + self.crop_bytes) / 1e9
        cores = unpacking_cores(self.speed, choice, values, self._size**2) / assume.gpus
        # an epoch's hours are those of all GPUs together
        limits = {
            "student": self.trained + self._hours(gmac * 1e9),
            "reading": assume.gpus * view_gb / assume.reach_gb_per_s / 3600,
            "unpacking": asked.images * assume.gpus / self.speed / 3600 * cores / assume.cores_per_gpu,
        }
        limit = max(limits, key=lambda name: limits[name])
        epoch = limits[limit]
        saved = self.live + self.trained - epoch
        return CodecRow(
            codec=choice.label,
            grid=grid,
            source=sources.pop() if len(sources) == 1 else "mixed",
            bits_per_value=8 * image / values,
            bytes_per_image=image,
            terabytes=asked.images * asked.views.count * image / 1e12,
            read_gb_per_s=self.speed * (image + self.crop_bytes) / 1e9,
            cores_per_gpu=cores,
            decode_gmac=gmac,
            decode_share=gmac * 1e9 / self.step,
            epoch_gpu_hours=epoch,
            limit=limit,
            break_even_epochs=asked.views.count * self.live / saved if saved > 0 else None,
            pays_above_gb_per_s=assume.gpus * view_gb / ((self.live + self.trained) * 3600),
        )

    @cached_property
    def _choices(self) -> tuple[CodecChoice, ...]:
        return choices(self._asked.cache.codec)

    def _hours(self, macs: float) -> float:
        assume = self._asked.assume
        return self._asked.images * 2 * macs / (assume.tflops * 1e12 * assume.utilisation) / 3600

    def _shapes(self, spec: TeacherSpec, grid: str) -> Shapes:
        own = spec.level_shapes(self._size, self._size)
        return pooled_shapes(own, self._asked.student_grid if grid == "student" else None)

    def _record(self, spec: TeacherSpec, choice: CodecChoice, grid: str) -> tuple[int, str]:
        """Bytes of one record, and where that number is from."""
        shapes, columns = self._shapes(spec, grid), self._asked.measured.get(spec.name, ())
        for column in columns:
            if (column.codec.label, column.grid) == (choice.label, grid):
                return math.ceil(values_of(shapes) * column.bits_per_value / 8), "measured"
        if choice.name != "klt":
            return record_bytes(choice, shapes, bits=0.0), "exact"
        bits, near = klt_bits(choice.fidelity, self._basis(grid)), _nearest(columns, choice, grid)
        if near is None:
            return record_bytes(choice, shapes, bits=bits), "table"
        ratio = near.bits_per_value / klt_bits(near.codec.fidelity, self._basis(near.grid))
        return record_bytes(choice, shapes, bits=bits * ratio), "scaled"

    def _decode_gmac(self, choice: CodecChoice, grid: str) -> float:
        """Measured where all columns are there; else that of the basis, cut to the budget."""
        if choice.name != "klt":
            return 0.0
        found = [
            column.decode_gmac
            for spec in self.specs
            for column in self._asked.measured.get(spec.name, ())
            if (column.codec.label, column.grid) == (choice.label, grid)
        ]
        if len(found) == len(self.specs):
            return sum(found)
        return min(self.decode_budget_gmac, self._inverse_gmac(self._basis(grid), grid))

    def _basis(self, grid: str) -> str:
        """The basis that calibration will choose: joint where the budget allows all of it."""
        asked = self._asked.cache.codec.basis
        fits = self._inverse_gmac("joint", grid) <= self.decode_budget_gmac
        return asked if asked != "auto" else "joint" if fits else "separable"

    def _inverse_gmac(self, basis: str, grid: str) -> float:
        """Of all components of all teachers."""
        shapes = [self._shapes(spec, grid) for spec in self.specs]
        joint = sum(s[0][1] * s[0][2] * sum(c for c, _, _ in s) ** 2 for s in shapes) / 1e9
        return joint if basis == "joint" else joint / LEVELS


def _nearest(columns: Sequence[MeasuredColumn], choice: CodecChoice, grid: str) -> MeasuredColumn | None:
    """The measured klt column that is most like one: of its grid, then of the nearest fidelity."""
    klt = [column for column in columns if column.codec.name == "klt"]
    return min(
        klt,
        key=lambda column: (column.grid != grid, abs(column.codec.fidelity - choice.fidelity)),
        default=None,
    )
