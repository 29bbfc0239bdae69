"""How many multiply-accumulates does one image cost a teacher or the student?

Papers count the linear layers only (PyTorch's hooks do not see the attention products); hardware does both,
so both are given. Norms, activations, biases and SAM's relative positions are below 1% and left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.teachers.spec import LEVELS, TeacherSpec

MLP_RATIO = 4
TRAINING_FACTOR = 3
"""A training step is a forward and two products of the same size backward."""
DECODE_SHARE = 0.05
"""Of a training step's multiply-adds, what decoding the teachers' maps may cost where no budget is given."""


class Macs(NamedTuple):
    """Multiply-accumulates of one forward of one image."""

    linear: int
    """Linear layers and convolutions: the paper's convention."""
    attention: int
    """Products of queries with keys and of weights with values."""

    @property
    def total(self) -> int:
        """What the hardware does."""
        return self.linear + self.attention


@dataclass(frozen=True)
class StudentSize:
    """What of the student's architecture decides its cost."""

    width: int
    depth: int
    patch: int = 16
    adapter_reduction: int = 4
    """Channel reduction of the adapters (paper B.1)."""


def teacher_macs(spec: TeacherSpec, size: int) -> Macs:
    """One teacher on one `size` x `size` crop (paper Table 21 has the linear part)."""
    rows, columns = spec.grid(size, size)
    tokens, whole = spec.tokens(size, size), len(spec.global_blocks) if spec.window else spec.depth
    full = _block(tokens, tokens, spec.width)
    embed = rows * columns * 3 * spec.patch**2 * spec.width
    local = _windowed_block(rows, columns, spec.window, spec.width) if spec.window else Macs(0, 0)
    windowed = spec.depth - whole
    return Macs(
        embed + whole * full.linear + windowed * local.linear,
        whole * full.attention + windowed * local.attention,
    )


def student_macs(student: StudentSize, size: int, teacher_widths: Sequence[int]) -> tuple[Macs, Macs]:
    """The TAS, and what a TSAP and aligner per teacher add, on one `size` x `size` crop (paper Table 22)."""
    width, patches = student.width, (size // student.patch) ** 2
    tokens = patches + 1
    block = _block(tokens, tokens, width)
    embed = patches * 3 * student.patch**2 * width
    tas = Macs(embed + student.depth * block.linear, student.depth * block.attention)
    adapter = 2 * tokens * width * (width // student.adapter_reduction)
    aligners = [LEVELS * patches * width * other for other in teacher_widths if other != width]
    return tas, Macs(len(teacher_widths) * (student.depth + 1) * adapter + sum(aligners), 0)


def step_macs(student: StudentSize, size: int, teacher_widths: Sequence[int]) -> int:
    """One image of a training step, attention, adapters and aligners included."""
    tas, adapters = student_macs(student, size, teacher_widths)
    return TRAINING_FACTOR * (tas.total + adapters.total)


def decode_budgets(values: Mapping[str, int], *, asked_gmac: float, step: int) -> dict[str, float]:
    """teacher -> multiply-adds, 1e9, that decoding its maps of one image may cost.

    Args:
        values: teacher -> stored values per image, which the budget is shared by.
        asked_gmac: the budget of all together; 0: `DECODE_SHARE` of `step`.
        step: multiply-adds of one image of a training step.
    """
    budget = asked_gmac or DECODE_SHARE * step / 1e9
    return {teacher: budget * count / sum(values.values()) for teacher, count in values.items()}


def _block(attended: int, tokens: int, width: int) -> Macs:
    """A transformer block: four projections on `attended` tokens, the MLP on `tokens`."""
    linear = 4 * attended * width**2 + 2 * MLP_RATIO * tokens * width**2
    return Macs(linear, 2 * attended**2 * width)


def _windowed_block(rows: int, columns: int, window: int, width: int) -> Macs:
    """SAM's local block: the grid is padded to whole windows, and the padding is projected as well."""
    windows = -(-rows // window) * -(-columns // window)
    linear = _block(windows * window**2, rows * columns, width).linear
    return Macs(linear, windows * 2 * window**4 * width)
