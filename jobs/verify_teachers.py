"""Do the teachers still see what a cache says they saw? Fresh maps of a sample against decoded ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from jobs.tally import Tally
from pipeline.config import CommitteeConfig
from pipeline.teachers.committee import Committee, build_committee, settings_of
from pipeline.teachers.spec import spec_of
from pipeline.teachers.weights import known_digest
from storage import layout
from storage.audit import Problem
from storage.cache import Cache
from storage.codecs import load_stats
from storage.codecs.base import flat_cosine, tokens_of
from storage.commits import Commit
from storage.jpeg import decode_jpeg
from storage.layout import Column
from storage.manifest import permutation
from storage.recoding import added

_BATCH = 8
_THREADS = 4
_NORMALISATIONS = ("imagenet", "pretrained")


@dataclass(frozen=True)
class Ask:
    """What is compared, and how strictly."""

    samples: int
    """Sound samples of the cache, drawn at random."""
    seed: int
    weights: str
    """Where the teachers' weights are; "": as the extractions named them, then pretrained."""
    tolerance: float
    """How far below the recorded minimum a cosine may be: another GPU rounds otherwise."""
    device: str


class Sample(NamedTuple):
    """One sample of a cache."""

    shard: int
    row: int


@dataclass(frozen=True)
class LevelCheck:
    """One level of one column over the samples."""

    column: Column
    level: int
    samples: int
    lowest: float
    """Cosine of z-scored fresh and decoded maps."""
    mean: float
    recorded: float
    """Lowest that the commits of the samples' shards promise."""


def compare(cache: Cache, ask: Ask) -> tuple[list[LevelCheck], list[Problem]]:
    """Each teacher's fresh maps of drawn samples against those in its columns.

    A sample whose cosine is below what its shard's commit recorded as the minimum, less the tolerance, is a
    problem. Of a recoded column the commit tells the distance from the column it was made of: the minimum is
    then the cosine of both angles added.

    Raises:
        ValueError: a column was made with settings or weights that cannot be had; names both.
    """
    samples = draw(cache, ask.samples, ask.seed)
    columns = [column for column in cache.columns() if not column.is_images]
    tally, done, total = Tally("teacher forwards"), 0, len(samples) * len(columns)
    checks: list[LevelCheck] = []
    problems: list[Problem] = []
    for column in columns:
        committee, cosines = committee_of(cache, column, ask), []
        held = [sample for sample in samples if sample.shard in cache.committed(column)]
        for part, found in _cosines(cache, column, committee, held):
            cosines += zip(part, found, strict=True)
            done += len(part)
            tally(done, total)
        checks += _checks(cache, column, cosines)
        problems += _problems(cache, column, cosines, ask.tolerance)
    return checks, problems


def draw(cache: Cache, count: int, seed: int) -> list[Sample]:
    """`count` sound samples with committed images, or all; the same for the same cache and seed; by shard."""
    commits = cache.committed(Column.images())
    starts = np.cumsum([0, *(commit.rows for commit in commits.values())])
    shards, drawn = list(commits), list[Sample]()
    for at in permutation(f"verify {seed}", int(starts[-1])):
        if len(drawn) == count:
            break
        place = int(np.searchsorted(starts, at, "right")) - 1
        sample = Sample(shards[place], int(at - starts[place]))
        if sample.row not in commits[sample.shard].quarantined:
            drawn.append(sample)
    return sorted(drawn)


def committee_of(cache: Cache, column: Column, ask: Ask) -> Committee:
    """The teacher of a column as it was when the column was made, pooling as it did then.

    Raises ValueError naming both settings, or both digests, where it cannot be had.
    """
    doc = cache.teacher_doc(column)
    identity, name = doc["identity"], str(column.teacher)
    wanted = str(identity["weights_sha256"])
    tried = {}
    for weights in [ask.weights] if ask.weights else weights_named(cache):
        config = config_of(identity, column, weights)
        if known_digest(spec_of(name), weights) in (None, wanted):
            grid = tuple(doc["shapes"][-1][1:]) if doc["codec"].get("grid") == "student" else None
            committee = build_committee(config, ask.device, grid=grid)
            if (found := committee.identity(name)["weights_sha256"]) == wanted:
                return committee
        else:
            found = known_digest(spec_of(name), weights) or ""
        tried[weights] = found[:8]
    told = ", ".join(f"{weights} has {digest}" for weights, digest in tried.items())
    raise ValueError(
        f"{column} was made with weights of digest {wanted[:8]}; {told}; name the right ones with --weights"
    )


def weights_named(cache: Cache) -> list[str]:
    """Weights that the runs that wrote a cache named, the newest first; timm's own last."""
    logs = [path for path in cache.store.list("logs/") if path.startswith(("logs/extract-", "logs/recode-"))]
    recipes = [json.loads(cache.store.read(path))["recipe"] for path in reversed(logs)]
    return list(dict.fromkeys([*(recipe["committee"]["weights"] for recipe in recipes), "pretrained"]))


def config_of(identity: Mapping[str, Any], column: Column, weights: str) -> CommitteeConfig:
    """The committee of one teacher with a column's settings. Raises ValueError where there is none."""
    name, nearest = str(column.teacher), dict[str, Any]()
    for normalisation in _NORMALISATIONS:
        config = CommitteeConfig(
            teachers=(name,),
            weights=weights,
            normalisation=normalisation,
            precision=identity["precision"],
        )
        settings = settings_of(name, config)
        differing = {key: value for key, value in settings.items() if identity.get(key) != value}
        if not differing:
            return config
        nearest = min(nearest or differing, differing, key=len)
    key, value = next(iter(nearest.items()))
    raise ValueError(
        f"{column} was made with {key} {identity.get(key)}, this version of Cutler runs {name} with "
        f"{value}; verify it with the version that wrote it"
    )


Found = np.ndarray
"""Cosines per level of one sample; NaN where the column has no record of it."""


def _cosines(
    cache: Cache, column: Column, committee: Committee, samples: list[Sample]
) -> Iterator[tuple[list[Sample], list[Found]]]:
    """Parts of the samples and their cosines, the next part read ahead."""
    codec, stats = cache.codec(column), load_stats(cache.store.read(layout.codec_path(column)))
    parts = [samples[at : at + _BATCH] for at in range(0, len(samples), _BATCH)]

    def read(sample: Sample) -> tuple[bytes | None, bytes | None]:
        (jpeg,) = cache.read_images(sample.shard, [sample.row])
        (record,) = cache.read_records(column, sample.shard, [sample.row])
        return jpeg, record

    with ThreadPoolExecutor(_THREADS) as threads:
        ahead = [[threads.submit(read, sample) for sample in part] for part in parts]
        for part, futures in zip(parts, ahead, strict=True):
            jpegs, records = zip(*(future.result() for future in futures), strict=True)
            pixels = np.stack([decode_jpeg(jpeg) for jpeg in jpegs])
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(committee.device).float().div_(255)
            fresh = committee.run(str(column.teacher), images)
            rows = [None if record is None else codec.unpack(record) for record in records]
            decoded = codec.decode(codec.collate(rows), committee.device)
            yield part, _alike(fresh, decoded, stats, [row is None for row in rows])


def _alike(
    fresh: list[torch.Tensor],
    decoded: list[torch.Tensor],
    stats: Mapping[str, torch.Tensor],
    without: list[bool],
) -> list[Found]:
    """Cosines of z-scored maps per sample, [levels]."""
    levels = []
    for number, pair in enumerate(zip(fresh, decoded, strict=True)):
        mean, scale = (stats[f"{what}.{number}"].to(pair[0].device) for what in ("mean", "scale"))
        levels.append(flat_cosine(*((tokens_of(level) - mean) / scale for level in pair)))
    cosines = torch.stack(levels, 1).cpu().numpy()
    cosines[without] = np.nan
    return list(cosines)


def _recorded(cache: Cache, column: Column, commit: Commit) -> np.ndarray:
    """Lowest cosine per level that a commit promises against the teacher's own maps."""
    lowest = [level.min for level in commit.fidelity or ()]
    source = cache.teacher_doc(column)["identity"].get("recoded_from")
    return np.array(lowest if source is None else [added(one, source["min_fidelity"]) for one in lowest])


def _checks(cache: Cache, column: Column, cosines: list[tuple[Sample, Found]]) -> list[LevelCheck]:
    used = [(sample, found) for sample, found in cosines if np.isfinite(found).all()]
    if not used:
        return []
    commits = cache.committed(column)
    table = np.stack([found for _, found in used])
    recorded = np.stack([_recorded(cache, column, commits[sample.shard]) for sample, _ in used]).min(0)
    return [
        LevelCheck(column, level, len(used), float(of.min()), float(of.mean()), float(recorded[level]))
        for level, of in enumerate(table.T)
    ]


def _problems(
    cache: Cache, column: Column, cosines: list[tuple[Sample, Found]], tolerance: float
) -> list[Problem]:
    """One for each sample and level below what was recorded."""
    problems = []
    commits = cache.committed(column)
    for sample, found in cosines:
        commit = commits[sample.shard]
        recorded = _recorded(cache, column, commit)
        for level in np.flatnonzero(found < recorded - tolerance) if np.isfinite(found).all() else ():
            what = (
                f"row {sample.row} level {level} has cosine {found[level]:.5f} with what {column.teacher} "
                f"makes of its image now, {recorded[level]:.5f} was recorded, {tolerance:g} less is allowed"
            )
            problems.append(Problem(commit.records.name, column, sample.shard, what, "differs"))
    return problems
