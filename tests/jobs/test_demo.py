"""The demo runs end to end as Ray jobs; a second one resumes and runs no teacher."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import parse
from pipeline.teachers.spec import spec_of

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
    steps = ["extract", "recode", "verify", "inspect", "distill"] + 2 * ["finetune", "evaluate"] + ["report"]
    assert said == steps


def test_the_report_holds_every_part_and_no_address(first: tuple[Path, str]) -> None:
    page = (first[0] / "report.html").read_text()
    for part in ("Feature cache", "Stage 1", "similarity", "Predictions against truth", "Gate weights"):
        assert part in page
    assert page.count("data:image/") > 20
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


def test_both_containers_hold_few_bits_at_the_promised_fidelity(first: tuple[Path, str]) -> None:
    rows = json.loads((first[0] / "cache" / "inspect.json").read_text())["rows"]
    teachers = [row for row in rows if row["teacher"] != "images"]
    assert {(row["codec"], row["asked"]) for row in teachers} == {("klt+pcodec8 0.995", 0.995)}
    bits = [row["bits_per_value"] for row in teachers]
    assert max(bits) < 3 and bits[:3] == bits[3:]
    assert all(level["min"] >= 0.995 for row in teachers for level in row["fidelity"])
    assert all(sum(row["rungs"].values()) == 130 for row in teachers)
    assert first[1].count(" byte for byte") == 3


def test_a_second_demo_resumes_and_runs_no_teacher(first: tuple[Path, str]) -> None:
    out, _ = first
    before = {name: (out / name).read_bytes() for name in MADE_ONCE}
    times = {name: (out / name).stat().st_mtime_ns for name in MADE_ONCE if "inspect" not in name}
    said = demo(out)
    assert re.findall(r"(\d+) teacher forwards", said) == ["0", "0"]
    assert said.count("is complete: nothing to do") == 3
    assert {name: (out / name).read_bytes() for name in MADE_ONCE} == before
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times


WITHOUT_RECIPE = {"verify", "drop"}
README = (ROOT / "README.md").read_text()
SHELL = "".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
COMMANDS = re.findall(r"^(?:ray job submit .*? -- )?(python -m jobs .*?)(?:  +#.*)?$", SHELL, re.MULTILINE)


def test_the_readme_is_short_and_its_cluster_commands_parse() -> None:
    assert len(README.splitlines()) <= 150
    real = [shlex.split(command)[3:] for command in COMMANDS if "/data" in command]
    assert [argv[0] for argv in real[:4]] == ["extract", "distill", "finetune", "evaluate"]
    for command, *argv in real:
        module = importlib.import_module(f"jobs.{command}")
        options = next(kind for name, kind in vars(module).items() if name == f"{command.title()}Options")
        if command in WITHOUT_RECIPE:
            parse(command, options, argv, recipe=False)
        else:
            assert parse(command, options, argv).recipe.name == "nyud_vitb"


def test_the_readmes_local_commands_run(first: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(first[0])
    local = [shlex.split(command)[1:] for command in COMMANDS if "/data" not in command]
    assert len(local) == 5
    for argv in local:
        done = subprocess.run([sys.executable, *argv], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, f"{argv}: {done.stderr}"


def test_the_readmes_way_to_read_without_cutler(first: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(first[0])
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    values = sum(c * h * w for c, h, w in spec_of("mini_sam").level_shapes(112, 112))
    check = f"{code}\nassert 4 < len(record) < {values} and codes.dtype == 'int16' and len(codes) > {values}"
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True)
