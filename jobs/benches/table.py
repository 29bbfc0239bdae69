"""How does a benchmark say what it found: both sides, their ratio, what was asked, whether it held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from storage.text_table import aligned

HEAD = ("what", "ours", "other side", "", "ratio", "asked", "reached", "remarks")


@dataclass(frozen=True)
class Asked:
    """A target of one row."""

    value: float
    of: Literal["ours", "ratio"]
    """Which figure of the row it is about."""
    at: Literal["least", "most"]

    def holds(self, figure: float) -> bool:
        """Whether the figure reaches it."""
        return figure >= self.value if self.at == "least" else figure <= self.value

    def __str__(self) -> str:
        return f"{'>=' if self.at == 'least' else '<='} {self.value:g}{'x' if self.of == 'ratio' else ''}"


@dataclass(frozen=True)
class Row:
    """One comparison; `ratio` is ours / theirs unless a row says otherwise."""

    what: str
    ours: float
    unit: str
    other: str = ""
    """Name of the other side; empty: there is none."""
    theirs: float | None = None
    asked: Asked | None = None
    remarks: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over theirs."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def reached(self) -> bool | None:
        """Whether the target holds; None where none is set."""
        if self.asked is None:
            return None
        figure = self.ours if self.asked.of == "ours" else self.ratio
        return figure is not None and self.asked.holds(figure)

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of HEAD."""
        theirs = "" if self.theirs is None else f"{_figure(self.theirs)} {self.unit}"
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}x"
        said = {None: "", True: "yes", False: "NO"}[self.reached]
        ours = f"{_figure(self.ours)} {self.unit}"
        return self.what, ours, self.other, theirs, ratio, str(self.asked or ""), said, self.remarks


@dataclass(frozen=True)
class Section:
    """Rows that answer one question."""

    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    """How it was measured, for people."""

    def without_targets(self) -> Section:
        """The same, of sizes that nothing was asked of."""
        rows = [replace(row, asked=None) for row in self.rows]
        return replace(self, rows=rows, notes=[*self.notes, "small sizes: no target applies"])

    def text(self) -> str:
        """For a terminal."""
        lines = aligned([HEAD, *(row.cells() for row in self.rows)], left=1)
        return "\n".join([self.title, *(f"  {line}" for line in lines), *(f"  ({n})" for n in self.notes)])

    def markdown(self) -> str:
        """For a page."""
        lines = [_piped(HEAD), _piped(["---"] * len(HEAD)), *(_piped(row.cells()) for row in self.rows)]
        notes = "".join(f"\n{note[:1].upper()}{note[1:]}." for note in self.notes)
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n" + notes

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        rows = [asdict(row) | {"ratio": row.ratio, "reached": row.reached} for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": self.notes}


def page(sections: Sequence[Section], facts: dict[str, Any], command: str) -> str:
    """A Markdown page of all sections."""
    said = ", ".join(f"{name} {value}" for name, value in facts.items())
    top = f"Printed by `{command}` in one run on one machine ({said}).\n"
    return "\n".join([top, *(section.markdown() + "\n" for section in sections)])


def _figure(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def _piped(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
