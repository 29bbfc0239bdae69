"""How many samples a core-second reach the trainer as maps on its device, beside the layout that Theia keeps?

Both sides read the same crops and the same maps, one teacher's four levels, on one thread each, and end with
crops uint8 [B, H, W, 3] and maps fp32 [B, C, h, w] on the device. CPU seconds of the whole process count.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jobs.benches import theia
from jobs.benches.made_cache import Filling, make_cache
from jobs.benches.material import Material, described, klt
from jobs.benches.table import Asked, Row, Section
from jobs.benches.timing import Timed, alternate, one_thread
from storage.cache import Cache
from storage.config import CodecConfig
from storage.stream import Stream, make_order

TEACHER, THEIA = "teacher", "Theia's layout, webdataset"
BATCH = 8
ASKED = Asked(3.0, "ratio", "least")


def run(material: Material) -> list[Section]:
    """f16, int8 and klt; klt also without what a GPU would do in a CPU's stead."""
    studied, samples = material.photos, 2 * BATCH if material.ask.quick else 8 * BATCH
    jpegs = material.jpegs(len(studied.test[0]))
    configs = (CodecConfig(name="f16"), CodecConfig(name="int8"), klt(0.995), klt(0.995, basis="separable"))
    device = material.ask.device
    with tempfile.TemporaryDirectory() as folder, one_thread():
        tar = Path(folder, "theia.tar")
        theia.write(tar, jpegs, studied.test, samples)
        ways: dict[str, Callable[[], object]] = {
            THEIA: partial(_theia, tar, len(studied.test), device),
            f"{THEIA}, to tensors in host memory": partial(_theia_host, tar, len(studied.test)),
        }
        for config in configs:
            filling = Filling(config, studied.stats(config), studied.test)
            cache = make_cache(
                Path(folder, described(config)),
                jpegs,
                {TEACHER: filling},
                samples=samples,
                samples_per_shard=BATCH,
            )
            ways[described(config)] = partial(_ours, cache, samples, device)
            if config.name == "klt":
                ways[f"{described(config)}, to codes in host memory"] = partial(_ours, cache, samples, None)
        taken = alternate(ways, repeats=material.ask.repeats)
    rows = [_row(name, taken, samples) for name in ways]
    notes = [
        f"{studied.name} at {material.ask.crop} px, batches of {BATCH}, JPEG crops on both sides, "
        f"decoded on {device}; CPU seconds of the whole process, one thread each",
        "'in host memory' leaves out what the trainer's device does: on a GPU the basis product is no core's"
        " work",
    ]
    return [Section("loader, samples per core-second", rows, notes)]


def _row(name: str, taken: Mapping[str, Timed], samples: int) -> Row:
    host = "host memory" in name
    rival = f"{THEIA}, to tensors in host memory" if host else THEIA
    speed = samples / taken[name].median
    if name.startswith(THEIA):
        return Row(name, speed, "samples/s", remarks=taken[name].spread)
    return Row(name, speed, "samples/s", rival, samples / taken[rival].median, ASKED, taken[name].spread)


def _ours(cache: Cache, samples: int, device: str | None) -> None:
    """One pass through the trainer's own stream; `device` None leaves the maps undecoded."""
    columns = cache.teacher_columns()
    order = make_order(cache, seed=0, global_batch=BATCH, window=4)
    codec = cache.codec(columns[TEACHER])
    with Stream(cache, order, columns, 0, samples // BATCH, threads=1) as stream:
        for batch in stream:
            if device is not None:
                _arrive([batch.images.to(device), *codec.decode(batch.codes[TEACHER], device)])


def _theia(tar: Path, levels: int, device: str) -> None:
    for images, maps in theia.batches(tar, levels, BATCH, device=device):
        _arrive([images.to(device), *maps])


def _theia_host(tar: Path, levels: int) -> None:
    for _ in theia.raw_batches(tar, levels, BATCH):
        pass


def _arrive(tensors: list[Any]) -> None:
    """Wait until they are there."""
    if tensors[0].is_cuda:
        torch.cuda.synchronize()
