"""Stage 2 and its evaluation as commands: what they leave, what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.__main__ import main
from jobs.cli import load_recipe
from jobs.finetune import teacher_channels
from student.config import StudentConfig
from student.sak import build_student
from student.tasks.scenes.write import write_nyud
from student.weights import save_student

DATA = ["--dataset.size", "64", "80", "--stage2.iterations", "3", "--stage2.log-every", "1"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small NYUDv2 folder."""
    return write_nyud(tmp_path_factory.mktemp("scenes"), train=4, val=2, size=(64, 80))


def student(path: Path, seed: int) -> Path:
    """An untrained student of the mini committee."""
    sak = build_student(
        StudentConfig(arch="mini", weights="random:1"),
        teacher_channels(load_recipe("mini")),
        seed,
        image_size=64,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_student(sak, sak, path)
    return path


def finetune(scenes: Path, start: Path, out: Path, *more: str) -> int:
    """Run the command in this process."""
    options = ["--student", str(start), "--out", str(out), "--dataset.path", str(scenes)]
    return main(["finetune", "mini", *options, *DATA, *more])


def test_a_student_is_trained_scored_and_left_alone_afterwards(scenes: Path, tmp_path: Path) -> None:
    start, out = student(tmp_path / "distill" / "student.safetensors", 0), tmp_path / "finetune-nyud"
    assert finetune(scenes, start.parent, out) == 0
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
    ]
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert finetune(scenes, start.parent, out) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == times
    scored = ["evaluate", "mini", "--run", str(out), "--dataset.path", str(scenes), *DATA[:3]]
    assert main(scored) == 0
    metrics = json.loads((tmp_path / "evaluate-nyud" / "metrics.json").read_text())
    assert set(metrics["metrics"]) == {"semseg", "depth", "normals", "edge"}
    assert len(list((tmp_path / "evaluate-nyud" / "predictions").glob("*_semseg.png"))) == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (["--dataset.path", "/nowhere"], "/nowhere"),
        (["--dataset.tasks", "semseg", "human_parts"], "does not label"),
        (["--stage2.batch-size", "9"], "9"),
        (["--dataset.size", "60", "80"], "60x80"),
        (["--committee.teachers", "mini_clip"], "mini_"),
    ],
)
def test_what_does_not_fit_is_refused(
    scenes: Path, tmp_path: Path, override: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start = student(tmp_path / "student.safetensors", 0)
    assert finetune(scenes, start, tmp_path / "out", *override) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_a_run_is_not_continued_from_another_student(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (student(tmp_path / f"{seed}.safetensors", seed) for seed in (0, 1))
    assert finetune(scenes, one, tmp_path / "out") == 0
    assert finetune(scenes, other, tmp_path / "out") == 2
    assert "another input: student = " in capsys.readouterr().err
