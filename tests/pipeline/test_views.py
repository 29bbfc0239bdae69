"""Views repeat exactly, have torchvision's distribution and torchvision's pixels."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as F

from pipeline.views import Crop, crop_of, render, squash
from storage.config import ViewConfig

CONFIG = ViewConfig()
sides = st.integers(1, 5000)


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_views_are_pinned_for_ever() -> None:
    """A change here means that every cache ever written could not be extended."""
    assert crop_of("n01440764/n01440764_10026%2EJPEG", 0, 500, 375, CONFIG) == PINNED[0]
    assert crop_of("n01440764/n01440764_10026%2EJPEG", 1, 500, 375, CONFIG) == PINNED[1]


PINNED = (Crop(261, 61, 224, 235, True), Crop(115, 3, 306, 268, True))


def test_another_process_cuts_the_same_views() -> None:
    code = (
        "from pipeline.views import crop_of; from storage.config import ViewConfig;"
        "print([tuple(crop_of(f'k{i}', i % 3, 640, 480, ViewConfig(seed=5))) for i in range(20)])"
    )
    env = os.environ | {"PYTHONHASHSEED": "77"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    config = ViewConfig(seed=5)
    assert result.stdout.strip() == str([tuple(crop_of(f"k{i}", i % 3, 640, 480, config)) for i in range(20)])


def test_seed_key_and_view_each_matter_and_count_does_not() -> None:
    base = crop_of("a/b", 0, 640, 480, CONFIG)
    assert crop_of("a/b", 0, 640, 480, ViewConfig(count=7)) == base
    others = (("a/c", 0, 0), ("a/b", 1, 0), ("a/b", 0, 1))
    assert all(crop_of(key, k, 640, 480, ViewConfig(seed=seed)) != base for key, k, seed in others)


@given(st.text(max_size=20), st.integers(0, 9), sides, sides)
def test_every_box_lies_inside(key: str, k: int, width: int, height: int) -> None:
    crop = crop_of(key, k, width, height, CONFIG)
    assert 0 <= crop.x <= crop.x + crop.w <= width and crop.w >= 1
    assert 0 <= crop.y <= crop.y + crop.h <= height and crop.h >= 1


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (900, 300)])
def test_distribution_is_torchvisions(width: int, height: int) -> None:
    n = 4000
    ours = np.array([crop_of(f"key{i}", 0, width, height, CONFIG) for i in range(n)], dtype=float)
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    drawn = [RandomResizedCrop.get_params(blank, list(CONFIG.scale), list(CONFIG.ratio)) for _ in range(n)]
    theirs = np.array(drawn, dtype=float)[:, [1, 0, 3, 2]]
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    for measure in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 2] / b[:, 3]):
        assert ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-3
    assert abs(ours[:, 4].mean() - 0.5) < 4 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize(("width", "height"), [(1, 1000), (1000, 1), (7, 3000), (1, 1), (2000, 3)])
def test_fallback_is_torchvisions(width: int, height: int) -> None:
    """On such shapes every draw misses (or there is one pixel), so torchvision's answer is certain."""
    torch.manual_seed(0)
    y, x, h, w = RandomResizedCrop.get_params(torch.empty(3, height, width), [0.9, 1.0], [3 / 4, 4 / 3])
    crop = crop_of("any", 0, width, height, ViewConfig(scale=(0.9, 1.0)))
    assert crop[:4] == (x, y, w, h)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(16, 64), st.integers(0, 1000))
def test_pixels_are_torchvisions(height: int, width: int, size: int, k: int) -> None:
    rgb = photo(height, width)
    crop = crop_of("p", k, width, height, CONFIG)
    expected = F.resized_crop(
        Image.fromarray(rgb), crop.y, crop.x, crop.h, crop.w, [size, size], InterpolationMode.BILINEAR
    )
    if crop.flip:
        expected = F.hflip(expected)
    result = render(rgb, crop, size)
    assert result.flags.writeable and result.flags.c_contiguous
    np.testing.assert_array_equal(result, np.asarray(expected))


def test_flip_probability_is_honoured() -> None:
    for flip in (0.0, 1.0):
        config = ViewConfig(flip=flip)
        assert {crop_of(f"k{i}", 0, 64, 64, config).flip for i in range(50)} == {bool(flip)}


def test_squash_is_torchvisions_resize() -> None:
    rgb = photo(37, 91)
    expected = F.resize(Image.fromarray(rgb), [48, 48], InterpolationMode.BILINEAR)
    np.testing.assert_array_equal(squash(rgb, 48), np.asarray(expected))
