"""`demo`: the whole of Cutler on this machine, with the real parts and small teachers, in minutes.

Photos that scikit-image and scikit-learn ship go through a local Ray cluster, one real Ray job per step;
stage 2 trains on generated indoor scenes with exact labels in both data sets' layouts. A second run resumes.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from jobs.cli import parse
from storage.config import Frozen

log = logging.getLogger(__name__)
SCENES = {"train": 48, "val": 8}
NYUD_SIZE, PASCAL_SIZE = (112, 144), (128, 128)
TASKS = {
    "nyud": ("semseg", "depth", "normals", "edge"),
    "pascal_context": ("semseg", "human_parts", "sal", "normals", "edge"),
}


class DemoOptions(Frozen):
    """The whole of Cutler on this machine: photos -> cache -> student -> multi-task model -> report."""

    out: Path = Path("runs/demo")
    """Folder of everything that the demo makes; delete it to start afresh."""


def main(argv: list[str]) -> int:
    """Command entry."""
    options = parse("demo", DemoOptions, argv, recipe=False).options
    out, start = options.out.absolute(), time.monotonic()
    make_inputs(out / "inputs")
    from jobs.submit import local_head, submit

    steps = plan_steps(out)
    with local_head() as client:
        for number, (title, command) in enumerate(steps, 1):
            log.info("[%d/%d] %s", number, len(steps), title)
            submit(client, command)
    from student.report.inputs import load_run
    from student.report.tables import summary_text

    log.info("done in %.0f s\n\n%s", time.monotonic() - start, summary_text(load_run(out)))
    log.info("open %s", out / "report.html")
    return 0


def make_inputs(folder: Path) -> None:
    """Photos for stage 1 and scenes for stage 2; what is there already is kept."""
    from jobs.photos import write_photos
    from student.tasks.scenes.write import write_nyud, write_pascal_context

    write_photos(folder / "photos")
    write_nyud(folder, size=NYUD_SIZE, **SCENES)
    write_pascal_context(folder, size=PASCAL_SIZE, **SCENES)
    log.info("photos and scenes are in %s", folder)


def plan_steps(out: Path) -> list[tuple[str, list[str]]]:
    """Every step as a title and the arguments of `python -m jobs`."""
    photos, cache = out / "inputs" / "photos", out / "caches" / "f16_wds"
    source = ["--source.path", f"{photos / 'train'}"]
    held_out = ["--evaluate.similarity-source", f"{photos / 'val'}"]
    packed = out / "caches" / "int8_zarr"
    steps = [
        (
            "run the teachers once: f16 codes in WebDataset shards",
            ["extract", "mini", "--cache", f"{cache}", *source],
        ),
        (
            "the same as int8 codes in a zarr array",
            [
                "extract",
                "mini",
                "--cache",
                f"{packed}",
                *source,
                "--cache.container",
                "zarr",
                "--cache.codec.name",
                "int8",
            ],
        ),
        ("check every byte of both", ["verify", f"{cache}", f"{packed}"]),
        ("look into the cache", ["inspect", f"{cache}", f"{packed}", "--out", f"{out / 'cache'}"]),
        (
            "stage 1: distil the student from the cache",
            ["distill", "mini", "--cache", f"{cache}", "--out", f"{out / 'distill'}", *held_out],
        ),
    ]
    for dataset in TASKS:
        steps += stage2_steps(out, dataset)
    return [*steps, ("write the report", ["report", f"{out}"])]


def stage2_steps(out: Path, dataset: str) -> list[tuple[str, list[str]]]:
    """Stage 2 and its evaluation on one data set."""
    run, size = out / f"finetune-{dataset}", {"nyud": NYUD_SIZE, "pascal_context": PASCAL_SIZE}[dataset]
    data = ["--dataset.name", dataset, "--dataset.path", f"{out / 'inputs'}"]
    data += ["--dataset.size", *map(str, size), "--dataset.tasks", *TASKS[dataset]]
    return [
        (
            f"stage 2: multi-task training on the {dataset} layout, teachers live",
            ["finetune", "mini", "--student", f"{out / 'distill'}", "--out", f"{run}", *data],
        ),
        (
            f"evaluate on {dataset}",
            ["evaluate", "mini", "--run", f"{run}", "--out", f"{out / f'evaluate-{dataset}'}", *data],
        ),
    ]
