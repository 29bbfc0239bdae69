"""Which sections does a run's report have, and what stands in each?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from student.report import figures, tables
from student.report.inputs import PHASES, Evaluation, Run
from student.report.published import published_for, published_similarity
from student.tasks.spec import task_spec

LEVEL_NAMES = ("L/4", "L/2", "3L/4", "L")


@dataclass(frozen=True)
class Block:
    """One piece of a section; `kind` picks the template's macro, `body` is what that macro reads."""

    kind: str
    body: Any
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, a line on how to read it, its blocks; without blocks: the command that makes the inputs."""

    anchor: str
    title: str
    lead: str
    command: str
    blocks: list[Block]


def sections(run: Run, max_pictures: int) -> list[Section]:
    """Every section of the report, in the order of a recipe's steps."""
    return [
        Section("run", "What was run", "", "distill", run_blocks(run)),
        Section("cache", "Feature cache", CACHE, "inspect", cache_blocks(run)),
        Section("stage1", "Stage 1: distillation", STAGE1, "distill", stage1_blocks(run)),
        Section("similarity", "Representation similarity", SIMILARITY, "distill", similarity_blocks(run)),
        Section("maps", "Teacher and student maps", MAPS, "distill", map_blocks(run, max_pictures)),
        Section("stage2", "Stage 2: multi-task training", STAGE2, "finetune", stage2_blocks(run)),
        Section("metrics", "Task metrics", METRICS, "evaluate", metric_blocks(run)),
        Section(
            "predictions", "Predictions against truth", "", "evaluate", prediction_blocks(run, max_pictures)
        ),
        Section("gates", "Gate weights", GATES, "evaluate", gate_blocks(run)),
    ]


CACHE = "What the teachers left on disk. Fidelity is measured on every sample, the worst level is shown."
STAGE1 = "Loss of eq. 5, summed over teachers and levels, and each teacher's share of it."
SIMILARITY = (
    "Cosine between the student's aligned maps and live fp32 teachers on held-out images: over the whole "
    "flattened map (as in Table 17), and averaged over tokens."
)
MAPS = (
    "Last level, coloured by the teacher's first three principal components, in which the student's maps are "
    "painted too: the same colour means the same feature."
)
STAGE2 = "Loss of eq. 6: its distillation part per teacher, and its task losses before weighting."
METRICS = "Scores on the validation images. Δm is the mean relative gain over single-task models (eq. 7)."
GATES = (
    "How much of each expert the router mixes into a task's features (eq. 4), mean over the validation "
    "images; rows are levels, each row sums to 1."
)


def run_blocks(run: Run) -> list[Block]:
    """When, where and with what."""
    if not run.steps:
        return []
    found = [Block("table", tables.steps_table(run.steps))]
    if versions := tables.versions_line(run.steps):
        found.append(Block("note", versions))
    return found


def cache_blocks(run: Run) -> list[Block]:
    """Facts per teacher and, where it was drawn, a picture of decoded features."""
    found = [Block("table", tables.cache_table(run.cache_rows))] if run.cache_rows else []
    if rungs := tables.rungs_by_column(run.cache_rows):
        drawn = Markup(figures.svg(figures.steps(rungs), "steps"))
        found.append(Block("curves", [("step that each sample took to keep its fidelity", drawn)]))
    if run.jpeg_cosine:
        facts = {teacher: tables.number(cosine) for teacher, cosine in run.jpeg_cosine.items()}
        found.append(Block("facts", facts, "What storing crops as JPEG costs: cosine to maps of raw pixels"))
    if run.cache_picture:
        found.append(Block("picture", figures.picture_uri(run.cache_picture, 1200), "Decoded features"))
    return found


def stage1_blocks(run: Run) -> list[Block]:
    """Curves and summary of stage 1."""
    return curve_blocks("stage1", run.distill.records, {"loss": "per teacher"}, run.distill.summary)


def curve_blocks(
    name: str, records: list[dict[str, Any]], groups: Mapping[str, str], summary: Mapping[str, Any]
) -> list[Block]:
    """The total loss and each group's curves as inline SVG, then the summary."""
    found = []
    for group, title in {"": "total loss", **groups}.items():
        if lines := figures.series(records, group):
            drawn = figures.svg(figures.curves(lines), f"{name}-{group or 'total'}")
            found.append((title, Markup(drawn)))
    blocks = [Block("curves", found)] if found else []
    facts = summary_facts(summary)
    return blocks + ([Block("facts", facts)] if facts else [])


def summary_facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """A summary's numbers for a reader: without where the files lie and how the run was resumed."""
    kept = {key: value for key, value in summary.items() if key not in ("first_step", "steps_run")}
    return {
        key.replace("_", " "): tables.duration(value) if key == "seconds" else tables.number(value)
        for key, value in kept.items()
        if isinstance(value, int | float)
    }


def similarity_blocks(run: Run) -> list[Block]:
    """One table, the paper's figures beside where they compare."""
    before, after = run.distill.before, run.distill.after
    if not before and not after:
        return []
    return [
        Block("table", tables.similarity_table(before, after, published_similarity(run.recipe, list(after))))
    ]


def map_blocks(run: Run, limit: int) -> list[Block]:
    """One card per photo: the photo, and per teacher its map and the student's before and after."""
    maps = run.distill.maps
    cards = []
    for i in range(min(limit, len(maps.get("photos", ())))):
        rows = [
            (teacher, [(phase, figures.map_uri(maps[f"{teacher}.{phase}"][i])) for phase in PHASES])
            for teacher in run.distill.mapped_teachers
        ]
        cards.append({"photo": figures.picture_uri(maps["photos"][i]), "rows": rows})
    return [Block("maps", cards)] if cards else []


def stage2_blocks(run: Run) -> list[Block]:
    """Curves and summary per data set."""
    found = []
    for dataset, made in run.finetune.items():
        groups = {"loss": "per task, unweighted", "distill": "distillation, per teacher"}
        blocks = curve_blocks(f"stage2-{dataset}", made.records, groups, made.summary)
        found += [Block("heading", dataset), *blocks] if blocks else []
    return found


def metric_blocks(run: Run) -> list[Block]:
    """One table per data set."""
    return [
        Block("table", tables.metrics_table(made.scores, published_for(run.recipe, dataset)), dataset)
        for dataset, made in run.evaluate.items()
        if made.scores
    ]


def prediction_blocks(run: Run, limit: int) -> list[Block]:
    """One card per validation image: the image, then truth and prediction of every task."""
    found = []
    for dataset, made in run.evaluate.items():
        cards = [prediction_card(made, sample) for sample in made.scores.get("pictures", [])[:limit]]
        found += [Block("predictions", cards, dataset)] if cards else []
    return found


def prediction_card(made: Evaluation, sample: str) -> dict[str, Any]:
    """The pictures of one validation image as data URIs; None where one is missing."""

    def uri(name: str) -> str | None:
        data = made.picture(sample, name)
        return figures.picture_uri(data) if data else None

    tasks = [(task_spec(task).title, uri(f"{task}_truth"), uri(task)) for task in made.scores["metrics"]]
    return {"sample": sample, "image": uri("image"), "tasks": tasks}


def gate_blocks(run: Run) -> list[Block]:
    """One heat map per task and data set: levels x experts, annotated."""
    found = []
    for dataset, made in run.evaluate.items():
        if made.gates:
            tasks = [(task_spec(task).title, weights) for task, weights in made.gates["tasks"].items()]
            found.append(Block("gates", {"experts": made.gates["experts"], "tasks": tasks}, dataset))
    return found
