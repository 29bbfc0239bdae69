"""Thinning and label edges against scikit-image and OpenCV, pixel for pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.morphology import thin as skimage_thin

from student.tasks.thinning import label_edges, thin


@given(seed=st.integers(0, 10_000), density=st.floats(0, 1), blur=st.booleans())
@settings(max_examples=60, deadline=None)
def test_thin_is_skimages(seed: int, density: float, blur: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2))
    mask = rng.random(shape) < density
    if blur:
        mask = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 2) > density / 2
    assert np.array_equal(thin(mask), skimage_thin(mask))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_label_edges_are_the_fields(dtype: type) -> None:
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 200, (9, 7)).astype(np.uint16)
    labels = cv2.resize(blocks, (150, 120), interpolation=cv2.INTER_NEAREST)
    expected = skimage_thin(np.abs(cv2.Laplacian(labels, cv2.CV_64F)) > 0)
    assert np.array_equal(label_edges(labels.astype(dtype)), expected)
    assert np.array_equal(label_edges(np.asfortranarray(labels.astype(dtype))), expected)


def test_empty_and_full_masks() -> None:
    assert not thin(np.zeros((5, 6), bool)).any()
    assert np.array_equal(thin(np.ones((7, 7), bool)), skimage_thin(np.ones((7, 7), bool)))
