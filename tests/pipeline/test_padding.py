"""Where on a teacher's maps is a thing of an image that is not square: where it is in the image."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import CommitteeConfig
from pipeline.teachers.committee import build_committee
from pipeline.teachers.spec import COMMITTEES, SPECS
from pipeline.teachers.timm_teacher import fit_to_canvas

MINI = COMMITTEES["mini"]
SIZES = [(448, 576), (112, 144), (144, 112), (96, 160)]
SIDES = st.integers(16, 700)


def committee_of(padding):
    return build_committee(
        CommitteeConfig(teachers=MINI, weights="random:0", precision="fp32", padding=padding)
    )


def noise(height, width):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height))


def place_on_map(committee, teacher, size, place):
    """Relative (y, x) on the first level of the change that a bright square around `place` makes."""
    images = torch.full((2, 3, *size), 0.4)
    rows, columns = (
        slice(round(side * (at - 0.08)), round(side * (at + 0.08)))
        for side, at in zip(size, place, strict=True)
    )
    images[1, :, rows, columns] = 1
    level = committee.run(teacher, images)[0]
    change = (level[1] - level[0]).square().sum(0)
    change = torch.where(change > change.max() / 2, change, 0) / change.max()
    total = change.sum()
    y, x = (
        ((torch.arange(n) + 0.5) / n * change.sum(other)).sum() / total
        for n, other in zip(change.shape, (1, 0), strict=True)
    )
    return y.item(), x.item()


@pytest.mark.parametrize("teacher", MINI)
@pytest.mark.parametrize("size", SIZES[:3])  # on six rows of patches a place is not known well enough
@pytest.mark.parametrize("place", [(0.2, 0.7), (0.8, 0.85), (0.5, 0.25)])
def test_an_object_lies_at_its_proportional_place_in_every_teachers_map(teacher, size, place):
    assert place_on_map(committee_of("cut"), teacher, size, place) == pytest.approx(place, abs=0.045)


def test_kept_padding_squeezes_the_image_as_the_authors_code_does():
    y, x = place_on_map(committee_of("keep"), "mini_sam", (448, 576), (0.8, 0.85))
    assert (y, x) == pytest.approx((0.8 * 448 / 576, 0.85), abs=0.045)


@pytest.mark.parametrize("size", SIZES)
def test_cut_maps_are_the_kept_ones_without_the_padding(size):
    cut, kept = committee_of("cut"), committee_of("keep")
    images = noise(*size)
    for teacher, levels in kept(images).items():
        rows, columns = SPECS[teacher].content_grid(*size)
        for ours, theirs in zip(cut.run(teacher, images), levels, strict=True):
            assert torch.equal(ours, theirs[..., :rows, :columns])
            assert ours.shape == theirs.shape or (teacher == "mini_sam" and theirs.shape[-2:] == (16, 16))


@pytest.mark.parametrize("padding", ["cut", "keep"])
@pytest.mark.parametrize("size", [*SIZES, (112, 112)])
def test_maps_have_the_stated_shapes(padding, size):
    committee = committee_of(padding)
    for teacher, levels in committee(noise(*size)).items():
        stated = [(s.channels, s.height, s.width) for s in committee.shapes(teacher, *size)]
        assert [tuple(level.shape[1:]) for level in levels] == stated


def test_square_images_have_the_same_maps_either_way():
    images = noise(112, 112)
    cut, kept = committee_of("cut"), committee_of("keep")
    for teacher, levels in cut(images).items():
        assert cut.shapes(teacher, 112, 112) == kept.shapes(teacher, 112, 112)
        assert all(torch.equal(a, b) for a, b in zip(levels, kept.run(teacher, images), strict=True))


@given(height=SIDES, width=SIDES)
def test_a_patch_counts_if_half_of_it_lies_in_the_image(height, width):
    canvas = fit_to_canvas(torch.ones(1, 1, height, width), 256).round()[0, 0]
    covered = (side.unflatten(0, (16, 16)).mean(1) >= 0.5 for side in (canvas[:, 0], canvas[0]))
    assert SPECS["mini_sam"].content_grid(height, width) == tuple(max(1, int(c.sum())) for c in covered)
