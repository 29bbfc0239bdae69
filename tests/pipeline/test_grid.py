"""Area pooling against PyTorch's where sides divide, and against exact integration where they do not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import CommitteeConfig
from pipeline.grid import area_weights, pool, pooled_grid, pooled_shapes
from pipeline.teachers.committee import build_committee

sides = st.integers(1, 40)


def integrated(values: np.ndarray, wanted: int) -> np.ndarray:
    """Mean of a step function over `wanted` equal intervals, by differences of its integral (fp64)."""
    cells = len(values)
    integral = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(values, 0)]) / cells
    ends = np.linspace(0, 1, wanted + 1)
    flat = integral.reshape(cells + 1, -1)
    at = np.stack([np.interp(ends, np.linspace(0, 1, cells + 1), column) for column in flat.T], 1)
    return (np.diff(at, axis=0) * wanted).reshape(wanted, *values.shape[1:])


@settings(max_examples=60, deadline=None)
@given(st.tuples(sides, sides), st.tuples(sides, sides), st.integers(0, 2**16))
def test_pooling_is_exact_integration_and_keeps_the_mean(
    grid: tuple[int, int], student: tuple[int, int], seed: int
) -> None:
    level = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(seed))
    pooled = pool(level, student)
    if grid[0] * grid[1] <= student[0] * student[1]:
        assert pooled is level
        return
    wanted = integrated(
        integrated(level.double().numpy().transpose(2, 3, 0, 1), student[0]).swapaxes(0, 1), student[1]
    )
    assert pooled.shape == (2, 3, *student) and pooled.dtype == torch.float32
    np.testing.assert_allclose(pooled.numpy(), wanted.transpose(2, 3, 1, 0), atol=2e-6)
    torch.testing.assert_close(pooled.mean((2, 3)), level.mean((2, 3)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("grid", "student"), [((48, 48), (24, 24)), ((64, 32), (16, 8)), ((27, 9), (3, 9))])
def test_where_sides_divide_it_is_average_pooling(grid: tuple[int, int], student: tuple[int, int]) -> None:
    level = torch.randn(2, 5, *grid)
    torch.testing.assert_close(pool(level, student), F.adaptive_avg_pool2d(level, student))
    torch.testing.assert_close(pool(level, student), F.interpolate(level, student, mode="area"))


@given(sides, sides)
def test_weights_are_shares(cells: int, wanted: int) -> None:
    weights = np.array(area_weights(cells, wanted))
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights.sum(0), wanted / cells)


def test_maps_of_any_memory_and_precision() -> None:
    level = torch.randn(1, 27 * 27, 8).unflatten(1, (27, 27)).permute(0, 3, 1, 2)
    pooled = pool(level, (24, 24))
    torch.testing.assert_close(pooled, pool(level.contiguous(), (24, 24)))
    assert pooled.permute(0, 2, 3, 1).is_contiguous(), "token-major, as codecs read it"
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(pool(level, (24, 24)), pooled, atol=0, rtol=0)
    assert pool(level.half(), (24, 24)).dtype == torch.float32


def test_only_larger_maps_shrink() -> None:
    shapes = [(768, 27, 27), (768, 24, 24), (768, 64, 64), (8, 16, 16)]
    assert [s[1:] for s in pooled_shapes(shapes, (24, 24))] == [(24, 24)] * 3 + [(16, 16)]
    assert pooled_shapes(shapes, None) == tuple(shapes)
    assert pooled_grid((32, 41), (28, 36)) == (28, 36)


def test_a_committee_of_the_students_grid_says_and_gives_pooled_maps() -> None:
    asked = CommitteeConfig(teachers=("mini_dinov2", "mini_sam"), weights="random:0", precision="fp32")
    whole, pooled = build_committee(asked), build_committee(asked, grid=(5, 5))
    images = torch.rand(2, 3, 80, 80)
    for name, levels in pooled(images).items():
        assert [tuple(level.shape[1:]) for level in levels] == list(pooled.shapes(name, 80, 80))
        for level, own in zip(levels, whole.run(name, images), strict=True):
            torch.testing.assert_close(level, pool(own, (5, 5)))
    assert {shape[1:] for shape in pooled.shapes("mini_sam", 80, 80)} == {(5, 5)}
    assert whole.identity("mini_sam") == pooled.identity("mini_sam")


def test_shapes_need_no_torch() -> None:
    code = "import sys, pipeline.grid; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
