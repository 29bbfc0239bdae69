"""How fast does the lossless stage give codes back, as the trainer calls it, on one thread?"""

from __future__ import annotations

from functools import partial
from typing import Any

from jobs.benches.material import Material, described, klt
from jobs.benches.table import Asked, Row, Section
from jobs.benches.timing import alternate, one_thread

FP16_BYTES = 2


def run(material: Material) -> list[Section]:
    """Gigabytes of fp16-equivalent per second and core."""
    photos, hard4 = material.photos, material.hard4
    cases = [
        (photos, klt(0.995), 2.0),
        (photos, klt(0.995, lossless="zstd"), 2.0),
        (hard4, klt(0.99), 0.9),
        (hard4, klt(0.99, lossless="zstd"), 2.0),
    ]
    found = {case: material.measured(studied, config) for case, (studied, config, _) in enumerate(cases)}
    ways = {str(case): partial(_unpack, measured.codec, measured.records) for case, measured in found.items()}
    with one_thread():
        taken = alternate(ways, repeats=material.ask.repeats)
    rows = []
    for case, (studied, config, target) in enumerate(cases):
        timed, samples = taken[str(case)], len(found[case].records)
        rate = FP16_BYTES * studied.values * samples / timed.median / 1e9
        what = f"{studied.name}, {described(config)}"
        remarks = f"{found[case].bits:.2f} bits per value; {timed.spread}"
        rows.append(Row(what, rate, "GB/s", asked=Asked(target, "ours", "least"), remarks=remarks))
    notes = [
        "bytes that the maps would take in fp16, per second of CPU; Codec.unpack of one record after another"
    ]
    return [Section("lossless stage, decoding per core", rows, notes)]


def _unpack(codec: Any, records: list[bytes]) -> None:
    for record in records:
        codec.unpack(record)
