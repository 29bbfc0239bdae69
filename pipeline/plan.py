"""What will a recipe cost: terabytes, GPU-hours, GB/s, and does a cache pay against live teachers at all?

Pure arithmetic over the recipe's sections; neither torch nor a GPU is needed. Sizes are exact up to the
lossless stage (which only shrinks them) and the containers' headers, but klt's are an estimate; times rest on
the stated peak and utilisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from pipeline.config import CommitteeConfig, PlanConfig
from pipeline.macs import TRAINING_FACTOR, StudentSize, student_macs, teacher_macs
from pipeline.teachers.spec import TeacherSpec, spec_of
from storage.config import CacheConfig, ViewConfig

JPEG_BYTES_PER_PIXEL = 0.4
"""Measured on crops of photos at quality 95, 4:4:4; well under 1% of a cache, so an estimate will do."""
CRC_BYTES = 4
KLT_BITS = 2.26
"""Bits a value at fidelity 0.995 with pcodec, measured on synthetic maps as hard as real teachers' (an
estimate; random-weight teachers take 0.5)."""

Shapes = Sequence[tuple[int, int, int]]


def _values(shapes: Shapes) -> int:
    return sum(c * h * w for c, h, w in shapes)


RECORD_BYTES: dict[str, Callable[[Shapes], int]] = {
    "f16": lambda shapes: 2 * _values(shapes) + CRC_BYTES,
    # one byte a value and one float32 scale a token
    "int8": lambda shapes: _values(shapes) + 4 * sum(h * w for _, h, w in shapes) + CRC_BYTES,
    # an estimate: what a record is depends on its maps
    "klt": lambda shapes: math.ceil(_values(shapes) * KLT_BITS / 8) + CRC_BYTES,
}
"""Codec -> bytes of one record (C, h, w of its levels given), before the lossless stage (klt: after it)."""


@dataclass(frozen=True)
class PlanInput:
    """The sections of a recipe that decide its cost."""

    images: int
    views: ViewConfig
    committee: CommitteeConfig
    cache: CacheConfig
    student: StudentSize
    epochs: float
    """Epochs of stage 1."""
    assume: PlanConfig = field(default_factory=PlanConfig)


@dataclass(frozen=True)
class TeacherRow:
    """One teacher's share; sizes and hours are those of one view of every image."""

    teacher: str
    grid: tuple[int, int]
    channels: int
    values_per_image: int
    bytes_per_image: dict[str, int]
    """By codec."""
    terabytes: dict[str, float]
    """By codec."""
    gmac: float
    """One forward, linear layers only (the paper's convention)."""
    gmac_with_attention: float
    gpu_hours: float


@dataclass(frozen=True)
class CodecRow:
    """What one codec means for training; a GPU-hour is one hour of one of `gpus`."""

    codec: str
    terabytes: float
    """All teachers, all views."""
    read_gb_per_s: float
    """Read rate that keeps up with `images_per_s`."""
    epoch_gpu_hours: float
    """An epoch from the cache: the student's work or the reading, whichever is longer."""
    break_even_epochs: float | None
    """Epochs, over all runs, from which the cache costs less than live teachers; None: never."""
    pays_above_gb_per_s: float
    """At a read rate below this, live teachers are faster however many epochs there are."""


@dataclass(frozen=True)
class Plan:
    """The answer; `rows` by teacher, `codecs` by codec."""

    images: int
    views: int
    size: int
    samples: int
    shards: int
    codec: str
    """The one that the recipe asks for."""
    rows: tuple[TeacherRow, ...]
    codecs: tuple[CodecRow, ...]
    crops_terabytes: float
    """The images column, estimated."""
    student_gmac: float
    """TAS forward, linear layers only (the paper's convention)."""
    student_gmac_with_attention: float
    adapters_gmac: float
    """What the adapters and aligners of all teachers add."""
    step_gmac: float
    """One image of a training step: three forwards, attention and adapters included."""
    teacher_gpu_hours_per_view: float
    student_gpu_hours_per_epoch: float
    images_per_s: float
    """Training speed that the read rates are for: the student's own unless one was given."""
    epochs: float
    live_gpu_hours: float
    """Stage 1 with live teachers in every epoch."""
    cached_gpu_hours: float
    """Extraction and stage 1 from the cache, with the recipe's codec."""
    assume: PlanConfig

    def as_json(self) -> dict:
        """Plain dicts, lists, numbers and None, under the names of the fields."""
        return asdict(self) | {
            "rows": [asdict(row) | {"grid": list(row.grid)} for row in self.rows],
            "codecs": [asdict(row) for row in self.codecs],
            "assume": self.assume.model_dump(mode="json"),
        }


def plan(asked: PlanInput) -> Plan:
    """Sizes and costs of a recipe.

    Raises:
        ValueError: there is no image, a teacher is unknown, or a crop is smaller than a patch.
    """
    if asked.images < 1:
        raise ValueError(
            f"a plan for {asked.images} images is empty; give the number of images, such as 1281167"
        )
    size, specs = asked.views.size, [spec_of(name) for name in asked.committee.teachers]
    rows = tuple(_teacher_row(spec, asked) for spec in specs)
    tas, adapters = student_macs(asked.student, size, [spec.width for spec in specs])
    step = TRAINING_FACTOR * (tas.total + adapters.total)
    live, trained = sum(row.gpu_hours for row in rows), _gpu_hours(asked, step)
    speed = asked.assume.images_per_s or asked.images * asked.assume.gpus / (trained * 3600)
    codecs = tuple(_codec_row(name, asked, rows, trained=trained, speed=speed) for name in RECORD_BYTES)
    chosen = next(row for row in codecs if row.codec == asked.cache.codec.name)
    return Plan(
        images=asked.images,
        views=asked.views.count,
        size=size,
        samples=asked.images * asked.views.count,
        shards=asked.views.count * math.ceil(asked.images / asked.cache.samples_per_shard),
        codec=chosen.codec,
        rows=rows,
        codecs=codecs,
        crops_terabytes=asked.images * asked.views.count * size**2 * JPEG_BYTES_PER_PIXEL / 1e12,
        student_gmac=tas.linear / 1e9,
        student_gmac_with_attention=tas.total / 1e9,
        adapters_gmac=adapters.total / 1e9,
        step_gmac=step / 1e9,
        teacher_gpu_hours_per_view=live,
        student_gpu_hours_per_epoch=trained,
        images_per_s=speed,
        epochs=asked.epochs,
        live_gpu_hours=asked.epochs * (live + trained),
        cached_gpu_hours=asked.views.count * live + asked.epochs * chosen.epoch_gpu_hours,
        assume=asked.assume,
    )


def _gpu_hours(asked: PlanInput, macs: int) -> float:
    """Hours of one GPU for `macs` per image over all images; one MAC is two operations."""
    per_s = asked.assume.tflops * 1e12 * asked.assume.utilisation
    return asked.images * 2 * macs / per_s / 3600


def _teacher_row(spec: TeacherSpec, asked: PlanInput) -> TeacherRow:
    size = asked.views.size
    shapes, macs = spec.level_shapes(size, size), teacher_macs(spec, size)
    sizes = {codec: record(shapes) for codec, record in RECORD_BYTES.items()}
    return TeacherRow(
        teacher=spec.name,
        grid=spec.grid(size, size),
        channels=spec.width,
        values_per_image=_values(shapes),
        bytes_per_image=sizes,
        terabytes={codec: asked.images * count / 1e12 for codec, count in sizes.items()},
        gmac=macs.linear / 1e9,
        gmac_with_attention=macs.total / 1e9,
        gpu_hours=_gpu_hours(asked, macs.total),
    )


def _codec_row(
    codec: str, asked: PlanInput, rows: Sequence[TeacherRow], *, trained: float, speed: float
) -> CodecRow:
    live, view_tb = sum(row.gpu_hours for row in rows), sum(row.terabytes[codec] for row in rows)
    reading = asked.assume.gpus * view_tb * 1e3 / asked.assume.read_gb_per_s / 3600
    epoch = max(trained, reading)
    saved = live + trained - epoch
    return CodecRow(
        codec=codec,
        terabytes=view_tb * asked.views.count,
        read_gb_per_s=speed * sum(row.bytes_per_image[codec] for row in rows) / 1e9,
        epoch_gpu_hours=epoch,
        break_even_epochs=asked.views.count * live / saved if saved > 0 else None,
        pays_above_gb_per_s=asked.assume.gpus * view_tb * 1e3 / ((live + trained) * 3600),
    )
