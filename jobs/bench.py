"""`bench`: how good is the cache on this machine? Tables of ours, the other side and their ratio."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic import Field

from jobs.benches import SECTIONS
from jobs.cli import parse
from jobs.device import Device
from jobs.errors import UsageError, suggestion
from storage.config import Frozen

if TYPE_CHECKING:
    from jobs.benches.ask import Ask
    from jobs.benches.table import Section

log = logging.getLogger(__name__)
LIBRARIES = ("numpy", "torch", "zarr", "numcodecs", "pcodec", "webdataset")


class BenchOptions(Frozen):
    """Measure the cache's codecs, containers, loader and order on this machine, beside other ways."""

    what: Annotated[Literal["cache"], tyro.conf.Positional]
    """What to measure."""
    photos: Path | None = None
    """Folder of photos, a hundred at least; none: crops of a few that scikit-image ships, which are alike."""
    only: str = ""
    """Sections to run, comma-separated: codecs, entropy, containers, loader, step, shuffle, opening."""
    quick: bool = False
    """Small sizes, for a first look in under a minute: no target applies to them."""
    out: Path | None = None
    """Folder for bench.json and bench.md."""
    test_photos: int = Field(24, ge=2)
    """Photos that codecs are measured on."""
    calibration_photos: int = Field(0, ge=0)
    """Other photos that they are calibrated on; 0: all others."""
    calibration_tokens: int = Field(256, ge=1)
    """Tokens of a calibration map that bases are made from."""
    repeats: int = Field(7, ge=1)
    """Timed runs of each way, taken in turn; the median counts."""
    device: Device = "auto"
    """Where maps are decoded: CUDA if there is a GPU, for auto."""


def main(argv: list[str]) -> int:
    """Command entry."""
    options = parse("bench", BenchOptions, argv, recipe=False).options
    names = _chosen(options.only)
    with tempfile.TemporaryDirectory() as folder:
        sections = run(_ask(options, Path(folder)), names)
    if options.out:
        _save(options.out, sections, "python -m jobs bench " + " ".join(_plain(argv)))
    return 0


def run(ask: Ask, names: list[str]) -> list[Section]:
    """Run sections and print each as it is done."""
    from jobs.benches.material import Material

    material, sections = Material(ask), []
    for number, name in enumerate(names, 1):
        log.info("[%d/%d] %s", number, len(names), name)
        start = time.perf_counter()
        for section in importlib.import_module(SECTIONS[name]).run(material):
            sections.append(section.without_targets() if ask.quick else section)
            sys.stdout.write(sections[-1].text() + "\n\n")
            sys.stdout.flush()
        log.info("%s took %.0f s", name, time.perf_counter() - start)
    return sections


def facts() -> dict[str, Any]:
    """What figures depend on, without names of hosts or places."""
    import torch

    known = {
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "python": sys.version.split()[0],
    }
    return known | {library: version(library) for library in LIBRARIES}


def _chosen(only: str) -> list[str]:
    names = [name.strip() for name in only.split(",") if name.strip()] or list(SECTIONS)
    for name in names:
        if name not in SECTIONS:
            known = ", ".join(SECTIONS)
            raise UsageError(f"--only names {name!r}{suggestion(name, list(SECTIONS))}; sections: {known}")
    return names


def _ask(options: BenchOptions, folder: Path) -> Ask:
    from jobs.benches.ask import Ask
    from jobs.device import pick_device

    test = min(options.test_photos, 4) if options.quick else options.test_photos
    calibration = 40 if options.quick else options.calibration_photos
    photos = options.photos
    if photos is not None and not photos.is_dir():
        raise UsageError(f"--photos {photos} is no folder; name one that holds photos")
    if photos is None:
        from jobs.photos import write_photos

        photos, _ = write_photos(folder)
    return Ask(
        photos=photos,
        photos_are="given photos"
        if options.photos
        else "crops of a few photos that scikit-image ships, alike",
        test_photos=test,
        calibration_photos=calibration,
        calibration_tokens=options.calibration_tokens,
        repeats=2 if options.quick else options.repeats,
        device=pick_device(options.device),
        quick=options.quick,
    )


def _save(out: Path, sections: list[Section], command: str) -> None:
    from jobs.benches.table import page
    from storage.atomic import write_json

    out.mkdir(parents=True, exist_ok=True)
    document = {"command": command, "facts": facts(), "sections": [s.as_json() for s in sections]}
    write_json(out / "bench.json", document)
    (out / "bench.md").write_text(page(sections, facts(), command))
    log.info("wrote %s", out / "bench.md")


def _plain(argv: list[str]) -> list[str]:
    """The command line without names of places."""
    return [
        word if number == 0 or argv[number - 1] not in ("--photos", "--out") else "DIR"
        for number, word in enumerate(argv)
    ]
