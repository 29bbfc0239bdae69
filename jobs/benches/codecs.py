"""How many bits does a value take at which cosine, beside what theory allows, and what does a sample cost?"""

from __future__ import annotations

from jobs.benches.material import Material, described, klt
from jobs.benches.measured import Measured
from jobs.benches.studied import Studied
from jobs.benches.table import Asked, Row, Section
from pipeline.macs import StudentSize, decode_budgets, step_macs
from storage.config import CodecConfig

ASKED_HARD4 = {0.99: 1.75, 0.999: 3.40}
ASKED_PHOTOS_MEAN = {0.99: 0.25, 0.995: 0.50}
ASKED_PHOTOS_EVERY = {0.99: 0.40, 0.995: 0.75}
GUESSES, AIM = 3, 5e-6
FIDELITY = 0.995
"""What the default recipe asks."""
PLAIN = (CodecConfig(name="int8"), CodecConfig(name="f16"))


def run(material: Material) -> list[Section]:
    """Bits on both sets, then the costs."""
    return [_hard4(material), _photos(material), _costs(material)]


def _hard4(material: Material) -> Section:
    studied, rows = material.hard4, []
    for cosine in (0.99, 0.995, 0.999):
        limit = material.hard4_source.rate(cosine)
        for basis, lossless in (("joint", "pcodec"), ("separable", "pcodec"), ("joint", "zstd")):
            config = klt(cosine, basis=basis, lossless=lossless)
            best = (basis, lossless) == ("joint", "pcodec")
            asked = Asked(ASKED_HARD4[cosine], "ours", "most") if best and cosine in ASKED_HARD4 else None
            rows.append(_bits(material, studied, config, limit=limit, asked=asked))
    rows += [*_within_budgets(material, studied), *_plain(material, studied)]
    notes = [
        "auto: as the default recipe has it, within DINOv2's share of the decode budget beside CLIP and SAM",
        "every level of every sample reaches the asked cosine; cosines are measured again in NumPy, fp64",
        f"{studied.calibrated} maps calibrate, {len(studied.test[0])} others are measured; "
        "R(D) is that of the true covariance over levels, channels and frequencies",
        "R(D) of the calibrated basis, by the variances per component and ring that it leaves: "
        + ", ".join(f"{studied.rate_of_basis(klt(c), c):.2f} at {c:g}" for c in (0.99, 0.995, 0.999)),
    ]
    return Section("bits per value on HARD4", rows, notes)


def _photos(material: Material) -> Section:
    studied, rows = material.photos, []
    for cosine in (0.99, 0.995):
        limit = studied.rate_of_basis(klt(cosine), cosine)
        asked = Asked(ASKED_PHOTOS_MEAN[cosine], "ours", "most")
        rows.append(_mean_row(material, studied, cosine, limit, asked))
        every = Asked(ASKED_PHOTOS_EVERY[cosine], "ours", "most")
        for basis, lossless in (("joint", "pcodec"), ("separable", "pcodec"), ("joint", "zstd")):
            best = (basis, lossless) == ("joint", "pcodec")
            config = klt(cosine, basis=basis, lossless=lossless)
            rows.append(_bits(material, studied, config, limit=limit, asked=every if best else None))
    rows += [*_within_budgets(material, studied), *_plain(material, studied)]
    notes = [
        f"crops of {studied.calibrated} photos calibrate, of {len(studied.test[0])} others are measured: "
        f"{material.ask.photos_are}",
        "'mean' asks less of every sample, until the mean over samples and levels is the cosine",
        "R(D) is that of the variances per component and ring that the calibrated basis leaves",
    ]
    return Section(f"bits per value on {studied.name}, random weights, photos", rows, notes)


def _bits(
    material: Material, studied: Studied, config: CodecConfig, *, limit: float | None, asked: Asked | None
) -> Row:
    found = material.measured(studied, config)
    what = f"{described(config)}, every level"
    other = "" if limit is None else "R(D)"
    return Row(what, found.bits, "bits", other, limit, asked, found.said)


def _plain(material: Material, studied: Studied) -> list[Row]:
    return [_bits(material, studied, config, limit=None, asked=None) for config in PLAIN]


def _within_budgets(material: Material, studied: Studied) -> list[Row]:
    """What the default recipe makes of it: any basis, cut until decoding fits the teacher's share."""
    rows, config = [], klt(FIDELITY, basis="auto")
    for where, budget in default_budgets().items():
        found = material.measured(studied, config, budget_gmac=budget)
        macs = f"{found.codec.decode_macs / 1e9:.3g} of {budget:.3g} GMAC"
        what = f"{described(config)}, every level, {where}"
        rows.append(Row(what, found.bits, "bits", remarks=f"{found.said}; {macs}"))
    return rows


def default_budgets() -> dict[str, float]:
    """Where the maps of the ViT-B committee are stored -> what decoding DINOv2's may take, GMAC."""
    step = step_macs(StudentSize(768, 12, 16), 384, [768] * 3)
    grids = {"SAM pooled": (24, 24, 24), "SAM on 64x64": (27, 24, 64)}
    budgets = {}
    for where, (dino, clip, sam) in grids.items():
        values = {"dino": dino**2, "clip": clip**2, "sam": sam**2}
        budgets[where] = decode_budgets(values, asked_gmac=0, step=step)["dino"]
    return budgets


def _mean_row(material: Material, studied: Studied, cosine: float, limit: float, asked: Asked) -> Row:
    found, floor = _mean_reaches(material, studied, cosine)
    remarks = f"every level asked {floor:.4f}; {found.said}"
    return Row(f"klt joint + pcodec, mean {cosine:g}", found.bits, "bits", "R(D)", limit, asked, remarks)


def _mean_reaches(material: Material, studied: Studied, cosine: float) -> tuple[Measured, float]:
    """The codec whose cosines have the mean `cosine`, and what it asks of every level.

    What is lost grows in proportion to what may be lost, so that three guesses come within 1e-5.
    """
    usual = klt(cosine)
    best, floor = material.measured(studied, usual), cosine
    found, asked = best, cosine
    for _ in range(GUESSES):
        share = (1 - found.cosines.mean()) / (1 - asked)
        asked = round(float(1 - (1 - cosine - AIM) / share), 6)
        found = material.measured(studied, klt(asked), calibrated_for=usual)
        if found.cosines.mean() >= cosine and found.bits < best.bits:
            best, floor = found, asked
    return best, floor


def _costs(material: Material) -> Section:
    studied, rows = material.photos, []
    for config in (klt(0.995), klt(0.995, basis="separable"), klt(0.995, lossless="zstd"), *PLAIN):
        found, name = material.measured(studied, config), described(config)
        steps = {"encode": found.encode_s, "lossless stage": found.pack_s, "unpack": found.unpack_s}
        said = ", ".join(f"{step} {1e3 * seconds:.3g} ms" for step, seconds in steps.items())
        said += f"; {found.codec.decode_macs / 1e9:.3g} GMAC, {found.peak_bytes / 1e6:.3g} MB at its peak"
        rows.append(Row(f"{name}: decode", 1e3 * found.decode_s, "ms", remarks=said))
    notes = [
        f"of one CPU core, a sample; decoded on {material.ask.device}; the peak is of decoding one sample"
    ]
    return Section(f"what one sample of {studied.name} costs", rows, notes)
