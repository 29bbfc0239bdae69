"""Weights are staged once; teachers and student start from the staged files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jobs.__main__ import main
from jobs.cli import load_recipe
from jobs.weights import stem_of
from pipeline.config import CommitteeConfig
from pipeline.teachers.committee import build_committee
from student.config import StudentConfig
from student.sak import build_student


def test_teachers_and_student_start_from_staged_files(tmp_path: Path) -> None:
    staged = tmp_path / "weights"
    asked = ["weights", str(staged), "--teachers", "mini_clip", "vit_s16", "--weights", "random:3"]
    assert main(asked) == 0
    configs = (CommitteeConfig(teachers=("mini_clip",), weights=w) for w in (str(staged), "random:3"))
    from_file, from_seed = (build_committee(config) for config in configs)
    assert from_file.identity("mini_clip") == from_seed.identity("mini_clip")
    config = StudentConfig(arch="vit_small_patch16", weights=str(staged / "vit_s16.safetensors"))
    student = build_student(config, {"mini_clip": (48,) * 4}, 0, image_size=384)
    teacher = build_committee(CommitteeConfig(teachers=("vit_s16",), weights=str(staged), precision="fp32"))
    pixels = torch.rand(1, 3, 384, 384)
    with torch.inference_mode():
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        mine = student((pixels - mean) / std).stem
    levels = teacher.run("vit_s16", pixels)
    for own, theirs in zip(mine, levels, strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-3)


def test_a_recipes_stem_is_staged_with_its_teachers() -> None:
    assert stem_of("nyud_vitb") == "vit_b16"
    assert stem_of("paper_nyud_vitl") == "vit_l16"
    assert stem_of("mini") == ""


def test_without_a_network_the_remedy_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe("nyud_vitb")
    code = main(["weights", str(tmp_path), "--teachers", recipe.committee.teachers[0]])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("cutler:")]
    assert code == 2 and len(said) == 1 and "safetensors" in said[0] and "dinov2" in said[0]
