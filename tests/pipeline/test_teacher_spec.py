"""The table of teachers against timm's registry, the paper's grids, and what `plan` needs to be quick."""

import subprocess
import sys

import pytest
import timm
import torch
from timm.models import get_pretrained_cfg

from pipeline.teachers.spec import COMMITTEES, SPECS, spec_of
from pipeline.teachers.timm_teacher import Teacher, build_network

TRAINED = [spec for spec in SPECS.values() if not spec.is_mini]


def test_the_table_is_readable_without_torch_and_timm():
    code = "import sys, pipeline.teachers.spec; assert not {'torch', 'timm', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("spec", TRAINED, ids=lambda spec: spec.name)
def test_pinned_weights_exist_with_these_pixel_statistics(spec):
    assert spec.timm_id in timm.list_models(pretrained=True), "a tag that timm does not have"
    published = get_pretrained_cfg(spec.timm_id)
    assert (published.mean, published.std) == spec.stats
    assert published.input_size == (3, spec.native, spec.native)
    assert published.hf_hub_id


def test_one_name_is_one_set_of_weights():
    assert len({spec.timm_id for spec in TRAINED}) == len(TRAINED)
    assert all(name == spec.name for name, spec in SPECS.items())
    assert "quickgelu" in SPECS["openai_clip_b16"].timm_id
    assert "quickgelu" in SPECS["openai_clip_l14"].timm_id


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_the_real_architecture_has_the_stated_shapes(spec):
    network = build_network(spec)
    assert all(value.is_meta for value in network.state_dict().values())
    assert len(network.blocks) == spec.depth
    assert network.blocks[0].attn.num_heads == spec.heads
    assert tuple(network.patch_embed.patch_size) == (spec.patch, spec.patch)
    assert network.patch_embed.img_size == (spec.native, spec.native)
    if spec.family == "sam":
        windows = [block.window_size for block in network.blocks]
        assert windows == [0 if i in spec.global_blocks else spec.window for i in range(spec.depth)]
    teacher = Teacher(spec, network).to("meta")
    for size in ((384, 384), (448, 576)):
        levels = teacher._levels(teacher._prepare(torch.empty(2, 3, *size, device="meta")))
        assert tuple(tuple(level.shape[1:]) for level in levels) == spec.level_shapes(*size, padding="keep")


@pytest.mark.parametrize("name", ["vit_b16", "dinov2_b14", "timmclip_b16", "siglip_b16", "sam_b16"])
def test_nothing_is_built_that_the_taps_never_reach(name):
    names = {key.split(".")[0] for key in build_network(SPECS[name]).state_dict()}
    assert names <= {"cls_token", "pos_embed", "patch_embed", "norm_pre", "blocks"}


def test_grids_of_the_paper():
    grids = {
        (name, size): SPECS[name].grid(*size)
        for name in ("dinov2_b14", "timmclip_b16", "timmclip_l14", "sam_b16")
        for size in ((384, 384), (512, 512), (448, 576))
    }
    assert grids == {
        ("dinov2_b14", (384, 384)): (27, 27),
        ("dinov2_b14", (512, 512)): (36, 36),
        ("dinov2_b14", (448, 576)): (32, 41),
        ("timmclip_b16", (384, 384)): (24, 24),
        ("timmclip_b16", (512, 512)): (32, 32),
        ("timmclip_b16", (448, 576)): (28, 36),
        ("timmclip_l14", (384, 384)): (27, 27),
        ("timmclip_l14", (512, 512)): (36, 36),
        ("timmclip_l14", (448, 576)): (32, 41),
        ("sam_b16", (384, 384)): (64, 64),
        ("sam_b16", (512, 512)): (64, 64),
        ("sam_b16", (448, 576)): (64, 64),
    }


def test_content_leaves_out_the_padding_of_sams_canvas():
    sam = SPECS["sam_b16"]
    assert sam.content_grid(448, 576) == (50, 64)  # 796 px are 49.75 patches
    assert sam.content_grid(576, 448) == (64, 50)
    assert sam.level_shapes(448, 576) == ((768, 50, 64),) * 4
    assert sam.level_shapes(448, 576, padding="keep") == ((768, 64, 64),) * 4
    assert sam.content_grid(1, 1000) == (1, 64)


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_padding_changes_the_shapes_of_sam_alone_and_of_no_square_image(spec):
    for side in (64, 112, 224, 379, 384, 512, 1500):
        assert spec.level_shapes(side, side) == spec.level_shapes(side, side, padding="keep")
    changed = spec.level_shapes(448, 576) != spec.level_shapes(448, 576, padding="keep")
    assert changed == (spec.family == "sam")


def test_levels_are_the_ends_of_the_four_quarters():
    assert SPECS["dinov2_b14"].levels == (2, 5, 8, 11)
    assert SPECS["sam_l16"].levels == (5, 11, 17, 23)
    assert SPECS["mini_clip"].levels == (0, 1, 2, 3)


def test_values_of_the_papers_committee_per_image():
    """16.6 M values at 384 px; 5,554 tokens of 1024 channels at ViT-L."""
    count = {
        name: sum(c * h * w for t in COMMITTEES[name] for c, h, w in spec_of(t).level_shapes(384, 384))
        for name in ("paper_base", "paper_large")
    }
    assert count == {"paper_base": 5401 * 768 * 4, "paper_large": 5554 * 1024 * 4}


def test_tokens_include_the_class_token():
    assert SPECS["dinov2_b14"].tokens(384, 384) == 730
    assert SPECS["siglip_b16"].tokens(384, 384) == 576
    assert SPECS["sam_b16"].tokens(384, 384) == 4096


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ValueError, match="no teacher is named 'dinov2_b16'; did you mean dinov2_b14 or"):
        spec_of("dinov2_b16")
    with pytest.raises(ValueError, match=r"choose from vit_s16, .*mini_sam"):
        spec_of("qqqqqq")


def test_an_image_without_a_patch_is_refused():
    with pytest.raises(
        ValueError, match="13 x 400 px has no patch of 14 px for teacher dinov2_b14; use at least"
    ):
        SPECS["dinov2_b14"].grid(13, 400)
    assert SPECS["sam_b16"].grid(13, 400) == (64, 64)


def test_named_committees_are_in_the_table():
    assert {name for committee in COMMITTEES.values() for name in committee} <= set(SPECS)
