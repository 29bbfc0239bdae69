"""klt on whatever comes: finite maps keep the asked cosine or get a reason; nothing raises, nothing wraps."""

from __future__ import annotations

import hashlib
import tomllib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from storage.codecs import Codec, make_calibrator, make_codec
from storage.config import CodecConfig

SETS = {
    "plain": ((6, 4, 4),) * 3,
    "widths": ((5, 3, 4), (2, 3, 4), (3, 2, 2)),
    "one token": ((4, 1, 1), (4, 1, 1)),
    "one level": ((3, 5, 2),),
}

Maps = list[torch.Tensor]


def source(name: str, count: int, seed: int) -> Maps:
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for shape in SETS[name]:
        spread = torch.logspace(-1, 1, shape[0]).view(-1, 1, 1)
        levels.append(torch.randn(count, *shape, generator=generator) * spread + 3 * spread)
    return levels


@lru_cache
def codec_of(name: str, basis: str, fidelity: float, budget_gmac: float | None = None) -> Codec:
    config = CodecConfig(name="klt", fidelity=fidelity, basis=basis, calibration_tokens=100)
    calibrator = make_calibrator(config, SETS[name], budget_gmac=budget_gmac)
    calibrator.update(source(name, 24, 0))
    return make_codec(config, SETS[name], calibrator.finish())


def z_cosines(codec: Codec, levels: Maps, decoded: Maps) -> np.ndarray:
    """[B, levels] in double precision; two maps at the mean are alike."""
    found = []
    stats = codec._stats.on(torch.device("cpu"))
    for level, back, (mean, scale) in zip(levels, decoded, stats, strict=True):
        a, b = (
            ((x.double() - mean.view(-1, 1, 1)) / scale.view(-1, 1, 1)).flatten(1).numpy()
            for x in (level, back)
        )
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        with np.errstate(invalid="ignore"):
            found.append(np.where(norms == 0, 1, (a * b).sum(1) / norms))
    return np.stack(found, 1)


def keeps_or_says(codec: Codec, levels: Maps, fidelity: float) -> None:
    """The promise, through records and the trainer's decoder."""
    encoded = codec.encode(levels)
    good = [number for number, reason in enumerate(encoded.reasons) if reason is None]
    assert all(reason for reason in encoded.reasons if reason is not None)
    assert np.isnan(encoded.quality.fidelity[[n for n in range(len(levels[0])) if n not in good]]).all()
    if not good:
        return
    rows = [codec.unpack(codec.pack(encoded.codes[number])) for number in good]
    decoded = codec.decode(rows, "cpu")
    assert all(level.isfinite().all() for level in decoded)
    kept = z_cosines(codec, [level[good] for level in levels], decoded)
    # a map far off, or hardly off its mean, is not known to fp32 better than this
    stats = codec._stats.on(torch.device("cpu"))
    for number, (level, (mean, scale)) in enumerate(zip(levels, stats, strict=True)):
        z = (level[good] - mean.view(-1, 1, 1)) / scale.view(-1, 1, 1)
        resolved = z.flatten(1).norm(dim=1) > 1e-3 * (mean / scale).abs().max()
        assert (kept[:, number][resolved.numpy()] >= fidelity - 1e-6).all()


@given(
    st.sampled_from(sorted(SETS)),
    st.sampled_from(["joint", "separable", "auto"]),
    st.sampled_from([0.9, 0.99, 0.999]),
    st.sampled_from([None, 1e-9]),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_any_finite_maps_keep_their_cosine_or_get_a_reason(
    name: str, basis: str, fidelity: float, budget: float | None, data: st.DataObject
) -> None:
    codec = codec_of(name, basis, fidelity, budget)
    numbers = st.one_of(
        st.floats(-100, 100, width=32),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.sampled_from([0.0, 3.0, -1e30, 1e-40]),
    )
    shapes = [(2, *shape) for shape in SETS[name]]
    arrays = [data.draw(hnp.arrays(np.float32, shape, elements=numbers)) for shape in shapes]
    keeps_or_says(codec, [torch.from_numpy(array) for array in arrays], fidelity)


@pytest.mark.parametrize("name", sorted(SETS))
@pytest.mark.parametrize("fill", [0.0, None, 1e20, 7.0])
def test_flat_maps(name: str, fill: float | None) -> None:
    """All zero, all at the mean, huge, and constant; beside a usual map that must not suffer."""
    codec = codec_of(name, "joint", 0.99)
    usual = source(name, 1, 5)
    flat = [
        torch.full_like(level, fill) if fill is not None else mean.view(1, -1, 1, 1).expand_as(level)
        for level, (mean, _) in zip(usual, codec._stats.on(torch.device("cpu")), strict=True)
    ]
    levels = [torch.cat(pair) for pair in zip(flat, usual, strict=True)]
    encoded = codec.encode(levels)
    assert encoded.reasons[1] is None and encoded.quality.fidelity[1].min() >= 0.99
    assert (encoded.reasons[0] is None) == (fill != 1e20)
    keeps_or_says(codec, levels, 0.99)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_what_is_no_number_never_touches_its_neighbours(bad: float) -> None:
    codec, levels = codec_of("widths", "joint", 0.99), source("widths", 3, 7)
    clean = codec.encode(levels)
    levels[1][1, 0, 0, 0] = bad
    encoded = codec.encode(levels)
    assert encoded.reasons[1] is not None and "level 1 holds" in encoded.reasons[1]
    np.testing.assert_array_equal(encoded.codes[[0, 2]], clean.codes[[0, 2]])
    assert not np.isfinite(encoded.quality.per_token[1]).any()


def test_calibration_survives_constant_channels_and_broken_images() -> None:
    levels = source("plain", 24, 0)
    levels[0][:, 2] = 5
    levels[1][:] = 0
    levels[2][3, 0, 0, 0] = torch.nan
    calibrator = make_calibrator(CodecConfig(name="klt", calibration_tokens=100), SETS["plain"])
    calibrator.update(levels)
    codec = make_codec(CodecConfig(name="klt"), SETS["plain"], calibrator.finish())
    encoded = codec.encode([level[:3] for level in levels])
    assert encoded.reasons == [None] * 3
    decoded = codec.decode([codec.unpack(codec.pack(row)) for row in encoded.codes], "cpu")
    assert decoded[1].abs().max() < 1e-3 and (decoded[0][:, 2] - 5).abs().max() < 0.5


def test_an_empty_zone_is_one() -> None:
    """Calibrated on a constant: nothing is expected, and what comes is stored whole."""
    levels = [torch.ones(4, *shape) for shape in SETS["plain"]]
    calibrator = make_calibrator(CodecConfig(name="klt", calibration_tokens=100), SETS["plain"])
    calibrator.update(levels)
    codec = make_codec(CodecConfig(name="klt"), SETS["plain"], calibrator.finish())
    assert codec._groups[0].space.symbols_in[0] == 0
    keeps_or_says(codec, [torch.cat([level[:1], torch.randn_like(level[:2])]) for level in levels], 0.995)


def digest() -> str:
    """Of records of maps, large enough that products use every thread."""
    shapes = ((96, 10, 10),) * 2
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(14, *shape, generator=generator) for shape in shapes]
    config = CodecConfig(name="klt", calibration_tokens=100)
    calibrator = make_calibrator(config, shapes)
    calibrator.update(levels)
    codec = make_codec(config, shapes, calibrator.finish())
    records = [codec.pack(row) for _ in range(2) for row in codec.encode([lv[:3] for lv in levels]).codes]
    assert records[:3] == records[3:]
    return hashlib.sha256(b"".join(records)).hexdigest()


def test_two_threads_give_the_same_bytes_every_time() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert digest() == digest()
    finally:
        torch.set_num_threads(before)


def test_numcodecs_still_needs_pcodec_below_1() -> None:
    """numcodecs 0.16.6 calls an attribute that pcodec 1.1 removed: when this fails, lift the pin."""
    assert int(version("pcodec").split(".")[0]) < 1
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    pins = [line for line in project["dependencies"] if line.startswith("pcodec")]
    assert pins and all("<1" in pin for pin in pins)
