"""How long does opening a large cache take, and how much memory: from a folder, and over S3's protocol?"""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.benches.material import Material
from jobs.benches.synthetic_index import Opening, Size, measure_opening, write_index
from jobs.benches.table import Asked, Row, Section

log = logging.getLogger(__name__)
MEMORY = Asked(300, "ours", "most")
QUICK = Size(samples=20_000)


def run(material: Material) -> list[Section]:
    """Seconds and memory growth of a fresh process, the median of a few."""
    size, repeats = (QUICK, 1) if material.ask.quick else (Size(), 3)
    rows, notes = (
        [],
        ["in a fresh process that has imported everything; commits compacted, as extract leaves them"],
    )
    with tempfile.TemporaryDirectory() as folder:
        rows += _rows("local folder", str(Path(folder, "cache")), size, seconds=1.0, repeats=repeats)
    if importlib.util.find_spec("moto") and importlib.util.find_spec("s3fs"):
        with s3_server() as url:
            rows += _rows("S3 protocol on loopback", url, size, seconds=3.0, repeats=repeats)
    else:
        notes.append("S3 protocol not measured: moto not installed; pip install -e .[dev]")
    shards = -(-size.samples // size.samples_per_shard)
    return [
        Section(f"opening a cache of {size.samples:,} samples, {shards:,} shards, 3 teachers", rows, notes)
    ]


def _rows(where: str, url: str, size: Size, *, seconds: float, repeats: int) -> list[Row]:
    log.info("writing the documents of %s samples: %s", f"{size.samples:,}", where)
    write_index(url, size)
    found = sorted(measure_opening(url) for _ in range(repeats))
    middle: Opening = found[len(found) // 2]
    spread = f"{len(found)} processes, {found[0].seconds:.2f} to {found[-1].seconds:.2f} s"
    return [
        Row(where, middle.seconds, "s", asked=Asked(seconds, "ours", "most"), remarks=spread),
        Row(f"{where}, growth of memory", middle.bytes / 1e6, "MB", asked=MEMORY),
    ]


@contextmanager
def s3_server() -> Iterator[str]:
    """A bucket's URL at a server of S3's protocol on the loopback interface, in a process of its own."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    server = context.Process(target=_serve, args=(answers,), daemon=True)
    server.start()
    port = answers.get()
    given = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield _bucket()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.terminate()
        server.join()


def _bucket() -> str:
    import fsspec

    fsspec.filesystem("s3").mkdir("bench")
    return "s3://bench/cache"


def _serve(answers: object) -> None:
    import time

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    answers.put(server.get_host_and_port()[1])  # type: ignore[attr-defined]
    while True:
        time.sleep(3600)
