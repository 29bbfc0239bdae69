"""The planner's numbers against the paper's, PyTorch's own counter, real records and plain arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import CommitteeConfig, PlanConfig
from pipeline.macs import StudentSize, student_macs, teacher_macs
from pipeline.plan import MeasuredColumn, Plan, PlanInput, plan
from pipeline.plan_answer import CodecRow
from pipeline.plan_rates import KLT_BITS, CodecChoice, choices, klt_bits, record_bytes
from pipeline.plan_table import format_plan
from pipeline.teachers.spec import spec_of
from storage.codecs.calibration import Calibrator
from storage.codecs.spec import CODECS, LevelShape, make_codec
from storage.config import CacheConfig, CodecConfig, ViewConfig

IMAGENET = 1_281_167
BASE = ("dinov2_b14", "openclip_b16", "sam_b16")
LARGE = ("dinov2_l14", "openclip_l14", "sam_l16")
VIT_B, VIT_L = StudentSize(width=768, depth=12), StudentSize(width=1024, depth=24)


def asked(teachers: tuple[str, ...] = BASE, student: StudentSize = VIT_B, **assume: float) -> PlanInput:
    committee = CommitteeConfig(teachers=teachers)
    return PlanInput(IMAGENET, ViewConfig(), committee, CacheConfig(), student, 30, PlanConfig(**assume))


def codec_row(answer: Plan, codec: str, grid: str = "teacher") -> CodecRow:
    return next(row for row in answer.codecs if (row.codec, row.grid) == (codec, grid))


def with_codec(start: PlanInput, **codec: object) -> PlanInput:
    return replace(start, cache=CacheConfig(codec=CodecConfig(**codec)))


@pytest.mark.parametrize(
    ("teachers", "megabytes", "terabytes"), [(BASE, 33.2, 42.5), (LARGE, 45.5, 58.3)], ids=["base", "large"]
)
def test_fp16_sizes_of_the_papers_committees(
    teachers: tuple[str, ...], megabytes: float, terabytes: float
) -> None:
    answer = plan(asked(teachers))
    per_image = sum(row.bytes_per_image["teacher"]["f16"] for row in answer.rows)
    assert per_image / 1e6 == pytest.approx(megabytes, abs=0.05)
    assert per_image * IMAGENET / 1e12 == pytest.approx(terabytes, abs=0.05)
    assert codec_row(answer, "f16").terabytes == pytest.approx(2 * terabytes, abs=0.1)


def test_values_grids_and_shares_of_the_base_committee() -> None:
    rows = {row.teacher: row for row in plan(asked()).rows}
    assert [row.grid for row in rows.values()] == [(27, 27), (24, 24), (64, 64)]
    values = sum(row.values_per_image["teacher"] for row in rows.values())
    assert values == 4 * 768 * (27**2 + 24**2 + 64**2) == 16_591_872
    assert rows["sam_b16"].values_per_image["teacher"] / values == pytest.approx(0.76, abs=0.005)


def test_the_students_grid_is_a_third_of_the_bytes() -> None:
    answer = plan(asked())
    assert [row.student_grid for row in answer.rows] == [(24, 24)] * 3
    both = [codec_row(answer, "klt 0.995", grid) for grid in ("student", "teacher")]
    values = 3 * 4 * 768 * 24**2 / (4 * 768 * (27**2 + 24**2 + 64**2))
    assert both[0].terabytes / both[1].terabytes == pytest.approx(values, rel=1e-3)
    assert both[0].decode_gmac < both[1].decode_gmac
    odd = replace(asked(), views=ViewConfig(size=390))
    assert {row.grid for row in plan(odd).codecs} == {"teacher"} and plan(odd).rows[0].student_grid is None
    with pytest.raises(ValueError, match=r"390 is no multiple of the student's patch 16"):
        plan(with_codec(odd, grid="student"))


@pytest.mark.parametrize(("teacher", "gmac"), [("dinov2_l14", 221), ("openclip_l14", 221), ("sam_l16", 1308)])
def test_teacher_macs_of_paper_table_21(teacher: str, gmac: float) -> None:
    assert teacher_macs(spec_of(teacher), 384).linear / 1e9 == pytest.approx(gmac, abs=0.6)


def test_student_macs_of_the_paper() -> None:
    tas, adapters = student_macs(VIT_B, 384, [768] * 3)
    assert tas.total / 1e9 == pytest.approx(55.5, abs=0.05)
    assert tas.linear / 1e9 == pytest.approx(49.5, abs=0.2)
    # Table 22, at 512 px: 88 G, 100 G with three branches; Table 21, ViT-L at 384 px: 198 G
    tas, adapters = student_macs(VIT_B, 512, [768] * 3)
    assert tas.linear / 1e9 == pytest.approx(88, abs=0.5)
    assert (tas.linear + adapters.linear) / 1e9 == pytest.approx(100, abs=0.6)
    tas, adapters = student_macs(VIT_L, 384, [1024] * 3)
    assert (tas.linear + adapters.linear) / 1e9 == pytest.approx(198, abs=1)


def counted(model: torch.nn.Module, size: int) -> float:
    """MACs of the last block's output by PyTorch's counter, on the meta device: nothing is computed."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.forward_intermediates(
            torch.empty(1, 3, size, size), indices=1, norm=False, intermediates_only=True
        )
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("teacher", "size"), [("dinov2_b14", 384), ("openclip_b16", 384), ("siglip_b16", 384), ("sam_b16", 1024)]
)
def test_teacher_macs_agree_with_pytorchs_counter(teacher: str, size: int) -> None:
    spec = spec_of(teacher)
    with torch.device("meta"):
        model = timm.create_model(spec.timm_id.partition(".")[0], img_size=size).eval()
    # SAM's relative positions, which we leave out, are counted there
    assert teacher_macs(spec, 384).total == pytest.approx(counted(model, size), rel=0.015)


@pytest.mark.parametrize("codec", ["f16", "int8"])
def test_record_bytes_are_those_of_real_records(codec: str) -> None:
    shapes = [LevelShape(6, 3, 5), LevelShape(4, 2, 2)]
    levels = [torch.randn(2, *shape) for shape in shapes]
    calibrator = Calibrator(shapes)
    calibrator.update(levels)
    real = make_codec(CodecConfig(name=codec), shapes, calibrator.finish())
    (first, _) = (real.pack(np.ascontiguousarray(row)) for row in real.encode(levels).codes)
    choice = CodecChoice(codec, "none")
    assert record_bytes(choice, [tuple(shape) for shape in shapes], bits=0.0) == len(first)


def test_every_codec_is_planned_and_the_recipes_own_among_them() -> None:
    assert {choice.name for choice in choices(CodecConfig())} == set(CODECS)
    shown = choices(CodecConfig(name="klt", fidelity=0.98, lossless="zstd"))
    assert [choice.label for choice in shown][-2:] == ["klt 0.999", "klt 0.98"] and shown[
        -1
    ].lossless == "zstd"
    same = choices(CodecConfig(name="klt", fidelity=0.99, lossless="zstd"))
    assert [choice.lossless for choice in same] == ["none", "none", "zstd", "pcodec", "pcodec"]


@pytest.mark.parametrize("basis", ["joint", "separable"])
def test_klt_bits_are_the_tables_and_rise_with_fidelity_between(basis: str) -> None:
    for fidelity, bits in KLT_BITS[basis].items():
        assert klt_bits(fidelity, basis) == pytest.approx(bits)
    bits = [
        klt_bits(fidelity, basis) for fidelity in (0.5, 0.9, 0.98, 0.99, 0.993, 0.995, 0.997, 0.999, 0.9999)
    ]
    assert bits == sorted(bits) and bits[0] > 0


def test_read_rate_at_a_given_speed() -> None:
    crop = 384**2 * 0.45 / 1e6
    rate = codec_row(plan(asked(images_per_s=1000)), "f16").read_gb_per_s
    assert rate == pytest.approx(33.2 + crop, abs=0.05)


def test_cores_are_those_that_unpack_the_codes_at_that_speed() -> None:
    row = codec_row(plan(asked(images_per_s=800, gpus=8)), "klt 0.995")
    # 100 images a second for each GPU, 33.2 MB of fp16 each at 1.66 GB/s a core, and crops of 147,456 pixels
    assert row.cores_per_gpu == pytest.approx(100 * (0.03318 / 1.66 + 147_456 / 1.5e8), rel=1e-3)
    slow = codec_row(plan(asked(images_per_s=800, cores_per_gpu=0.1, read_gb_per_s=1e9)), "klt 0.995")
    assert slow.limit == "unpacking"
    seconds = IMAGENET * (0.03318 / 1.66 + 147_456 / 1.5e8) / (8 * 0.1)
    assert slow.epoch_gpu_hours == pytest.approx(8 * seconds / 3600, rel=1e-3)
    assert "unpacking, cores/GPU" in format_plan(plan(asked()))


def test_decoding_costs_a_measured_share_or_the_budget() -> None:
    answer = plan(with_codec(asked(), name="klt"))
    assert answer.decode_budget_gmac == pytest.approx(0.05 * answer.step_gmac)
    row = answer.chosen
    assert row.decode_gmac == pytest.approx(answer.decode_budget_gmac) and row.decode_share == pytest.approx(
        0.05
    )
    free = plan(with_codec(asked(), name="klt", decode_gmac_per_image=1e6)).chosen
    assert free.decode_gmac == pytest.approx(5401 * 3072**2 / 1e9), "the joint inverse of every component"
    assert free.bits_per_value == pytest.approx(KLT_BITS["joint"][0.995], rel=1e-3)
    assert row.bits_per_value == pytest.approx(KLT_BITS["separable"][0.995], rel=1e-3)
    trained = answer.student_gpu_hours_per_epoch
    assert free.epoch_gpu_hours >= trained * (1 + free.decode_share) * (1 - 1e-9)


def test_measured_bits_replace_the_tables_and_scale_it() -> None:
    klt = CodecChoice("klt", "pcodec", 0.995)
    measured = {name: [MeasuredColumn(klt, "teacher", 0.5, 2.0)] for name in BASE}
    answer = plan(replace(with_codec(asked(), name="klt"), measured=measured))
    assert (answer.chosen.source, answer.chosen.decode_gmac) == ("measured", 6.0)
    assert answer.chosen.bits_per_value == pytest.approx(0.5, rel=1e-3)
    table = KLT_BITS["separable"]
    finer = codec_row(answer, "klt 0.999")
    assert finer.source == "scaled"
    assert finer.bits_per_value == pytest.approx(0.5 * table[0.999] / table[0.995], rel=1e-3)
    assert codec_row(answer, "klt 0.995", "student").source == "scaled"
    assert codec_row(answer, "int8").source == "exact"
    only = plan(replace(with_codec(asked(), name="klt"), measured={"sam_b16": measured["sam_b16"]}))
    assert only.chosen.source == "mixed"


def test_prices_and_the_teachers_own_precision_are_said() -> None:
    start = replace(
        with_codec(asked(gpu_hour_usd=2, tb_month_usd=20), name="klt"), bf16_cosine={"sam_b16": 0.9931}
    )
    answer, text = plan(start), format_plan(plan(start))
    assert answer.usd["live"] == pytest.approx(2 * answer.live_gpu_hours)
    stored = answer.chosen.terabytes + answer.crops_terabytes
    assert answer.usd["storage_per_month"] == pytest.approx(20 * stored)
    assert "sam_b16 in bf16 and in fp32 agree to 0.99310, fidelity 0.995 is above that" in text
    assert "not measured" in text and "--measure-bf16" in text and "USD: live teachers" in text
    assert plan(asked()).usd is None


def test_a_network_slower_than_the_disk_is_the_limit() -> None:
    answer = plan(asked(network_gb_per_s=1))
    assert codec_row(answer, "f16").epoch_gpu_hours == pytest.approx(
        10 * codec_row(plan(asked()), "f16").epoch_gpu_hours
    )
    assert "network, GB/s" in format_plan(answer) and "short: " in format_plan(answer)


def test_hours_follow_from_peak_and_utilisation() -> None:
    answer = plan(asked(tflops=100, utilisation=0.5, gpus=4))
    gmac = sum(row.gmac_with_attention for row in answer.rows)
    assert answer.teacher_gpu_hours_per_view == pytest.approx(IMAGENET * 2 * gmac * 1e9 / 50e12 / 3600)
    assert answer.step_gmac == pytest.approx(3 * (55.5 + answer.adapters_gmac), abs=0.2)
    # four GPUs work through an epoch at the speed that the read rates are stated for
    seconds = answer.student_gpu_hours_per_epoch * 3600 / 4
    assert answer.images_per_s == pytest.approx(IMAGENET / seconds)


def test_with_free_reading_the_cache_breaks_even_after_as_many_epochs_as_views() -> None:
    answer = plan(asked(read_gb_per_s=1e9))
    assert codec_row(answer, "f16").break_even_epochs == pytest.approx(2)
    assert codec_row(answer, "f16").epoch_gpu_hours == answer.student_gpu_hours_per_epoch
    saved = (30 - 2) * answer.teacher_gpu_hours_per_view
    assert answer.live_gpu_hours - answer.cached_gpu_hours == pytest.approx(saved)


def test_break_even_is_where_both_ways_cost_the_same() -> None:
    first = plan(asked(LARGE, VIT_L))
    epochs = codec_row(first, "f16").break_even_epochs
    assert epochs > 2
    answer = plan(replace(asked(LARGE, VIT_L), epochs=epochs))
    assert answer.live_gpu_hours == pytest.approx(answer.cached_gpu_hours)


def test_slow_reading_loses_to_live_teachers_and_the_threshold_is_exact() -> None:
    answer = plan(asked(read_gb_per_s=10))
    row = codec_row(answer, "f16")
    assert row.break_even_epochs is None and answer.cached_gpu_hours > answer.live_gpu_hours
    above, below = (
        codec_row(plan(asked(read_gb_per_s=row.pays_above_gb_per_s * k)), "f16") for k in (1.001, 0.999)
    )
    assert above.break_even_epochs is not None and below.break_even_epochs is None
    assert "never" in format_plan(answer) and "live teachers are faster" in format_plan(answer)


def test_shards_hold_one_view_each() -> None:
    small = replace(asked(), images=1000, cache=CacheConfig(samples_per_shard=300))
    answer = plan(small)
    assert (answer.samples, answer.shards) == (2000, 2 * 4)


@pytest.mark.parametrize("teachers", [BASE, LARGE, (*LARGE, "openai_clip_l14", "siglip_l16")])
def test_tables_are_aligned_name_everything_and_fit_a_terminal(teachers: tuple[str, ...]) -> None:
    start = with_codec(asked(teachers, VIT_L, gpu_hour_usd=2), name="klt", fidelity=0.9925)
    text = format_plan(plan(start))
    assert max(map(len, text.splitlines())) <= 120
    table = text.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table] == ["teacher", *teachers, "all"]
    assert all(part in text for part in ("klt 0.9925 *", "f16", "int8", "student's grid"))


def test_a_measured_plan_of_small_numbers_fits_as_well() -> None:
    mini = ("mini_dinov2", "mini_clip", "mini_sam")
    klt = MeasuredColumn(CodecChoice("klt", "pcodec", 0.995), "teacher", 2.28, 0.00123)
    start = with_codec(
        replace(asked(mini, StudentSize(96, 4)), images=50, views=ViewConfig(size=112)), name="klt"
    )
    text = format_plan(plan(replace(start, measured=dict.fromkeys(mini, (klt,)))))
    assert "measured" in text and "scaled" in text and max(map(len, text.splitlines())) <= 120


def test_advice_follows_the_epochs() -> None:
    assert "the cache pays from 12 epochs" in format_plan(plan(asked(LARGE, VIT_L)))
    assert "cheaper below" in format_plan(plan(replace(asked(LARGE, VIT_L), epochs=3)))


def test_json_holds_the_same_numbers() -> None:
    answer = plan(asked())
    doc = json.loads(json.dumps(answer.as_json(), allow_nan=False))
    assert (
        doc["rows"][2]["bytes_per_image"]["teacher"]["f16"]
        == answer.rows[2].bytes_per_image["teacher"]["f16"]
    )
    assert doc["codecs"][0]["break_even_epochs"] is None and doc["assume"]["gpus"] == 8
    assert doc["rows"][0]["grid"] == [27, 27] and doc["rows"][0]["student_grid"] == [24, 24]


def test_empty_and_unknown_are_refused() -> None:
    with pytest.raises(ValueError, match="0 images"):
        plan(replace(asked(), images=0))
    with pytest.raises(ValueError, match="dinov2_b14"):
        plan(asked(("dinov2_b_14",)))


def test_planning_needs_no_torch() -> None:
    code = "import sys, pipeline.plan_table; print('torch' in sys.modules, 'numpy' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
