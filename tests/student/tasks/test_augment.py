"""The field's augmentation, step by step: geometry kept, ranges and order as said, everything seeded."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from student.tasks.augment import augment, centre, distort, flip, pad, random_crop, random_scale

Rng = np.random.Generator


def make_sample(height: int = 60, width: int = 84, seed: int = 0) -> dict:
    """All six labels; pixel (y, x)'s number is in depth, so that moves can be followed."""
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(height, width, 3)).astype(np.float32)
    return {
        "id": "a",
        "size": (height, width),
        "image": rng.integers(0, 256, (height, width, 3)).astype(np.uint8),
        "semseg": rng.integers(0, 5, (height, width)).astype(np.uint8),
        "human_parts": rng.integers(0, 7, (height, width)).astype(np.uint8),
        "sal": rng.integers(0, 2, (height, width)).astype(np.uint8),
        "edge": rng.integers(0, 2, (height, width)).astype(np.uint8),
        "depth": (1.25 + np.arange(height * width, dtype=np.float32)).reshape(height, width),
        "normals": normals / np.linalg.norm(normals, axis=2, keepdims=True),
    }


class Fixed:
    """A generator whose first uniform number is chosen; the rest are a real one's."""

    def __init__(self, value: float) -> None:
        self.value, self.rng = value, np.random.default_rng(0)

    def uniform(self, low: float, high: float) -> float:
        assert (low, high) == (0.5, 2.0)
        return self.value


@given(scale=st.floats(0.5, 2.0), height=st.integers(8, 40), width=st.integers(8, 40))
@settings(max_examples=40, deadline=None)
def test_scaling_keeps_labels_under_the_image(scale: float, height: int, width: int) -> None:
    sample = make_sample(height, width)
    scaled = random_scale(sample, Fixed(scale))
    size = (int(height * scale), int(width * scale))
    assert {value.shape[:2] for name, value in scaled.items() if name not in ("id", "size")} == {size}
    # Nearest: the source pixel that a label comes from is read from depth, which is divided by the scale.
    source = np.floor(scaled["depth"] * np.float32(scale)).astype(int) - 1
    for name in ("semseg", "human_parts", "sal", "edge"):
        assert np.array_equal(scaled[name], sample[name].reshape(-1)[source])
    assert np.array_equal(scaled["normals"], sample["normals"].reshape(-1, 3)[source])
    assert set(np.unique(scaled["semseg"])) <= set(range(5))
    rows = source[:, 0] // width
    assert np.abs(rows - np.arange(size[0]) * (height / size[0])).max() < 1 + 1e-6


def test_the_image_is_scaled_bilinearly_without_antialiasing() -> None:
    sample = make_sample()
    scaled = random_scale(sample, Fixed(0.55))["image"]
    image = torch.from_numpy(sample["image"]).permute(2, 0, 1)[None].float()
    expected = F.interpolate(
        image, size=scaled.shape[:2], mode="bilinear", align_corners=False, antialias=False
    )
    assert np.abs(scaled - expected[0].permute(1, 2, 0).numpy()).max() <= 1.01


def test_crops_are_windows_and_keep_small_images_whole() -> None:
    sample = make_sample()
    tops, lefts = set(), set()
    for seed in range(300):
        crop = random_crop(sample, np.random.default_rng(seed), (50, 100))
        top, left = divmod(int(crop["depth"][0, 0]) - 1, 84)
        tops.add(top), lefts.add(left)
        for name in ("image", "semseg", "normals", "edge"):
            assert np.array_equal(crop[name], sample[name][top : top + 50, left:])
    assert tops == set(range(11)) and lefts == {0}


def dominated() -> dict:
    """Class 1 in the left fifth, class 2 elsewhere, a column of 255 between: most crops are dominated."""
    sample = make_sample(20, 100)
    sample["semseg"][:] = 2
    sample["semseg"][:, :20] = 1
    sample["semseg"][:, 20:22] = 255
    return sample


def lefts_of(sample: dict, count: int) -> np.ndarray:
    crops = [random_crop(sample, np.random.default_rng(seed), (20, 20)) for seed in range(count)]
    return np.array([int(crop["depth"][0, 0] - 1) % 100 for crop in crops])


def test_dominated_crops_are_redrawn_at_most_ten_times() -> None:
    sample = dominated()

    def varied(left: int) -> bool:
        window = sample["semseg"][:, left : left + 20]
        counts = [(window == c).sum() for c in (1, 2)]
        return min(counts) > 0 and max(counts) / sum(counts) < 0.75

    share = np.mean([varied(left) for left in range(81)])
    found = np.mean([varied(left) for left in lefts_of(sample, 3000)])
    # Ten draws are tested, the eleventh is used as it is.
    assert found == pytest.approx(1 - (1 - share) ** 11, abs=0.02)


def test_without_semseg_nothing_is_redrawn() -> None:
    sample = dominated()
    del sample["semseg"]
    counts = np.bincount(lefts_of(sample, 3000), minlength=81)
    assert len(counts) == 81 and counts.max() < 80


def test_flipping_mirrors_everything_and_negates_the_normals_x() -> None:
    sample, flipped = make_sample(), flip(make_sample())
    for name in ("image", "semseg", "human_parts", "sal", "edge", "depth"):
        assert np.array_equal(flipped[name], sample[name][:, ::-1])
    assert np.array_equal(flipped["normals"][..., 0], -sample["normals"][:, ::-1, 0])
    assert np.array_equal(flipped["normals"][..., 1:], sample["normals"][:, ::-1, 1:])


def test_distortion_is_the_protocols() -> None:
    image = make_sample()["image"]
    seen = set()
    for seed in range(200):
        ours = distort(image, np.random.default_rng(seed))
        expected, drawn = slow_distortion(image, np.random.default_rng(seed))
        seen.add(drawn)
        assert ours.dtype == np.uint8 and np.array_equal(ours, expected)
    assert len(seen) == 32


def slow_distortion(image: np.ndarray, rng: Rng) -> tuple[np.ndarray, tuple[bool, ...]]:
    """The same, written out in floating point; also which of the five coins fell."""

    def truncated(values: np.ndarray) -> np.ndarray:
        return np.floor(np.clip(values, 0, 255)).astype(np.uint8)

    brightness = rng.random() < 0.5
    pixels = image.astype(np.float32)
    if brightness:
        pixels = truncated(pixels + np.float32(rng.uniform(-32, 32)))
    contrast, gain = rng.random() < 0.5, 1.0
    if contrast:
        gain = rng.uniform(0.5, 1.5)
    first = rng.random() < 0.5
    if first:
        pixels = truncated(pixels.astype(np.float32) * np.float32(gain))
    hsv = cv2.cvtColor(truncated(pixels), cv2.COLOR_RGB2HSV).astype(np.float32)
    saturation = rng.random() < 0.5
    if saturation:
        hsv[..., 1] = truncated(hsv[..., 1] * np.float32(rng.uniform(0.5, 1.5)))
    hue = rng.random() < 0.5
    if hue:
        shift = int(rng.integers(-18, 18))
        assert -18 <= shift <= 17
        hsv[..., 0] = (hsv[..., 0] + shift) % 180
    pixels = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    if not first:
        pixels = truncated(pixels.astype(np.float32) * np.float32(gain))
    return pixels, (brightness, contrast, first, saturation, hue)


@given(st.tuples(*[st.integers(1, 9)] * 4))
@settings(max_examples=30, deadline=None)
def test_padding_is_centred_and_odd_pixels_go_below_and_right(sizes: tuple[int, int, int, int]) -> None:
    height, width, more_h, more_w = sizes
    array = np.arange(1, height * width + 1).reshape(height, width)
    padded = pad(array, (height + more_h, width + more_w), 255)
    top, left = more_h // 2, more_w // 2
    assert np.array_equal(padded[top : top + height, left : left + width], array)
    padded[top : top + height, left : left + width] = 255
    assert (padded == 255).all()


def test_validation_normalises_pads_and_marks() -> None:
    sample = make_sample()
    sample["depth"][3, 5] = 0
    sample["normals"][7, 9] = 0
    ready = centre(sample, (64, 95))
    inside = np.s_[2:62, 5:89]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((sample["image"] / 255 - mean) / std).transpose(2, 0, 1)
    assert np.abs(ready["image"][:, 2:62, 5:89] - expected).max() < 1e-5
    outside = np.ones((64, 95), bool)
    outside[inside] = False
    assert not ready["image"][:, outside].any()
    for name in ("semseg", "human_parts", "sal", "edge"):
        assert np.array_equal(ready[name][inside], sample[name]) and (ready[name][outside] == 255).all()
    unknown = outside.copy()
    unknown[2 + 3, 5 + 5] = True
    assert np.array_equal(ready["depth"][0] == 255, unknown)
    unknown = outside.copy()
    unknown[2 + 7, 5 + 9] = True
    for channel in ready["normals"]:
        assert np.array_equal(channel == 255, unknown)
    assert ready["size"] == (60, 84) and ready["id"] == "a"
    with pytest.raises(ValueError, match=r"image a is 60x84 pixels, dataset.size is 59x95; validation never"):
        centre(sample, (59, 95))


def test_a_crop_without_people_says_nothing_about_parts() -> None:
    sample = make_sample()
    sample["human_parts"][:] = 0
    assert (centre(sample, (64, 96))["human_parts"] == 255).all()
    sample["human_parts"][30, 30] = 4
    assert set(np.unique(centre(sample, (64, 96))["human_parts"])) == {0, 4, 255}


def test_augmented_samples_are_seeded_and_sized() -> None:
    sample = make_sample()
    one, two, other = (augment(sample, np.random.default_rng(s), (48, 64)) for s in (1, 1, 2))
    for name, value in one.items():
        assert np.array_equal(value, two[name]), name
    assert not np.array_equal(one["image"], other["image"])
    assert one["image"].shape == (3, 48, 64) and one["image"].dtype == np.float32
    assert one["normals"].shape == (3, 48, 64) and one["depth"].shape == (1, 48, 64)
    assert {one[n].shape for n in ("semseg", "human_parts", "sal", "edge")} == {(48, 64)}
    assert {one[n].dtype for n in ("semseg", "human_parts", "sal", "edge")} == {np.dtype(np.uint8)}
    assert one["depth"].dtype == one["normals"].dtype == np.float32


def test_half_of_the_samples_are_flipped() -> None:
    sample = make_sample()
    flipped = 0
    for seed in range(200):
        depth = augment(sample, np.random.default_rng(seed), (48, 64))["depth"][0]
        known = np.where(depth == 255, 0, depth)
        flipped += bool((np.diff(known[known.any(1)][0][known[known.any(1)][0] > 0])[:5] <= 0).all())
    assert 70 < flipped < 130
