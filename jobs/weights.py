"""`weights`: stage the teachers' weights once, so that every worker runs offline and from the same bytes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli import load_recipe, parse
from storage.config import Frozen

log = logging.getLogger(__name__)


class WeightsOptions(Frozen):
    """Download (or take from files in DIR) weights once, with digests; then --committee.weights DIR."""

    dir: Annotated[Path, tyro.conf.Positional]
    """Folder to stage into. A checkpoint saved there by hand as <timm id>.safetensors is taken as it is."""
    recipe: str = "nyud_vitb"
    """Recipe whose committee, and whose student's pretrained stem, are staged."""
    teachers: tuple[str, ...] = ()
    """Teachers to stage instead of the recipe's."""
    weights: str = "pretrained"
    """pretrained, or random:<seed> to try things out."""


def main(argv: list[str]) -> int:
    """Command entry."""
    options = parse("weights", WeightsOptions, argv, recipe=False).options
    from pipeline.teachers.weights import stage_weights

    stem = "" if options.teachers else stem_of(options.recipe)
    names = options.teachers or (*load_recipe(options.recipe).committee.teachers, *([stem] if stem else []))
    for name, digest in stage_weights(dict.fromkeys(names), options.dir, source=options.weights).items():
        log.info("%-16s %s", name, digest)
    log.info("teachers: --committee.weights %s", options.dir)
    if stem:
        log.info("student:  --student.weights %s", options.dir / f"{stem}.safetensors")
    return 0


def stem_of(recipe: str) -> str:
    """The name, in the table of teachers, of the ViT that the recipe's student starts from; empty: none."""
    from pipeline.teachers.spec import SPECS
    from student.archs import arch_of

    wanted = arch_of(load_recipe(recipe).student.arch).timm_id
    return next((name for name, spec in SPECS.items() if spec.timm_id == wanted), "")
