"""Single-task figures: what is compared, what is left out and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from student.single_task import SingleTask, read_single_task

HERE = {"semseg": "miou", "depth": "rmse", "edge": "boundary_loss"}
MADE = {"dataset": "nyud", "compat": "sound"}
VALUES = {"semseg": 51.15, "depth": 0.5792, "edge": 77.35}


def test_plain_figures_are_the_papers_metrics(caplog: pytest.LogCaptureFixture) -> None:
    single = SingleTask(VALUES)
    assert single.compared(HERE, MADE) == ["semseg", "depth"]
    assert [record.message for record in caplog.records] == [
        "delta_m leaves edge out: it is scored by boundary_loss here, its single-task figure counts as odsf"
    ]
    assert single.compared({**HERE, "edge": "odsf"}, MADE) == list(HERE)
    assert SingleTask({"edge": 77.35}).compared({"edge": "boundary_loss"}, MADE) == []


def test_named_figures_compare_where_the_names_agree() -> None:
    assert SingleTask(VALUES, HERE, MADE).compared(HERE, MADE) == list(HERE)
    with pytest.raises(ValueError, match="the metric of edge is odsf, here it is boundary_loss; score"):
        SingleTask(VALUES, {**HERE, "edge": "odsf"}).compared(HERE, MADE)


@pytest.mark.parametrize(("what", "other"), [("dataset", "pascal_context"), ("compat", "official")])
def test_figures_of_another_evaluation_are_refused(what: str, other: str) -> None:
    with pytest.raises(ValueError, match=f"the {what} is {other}, here it is {MADE[what]}"):
        SingleTask(VALUES, HERE, {**MADE, what: other}).compared(HERE, MADE)


def test_missing_figures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\['depth'\] have none"):
        SingleTask({"semseg": 51.15}).compared(HERE, MADE)


def test_both_kinds_of_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "single.json"
    path.write_text(json.dumps(VALUES))
    assert read_single_task(path) == SingleTask(VALUES)
    document = {**MADE, "images": 3, "metrics": {**VALUES, "normals": None}, "names": HERE, "delta_m": None}
    path.write_text(json.dumps(document))
    assert read_single_task(path) == SingleTask(VALUES, HERE, MADE)


@pytest.mark.parametrize(
    "text",
    ["[1]", "{", '{"depth": "deep"}', '{"depth": null}', '{"metrics": {"depth": 1}}', '{"metrics": 3}'],
)
def test_what_is_no_file_of_figures_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "single.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"single\.json is neither a JSON object"):
        read_single_task(path)
