"""The teachers' maps against stock timm, a strided convolution and OpenCV; precision, gradients, globals."""

import itertools
import json
import random
from dataclasses import replace

import cv2
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer_sam import Attention

from pipeline.config import CommitteeConfig
from pipeline.teachers.committee import build_committee
from pipeline.teachers.sam_attention import FusedAttention
from pipeline.teachers.spec import COMMITTEES, SPECS
from pipeline.teachers.timm_teacher import Teacher, fit_to_canvas
from pipeline.teachers.weights import load_network

MINI = COMMITTEES["mini"]
SIGLIP = replace(
    SPECS["mini_clip"],
    name="mini_siglip",
    timm_id="vit_base_patch16_siglip_512",
    family="siglip",
    prefix_tokens=0,
)
SMALL = {name: SPECS[name] for name in MINI} | {SIGLIP.name: SIGLIP}


def teacher_of(name, **settings):
    return Teacher(SMALL[name], load_network(SMALL[name], "random:0")[0], **settings)


def committee_of(**settings):
    settings = {"teachers": MINI, "weights": "random:0", "precision": "fp32"} | settings
    return build_committee(CommitteeConfig(**settings))


def photos(height=128, width=128, count=2):
    """Smooth images in 0..1, `[count, 3, height, width]`."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    return F.interpolate(coarse, size=(height, width), mode="bilinear")


def stock(name):
    """timm's own model, heads and norms and all, with the values of our teacher of that name."""
    spec = SMALL[name]
    model = timm.create_model(spec.timm_id, pretrained=False, **dict(spec.build)).eval()
    missing, unexpected = model.load_state_dict(load_network(spec, "random:0")[0].state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith(("norm.", "head.", "fc_norm.", "attn_pool.", "neck.")) for key in missing)
    return model


def imagenet(images):
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [(128, 128), (98, 160), (64, 64)])
def test_maps_are_the_block_outputs_of_stock_timm(name, size):
    spec, model, images = SMALL[name], stock(name), photos(*size)
    pixels = imagenet(images)
    if spec.canvas:
        pixels = fit_to_canvas(pixels, spec.canvas)
    rows, columns = spec.grid(*size)
    pixels = pixels[..., : rows * spec.patch, : columns * spec.patch]
    outputs = []
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    with torch.no_grad():
        model(pixels)
    for level, output in zip(teacher_of(name, padding="keep")(images), outputs, strict=True):
        if output.ndim == 3:  # tokens [B, N, C], the class token first
            output = output[:, spec.prefix_tokens :].unflatten(1, (rows, columns))
        torch.testing.assert_close(level, output.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(7, 7), (5, 9)])
def test_sam_attention_is_timms(size):
    generator = torch.Generator().manual_seed(3)
    ours, timms = (
        kind(32, num_heads=2, use_rel_pos=True, input_size=size) for kind in (FusedAttention, Attention)
    )
    state = {k: torch.randn(v.shape, generator=generator) / 2 for k, v in timms.state_dict().items()}
    x = torch.randn(3, *size, 32, generator=generator)
    with torch.no_grad():
        timms.load_state_dict(state)
        ours.load_state_dict(state)
        torch.testing.assert_close(ours(x), timms(x), rtol=1e-4, atol=1e-5)
        plain = timms(x)
        timms.rel_pos_h.zero_()
        assert (timms(x) - plain).abs().max() > 0.1, "the positions must matter here"


def test_border_pixels_are_what_a_strided_convolution_leaves_out():
    teacher, images = teacher_of("mini_dinov2"), photos(384, 384)
    assert teacher.spec.grid(384, 384) == (27, 27)
    projection = teacher.network.patch_embed.proj
    whole = F.conv2d(imagenet(images), projection.weight, projection.bias, stride=14)
    with torch.no_grad():
        used = projection(teacher._prepare(images))
    torch.testing.assert_close(used, whole, rtol=1e-4, atol=1e-5)
    elsewhere = images.clone()
    elsewhere[..., 378:, :] = 0
    elsewhere[..., :, 378:] = 1
    assert all(torch.equal(a, b) for a, b in zip(teacher(images), teacher(elsewhere), strict=True))


@pytest.mark.parametrize("size", [(448, 576), (384, 384), (100, 64), (37, 301)])
def test_sam_resizes_as_opencv_and_pads_with_zeros(size):
    pixels = imagenet(photos(*size, count=1))
    canvas = fit_to_canvas(pixels, 1024)[0].permute(1, 2, 0).numpy()
    rows, columns = (int(side * 1024 / max(size) + 0.5) for side in size)
    wanted = cv2.resize(pixels[0].permute(1, 2, 0).numpy(), (columns, rows), interpolation=cv2.INTER_CUBIC)
    assert canvas.shape == (1024, 1024, 3)
    np.testing.assert_allclose(canvas[:rows, :columns], wanted, atol=2e-4)
    assert not canvas[rows:].any()
    assert not canvas[:, columns:].any()


def test_sam_sides_are_rounded_half_up():
    assert fit_to_canvas(torch.ones(1, 3, 448, 576), 1024)[0, 0].sum(0).gt(0).sum() == 1024
    content = fit_to_canvas(torch.ones(1, 3, 3, 8), 4)[0, 0]  # 1.5 rows
    assert content.sum(1).gt(0).sum() == 2


def test_an_image_of_the_canvas_size_passes_unchanged():
    pixels = photos(256, 256)
    assert torch.equal(fit_to_canvas(pixels, 256), pixels)


@pytest.mark.parametrize("name", SMALL)
def test_maps_are_token_major_float32_of_the_stated_shape(name):
    for precision in ("fp32", "bf16"):
        teacher = teacher_of(name, precision=precision)
        for layout in (torch.contiguous_format, torch.channels_last):
            levels = teacher(photos(120, 200).contiguous(memory_format=layout))
            assert tuple(tuple(level.shape[1:]) for level in levels) == teacher.shapes(120, 200)
            assert all(level.dtype == torch.float32 for level in levels)
            assert all(level[0].permute(1, 2, 0).is_contiguous() for level in levels)


@pytest.mark.parametrize("name", SMALL)
def test_bf16_keeps_the_residual_stream_in_float32(name):
    teacher, products = teacher_of(name, precision="bf16"), []
    streams = []
    for block in teacher.network.blocks:
        block.register_forward_hook(lambda _m, _i, output: streams.append(output.dtype))
        block.mlp.register_forward_hook(lambda _m, _i, output: products.append(output.dtype))
    levels = teacher(photos())
    assert set(streams) == {torch.float32}
    assert set(products) == {torch.bfloat16}
    for level, exact in zip(levels, teacher_of(name)(photos()), strict=True):
        cosine = F.cosine_similarity(level.flatten(1), exact.flatten(1))
        assert 0.9999 < cosine.min() < 1
        assert not torch.equal(level, exact)


def test_fp32_stays_fp32_inside_a_trainers_autocast():
    committee = committee_of()
    with torch.autocast("cpu", torch.bfloat16):
        inside = committee(photos())
    outside = committee(photos())
    assert all(torch.equal(a, b) for t in MINI for a, b in zip(inside[t], outside[t], strict=True))


def test_a_loss_on_the_maps_reaches_the_student_and_not_the_teacher():
    committee = committee_of()
    images = photos().requires_grad_()
    target = committee(images)["mini_clip"][3]
    assert not target.requires_grad
    student = torch.ones_like(target, requires_grad=True)
    F.cosine_similarity(student.flatten(1), target.flatten(1)).sum().backward()
    assert student.grad.abs().sum() > 0
    assert images.grad is None


def test_levels_of_random_teachers_differ():
    for name, levels in committee_of()(photos()).items():
        for first, second in itertools.pairwise(levels):
            assert F.cosine_similarity(first.flatten(), second.flatten(), dim=0) < 0.97, name


def test_a_sample_does_not_depend_on_its_batch_fellows():
    committee, images = committee_of(), photos(count=3)
    together, alone = committee(images), committee(images[1:2])
    for name in MINI:
        for a, b in zip(together[name], alone[name], strict=True):
            torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-5)


def test_normalisation_is_the_authors_or_the_teachers_own():
    images = photos()
    authors, own = committee_of(), committee_of(normalisation="pretrained")
    assert torch.equal(authors(images)["mini_dinov2"][0], own(images)["mini_dinov2"][0])
    assert not torch.equal(authors(images)["mini_clip"][0], own(images)["mini_clip"][0])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in SPECS["mini_clip"].stats)
    recast = imagenet(images) * std + mean  # own normalisation of this is ImageNet's of `images`
    torch.testing.assert_close(
        own(recast)["mini_clip"][3], authors(images)["mini_clip"][3], rtol=1e-4, atol=1e-4
    )


def test_building_and_running_leave_global_state_alone():
    def state():
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.is_grad_enabled(),
            torch.backends.cudnn.benchmark,
        )

    before = state()
    numpy_before = np.random.get_state()[1].tolist()  # noqa: NPY002
    committee_of(precision="bf16")(photos())
    assert state() == before
    assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002


def test_forwards_count_images_per_teacher():
    committee = committee_of()
    assert committee.forwards == 0
    committee(photos(count=2))
    committee.run("mini_sam", photos(count=3))
    assert committee.forwards == 2 * 3 + 3


def test_identity_names_all_that_features_depend_on():
    base = committee_of()
    assert base.teachers == MINI
    for name in MINI:
        identity = base.identity(name)
        assert json.loads(json.dumps(identity)) == identity
        assert identity["timm_id"] == SPECS[name].timm_id
        for change in ({"precision": "bf16"}, {"normalisation": "pretrained"}, {"weights": "random:1"}):
            same_pixels = "normalisation" in change and name != "mini_clip"
            assert (committee_of(**change).identity(name) == identity) == same_pixels
        assert committee_of(padding="keep").identity(name) == identity, "cached views are square"
        assert committee_of(teachers=(name,)).identity(name) == identity


def test_shapes_are_those_of_the_codec():
    shapes = committee_of().shapes("mini_dinov2", 384, 384)
    assert [(s.channels, s.height, s.width) for s in shapes] == [(48, 27, 27)] * 4


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(3, 64, 64)])
def test_images_of_another_kind_are_refused(images):
    with pytest.raises(ValueError, match=r"give float images \[B, 3, H, W\] with values in 0..1"):
        committee_of()(images)
