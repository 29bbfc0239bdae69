"""`inspect`: what is in a cache: a row per teacher, pictures of its maps, and what JPEG costs them."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs.cli import parse
from storage.config import Frozen

log = logging.getLogger(__name__)


class InspectOptions(Frozen):
    """A row per teacher, a PNG of PCA-coloured maps, and the teachers' cosine of JPEG to raw pixels."""

    caches: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders or URLs of caches; the pictures are of the first."""
    out: Path | None = None
    """Folder for inspect.json and inspect.png; none: the table only."""
    samples: int = 4
    """Samples in the picture."""
    jpeg_samples: int = 2
    """Samples on which the teachers are run on raw and on JPEG pixels; 0: not measured."""
    source: str = ""
    """Where the photos are, for the JPEG check; default: as the last extraction named it."""
    weights: str = ""
    """Teachers' weights for the JPEG check; default: as the last extraction named them."""


def main(argv: list[str]) -> int:
    """Command entry."""
    options = parse("inspect", InspectOptions, argv, recipe=False).options
    if not options.caches:
        raise ValueError("inspect needs a cache: python -m jobs inspect CACHE [--out DIR]")
    from storage.cache import Cache
    from storage.inspect import format_levels, format_steps, format_table, inspect_cache

    rows: list[dict[str, Any]] = []
    for url in options.caches:
        cache = Cache.open(url)
        found = inspect_cache(cache)
        parts = [format_table(found), format_levels(found), format_steps(found)]
        text = "\n\n".join(filter(None, parts))
        sys.stdout.write(f"{url} ({cache.invariants.container})\n{text}\n\n")
        name = f"{Path(url).name} ({cache.invariants.container})"
        rows += [row.model_dump(mode="json") | {"cache": name} for row in found]
    cache = Cache.open(options.caches[0])
    jpeg = jpeg_cosines(cache, options) if options.jpeg_samples else {}
    for name, cosine in jpeg.items():
        sys.stdout.write(f"{name}: cosine {cosine:.5f} between maps of JPEG and of raw pixels\n")
    if options.out:
        document: dict[str, Any] = {"rows": rows}
        if jpeg:
            document["jpeg"] = {"cosine": jpeg, "of": jpeg_identity(cache, options)}
        save(cache, options, document)
    return 0


def save(cache: Any, options: InspectOptions, document: dict[str, Any]) -> None:
    """Write inspect.json and inspect.png."""
    from jobs.cache_picture import cache_picture
    from storage.atomic import write_json

    assert options.out is not None
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "inspect.json", document)
    (options.out / "inspect.png").write_bytes(cache_picture(*sample_maps(cache, options.samples)))
    log.info("wrote %s", options.out / "inspect.png")


def sample_maps(cache: Any, samples: int) -> tuple[list[Any], dict[str, list[Any]]]:
    """First samples' crops uint8 `[H, W, 3]` and, per teacher, painted last-level maps uint8 `[h, w, 3]`."""
    from storage.jpeg import decode_jpeg
    from storage.pca import pca_rgb

    shard = cache.shards(view=0)[0]
    jpegs = cache.read_images(shard.index, range(shard.rows))
    rows = [row for row, jpeg in enumerate(jpegs) if jpeg is not None][:samples]
    painted = {}
    for name, column in cache.teacher_columns().items():
        codec = cache.codec(column)
        records = cache.read_records(column, shard.index, rows)
        codes = [None if record is None else codec.unpack(record) for record in records]
        painted[name] = pca_rgb(list(codec.decode(codes, "cpu")[-1].numpy()))
    return [decode_jpeg(jpegs[row]) for row in rows], painted


def jpeg_cosines(cache: Any, options: InspectOptions) -> dict[str, float]:
    """teacher -> cosine of its maps of raw and of stored pixels; says so when it cannot be measured.

    What inspect.json in the output folder holds of the same columns and samples is not measured again.
    """
    from jobs.jpeg_check import measure

    if (known := measured_before(cache, options)) is not None:
        return known
    try:
        return measure(cache, samples=options.jpeg_samples, source=options.source, weights=options.weights)
    except (ValueError, OSError) as error:
        log.warning("JPEG against raw pixels is not measured: %s", error)
        return {}


def measured_before(cache: Any, options: InspectOptions) -> dict[str, float] | None:
    """The cosines in the output folder's inspect.json, if they are of these columns and samples."""
    path = options.out / "inspect.json" if options.out else None
    if path is None or not path.is_file():
        return None
    known = json.loads(path.read_text()).get("jpeg", {})
    return known.get("cosine") if known.get("of") == jpeg_identity(cache, options) else None


def jpeg_identity(cache: Any, options: InspectOptions) -> dict[str, Any]:
    """What the measurement depends on."""
    columns = {name: column.fingerprint for name, column in cache.teacher_columns().items()}
    return {"columns": columns, "samples": options.jpeg_samples}
