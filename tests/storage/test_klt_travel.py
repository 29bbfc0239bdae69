"""klt's way to the trainer's device: planes and outliers, and products of what bf16 can hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.benches.hard4 import Hard4
from storage.codecs import Codec, klt_inverse, make_calibrator, make_codec
from storage.codecs.klt_rows import RowLayout
from storage.codecs.klt_travel import Batch, thin
from storage.config import CodecConfig
from storage.errors import FormatError

SIDE, CHANNELS = 7, 12
SHAPES = ((CHANNELS, SIDE, SIDE),) * 4
KLT = CodecConfig(name="klt", fidelity=0.95, calibration_tokens=SIDE * SIDE)

Maps = list[torch.Tensor]


@pytest.fixture(scope="module")
def maps() -> Maps:
    """Usual maps, a channel far off in one level, and white noise: small codes, outliers, a wider zone."""
    levels = Hard4(5, channels=CHANNELS, side=SIDE).maps(40)[:]
    generator = torch.Generator().manual_seed(1)
    for level in levels:
        noise = torch.randn(CHANNELS, SIDE, SIDE, generator=generator)
        level[2] = noise * level.std((0, 2, 3)).view(-1, 1, 1)
    levels[0][1, 5] += 3e3 * levels[0][:, 5].std()
    return levels


@pytest.fixture(scope="module", params=["joint", "separable"])
def codec(request: pytest.FixtureRequest, maps: Maps) -> Codec:
    config = KLT.model_copy(update={"basis": request.param})
    calibrator = make_calibrator(config, SHAPES, budget_gmac=1e-4 if request.param == "joint" else 5e-5)
    calibrator.update([level[8:] for level in maps])
    return make_codec(config, SHAPES, calibrator.finish())


def test_what_travels_is_a_byte_per_code_of_the_zone(codec: Codec, maps: Maps) -> None:
    encoded = codec.encode([level[:6] for level in maps])
    assert encoded.reasons == [None] * 6
    rows = [codec.unpack(codec.pack(row)) for row in encoded.codes]
    batch = codec.collate([*rows, None])
    assert isinstance(batch, Batch) and batch.size == 7 and batch.missing.tolist() == [6]
    zones = {part.zone for part in batch.groups[0]}
    assert len(zones) > 1, "the noise needs more than the usual zone"
    for part in batch.groups[0]:
        assert part.plane.dtype == torch.int8
        assert part.plane.shape == (len(part.rows), codec._groups[0].space.symbols_in[part.zone])
        assert len(part.outliers.value) == 0 or part.outliers.value.abs().min() > 127
    assert sum(len(part.outliers.value) for part in batch.groups[0]) > 0
    np.testing.assert_array_equal(np.sort(np.concatenate([p.rows for p in batch.groups[0]])), range(6))


def test_a_batch_decodes_as_its_rows_do(codec: Codec, maps: Maps) -> None:
    rows = [codec.unpack(codec.pack(row)) for row in codec.encode([level[:6] for level in maps]).codes]
    together = codec.decode(codec.collate([rows[0], None, *rows[1:]]), "cpu")
    for number, row in enumerate(rows):
        alone = codec.decode([row], "cpu")
        for one, many in zip(alone, together, strict=True):
            row_of_many = many[number + (number > 0)]
            torch.testing.assert_close(one[0], row_of_many, rtol=1e-3, atol=1e-6 * one.abs().max().item())
    assert not any(level[1].any() for level in together)


def test_decoding_is_the_plain_inverse(codec: Codec, maps: Maps) -> None:
    """Against the whole basis, undone in double precision, and SciPy's DCT: nothing is lost ring by ring."""
    import scipy.fft

    encoded = codec.encode([level[:4] for level in maps])
    decoded = codec.decode([codec.unpack(codec.pack(row)) for row in encoded.codes], "cpu")
    space, stats = codec._groups[0].space, codec._stats.on(torch.device("cpu"))
    dense = space.basis.dense().double().numpy()
    for number, row in enumerate(encoded.codes):
        codes = row[: space.symbols].astype(float)
        escapes = codec._layout.escapes(row)
        np.add.at(codes, escapes[:, 0], escapes[:, 1])
        sorted_grid = np.empty(space.symbols)
        sorted_grid[space.order()] = codes * 2 ** (codec._layout.head(row, 0).rung / 4)
        frequencies = (sorted_grid.reshape(-1, 4 * CHANNELS) @ dense)[space.place_on(torch.device("cpu"))]
        z = scipy.fft.idctn(frequencies.reshape(SIDE, SIDE, -1), axes=(0, 1), norm="ortho")
        for level, (mean, scale) in enumerate(stats):
            wanted = z[:, :, level * CHANNELS :][:, :, :CHANNELS] * scale.numpy() + mean.numpy()
            np.testing.assert_allclose(
                decoded[level][number].permute(1, 2, 0), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max()
            )


def test_bf16_operands_change_nothing(codec: Codec, maps: Maps, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU multiplies: operands of bf16, sums and results of fp32."""
    encoded = codec.encode([level[:6] for level in maps])
    rows = [codec.unpack(codec.pack(row)) for row in encoded.codes]
    wanted = codec.decode(rows, "cpu")

    def emulated(codes: torch.Tensor, basis: torch.Tensor, out: torch.Tensor) -> None:
        assert codes.dtype == torch.int8
        torch.mm(codes.bfloat16().float(), basis.bfloat16().float(), out=out)

    monkeypatch.setattr(klt_inverse, "product", emulated)
    for one, other in zip(codec.decode(rows, "cpu"), wanted, strict=True):
        assert torch.equal(one, other) and one.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_decodes_what_the_cpu_does(codec: Codec, maps: Maps) -> None:
    encoded = codec.encode([level[:6] for level in maps])
    rows = [*(codec.unpack(codec.pack(row)) for row in encoded.codes), None]
    there = codec.decode(codec.collate(rows, pinned=True), "cuda")
    for cpu, gpu in zip(codec.decode(rows, "cpu"), there, strict=True):
        torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-4, atol=1e-4)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2))
@settings(max_examples=25)
def test_thin_rows_hold_all_of_their_zone(seed: int, zone: int) -> None:
    random = np.random.default_rng(seed)
    layout, zones = RowLayout(values=50, groups=1, room=8), (10, 30, 50)
    row = np.zeros(layout.symbols, "<i2")
    row[: zones[zone]] = random.choice([0, 1, -127, 127, 128, -128, 32767, -32767], zones[zone])
    layout.write_heads(row[None], 0, np.array([-3]), np.array([zone]))
    wanted = row[:50].astype(float)
    tops = np.flatnonzero(np.abs(row[:50]) == 32767)[:8]
    more = np.sign(row[tops]) * random.integers(1, 2**20, len(tops))
    layout.write_escapes(row, np.stack([tops, more], 1))
    wanted[tops] += more
    (piece,) = thin(row, layout, [(0, zones)])
    found = piece.plane.astype(float)
    found[piece.symbol] += piece.value
    np.testing.assert_array_equal(found, wanted[: zones[zone]].astype(np.float32))
    assert piece.head.rung == -3 and len(piece.plane) == zones[zone]


def test_rows_that_make_no_sense_are_refused() -> None:
    layout = RowLayout(values=50, groups=1, room=8)
    row = np.zeros(layout.symbols, "<i2")
    row[51] = 3
    with pytest.raises(FormatError, match="zone 3 of 3"):
        thin(row, layout, [(0, (10, 30, 50))])
    row[51] = 2
    layout.write_escapes(row, np.array([[7, 5]]))
    with pytest.raises(FormatError, match="escapes what is no code"):
        thin(row, layout, [(0, (10, 30, 50))])
