"""How does a run's folder become one HTML file that opens anywhere?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from storage.atomic import replace_file
from storage.text_table import format_bytes
from student.report.inputs import Run, load_run
from student.report.sections import LEVEL_NAMES, sections
from student.report.tables import mean, metric_of, number, score, score_title

TEMPLATE = Path(__file__).with_name("page.html.j2")


def write_report(folder: Path, out: Path | None = None, *, max_pictures: int = 6) -> Path:
    """Write the report of a run and return its path, `folder/report.html` unless `out` names another.

    The file is self-contained: pictures are inlined, nothing is fetched, nothing needs a script.
    `max_pictures` bounds the photos and the validation images shown. Raises ValueError for a folder that is
    none or is damaged.
    """
    path = out or folder / "report.html"
    replace_file(path, render(load_run(folder), max_pictures).encode())
    return path


def render(run: Run, max_pictures: int = 6) -> str:
    """The page's HTML."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        name=run.name, sections=sections(run, max_pictures), headlines=headlines(run), levels=LEVEL_NAMES
    )


def headlines(run: Run) -> list[tuple[str, str]]:
    """(figure, what it is): what a reader wants to know first."""
    found = cache_headlines(run.cache_rows)
    teachers = list(run.distill.after)
    before, after = (mean(doc, teachers, "flattened") for doc in (run.distill.before, run.distill.after))
    if after is not None:
        start = f"{number(before, 3)} → " if before is not None else ""
        found.append((f"{start}{number(after, 3)}", "similarity to the teachers"))
    for dataset, made in run.evaluate.items():
        metrics = made.scores.get("metrics", {})
        for task in [task for task in metrics if task == "semseg"] or list(metrics)[:1]:
            metric = metric_of(task, made.scores)
            found.append((score(metrics[task], metric), f"{score_title(task, metric)}, {dataset}"))
    return found


def cache_headlines(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """How many teachers, and what their features take on disk in each cache."""
    stored: dict[str, int] = {}
    teachers = [row for row in rows if row["teacher"] != "images"]
    for row in teachers:
        stored[row.get("cache", "")] = stored.get(row.get("cache", ""), 0) + row["bytes"]
    if not teachers:
        return []
    sizes = [
        (format_bytes(count), f"of features in {cache}".removesuffix(" in "))
        for cache, count in stored.items()
    ]
    return [(str(len({row["teacher"] for row in teachers})), "teachers"), *sizes]
