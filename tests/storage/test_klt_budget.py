"""klt's calibration: what a budget of decoding buys, and that it does not matter who calibrated what."""

from __future__ import annotations

import logging
import pickle
import time

import numpy as np
import pytest
import torch

from jobs.benches.hard4 import Hard4
from storage.codecs import Stats, estimate_of, load_stats, make_calibrator, make_codec, save_stats
from storage.codecs.klt_moments import GroupMoments
from storage.codecs.spec import AnyCalibrator
from storage.config import CodecConfig

SIDE, CHANNELS = 9, 24
SHAPES = ((CHANNELS, SIDE, SIDE),) * 4
KLT = CodecConfig(name="klt", fidelity=0.99, calibration_tokens=SIDE * SIDE)
FULL_GMAC = SIDE * SIDE * (4 * CHANNELS) ** 2 / 1e9

Maps = list[torch.Tensor]


@pytest.fixture(scope="module")
def maps() -> Maps:
    return Hard4(3, channels=CHANNELS, side=SIDE).maps(72)


def calibrated(
    maps: Maps, *, budget_gmac: float | None, fidelity: float = 0.95, basis: str = "auto"
) -> Stats:
    config = KLT.model_copy(update={"fidelity": fidelity, "basis": basis})
    calibrator = make_calibrator(config, SHAPES, budget_gmac=budget_gmac)
    calibrator.update([level[:64] for level in maps])
    return load_stats(save_stats(calibrator.finish()))


@pytest.mark.parametrize("share", [0.75, 0.5, 0.35])
def test_decoding_stays_within_its_budget(maps: Maps, share: float, caplog: pytest.LogCaptureFixture) -> None:
    """On images that calibration has not seen, give or take what a few images say of many."""
    with caplog.at_level(logging.WARNING):
        stats = calibrated(maps, budget_gmac=share * FULL_GMAC)
    assert "the budget is" not in caplog.text
    codec = make_codec(KLT.model_copy(update={"fidelity": 0.95}), SHAPES, stats)
    assert codec.decode_macs <= share * FULL_GMAC * 1e9
    encoded = codec.encode([level[64:] for level in maps])
    assert encoded.reasons == [None] * 8 and np.nanmin(encoded.quality.fidelity) >= 0.95
    zones = [codec._layout.head(row, 0).zone for row in encoded.codes]
    spent = np.mean([codec._groups[0].space.inverse_macs[zone] for zone in zones])
    assert spent <= 1.15 * share * FULL_GMAC * 1e9


def test_less_work_costs_more_bits_and_is_said(maps: Maps) -> None:
    found = [
        estimate_of(calibrated(maps, budget_gmac=share and share * FULL_GMAC)) for share in (None, 0.5, 0.3)
    ]
    assert found[0].bits <= found[1].bits <= found[2].bits
    assert found[0].macs > found[1].macs > found[2].macs
    assert all(0 <= one.beyond <= 1 for one in found) and found[0].beyond == 0
    assert estimate_of({}) is None


def test_bits_are_estimated_on_images_of_the_same_kind(maps: Maps) -> None:
    stats = calibrated(maps, budget_gmac=None, fidelity=0.99)
    codec = make_codec(KLT, SHAPES, stats)
    records = [codec.pack(row) for row in codec.encode([level[64:] for level in maps]).codes]
    bits = 8 * np.mean([len(record) for record in records]) / sum(np.prod(shape) for shape in SHAPES)
    assert estimate_of(stats).bits == pytest.approx(bits, rel=0.05)


def test_auto_takes_the_basis_of_fewer_bits(maps: Maps) -> None:
    bits = {
        basis: estimate_of(calibrated(maps, budget_gmac=None, basis=basis)).bits
        for basis in ("joint", "separable", "auto")
    }
    assert bits["auto"] == min(bits["joint"], bits["separable"])


def test_a_budget_that_nothing_fits_gets_the_cheapest_and_one_warning(
    maps: Maps, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        stats = calibrated(maps, budget_gmac=1e-5)
    said = [record.getMessage() for record in caplog.records if "the budget is 1e-05" in record.getMessage()]
    assert len(said) == 1 and "raise decode_gmac_per_image, lower fidelity, or set grid = student" in said[0]
    encoded = make_codec(KLT.model_copy(update={"fidelity": 0.95}), SHAPES, stats).encode(maps)
    assert np.min(encoded.quality.fidelity) >= 0.95


def partial(maps: Maps, first: int, last: int, *, batch: int) -> AnyCalibrator:
    """One shard's calibrator, after a journey."""
    calibrator = make_calibrator(KLT, SHAPES)
    for start in range(first, last, batch):
        calibrator.update([level[start : min(start + batch, last)] for level in maps])
    found: AnyCalibrator = pickle.loads(pickle.dumps(calibrator))
    return found


def test_it_does_not_matter_who_calibrated_which_shard(maps: Maps) -> None:
    """Four shards in other batches, by one worker or by four: the same tensors to the bit."""
    results = []
    for batch in (1, 7, 18):
        whole, *others = (partial(maps, first, first + 18, batch=batch) for first in range(0, 72, 18))
        for other in others:
            whole.merge(other)
        results.append(save_stats(whole.finish()))
    assert results[0] == results[1] == results[2]
    with pytest.raises(ValueError, match="merged one shard at a time"):
        partial(maps, 0, 18, batch=18).merge(whole)


def test_merged_moments_are_numpys(maps: Maps) -> None:
    """All that was not held out is in the sums, whatever the room for what is."""
    whole = partial(maps, 0, 36, batch=5)
    whole._room = 4
    whole.merge(partial(maps, 36, 72, batch=5))
    held = [1 + 4 * n for n in range(9)]
    tokens = torch.cat(maps, 1).permute(0, 2, 3, 1).flatten(1, 2).double().numpy()
    used = tokens[[n for n in range(72) if n not in held]].reshape(-1, 4 * CHANNELS)
    moments = whole._groups[0]
    moments._flush()
    assert moments.count == len(used) == whole.tokens
    np.testing.assert_allclose(moments._moments.numpy(), used.T @ used, rtol=1e-9)


def test_few_tokens_of_an_image_are_taken() -> None:
    moments = GroupMoments([6], 50)
    for ordinal in range(3):
        moments.add([torch.randn(50, 6)], ordinal, 8)
    assert moments.count == 24


@pytest.mark.parametrize(
    "dimensions", [512, pytest.param(5632, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_wide_teachers_are_calibrated(dimensions: int, caplog: pytest.LogCaptureFixture) -> None:
    """Four levels of a giant teacher on a small grid; one warning says that the tokens are too few."""
    shapes = ((dimensions // 4, 2, 2),) * 4
    config = KLT.model_copy(update={"basis": "joint"})
    calibrator = make_calibrator(config, shapes)
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(12, *shape, generator=generator) for shape in shapes]
    calibrator.update(levels)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        stats = calibrator.finish()
    logging.getLogger(__name__).info("%d dimensions take %.0f s", dimensions, time.monotonic() - began)
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("storage.")]
    assert "would be enough" in said
    encoded = make_codec(config, shapes, stats).encode([level[:2] for level in levels])
    assert encoded.reasons == [None, None] and np.min(encoded.quality.fidelity) >= 0.99
