"""The demo runs end to end as Ray jobs; a second one resumes and runs no teacher."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MADE_ONCE = (
    "cache/inspect.json",
    "distill/student.safetensors",
    "distill/similarity_after.json",
    "finetune-nyud/student.safetensors",
    "evaluate-pascal_context/metrics.json",
)


def demo(out: Path) -> str:
    """Run the quick demo as a user does; returns its log."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "jobs", "demo", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder and log."""
    out = tmp_path_factory.mktemp("demo") / "a folder"
    return out, demo(out)


def test_every_step_ran_as_a_ray_job(first: tuple[Path, str]) -> None:
    said = re.findall(r"ray job submit --working-dir \. -- python -m jobs (\w+)", first[1])
    steps = ["extract", "extract", "verify", "inspect", "distill"] + 2 * ["finetune", "evaluate"] + ["report"]
    assert said == steps


def test_the_report_holds_every_part_and_no_address(first: tuple[Path, str]) -> None:
    page = (first[0] / "report.html").read_text()
    for part in ("Feature cache", "Stage 1", "similarity", "Predictions against truth", "Gate weights"):
        assert part in page
    assert page.count("data:image/") > 20
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


def test_both_codecs_are_in_the_table(first: tuple[Path, str]) -> None:
    rows = json.loads((first[0] / "cache" / "inspect.json").read_text())["rows"]
    bits = {(row["codec"], row["teacher"]): row["bits_per_value"] for row in rows}
    assert bits["f16", "mini_sam"] > 15.9 and bits["int8", "mini_sam"] < 9.5
    assert all(level["min"] > 0.999 for row in rows for level in row["fidelity"])


def test_a_second_demo_resumes_and_runs_no_teacher(first: tuple[Path, str]) -> None:
    out, _ = first
    before = {name: (out / name).read_bytes() for name in MADE_ONCE}
    times = {name: (out / name).stat().st_mtime_ns for name in MADE_ONCE if "inspect" not in name}
    said = demo(out)
    assert re.findall(r"(\d+) teacher forwards", said) == ["0", "0"]
    assert said.count("is complete: nothing to do") == 3
    assert {name: (out / name).read_bytes() for name in MADE_ONCE} == before
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
