"""What tables does a run come down to, in the page and as aligned plain text on the terminal?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from storage.text_table import aligned, format_bytes
from student.report.inputs import Run
from student.tasks.spec import METRICS, MetricSpec, task_spec

MISSING = "–"  # noqa: RUF001 (a dash in a cell, not a hyphen)


@dataclass(frozen=True)
class Table:
    """A table of ready text; the first column is left-aligned, the rest right; `strong`: rows to stress."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    note: str = ""
    strong: frozenset[int] = frozenset()

    def text(self) -> str:
        """Aligned plain text: caption, header, rule, rows, note."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        rule = ["-" * width for width in widths]
        lines = aligned([self.header, rule, *self.rows], left=1)
        return "\n".join([*filter(None, [self.caption]), *lines, *filter(None, [self.note])])


def number(value: Any, digits: int = 4) -> str:
    """A number with `digits` decimals; a dash for None and NaN; integers grouped; text as it is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def duration(seconds: float | None) -> str:
    """48 s, 12 min 5 s, 3 h 20 min."""
    if seconds is None:
        return MISSING
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.3g} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def steps_table(steps: Sequence[Mapping[str, Any]]) -> Table:
    """What was run: one row per step, with when, how long, where and from which revision."""
    header = ("step", "started (UTC)", "took", "device", "revision", "command")
    rows = [
        (
            str(step["step"]),
            str(step.get("started", MISSING)).replace("T", " ")[:19],
            duration(step.get("seconds")),
            str(step.get("device", MISSING)),
            str(step.get("revision") or MISSING)[:12],
            str(step.get("command", MISSING)),
        )
        for step in steps
    ]
    return Table(header, tuple(rows))


def versions_line(steps: Sequence[Mapping[str, Any]]) -> str:
    """Library versions of the run; a library that changed between steps shows each of its versions."""
    found: dict[str, list[str]] = {}
    for step in steps:
        for library, version in step.get("libraries", {}).items():
            if version not in found.setdefault(library, []):
                found[library].append(str(version))
    return ", ".join(f"{library} {' / '.join(versions)}" for library, versions in found.items())


def cache_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Facts of every column of the caches; fidelity is the worst level's (z-scored cosine)."""
    header = ("column", "cache", "codec", "grid", "shards", "samples", "quarantined", "size", "bits/value")
    header += ("fidelity min", "p1", "mean", "per token", "decode GMAC")
    body = [
        (
            str(row["teacher"]),
            *(str(row.get(key) or MISSING) for key in ("cache", "codec", "grid")),
            f"{row['shards_done']}/{row['shards_expected']}",
            number(row["samples"]),
            number(row["quarantined"]),
            format_bytes(row["bytes"]),
            number(row.get("bits_per_value"), 2),
            *(number(lowest(row.get("fidelity"), key), 5) for key in ("min", "p1", "mean")),
            number(lowest(row.get("per_token"), "mean"), 5),
            number(row.get("decode_gmac"), 3),
        )
        for row in rows
    ]
    note = (
        "fidelity: z-scored cosine of the decoded against the original map, flattened, worst level; "
        "per token: mean over tokens, worst level"
    )
    return Table(header, tuple(body), note=note)


def rungs_by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, int]]:
    """Rungs of the quantisation ladder and the samples that took them, by column of the first cache that has
    any; names as the table has them.
    """
    having = [row for row in rows if row.get("rungs")]
    first = having[0].get("cache") if having else None
    return {
        str(row["teacher"]): {int(rung): count for rung, count in row["rungs"].items()}
        for row in having
        if row.get("cache") == first
    }


def lowest(levels: Sequence[Mapping[str, float]] | None, key: str) -> float | None:
    """The worst level's figure."""
    return min((level[key] for level in levels), default=None) if levels else None


def similarity_table(
    before: Mapping[str, Any], after: Mapping[str, Any], published: Mapping[str, float] | None = None
) -> Table:
    """Cosine of student and live teacher on held-out images, before and after stage 1 (Table 17)."""
    teachers = list(after or before)
    header = ("teacher", "flattened before", "after", "per token before", "after")
    kinds = [(kind, doc) for kind in ("flattened", "per_token") for doc in (before, after)]
    rows = [(teacher, *(cell(doc, teacher, kind) for kind, doc in kinds)) for teacher in teachers]
    rows.append(("mean", *(number(mean(doc, teachers, kind)) for kind, doc in kinds)))
    if published:
        header = (*header, "paper (Table 17)")
        rows = [(*row, number(published.get(row[0]))) for row in rows]
    return Table(header, tuple(rows), strong=frozenset({len(rows) - 1}))


def cell(doc: Mapping[str, Any], teacher: str, kind: str) -> str:
    """One similarity, or a dash."""
    return number(doc.get(teacher, {}).get(kind))


def mean(doc: Mapping[str, Any], teachers: Sequence[str], kind: str) -> float | None:
    """Mean over the teachers; None where one is missing."""
    values = [doc.get(teacher, {}).get(kind) for teacher in teachers]
    return None if not values or None in values else sum(values) / len(values)


def metrics_table(scores: Mapping[str, Any], published: Sequence[Any] = ()) -> Table:
    """Task metrics of one data set, the paper's rows (student.report.published.Row) above our own.

    A task that was scored by another metric than the paper's has no figures of the paper beside it; nor of
    single-task models, where those could not be compared.
    """
    metrics = {task: metric_of(task, scores) for task in scores["metrics"]}
    same = [task for task, metric in metrics.items() if metric is METRICS[task_spec(task).metrics[0]]]
    titles = [f"{score_title(t, m)} {'↑' if m.higher_is_better else '↓'}" for t, m in metrics.items()]
    rows = []
    for row in published:
        values = {task: row.values.get(task) for task in same}
        rows.append(score_row(f"{row.model} (paper, {row.source})", values, row.gain, metrics))
    note = ""
    if given := scores.get("single_task"):
        compared = scores.get("delta_m_tasks", list(metrics))
        values = {task: given.get(task) for task in compared}
        rows.append(score_row("single-task (given)", values, 0.0 if compared else None, metrics))
        if left_out := [task_spec(task).title for task in metrics if task not in compared]:
            note = f"; Δm of this run without {', '.join(left_out)}: the single-task metric is another one"
    rows.append(score_row("this run", scores["metrics"], scores.get("delta_m"), metrics))
    kind = "the released code's conventions" if scores.get("compat") == "official" else "sound definitions"
    note = f"{number(scores.get('images'))} validation images; metrics by {kind}{note}"
    return Table(("model", *titles, "Δm % ↑"), tuple(rows), note=note, strong=frozenset({len(rows) - 1}))


def metric_of(task: str, scores: Mapping[str, Any]) -> MetricSpec:
    """The metric that an evaluation scored a task by; the paper's (B.4) where it does not say."""
    return METRICS[scores.get("names", {}).get(task, task_spec(task).metrics[0])]


def score_title(task: str, metric: MetricSpec) -> str:
    """`Semseg mIoU %`; the task is not said twice."""
    title = task_spec(task).title
    words = "" if metric.title.lower().startswith(title.lower()) else f"{title} "
    return f"{words}{metric.title} {metric.unit}".rstrip()


def score(value: float | None, metric: MetricSpec) -> str:
    """A metric's value with as many decimals as the paper prints."""
    return number(value, 2 if metric.unit in ("%", "deg") else 4)


def score_row(
    name: str, values: Mapping[str, float | None], gain: float | None, metrics: Mapping[str, MetricSpec]
) -> tuple[str, ...]:
    """One model's row."""
    cells = [score(values.get(task), metric) for task, metric in metrics.items()]
    return (name, *cells, number(gain, 2))


def summary_text(run: Run) -> str:
    """The tables of a run for the terminal: cache, similarity, task metrics; what is missing is left out."""
    found = [cache_table(run.cache_rows)] if run.cache_rows else []
    if run.distill.before or run.distill.after:
        found.append(similarity_table(run.distill.before, run.distill.after))
    for dataset, made in run.evaluate.items():
        if made.scores:
            found.append(replace(metrics_table(made.scores), caption=dataset))
    return "\n\n".join(table.text() for table in found)
