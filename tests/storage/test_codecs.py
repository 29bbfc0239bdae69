"""Codecs: against NumPy in double precision, through records and back, and what they refuse."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numcodecs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from storage.codecs import Calibrator, Codec, load_stats, make_codec, save_stats
from storage.config import CodecConfig
from storage.containers.base import has_crc
from storage.errors import FormatError

SHAPES = ((6, 2, 3), (5, 4, 4))


def maps(seed: int = 0, batch: int = 4) -> list[torch.Tensor]:
    """Maps whose channels differ in mean and spread, one of them a far outlier."""
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for channels, height, width in SHAPES:
        spread = torch.logspace(-2, 2, channels).view(-1, 1, 1)
        levels.append(torch.randn(batch, channels, height, width, generator=generator) * spread + 7 * spread)
    return levels


def stats() -> dict[str, torch.Tensor]:
    """Calibrated on other maps than those encoded."""
    calibrator = Calibrator(SHAPES)
    for seed in (1, 2):
        calibrator.update(maps(seed, 16))
    return calibrator.finish()


@pytest.fixture(
    params=[(name, stage) for name in ("f16", "int8") for stage in ("none", "zstd")], ids="+".join
)
def codec(request: pytest.FixtureRequest) -> Codec:
    name, stage = request.param
    return make_codec(CodecConfig(name=name, lossless=stage), SHAPES, stats())


def oracle_cosine(first: np.ndarray, second: np.ndarray, level: int) -> np.ndarray:
    """Cosine of z-scored flattened maps [B, C, h, w], in double precision."""
    calibrated = stats()
    mean, scale = (
        calibrated[f"{name}.{level}"].double().numpy()[:, None, None] for name in ("mean", "scale")
    )
    a, b = (((x.astype(np.float64) - mean) / scale).reshape(len(x), -1) for x in (first, second))
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_fidelity_is_that_of_what_decodes(codec: Codec) -> None:
    levels = maps()
    encoded = codec.encode(levels)
    assert encoded.reasons == [None] * 4
    decoded = codec.decode([codec.unpack(codec.pack(row)) for row in encoded.codes], "cpu")
    for number, (level, back) in enumerate(zip(levels, decoded, strict=True)):
        assert back.shape == level.shape and back.dtype == torch.float32
        wanted = oracle_cosine(level.numpy(), back.numpy(), number)
        np.testing.assert_allclose(encoded.quality.fidelity[:, number], wanted, atol=2e-7)
        assert wanted.min() > (0.99999 if codec.name == "f16" else 0.999)


def test_f16_is_the_value_rounded_token_by_token() -> None:
    codec = make_codec(CodecConfig(name="f16"), SHAPES, {})
    levels = maps()
    encoded = codec.encode(levels)
    flat = [level.numpy().astype(np.float16).transpose(0, 2, 3, 1).reshape(4, -1) for level in levels]
    np.testing.assert_array_equal(encoded.codes, np.concatenate(flat, 1))
    for level, back in zip(levels, codec.decode(list(encoded.codes), "cpu"), strict=True):
        np.testing.assert_array_equal(back.numpy(), level.numpy().astype(np.float16).astype(np.float32))


def test_int8_is_the_z_score_by_the_tokens_largest() -> None:
    codec, calibrated, levels = make_codec(CodecConfig(name="int8"), SHAPES, stats()), stats(), maps()
    codes, steps = [], []
    for number, level in enumerate(levels):
        tokens = level.numpy().transpose(0, 2, 3, 1).reshape(4, -1, level.shape[1])
        z = (tokens - calibrated[f"mean.{number}"].numpy()) / calibrated[f"scale.{number}"].numpy()
        step = np.abs(z).max(2, keepdims=True) / np.float32(127)
        codes.append(np.rint(z / step).astype(np.int8).reshape(4, -1))
        steps.append(step.astype("<f4").reshape(4, -1).view(np.int8))
    np.testing.assert_array_equal(codec.encode(levels).codes, np.concatenate([*codes, *steps], 1))


def test_decoding_is_channels_last_and_copies_nothing_twice(codec: Codec) -> None:
    for level in codec.decode(list(codec.encode(maps()).codes), "cpu"):
        assert level.is_contiguous(memory_format=torch.channels_last)


def test_missing_rows_decode_to_zeros(codec: Codec) -> None:
    codes = list(codec.encode(maps()).codes)
    whole = codec.decode(codes, "cpu")
    holed = codec.decode([codes[0], None, codes[2], None], "cpu")
    for all_rows, some in zip(whole, holed, strict=True):
        assert torch.equal(some[::2], all_rows[::2])
        assert not some[1::2].any()
    assert not any(level.any() for level in codec.decode([None], "cpu"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_content_is_refused_row_by_row_with_its_reason(codec: Codec, value: float) -> None:
    levels = maps()
    levels[1][2, 3, 1, 1] = value
    encoded = codec.encode(levels)
    assert [reason is None for reason in encoded.reasons] == [True, True, False, True]
    assert "level 1 holds" in encoded.reasons[2]
    assert (
        np.isnan(encoded.quality.fidelity[2]).all() and np.isfinite(encoded.quality.fidelity[[0, 1, 3]]).all()
    )
    clean = codec.encode(maps())
    np.testing.assert_array_equal(encoded.codes[[0, 1, 3]], clean.codes[[0, 1, 3]])


def test_f16_refuses_what_half_precision_cannot_hold() -> None:
    codec = make_codec(CodecConfig(name="f16"), SHAPES, {})
    levels = maps()
    levels[0][0, 0, 0, 0], levels[0][1, 0, 0, 0] = 65504, -65505
    reasons = codec.encode(levels).reasons
    assert (
        reasons[0] is None
        and reasons[1] == "level 0 holds values of magnitude 65505, too large for the codec"
    )


def test_rows_do_not_depend_on_their_batch(codec: Codec) -> None:
    levels = maps()
    whole = codec.encode(levels)
    for row in range(4):
        alone = codec.encode([level[row : row + 1] for level in levels])
        np.testing.assert_array_equal(alone.codes[0], whole.codes[row])


def test_half_precision_and_strided_inputs_are_taken(codec: Codec) -> None:
    levels = [level.to(torch.bfloat16) for level in maps()]
    wanted = codec.encode([level.float() for level in levels])
    strided = [level.contiguous(memory_format=torch.channels_last) for level in levels]
    np.testing.assert_array_equal(codec.encode(strided).codes, wanted.codes)


def test_flat_maps_are_kept(codec: Codec) -> None:
    """All zero, all equal to the mean, as small as numbers get, and far from all that was calibrated."""
    calibrated = stats()
    for fill in (0.0, 1e-40, 3e4, None):
        levels = [torch.zeros(2, *shape) for shape in SHAPES]
        for number, level in enumerate(levels):
            level += calibrated[f"mean.{number}"].view(-1, 1, 1) if fill is None else fill
        encoded = codec.encode(levels)
        assert encoded.reasons == [None, None]
        for number, back in enumerate(codec.decode(list(encoded.codes), "cpu")):
            scale = calibrated[f"scale.{number}"].view(-1, 1, 1)
            z = (levels[number] - calibrated[f"mean.{number}"].view(-1, 1, 1)) / scale
            # half a step of int8, or the relative precision of fp16, in z-scores of the token
            allowed = z.abs().amax(1, keepdim=True) / 253 + 0.01
            assert ((back - levels[number]).abs() / scale <= allowed).all()


def test_records_through_threads(codec: Codec) -> None:
    rows = list(codec.encode(maps(batch=16)).codes)
    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(codec.pack, rows))
        back = list(pool.map(codec.unpack, records))
    assert records == [codec.pack(row) for row in rows]
    for row, again in zip(rows, back, strict=True):
        np.testing.assert_array_equal(again, row)
        assert again.dtype == codec.symbol_dtype


@given(st.sampled_from(["none", "zstd"]), st.integers(1, 19), hnp.arrays(np.int8, 6 + 4 * 2))
def test_any_codes_come_back_from_their_record(stage: str, level: int, codes: np.ndarray) -> None:
    shapes = ((3, 1, 2),)
    tensors = {"mean.0": torch.zeros(3), "scale.0": torch.ones(3)}
    codec = make_codec(CodecConfig(name="int8", lossless=stage, level=level), shapes, tensors)
    record = codec.pack(codes)
    assert has_crc(record)
    np.testing.assert_array_equal(codec.unpack(record), codes)
    payload = record[:-4] if stage == "none" else numcodecs.Zstd().decode(record[:-4])
    assert bytes(payload) == codes.tobytes(), "a record opens without Cutler"


def test_other_codecs_records_are_refused(codec: Codec) -> None:
    for record in (codec.pack(codec.encode(maps()).codes[0])[3:], b"", b"\0\0\0\0", b"not a record at all"):
        with pytest.raises(FormatError, match="another codec"):
            codec.unpack(record)
    with pytest.raises(ValueError, match="a record holds"):
        codec.pack(np.zeros(codec.symbols, np.int32))


def test_other_shapes_are_refused(codec: Codec) -> None:
    levels = maps()
    for wrong in (levels[:1], levels[::-1], [levels[0], levels[1][:2]]):
        with pytest.raises(ValueError, match="was made for levels"):
            codec.encode(wrong)


def test_int8_needs_its_statistics() -> None:
    for tensors in ({}, {**stats(), "scale.1": torch.ones(3)}):
        with pytest.raises(ValueError, match=r"int8 needs the tensor .* calibrate"):
            make_codec(CodecConfig(name="int8"), SHAPES, tensors)


def test_calibration_is_numpys() -> None:
    found = stats()
    for number in range(2):
        tokens = np.concatenate([maps(seed, 16)[number].double().numpy() for seed in (1, 2)])
        np.testing.assert_allclose(found[f"mean.{number}"], tokens.mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(found[f"scale.{number}"], tokens.std((0, 2, 3)), rtol=1e-6)
        assert found[f"mean.{number}"].dtype == torch.float32


def test_calibration_of_constant_channels_and_broken_images() -> None:
    levels = [torch.full((3, 2, 2, 2), 5.0)]
    levels[0][:, 1] += torch.arange(3).view(3, 1, 1)
    levels[0][1, 0, 0, 0] = torch.nan
    calibrator = Calibrator([(2, 2, 2)])
    calibrator.update(levels)
    found = calibrator.finish()
    assert found["mean.0"].tolist() == [5, 6] and found["scale.0"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="no finite map of level 0"):
        Calibrator([(2, 2, 2)]).finish()


def test_statistics_are_the_same_bytes_and_come_back() -> None:
    found = stats()
    data = save_stats(found)
    assert save_stats(dict(reversed(found.items()))) == data
    back = load_stats(data)
    assert back.keys() == found.keys() and all(torch.equal(back[name], found[name]) for name in found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_encodes_and_decodes_as_the_cpu_does(codec: Codec) -> None:
    levels = maps()
    here, there = codec.encode(levels), codec.encode([level.cuda() for level in levels])
    # a division may round the other way: a step of one code, in few places
    assert np.abs(here.codes[:, :32].astype(np.float32) - there.codes[:, :32]).max() <= 1
    np.testing.assert_allclose(there.quality.fidelity, here.quality.fidelity, atol=1e-6)
    codes = [*here.codes, None]
    for cpu, gpu in zip(codec.decode(codes, "cpu"), codec.decode(codes, "cuda"), strict=True):
        torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-6, atol=1e-5)
