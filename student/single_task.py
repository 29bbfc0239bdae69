"""Which single-task figures may a multi-task student be compared with? The baselines of Delta_m (eq. 7)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from student.tasks.metrics import delta_m
from student.tasks.spec import task_spec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SingleTask:
    """Figures of single-task models, and what is known of how they were measured."""

    values: Mapping[str, float]
    """task -> its metric."""
    names: Mapping[str, str] = field(default_factory=dict)
    """task -> name of its metric (spec.METRICS); a task that is not named has the paper's (B.4)."""
    made: Mapping[str, str] = field(default_factory=dict)
    """`dataset` and `compat` of the evaluation that measured them; empty where that is not known."""

    def compared(self, names: Mapping[str, str], made: Mapping[str, str]) -> list[str]:
        """The tasks that Delta_m may take: those whose figure is of the metric that scores them here.

        Args:
            names: task -> name of the metric that scores it here.
            made: `dataset` and `compat` of the evaluation here.

        Returns:
            The tasks in the order of `names`. An unnamed figure is of the paper's metric, so its task is left
            out, which is logged, where another metric stands in for that one (`boundary_loss` for `odsf`).

        Raises:
            ValueError: the figures are of another data set, convention or metric, or one is missing or 0.
        """
        here = {**{f"metric of {task}": name for task, name in names.items()}, **made}
        given = {**{f"metric of {task}": name for task, name in self.names.items()}, **self.made}
        for what in sorted(here.keys() & given.keys()):
            if given[what] != here[what]:
                raise ValueError(
                    f"single-task figures: the {what} is {given[what]}, here it is {here[what]}; "
                    "score the single-task model with the same recipe, or leave its figure out"
                )
        tasks = [task for task, name in names.items() if self._metric(task) == name]
        for task in [task for task in names if task not in tasks]:
            what = f"{names[task]} here, its single-task figure counts as {self._metric(task)}"
            log.warning("delta_m leaves %s out: it is scored by %s", task, what)
        if tasks:
            delta_m(dict.fromkeys(tasks, 1.0), self.values)
        return tasks

    def _metric(self, task: str) -> str:
        return self.names.get(task, task_spec(task).metrics[0])


def read_single_task(path: Path) -> SingleTask:
    """Figures from a file: {task: value}, or a metrics.json of student.evaluate, which names its metrics.

    Raises:
        ValueError: the file is neither.
    """
    try:
        document = json.loads(path.read_text())
        scored = "metrics" in document
        figures = (document["metrics"] if scored else document).items()
        values = {str(task): float(value) for task, value in figures if not (scored and value is None)}
        names = {str(task): str(name) for task, name in document["names"].items()} if scored else {}
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is neither a JSON object {{task: number}} nor a metrics.json of `evaluate` ({error!r}); "
            "write the one or give the other"
        ) from error
    made = {key: str(document[key]) for key in ("dataset", "compat") if scored and key in document}
    return SingleTask(values, names, made)
