"""What the page about the cache shows for decoding without Cutler gives what Cutler's codec gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage.cache import Cache
from storage.codecs import make_calibrator
from storage.config import CodecConfig
from storage.layout import Column
from tests.storage import sample_cache

PAGE = Path(__file__).parents[2] / "storage" / "README.md"
SHAPES = ((6, 5, 4), (6, 5, 4), (6, 5, 4))


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """The functions of the page's Python blocks."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def klt_cache(folder: Path, container: str, basis: str) -> tuple[Cache, Column, list[torch.Tensor]]:
    """A shard of smooth, correlated maps, one of them with values far beyond calibration."""
    cache = Cache.create(str(folder), sample_cache.invariants(container))
    cache.add_segment("source-fp", sample_cache.KEYS, 1)
    generator = torch.Generator().manual_seed(1)
    stem = torch.randn(32, 6, 5, 4, generator=generator).cumsum(2).cumsum(3)
    levels = [stem + 0.3 * torch.randn(32, 6, 5, 4, generator=generator) for _ in SHAPES]
    config = CodecConfig(name="klt", fidelity=0.999, basis=basis)
    calibrator = make_calibrator(config, SHAPES)
    calibrator.update(levels)
    column = cache.register("alpha", sample_cache.IDENTITY, config, SHAPES, calibrator.finish, {})
    shard = cache.shards()[0]
    sample_cache.put_images(cache, shard)
    maps = [level[: shard.rows].clone() for level in levels]
    maps[1][0, 2, 1, 1] = 300
    bad = [why is not None for why in cache.samples(0)["quarantine"].to_pylist()]
    encoded = cache.codec(column).encode(maps)
    records = [
        None if skip else cache.codec(column).pack(row) for skip, row in zip(bad, encoded.codes, strict=True)
    ]
    cache.put_features(column, 0, records, encoded.quality, encoded.reasons)
    return cache, column, maps


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
@pytest.mark.parametrize("basis", ["joint", "separable"])
def test_klt_decodes_with_numpy_and_scipy_alone(tmp_path: Path, shown: dict[str, Any], basis: str) -> None:
    cache, column, maps = klt_cache(tmp_path, "zarr", basis)
    codec, folder = cache.codec(column), cache.store.local_path(column.path)
    records = cache.read_records(column, 0, range(3))
    assert sum(record is not None for record in records) >= 2
    for row, record in enumerate(records):
        if record is None:
            continue
        codes = shown["codes_of"](folder, 0, cache.invariants.samples_per_shard, row)
        ours = codec.decode([codec.unpack(record)], "cpu")
        for level, theirs in enumerate(shown["decode_klt"](folder, codes)):
            scale = float(maps[level][row].abs().max())
            np.testing.assert_allclose(ours[level][0].numpy(), theirs, atol=2e-5 * scale)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_lists_the_samples(tmp_path: Path, shown: dict[str, Any]) -> None:
    cache, column, _ = klt_cache(tmp_path, "wds", "joint")
    (name,) = [ref.name for ref in cache.committed(column)[0].objects]
    table = cache.samples(0)
    sound = [
        k for k, why in zip(*(table[c].to_pylist() for c in ("key", "quarantine")), strict=True) if not why
    ]
    assert shown["keys_of"](cache.store.local_path(name)) == sound
