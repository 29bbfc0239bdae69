"""What does a plan take in, and what does it say: plain records, with their units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from pipeline.config import CommitteeConfig, PlanConfig
from pipeline.grid import Grid
from pipeline.macs import StudentSize
from pipeline.plan_rates import CodecChoice
from storage.config import CacheConfig, ViewConfig


@dataclass(frozen=True)
class MeasuredColumn:
    """What one column of a cache came to."""

    codec: CodecChoice
    grid: str
    bits_per_value: float
    decode_gmac: float
    """Per image."""


@dataclass(frozen=True)
class PlanInput:
    """The sections of a recipe that decide its cost, and what was measured."""

    images: int
    views: ViewConfig
    committee: CommitteeConfig
    cache: CacheConfig
    student: StudentSize
    epochs: float
    """Epochs of stage 1."""
    assume: PlanConfig = field(default_factory=PlanConfig)
    measured: Mapping[str, Sequence[MeasuredColumn]] = field(default_factory=dict)
    """teacher -> columns of it in some cache."""
    bf16_cosine: Mapping[str, float] = field(default_factory=dict)
    """teacher -> worst z-scored cosine of its bf16 maps and its fp32 ones, where that was measured."""

    @property
    def student_grid(self) -> Grid | None:
        """The student's cells (h, w); None where a crop is no whole number of its patches."""
        whole = self.views.size % self.student.patch == 0
        return (self.views.size // self.student.patch,) * 2 if whole else None


@dataclass(frozen=True)
class TeacherRow:
    """One teacher; hours are those of one view of every image."""

    teacher: str
    grid: Grid
    student_grid: Grid | None
    """Of its maps where larger ones are pooled to the student's grid."""
    channels: int
    values_per_image: dict[str, int]
    """By grid: teacher, student."""
    bytes_per_image: dict[str, dict[str, int]]
    """By grid and codec."""
    gmac: float
    """One forward, linear layers only (the paper's convention)."""
    gmac_with_attention: float
    gpu_hours: float
    bf16_cosine: float | None
    """No fidelity above it means anything: the teacher in fp32 differs as much from what was stored."""


@dataclass(frozen=True)
class CodecRow:
    """What one codec on one grid means for training; a GPU-hour is one hour of one of `gpus`."""

    codec: str
    grid: str
    source: str
    """Where the bits are from: exact, measured, scaled (measured at another fidelity or grid), table."""
    bits_per_value: float
    bytes_per_image: int
    """All teachers."""
    terabytes: float
    """All teachers, all views, without the crops."""
    read_gb_per_s: float
    """Read rate that keeps up with `images_per_s`, crops included."""
    cores_per_gpu: float
    """Cores that unpack codes and crops at that speed."""
    decode_gmac: float
    """Per image, on the trainer's device."""
    decode_share: float
    """Of a training step."""
    epoch_gpu_hours: float
    """An epoch from the cache: the student's work and decoding, or reading, or unpacking: the longest."""
    limit: str
    """Which of them that is: student, reading, unpacking."""
    break_even_epochs: float | None
    """Epochs, over all runs, from which the cache costs less than live teachers; None: never."""
    pays_above_gb_per_s: float
    """At a read rate below this, live teachers are faster however many epochs there are."""


@dataclass(frozen=True)
class Plan:
    """The answer; `rows` by teacher, `codecs` by codec and grid."""

    images: int
    views: int
    size: int
    samples: int
    shards: int
    codec: str
    """The one that the recipe asks for."""
    grid: str
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
    decode_budget_gmac: float
    """That calibration lets decoding one image cost."""
    teacher_gpu_hours_per_view: float
    student_gpu_hours_per_epoch: float
    images_per_s: float
    """Training speed that the rates are for: the student's own unless one was given."""
    epochs: float
    live_gpu_hours: float
    """Stage 1 with live teachers in every epoch."""
    cached_gpu_hours: float
    """Extraction and stage 1 from the cache, with the recipe's codec."""
    usd: dict[str, float] | None
    """live, cached, and storage a month; None where no price is stated."""
    assume: PlanConfig

    @property
    def chosen(self) -> CodecRow:
        """The recipe's codec on the recipe's grid."""
        return next(row for row in self.codecs if (row.codec, row.grid) == (self.codec, self.grid))

    def as_json(self) -> dict:
        """Plain dicts, lists, numbers and None, under the names of the fields."""
        return asdict(self) | {
            "rows": [asdict(row) | {"grid": list(row.grid)} for row in self.rows],
            "codecs": [asdict(row) for row in self.codecs],
            "assume": self.assume.model_dump(mode="json"),
        }
