"""Initial weights: from a stage-1 student or a plain ViT, at any grid, or a message that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from student.config import StudentConfig
from student.multitask import build_multitask
from student.sak import SAK, build_student
from student.weights import load_state, save_student

CHANNELS = {"dino": (48,) * 4, "sam": (96,) * 4}


def student(weights: str = "random:0", *, size=64, channels=CHANNELS, arch: str = "mini") -> SAK:
    """A student with these initial weights."""
    return build_student(StudentConfig(arch=arch, weights=weights), channels, 9, image_size=size)


@pytest.fixture
def stage1(tmp_path: Path) -> tuple[SAK, Path]:
    """A student with nothing at its initial value, on a grid that is not square, and its file."""
    sak, path = student(size=(64, 96)), tmp_path / "student.safetensors"
    for parameter in sak.parameters():
        torch.nn.init.normal_(parameter)
    save_student(sak, sak, path)
    return sak, path


def test_a_stage_1_student_comes_back_whole(stage1) -> None:
    sak, path = stage1
    again = student(str(path), size=(64, 96))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in sak.state_dict().items())
    assert [p.name for p in path.parent.iterdir()] == ["student.safetensors"], "nothing half-written is left"


def test_its_position_embedding_is_resampled_from_its_own_grid(stage1) -> None:
    sak, path = stage1
    again = student(str(path), size=(128, 80))
    wanted = resample_abs_pos_embed(sak.vit.pos_embed, [8, 5], [4, 6], num_prefix_tokens=1, antialias=False)
    torch.testing.assert_close(again.vit.pos_embed.data, wanted.data)
    images = torch.randn(1, 3, 128, 80)
    torch.testing.assert_close(
        sak(images).paths["sam"][3], again(images).paths["sam"][3], rtol=1e-3, atol=1e-3
    )


def test_a_plain_vit_of_timm_goes_into_the_stem(tmp_path: Path) -> None:
    vit = VisionTransformer(img_size=64, embed_dim=96, depth=4, num_heads=3, num_classes=10)
    path = tmp_path / "vit.safetensors"
    save_file(vit.state_dict(), path)
    sak = student(str(path))
    assert torch.equal(sak.vit.blocks[3].mlp.fc2.weight, vit.blocks[3].mlp.fc2.weight)
    images = torch.randn(1, 3, 64, 64)
    wanted = vit.forward_intermediates(images, indices=[3], norm=False, intermediates_only=True)[0]
    torch.testing.assert_close(sak(images).stem[3], wanted)


def test_other_teachers_or_another_width_are_refused(stage1, tmp_path: Path) -> None:
    _, path = stage1
    with pytest.raises(
        ValueError, match=r"lacks out_norms\.0_clip\.bias.* and holds unknown .*; use the arch"
    ):
        student(str(path), channels={"clip": (48,) * 4})
    wide = VisionTransformer(
        img_size=64, embed_dim=48, depth=4, num_heads=3, num_classes=0, global_pool="token"
    )
    save_file(wide.state_dict(), tmp_path / "wide.safetensors")
    with pytest.raises(
        ValueError,
        match=r"holds .*cls_token \(1, 1, 48\) instead of \(1, 1, 96\).*; give a plain ViT of student\.arch",
    ):
        student(str(tmp_path / "wide.safetensors"))


def test_what_cannot_be_had_says_what_to_do(tmp_path: Path, stage1) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.safetensors cannot be read .*random:0"):
        student(str(tmp_path / "nowhere.safetensors"))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(stage1[1].read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"broken\.safetensors cannot be read"):
        student(str(broken))
    with pytest.raises(ValueError, match="'random:x' needs a whole number"):
        student("random:x")
    with pytest.raises(ValueError, match="no pretrained weights; use random:0 or a file"):
        student("pretrained")


def test_pretrained_names_exist_in_timm() -> None:
    from student.archs import ARCHS

    for arch in ARCHS.values():
        if arch.timm_id:
            config = timm.get_pretrained_cfg(arch.timm_id, allow_unregistered=False)
            assert (config.input_size, config.tag) == ((3, 384, 384), arch.timm_id.split(".")[1])


def test_a_multitask_model_comes_back_strictly(tmp_path: Path) -> None:
    model = build_multitask(student(), {"depth": 1}, seed=1)
    save_student(model, model.backbone, tmp_path / "model.safetensors")
    assert "backbone.mor.3_depth.router.module.3.bias" in load_file(tmp_path / "model.safetensors")
    again = build_multitask(student("random:5"), {"depth": 1}, seed=2)
    load_state(again, tmp_path / "model.safetensors")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    with pytest.raises(
        ValueError, match=r"lacks .*_edge.* 38 more and holds unknown .*_depth.* 38 more; build"
    ):
        load_state(build_multitask(student(), {"edge": 1}), tmp_path / "model.safetensors")
