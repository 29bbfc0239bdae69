"""How much do the teachers notice that the crops are stored as JPEG?"""

from __future__ import annotations

import json
from typing import Any

import torch

from jobs.held_out import unit_batch
from pipeline.config import CommitteeConfig, SourceConfig
from pipeline.decode import decode_rgb
from pipeline.sources import open_source
from pipeline.teachers.committee import Committee, build_committee
from pipeline.views import crop_of, render
from storage.cache import Cache
from storage.codecs.base import flat_cosine
from storage.identity import split_sample_key
from storage.jpeg import decode_jpeg


def measure(cache: Cache, *, samples: int, source: str = "", weights: str = "") -> dict[str, float]:
    """teacher -> cosine of the flattened level maps of raw against JPEG pixels, mean over samples and levels.

    Args:
        samples: the first so many samples of the cache that are not quarantined.
        source: where the photos are; default: as the last extraction named it.
        weights: the teachers' weights; default likewise.

    Raises:
        ValueError: nothing was extracted yet, or the weights cannot be had.
        OSError: the photos cannot be read.
    """
    resolved = last_extraction(cache)
    where = SourceConfig.model_validate(resolved["source"] | ({"path": source} if source else {}))
    ask = CommitteeConfig.model_validate(resolved["committee"] | ({"weights": weights} if weights else {}))
    raw, stored = pixel_pairs(cache, where, samples)
    committee = build_committee(ask.model_copy(update={"precision": "fp32"}))
    return {name: _cosine(committee, name, raw, stored) for name in ask.teachers}


def last_extraction(cache: Cache) -> dict[str, Any]:
    """The resolved recipe of the newest extraction in the cache's logs."""
    logs = [path for path in cache.store.list("logs/") if path.rpartition("/")[2].startswith("extract-")]
    if not logs:
        raise ValueError(f"{cache.url} has no extraction log; name --source and --weights")
    return json.loads(cache.store.read(logs[-1]))["recipe"]


def pixel_pairs(cache: Cache, where: SourceConfig, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same crops twice, `[n, 3, H, W]` in 0..1: cut from the photos again, and as stored."""
    source, views = open_source(where), cache.invariants.views
    index = source.index()
    places = {key: row for row, key in enumerate(index["key"].to_pylist())}
    shard = cache.shards(view=0)[0]
    rows = [row for row in cache.samples(shard.index).to_pylist() if row["quarantine"] is None][:samples]
    raw = []
    for row in rows:
        key, view = split_sample_key(row["key"])
        entry = index.slice(places[key], 1).to_pylist()[0]
        rgb = decode_rgb(source.read(entry["path"], entry["offset"], entry["size"]), where.max_pixels)
        raw.append(render(rgb, crop_of(key, view, rgb.shape[1], rgb.shape[0], views), views.size))
    stored = [
        decode_jpeg(jpeg) for jpeg in cache.read_images(shard.index, [row["row"] for row in rows]) if jpeg
    ]
    return unit_batch(raw), unit_batch(stored)


def _cosine(committee: Committee, name: str, raw: torch.Tensor, stored: torch.Tensor) -> float:
    pairs = zip(committee.run(name, raw), committee.run(name, stored), strict=True)
    return float(torch.stack([flat_cosine(a, b) for a, b in pairs]).mean())
