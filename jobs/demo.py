"""`demo`: the whole of Cutler on this machine, with the real parts and small teachers, in minutes.

Photos that scikit-image and scikit-learn ship go through a local Ray cluster, one real Ray job per step;
stage 2 trains on generated indoor scenes with exact labels in both data sets' layouts. A second run resumes.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.cli import parse
from storage.config import Frozen

log = logging.getLogger(__name__)
SIZES = {"nyud": (112, 144), "pascal_context": (128, 128)}
TASKS = {
    "nyud": ("semseg", "depth", "normals", "edge"),
    "pascal_context": ("semseg", "human_parts", "sal", "normals", "edge"),
}
QUICK_STAGE1 = ["--stage1.epochs", "4", "--stage1.warmup-epochs", "1", "--stage1.log-every", "5"]
QUICK_STAGE2 = ["--stage2.iterations", "10", "--stage2.log-every", "5"]

Step = tuple[str, list[str]]
"""What it is for, and the arguments of `python -m jobs`."""


class DemoOptions(Frozen):
    """The whole of Cutler on this machine: photos -> cache -> student -> multi-task model -> report."""

    out: Path = Path("runs/demo")
    """Folder of everything that the demo makes; delete it to start afresh."""
    quick: bool = False
    """Few scenes and steps: every part runs, nothing is learned well."""


def main(argv: list[str]) -> int:
    """Command entry."""
    options = parse("demo", DemoOptions, argv, recipe=False).options
    demo, start = Demo(options.out.absolute(), options.quick), time.monotonic()
    demo.make_inputs()
    from jobs.submit import local_head, submit

    steps = demo.steps()
    with local_head() as client:
        for number, (title, command) in enumerate(steps, 1):
            log.info("[%d/%d] %s", number, len(steps), title)
            submit(client, command)
    log.info("done in %.0f s: open %s", time.monotonic() - start, demo.out / "report.html")
    return 0


@dataclass(frozen=True)
class Demo:
    """The demo's inputs and steps, all below the folder `out`."""

    out: Path
    quick: bool = False

    def make_inputs(self) -> None:
        """Photos for stage 1 and scenes for stage 2; what is there already is kept."""
        from jobs.photos import write_photos
        from student.tasks.scenes.write import write_nyud, write_pascal_context

        folder = self.out / "inputs"
        log.info("photos and scenes: %s", folder)
        train, val = (8, 4) if self.quick else (48, 8)
        write_photos(folder / "photos")
        write_nyud(folder, train=train, val=val, size=SIZES["nyud"])
        write_pascal_context(folder, train=train, val=val, size=SIZES["pascal_context"])

    def steps(self) -> list[Step]:
        """Every step, in order."""
        stage2 = [step for dataset in TASKS for step in self._stage2(dataset)]
        return [*self._stage1(), *stage2, ("write the report", ["report", f"{self.out}"])]

    def _stage1(self) -> list[Step]:
        photos = self.out / "inputs" / "photos"
        wds, zarr = (f"{self.out / 'caches' / name}" for name in ("klt_wds", "klt_zarr"))
        extract = ["extract", "mini", "--source.path", f"{photos / 'train'}", "--cache", wds]
        held_out = ["--evaluate.similarity-source", f"{photos / 'val'}"]
        distill = ["distill", "mini", "--cache", wds, *held_out]
        recode = ["recode", "mini", "--cache", wds, "--out", zarr, "--cache.container", "zarr"]
        run = ["--out", f"{self.out / 'distill'}", *(QUICK_STAGE1 if self.quick else [])]
        return [
            ("run the teachers once: klt codes in WebDataset shards", extract),
            ("the same records in a zarr array, without a teacher", recode),
            ("check every byte of both", ["verify", wds, zarr]),
            ("look into them", ["inspect", wds, zarr, "--out", f"{self.out / 'cache'}"]),
            ("stage 1: distil the student from the cache", [*distill, *run]),
        ]

    def _stage2(self, dataset: str) -> list[Step]:
        run, scores = (f"{self.out / f'{step}-{dataset}'}" for step in ("finetune", "evaluate"))
        data = ["--dataset.name", dataset, "--dataset.path", f"{self.out / 'inputs'}"]
        data += ["--dataset.size", *map(str, SIZES[dataset]), "--dataset.tasks", *TASKS[dataset]]
        train = ["finetune", "mini", "--student", f"{self.out / 'distill'}", "--out", run, *data]
        return [
            (f"stage 2 on {dataset}, teachers live", [*train, *(QUICK_STAGE2 if self.quick else [])]),
            (f"evaluate on {dataset}", ["evaluate", "mini", "--run", run, "--out", scores, *data]),
        ]
