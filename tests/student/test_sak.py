"""The student is the paper's: sizes, cost, names, and the chain of adapters."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch.utils.flop_counter import FlopCounterMode

from student.archs import ARCHS
from student.config import StudentConfig
from student.multitask import SAKMultiTask, build_multitask
from student.position import resample_position
from student.sak import SAK, build_student

PASCAL = {"semseg": 21, "human_parts": 7, "sal": 2, "normals": 3, "edge": 1}
NYUD = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
TEACHERS = ("dinov2", "clip", "sam")
MINI = StudentConfig(arch="mini", weights="random:3")
CHANNELS = {"dino": (48, 48, 48, 48), "sam": (96, 96, 96, 96)}


def count(module: torch.nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(arch: str, size: tuple[int, int], tasks: dict[str, int], teachers=TEACHERS) -> SAKMultiTask:
    """A full-size model without memory."""
    channels = dict.fromkeys(teachers, (ARCHS[arch].width,) * 4)
    with torch.device("meta"):
        sak = SAK(ARCHS[arch], channels, reduction=4, image_size=size)
        return build_multitask(sak, tasks)


def test_parameters_are_the_papers() -> None:
    model = on_meta("vit_base_patch16", (512, 512), PASCAL)
    sak = model.backbone
    assert count(sak.vit) == 86_433_024
    assert count(sak.tsap) == 11_539_047
    assert count(sak.out_norms) == 18_432
    assert count(sak.mor) == 5_982_880
    assert count(model.heads) == 29_532_706
    assert count(model) == 133_506_089
    assert count(on_meta("vit_base_patch16", (448, 576), NYUD)) == 126_404_372
    assert count(on_meta("vit_large_patch16", (512, 512), PASCAL)) == 406_672_397


def test_without_teachers_it_is_the_multitask_baseline_of_116_million() -> None:
    assert count(on_meta("vit_base_patch16", (512, 512), PASCAL, teachers=())) == 86_433_024 + 29_532_706


@pytest.mark.parametrize(("size", "tasks", "giga"), [((512, 512), PASCAL, 544), ((448, 576), NYUD, 448)])
def test_cost_is_the_papers(size: tuple[int, int], tasks: dict[str, int], giga: int) -> None:
    model = on_meta("vit_base_patch16", size, tasks).eval()
    for block in model.backbone.vit.blocks:
        block.attn.fused_attn = False
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        model(torch.empty(1, 3, *size))
    flops = counter.get_flop_counts()["Global"]
    attention = sum(count for op, count in flops.items() if op.__name__ in {"bmm", "baddbmm"})
    assert (sum(flops.values()) - attention) / 2e9 == pytest.approx(giga, rel=0.005)


def test_state_keys_are_the_authors() -> None:
    sak = build_student(MINI, CHANNELS, 0, image_size=64)
    keys = set(build_multitask(sak, {"semseg": 21}).state_dict())
    for key in (
        "backbone.vit.blocks.3.attn.qkv.weight",
        "backbone.vit.pos_embed",
        "backbone.tsap.dino.0.down.weight",
        "backbone.tsap.sam.4.scale",
        "backbone.out_norms.3_sam.bias",
        "backbone.ts_aligners.0_dino.weight",
        "backbone.mor.2_semseg.router.module.0.weight",
        "heads.semseg.linears.3.bias",
        "heads.semseg.linear_fuse.0.weight",
        "heads.semseg.last_conv.weight",
    ):
        assert key in keys
    assert not any("ts_aligners" in key and "sam" in key for key in keys), "sam has the student's channels"
    assert not any(key.startswith(("backbone.vit.norm", "backbone.vit.head")) for key in keys)
    assert ARCHS["vit_base_patch16"].blocks == (2, 5, 8, 11)
    assert ARCHS["vit_large_patch16"].blocks == (5, 11, 17, 23)


def test_forward_is_the_chain_of_the_paper() -> None:
    sak = build_student(MINI, CHANNELS, 0, image_size=64).eval()
    for parameter in sak.tsap.parameters():  # the fresh path is the identity; any other must do
        torch.nn.init.normal_(parameter, std=0.05)
    images = torch.randn(2, 3, 64, 64)
    stem, paths = sak(images)
    taps = []
    handles = [b.register_forward_hook(lambda _m, _i, out: taps.append(out)) for b in sak.vit.blocks]
    sak.vit.forward_features(images)  # timm's own forward
    for handle in handles:
        handle.remove()
    first = sak.vit.norm_pre(sak.vit._pos_embed(sak.vit.patch_embed(images)))
    path = None
    for index, z in enumerate([first, *taps]):
        total = z if path is None else path + z
        a = sak.tsap["dino"][index]
        hidden = F.gelu(total @ a.down.weight.T + a.down.bias)
        path = total + a.scale * (hidden @ a.up.weight.T + a.up.bias)
        if index:
            torch.testing.assert_close(stem[index - 1].flatten(2).mT, z[:, 1:])
            norm = sak.out_norms[f"{index - 1}_dino"]
            wanted = F.layer_norm(path, (96,), norm.weight, norm.bias, eps=1e-5)[:, 1:]
            torch.testing.assert_close(paths["dino"][index - 1].flatten(2).mT, wanted)


def test_aligner_gives_the_teachers_channels() -> None:
    sak = build_student(MINI, CHANNELS, 0, image_size=64)
    paths = sak(torch.randn(1, 3, 96, 64)).paths
    aligned = sak.align(paths)
    assert [tuple(m.shape) for m in aligned["dino"]] == [(1, 48, 6, 4)] * 4
    assert aligned["sam"][2] is paths["sam"][2]
    layer = sak.ts_aligners["1_dino"]
    token = layer.weight @ paths["dino"][1][0, :, 2, 3] + layer.bias
    torch.testing.assert_close(aligned["dino"][1][0, :, 2, 3], token)


def test_aligner_under_bfloat16_keeps_a_channel_of_mean_40_and_deviation_1() -> None:
    sak = build_student(MINI, CHANNELS, 0, image_size=64)
    for layer in sak.ts_aligners.values():
        torch.nn.init.normal_(layer.weight, std=96**-0.5)
        torch.nn.init.constant_(layer.bias, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        paths = sak(torch.randn(2, 3, 64, 64)).paths
        aligned = sak.align(paths)
        halves = sak.align({name: [level.bfloat16() for level in maps] for name, maps in paths.items()})
    assert {level.dtype for maps in (aligned, halves) for ms in maps.values() for level in ms} == {
        torch.float32
    }
    for block, (path, found) in enumerate(zip(paths["dino"], aligned["dino"], strict=True)):
        layer = sak.ts_aligners[f"{block}_dino"].double()
        wanted = F.linear(path.double().permute(0, 2, 3, 1), layer.weight, layer.bias).permute(0, 3, 1, 2)
        assert 0.5 < wanted.std() < 2 and (wanted.mean() - 40).abs() < 1
        assert (found - wanted).abs().max() < 1e-4  # bfloat16's next number after 40 is 40.25


def test_seeds_decide_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = (build_student(MINI, CHANNELS, 7, image_size=64).state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = build_student(MINI, CHANNELS, 8, image_size=64).state_dict()
    assert torch.equal(one["vit.blocks.0.attn.qkv.weight"], other["vit.blocks.0.attn.qkv.weight"])
    assert not torch.equal(one["tsap.sam.0.down.weight"], other["tsap.sam.0.down.weight"])


@pytest.mark.parametrize("new", [(4, 4), (7, 3), (28, 36)])
def test_position_embedding_is_resampled_as_timm_does_without_antialias(new: tuple[int, int]) -> None:
    old = torch.randn(1, 1 + 16, 8)
    wanted = resample_abs_pos_embed(old, list(new), [4, 4], num_prefix_tokens=1, antialias=False)
    torch.testing.assert_close(resample_position(old, (4, 4), new), wanted)


def test_errors_name_value_and_remedy() -> None:
    with pytest.raises(ValueError, match=r"'vit_huge' is unknown; choose one of vit_small_patch16"):
        build_student(StudentConfig(arch="vit_huge"), {}, 0)
    with pytest.raises(ValueError, match="64x70 is no multiple of the student's patch 16"):
        build_student(MINI, {}, 0, image_size=(64, 70))
    with pytest.raises(ValueError, match="four levels"):
        build_student(MINI, {"dino": (48, 48)}, 0, image_size=64)
    with pytest.raises(ValueError, match="adapter_reduction 200 exceeds the width 96"):
        build_student(StudentConfig(arch="mini", weights="random:0", adapter_reduction=200), CHANNELS, 0)
