"""How many samples a CPU-second does a container give, beside a memory-mapped packed file of them?

Whole records in random order, from a warm page cache. A cache checks the CRC-32C of every record that it
reads; the packed file's slices are copied to bytes and trusted, or checked for comparison.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from jobs.benches import theia
from jobs.benches.ask import Ask
from jobs.benches.made_cache import Filling, make_cache, records_of
from jobs.benches.material import Material
from jobs.benches.table import Asked, Row, Section
from jobs.benches.timing import Timed, alternate, one_thread
from storage.cache import Cache
from storage.codecs import make_calibrator, make_codec
from storage.config import CodecConfig
from storage.crc import crc32c

ASKED = {"wds": 0.85, "zarr": 0.25}
PACKED = "packed file"
SHARD = 16


def run(material: Material) -> list[Section]:
    """Two sizes of record: DINOv2-B's maps as int8 and as fp16 codes (2.2 and 4.5 MB)."""
    ask = material.ask
    jpegs = material.jpegs(4)
    with one_thread():
        return [_section(ask, jpegs, CodecConfig.model_validate({"name": name})) for name in ("int8", "f16")]


def _section(ask: Ask, jpegs: list[bytes], config: CodecConfig) -> Section:
    levels = noise(ask)
    shapes = [tuple(level.shape[1:]) for level in levels]
    calibrator = make_calibrator(config, shapes)
    calibrator.update(levels)
    stats = calibrator.finish()
    samples = 2 * SHARD if ask.quick else 8 * SHARD
    order = np.random.default_rng(0).permutation(samples)
    with tempfile.TemporaryDirectory() as folder:
        filling = {"teacher": Filling(config, stats, levels)}
        caches = {
            kind: make_cache(
                Path(folder, kind), jpegs, filling, samples=samples, samples_per_shard=SHARD, container=kind
            )
            for kind in ("wds", "zarr")
        }
        records, _ = records_of(make_codec(config, shapes, stats), levels)
        ways = _packed(Path(folder, "packed"), records, order)
        ways |= {kind: _by_cache(cache, order) for kind, cache in caches.items()}
        ways |= _others(Path(folder), caches, (jpegs, levels), order)
        taken = alternate(ways, repeats=ask.repeats)
    size = len(records[0])
    rows = [_row(name, timed, taken[PACKED], samples) for name, timed in taken.items()]
    note = (
        "CPU seconds of one process, page cache warm; webdataset and Theia's layout read in order of the tar"
    )
    return Section(f"reading records of {size / 1e6:.1f} MB ({config.name})", rows, [note])


def noise(ask: Ask) -> list[torch.Tensor]:
    """A few maps of DINOv2-B's shape: containers do not look inside."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, ask.channels, ask.side, ask.side, generator=generator) for _ in range(4)]


def _row(name: str, timed: Timed, packed: Timed, samples: int) -> Row:
    asked = Asked(ASKED[name], "ratio", "least") if name in ASKED else None
    what = f"{name}, Cache.read_records" if name in ASKED else name
    theirs = None if timed is packed else samples / packed.median
    other = "" if timed is packed else PACKED
    return Row(what, samples / timed.median, "samples/s", other, theirs, asked, timed.spread)


def _packed(path: Path, records: list[bytes], order: np.ndarray) -> dict[str, Callable[[], None]]:
    """The least that reading can cost: slices of a memory-mapped file; and the same with a check of each."""
    chosen = [records[at % len(records)] for at in range(len(order))]
    path.write_bytes(b"".join(chosen))
    ends = np.cumsum([len(record) for record in chosen])
    mapped = np.memmap(path, np.uint8, "r")

    def record(at: int) -> bytes:
        return mapped[ends[at] - len(chosen[at]) : ends[at]].tobytes()

    def read() -> None:
        for at in order:
            record(at)

    def read_and_check() -> None:
        for at in order:
            crc32c(record(at))

    return {PACKED: read, f"{PACKED}, CRC-32C of each": read_and_check}


def _by_cache(cache: Cache, order: np.ndarray) -> Callable[[], None]:
    column = cache.teacher_columns()["teacher"]

    def read() -> None:
        for at in order:
            cache.read_records(column, int(at) // SHARD, [int(at) % SHARD])

    return read


def _others(
    folder: Path, caches: dict[str, Cache], content: tuple[list[bytes], list[torch.Tensor]], order: np.ndarray
) -> dict[str, Callable[[], Any]]:
    """Readers that people have: stock webdataset and zarr on our files, and Theia's layout."""
    wds, rows = caches["wds"], caches["zarr"]
    column = wds.teacher_columns()["teacher"]
    tars = [wds.store.local_path(commit.records.name) for commit in wds.committed(column).values()]
    array = zarr.open_array(rows.store.local_path(rows.teacher_columns()["teacher"].path), mode="r")
    theia.write(folder / "theia.tar", *content, len(order))

    def webdataset_reads() -> None:
        for tar in tars:
            for _ in theia.plain_records(Path(str(tar))):
                pass

    def zarr_reads() -> None:
        for at in order:
            np.asarray(array[int(at)])

    def theia_reads() -> None:
        for sample in theia.plain_records(folder / "theia.tar"):
            for name, data in sample.items():
                if name.endswith("safetensors"):
                    theia.load(data)

    return {
        "stock webdataset on the wds cache": webdataset_reads,
        "stock zarr on the zarr cache": zarr_reads,
        "Theia's layout (bf16), webdataset": theia_reads,
    }
