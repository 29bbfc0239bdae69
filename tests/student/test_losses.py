"""Eq. 5 against plain numpy, and what weights of 0 must not do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from student.losses import distill_loss, flattened_cosine, level_loss, to_larger_grid


def bilinear(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[C, h, w] -> [C, H, W], half-pixel centres, edges repeated: scipy's interpolation as the oracle."""
    rows, cols = (
        np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        for new, old in zip(size, maps.shape[1:], strict=True)
    )
    grid = np.meshgrid(rows, cols, indexing="ij")
    return np.stack([map_coordinates(m, grid, order=1, mode="nearest") for m in maps])


def oracle(s: np.ndarray, t: np.ndarray, alpha: float, beta: float) -> float:
    """Loss of one sample and level in float64."""
    if s.shape[1] < t.shape[1]:
        s = bilinear(s, t.shape[1:])
    elif s.shape != t.shape:
        t = bilinear(t, s.shape[1:])
    cosine = np.sum(s * t) / np.sqrt(np.sum(s * s) * np.sum(t * t))
    d = np.abs(s - t)
    return alpha * (1 - cosine) + beta * np.mean(np.where(d < 1, 0.5 * d * d, d - 0.5))


@pytest.mark.parametrize(
    "grids", [((4, 4), (4, 4)), ((4, 4), (7, 7)), ((6, 5), (4, 3)), ((4, 6), (5, 5)), ((4, 6), (4, 5))]
)
def test_level_loss_is_eq_5(grids) -> None:
    rng = np.random.default_rng(0)
    s, t = (rng.normal(size=(2, 3, *grid)) * 2 for grid in grids)
    loss = level_loss(torch.tensor(s), torch.tensor(t), alpha=0.9, beta=0.1)
    np.testing.assert_allclose(
        loss.numpy(), [oracle(a, b, 0.9, 0.1) for a, b in zip(s, t, strict=True)], rtol=1e-5
    )


def test_height_alone_decides_the_grid() -> None:
    wide, tall = torch.zeros(1, 2, 4, 9), torch.zeros(1, 2, 5, 3)
    assert to_larger_grid(wide, tall)[0].shape == (1, 2, 5, 3)
    assert to_larger_grid(tall, wide)[1].shape == (1, 2, 5, 3)


def maps(batch: int, seed: int) -> tuple[dict, dict]:
    """Student and teacher maps of two teachers, four levels."""
    generator = torch.Generator().manual_seed(seed)
    grids = {"a": (5, (4, 4), (6, 6)), "b": (3, (4, 4), (4, 4))}
    return tuple(
        {
            n: [torch.randn(batch, g[0], *g[side], generator=generator) for _ in range(4)]
            for n, g in grids.items()
        }
        for side in (1, 2)
    )


def test_terms_are_summed_over_teachers_and_levels_and_averaged_over_samples() -> None:
    student, teacher = maps(3, 0)
    total, parts = distill_loss(student, teacher, torch.ones(3))
    wanted = {
        name: sum(
            oracle(s.double().numpy(), t.double().numpy(), 0.9, 0.1) / 3
            for level in range(4)
            for s, t in zip(student[name][level], teacher[name][level], strict=True)
        )
        for name in student
    }
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(wanted, rel=1e-5)
    assert total.item() == pytest.approx(sum(wanted.values()), rel=1e-5)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=1, max_size=5).filter(any),
    st.integers(0, 99),
    st.sampled_from([0.0, math.nan, math.inf, -math.inf, 3e38]),
)
def test_rows_of_weight_0_count_nothing_whatever_they_hold(
    weights: list[float], seed: int, content: float
) -> None:
    student, teacher = maps(len(weights), seed)
    weight = torch.tensor(weights)
    for levels in student.values():
        for level in levels:
            level.requires_grad_()
    for levels in teacher.values():
        for level in levels:
            level[weight == 0] = (
                content  # a quarantined sample decodes to 0; a live teacher may give anything
            )
    total, _ = distill_loss(student, teacher, weight)
    total.backward()
    kept = weight > 0
    short, _ = distill_loss(
        {n: [m[kept] for m in ms] for n, ms in student.items()},
        {n: [m[kept] for m in ms] for n, ms in teacher.items()},
        weight[kept],
    )
    torch.testing.assert_close(total, short, rtol=1e-5, atol=1e-6)
    for levels in student.values():
        for level in levels:
            assert torch.isfinite(level.grad).all()
            assert not level.grad[~kept].any()


def test_student_rows_of_weight_0_may_hold_nan_too() -> None:
    student, teacher = maps(3, 0)
    weight = torch.tensor([1.0, 0.0, 1.0])
    clean, _ = distill_loss(student, teacher, weight)
    for level in student["a"]:
        level[1] = math.nan
        level.requires_grad_()
    total, _ = distill_loss(student, teacher, weight)
    total.backward()
    assert torch.equal(total, clean)
    assert all(level.grad.isfinite().all() and not level.grad[1].any() for level in student["a"])


def test_nan_in_a_row_that_counts_is_not_hidden() -> None:
    student, teacher = maps(2, 0)
    teacher["b"][2][1, 0, 0, 0] = math.nan
    assert distill_loss(student, teacher, torch.tensor([1.0, 0.5]))[0].isnan()


@pytest.mark.parametrize("content", [1.0, math.nan])
def test_a_batch_of_weight_0_has_loss_0(content: float) -> None:
    student, teacher = maps(2, 0)
    teacher = {name: [level * content for level in levels] for name, levels in teacher.items()}
    assert distill_loss(student, teacher, torch.zeros(2))[0].item() == 0


def test_float32_inside_autocast_and_on_any_memory_layout() -> None:
    student, teacher = maps(2, 3)
    wanted, _ = distill_loss(student, teacher, torch.ones(2))
    strided = {n: [m.to(memory_format=torch.channels_last) for m in ms] for n, ms in student.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = distill_loss(strided, teacher, torch.ones(2))
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, wanted)


def test_zero_maps_have_cosine_0_and_finite_gradients() -> None:
    zero = torch.zeros(1, 2, 3, 3, requires_grad=True)
    cosine = flattened_cosine(zero, torch.ones(1, 2, 3, 3))
    cosine.sum().backward()
    assert cosine.item() == 0
    assert torch.isfinite(zero.grad).all()


def test_what_does_not_fit_is_named() -> None:
    student, teacher = maps(2, 0)
    with pytest.raises(ValueError, match=r"no targets for teachers \['b'\]"):
        distill_loss(student, {"a": teacher["a"]}, torch.ones(2))
    with pytest.raises(ValueError, match="student has 4 levels, teacher 3"):
        distill_loss(student, teacher | {"b": teacher["b"][:3]}, torch.ones(2))
    with pytest.raises(ValueError, match=r"5 channels, teacher map 3; pass the paths through SAK\.align"):
        distill_loss(student, teacher | {"a": teacher["b"]}, torch.ones(2))
