"""Which steps are measured: students, teachers' grids, codecs and maps."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import torch

from jobs.benches.ask import Ask
from jobs.benches.crops import Crops, RandomTeacher
from jobs.benches.hard4 import Hard4
from jobs.benches.made_cache import Filling
from jobs.benches.material import Material
from pipeline.macs import StudentSize, decode_budgets, step_macs
from storage.codecs import make_calibrator, make_codec
from storage.config import CodecConfig
from student.archs import arch_of

log = logging.getLogger(__name__)
KLT = CodecConfig(name="klt", calibration_tokens=64**2)
"""The default, but for calibrating on all tokens of a map: there are few maps."""
F16 = CodecConfig(name="f16")
REAL = {"dinov2": 27, "clip": 24, "sam": 64}
"""Teacher -> side of its grid at 384 px (SAM at 1024)."""
MINI = ("mini_dinov2", "mini_clip", "mini_sam")
DISTINCT, REAL_KNOWN, MINI_KNOWN = 4, 16, 32
"""Maps in the cache, and maps that codecs are calibrated on."""


@dataclass(frozen=True)
class Case:
    """One student and its cache."""

    name: str
    said: str
    """What decoding takes, for people."""
    student: str
    crop: int
    batch: int
    jpegs: list[bytes]
    fillings: Mapping[str, Filling]
    asked: float
    steps: int
    """Counted steps of a block."""
    blocks: int
    """Blocks of each side."""

    @property
    def distinct(self) -> int:
        """Different maps of a teacher."""
        return len(next(iter(self.fillings.values())).levels[0])

    @property
    def samples(self) -> int:
        """Of the cache: enough for two shards in a window."""
        return 4 * self.batch


def cases(material: Material) -> Iterator[Case]:
    """One at a time: a case's maps take gigabytes."""
    yield _mini(material.ask, KLT)
    yield _mini(material.ask, F16)
    if material.ask.quick:
        return
    jpegs = material.jpegs(DISTINCT)
    pooled = {name: min(side, 24) for name, side in REAL.items()}
    yield _real("real size, grid = student", pooled, jpegs, asked=0.95)
    yield _real("real size, SAM on its own 64x64", REAL, jpegs, asked=0.85)


def _mini(ask: Ask, codec: CodecConfig) -> Case:
    """The recipe of that name on photos: its teachers' maps of real crops."""
    crops = Crops(replace(ask, quick=True))
    shown, known = list(islice(crops.test(), DISTINCT)), list(islice(crops.calibration(), MINI_KNOWN))
    maps = {}
    for name in MINI:
        teacher = RandomTeacher(name, "cpu")
        rows = [teacher.maps(jpeg) for jpeg in (*known, *shown)]
        maps[name] = [torch.cat(level) for level in zip(*rows, strict=True)]
    steps, blocks = (6, 1) if ask.quick else (10, 12)
    fillings = _fillings("mini", 112, maps, len(shown), codec)
    return Case(
        f"recipe mini, {codec.name}", _said(fillings), "mini", 112, 16, shown, fillings, 0.95, steps, blocks
    )


def _real(name: str, grids: Mapping[str, int], jpegs: list[bytes], *, asked: float) -> Case:
    """ViT-B everywhere; maps with HARD4's statistics, which are harder than random teachers'."""
    maps = {}
    for seed, (teacher, side) in enumerate(grids.items()):
        log.info("%s: maps of %s, %dx%d", name, teacher, side, side)
        maps[teacher] = Hard4(seed, side=side).maps(REAL_KNOWN + DISTINCT)
    fillings = _fillings("vit_base_patch16", 384, maps, DISTINCT, KLT)
    return Case(name, _said(fillings), "vit_base_patch16", 384, 2, jpegs, fillings, asked, 3, 3)


def _fillings(
    student: str, crop: int, maps: Mapping[str, list[torch.Tensor]], shown: int, codec: CodecConfig
) -> dict[str, Filling]:
    """Each teacher's codec, calibrated on all maps but the last `shown`, and those."""
    arch = arch_of(student)
    values = {name: sum(level[0].numel() for level in levels) for name, levels in maps.items()}
    widths = [levels[0].shape[1] for levels in maps.values()]
    step = step_macs(StudentSize(arch.width, arch.depth, arch.patch), crop, widths)
    budgets = decode_budgets(values, asked_gmac=codec.decode_gmac_per_image, step=step)
    fillings = {}
    for name, levels in maps.items():
        calibrator = make_calibrator(codec, [level.shape[1:] for level in levels], budget_gmac=budgets[name])
        calibrator.update([level[:-shown] for level in levels])
        log.info("calibrating %s of %s, %.2f GMAC an image allowed", codec.name, name, budgets[name])
        fillings[name] = Filling(codec, calibrator.finish(), [level[-shown:] for level in levels])
    return fillings


def _said(fillings: Mapping[str, Filling]) -> str:
    macs = sum(make_codec(f.config, f.shapes, f.stats).decode_macs for f in fillings.values())
    return f"decoding takes {macs / 1e9:.3g} GMAC an image"
