"""Rings that share a product: every frequency once, no component left out, little work wasted."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from storage.codecs.klt_bands import bands_of

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=20)


@given(counts=COUNTS, blocks=st.integers(1, 4), seed=st.integers(0, 2**16), width=st.sampled_from([3, 600]))
def test_bands_cover_what_the_zone_holds(counts: list[int], blocks: int, seed: int, width: int) -> None:
    kept = np.random.default_rng(seed).integers(0, width + 1, (blocks, len(counts)))
    ends, widths = np.cumsum(counts).tolist(), [width] * blocks
    bands = bands_of(ends, kept, widths)
    assert [band.first for band in bands] == [0, *[band.end for band in bands[:-1]]]
    assert bands[-1].end == ends[-1]
    ring = np.repeat(np.arange(len(counts)), counts)
    for band in bands:
        held = kept[:, ring[band.first : band.end]].max(1)
        assert band.components == tuple(held)
    exact = int((kept.sum(0) * counts).sum()) * width
    wasted = sum(band.macs(widths) for band in bands) - exact
    # a product less is worth a million each, beyond the share that may be spent on zeros
    assert 0 <= wasted <= 0.06 * exact + 1e6 * blocks * (len(counts) - len(bands))


def test_alike_rings_take_one_product_and_unlike_ones_their_own() -> None:
    ends, widths = [1000, 2000, 3000], [3000]
    assert len(bands_of(ends, np.array([[900, 890, 880]]), widths)) == 1
    apart = bands_of(ends, np.array([[3000, 900, 0]]), widths)
    assert [band.components for band in apart] == [(3000,), (900,), (0,)]
