"""`distill`: stage 1, the student learns its teachers' maps, from the cache or from live teachers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from jobs.cli import parse
from jobs.config import Recipe
from jobs.device import Device
from jobs.workers import stored_grid
from storage.config import Frozen

log = logging.getLogger(__name__)
DEPENDS_ON = ("views", "committee", "student", "stage1")
SHOWN_PHOTOS = 3


class DistillOptions(Frozen):
    """Stage 1: distil the teachers into a student; rerun to resume."""

    cache: str
    """Folder or URL of the cache."""
    out: Path
    """Folder of the run: checkpoints, metrics, student.safetensors."""
    teachers: Literal["cache", "live"] = "cache"
    """cache: read the codes; live: run the teachers on the cached crops (the baseline)."""
    device: Device = "auto"
    """auto: CUDA if there is a GPU."""


def main(argv: list[str]) -> int:
    """Command entry."""
    invocation = parse("distill", DistillOptions, argv)
    recipe, options = invocation.recipe, invocation.options
    from jobs.runfolder import complete, recorded

    inputs = {"teachers": options.teachers, "data": data_digest(recipe, options)}
    if complete(options.out, recipe, marker="summary.json", sections=DEPENDS_ON, inputs=inputs):
        log.info("%s is complete: nothing to do", options.out)
        return 0
    from jobs.device import pick_device

    device = pick_device(options.device)
    data, channels = open_data(recipe, options, device)
    with recorded(options.out, recipe, "distill", device=device, inputs=inputs):
        run(recipe, options, data, channels, device)
    return 0


def data_digest(recipe: Recipe, options: DistillOptions) -> str:
    """SHA-256 over all that the run learns from: a finished run of another cache is another run."""
    from jobs.cache_columns import columns_for, snapshot
    from storage.cache import Cache
    from storage.identity import canonical_json, sha256

    cache = Cache.open(options.cache)
    if options.teachers == "cache":
        return sha256(canonical_json(snapshot(cache, columns_for(recipe, cache))))
    pooled = {"grid": grid} if (grid := stored_grid(recipe)) else {}
    return sha256(canonical_json({**snapshot(cache, {}), **pooled}))


def run(
    recipe: Recipe, options: DistillOptions, data: Any, channels: Mapping[str, tuple[int, ...]], device: str
) -> dict[str, Any]:
    """Train; score against live fp32 teachers before and after where held-out images are given."""
    from storage.atomic import write_json
    from student.sak import build_student
    from student.stage1 import run_stage1

    student = build_student(recipe.student, channels, recipe.stage1.seed, image_size=recipe.views.size).to(
        device
    )
    score = (
        Scorer(recipe, options.out, student=student, device=device)
        if recipe.evaluate.similarity_source
        else None
    )
    if score:
        score("before")
    summary = run_stage1(student, data, recipe.stage1, out=options.out, device=device)
    if score:
        score("after")
        score.save_maps()
    write_json(options.out / "summary.json", summary)
    return summary


def open_data(recipe: Recipe, options: DistillOptions, device: str) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Stage 1's data (stream, targets, epoch length), and each teacher's channels per level."""
    from jobs.cache_columns import check_views, columns_for, snapshot
    from storage.cache import Cache
    from storage.stream import Stream, make_order
    from student.stage1 import Stage1Data

    ask = recipe.stage1
    cache = kept_near(Cache.open(options.cache), ask)
    live = options.teachers == "live"
    if live:
        check_views(recipe, cache)
    columns = {} if live else columns_for(recipe, cache)
    targets, shapes = live_targets(recipe, device) if live else cached_targets(cache, columns, device)
    order = make_order(
        cache, seed=ask.seed, global_batch=ask.batch_size, window=ask.window_shards, views=recipe.views.count
    )

    def stream(first: int, steps: int) -> AbstractContextManager[Any]:
        pinned = device.startswith("cuda")
        return Stream(
            cache,
            order,
            columns,
            first,
            steps,
            threads=ask.threads,
            pinned=pinned,
            on_bad_shard=ask.on_bad_shard,
        )

    pins = {**snapshot(cache, columns), "order": order.fingerprint}
    data = Stage1Data(stream=stream, targets=targets, steps_per_epoch=order.steps_per_epoch, snapshot=pins)
    return data, {name: tuple(shape[0] for shape in levels) for name, levels in shapes.items()}


def kept_near(cache: Any, ask: Any) -> Any:
    """The cache, with what is read of it kept in stage1.local_cache if that is set."""
    if not ask.local_cache:
        return cache
    from storage.cache import Cache
    from storage.local_copy import LocalCopy

    room = int(ask.local_cache_gb * 1e9)
    return Cache(LocalCopy(cache.store, Path(ask.local_cache), room=room), cache.invariants)


Targets = Callable[[Any], Mapping[str, Any]]
Shapes = Mapping[str, tuple[tuple[int, int, int], ...]]


class Decoded(Mapping[str, Any]):
    """teacher -> levels of a batch, decoded when asked for: one teacher at a time is in memory."""

    def __init__(self, batch: Any, codecs: Mapping[str, Any], device: str) -> None:
        self._batch, self._codecs, self._device = batch, codecs, device

    def __getitem__(self, teacher: str) -> Any:
        return self._codecs[teacher].decode(self._batch.codes[teacher], self._device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._codecs)

    def __len__(self) -> int:
        return len(self._codecs)


def cached_targets(cache: Any, columns: Mapping[str, Any], device: str) -> tuple[Targets, Shapes]:
    """Targets decoded from the cache's codes."""
    codecs = {name: cache.codec(column) for name, column in columns.items()}
    shapes = {name: tuple(codec.shapes) for name, codec in codecs.items()}
    return (lambda batch: Decoded(batch, codecs, device)), shapes


def live_targets(recipe: Recipe, device: str) -> tuple[Targets, Shapes]:
    """Targets from the teachers themselves, on the same crops, pooled where the recipe's cache would be."""
    import torch

    from pipeline.teachers.committee import build_committee
    from student.pixels import to_unit

    grid, size = stored_grid(recipe), recipe.views.size
    committee = build_committee(recipe.committee, torch.device(device), grid=grid)
    shapes = {name: committee.shapes(name, size, size) for name in recipe.committee.teachers}
    return (lambda batch: committee(to_unit(batch.images, torch.device(device)))), shapes


class Scorer:
    """Similarity of the student to live fp32 teachers on held-out images, and maps of a few of them."""

    def __init__(self, recipe: Recipe, out: Path, *, student: Any, device: str) -> None:
        import torch

        from jobs.held_out import held_out
        from jobs.maps import MapPanels
        from pipeline.teachers.committee import build_committee

        self._held_out = held_out(recipe)
        committee = recipe.committee.model_copy(update={"precision": "fp32"})
        self._teachers = build_committee(committee, torch.device(device))
        self._student, self._out, self._device = student, out, device
        few = islice(self._held_out.batches(), -(-SHOWN_PHOTOS // recipe.evaluate.batch_size))
        photos = torch.cat(list(few))[:SHOWN_PHOTOS]
        self._panels = MapPanels(photos.to(device), partial(self._teachers))

    def __call__(self, phase: str) -> None:
        """Score as `phase` (before, after) unless the file is there, and paint the maps."""
        from jobs.runfolder import CHECKPOINTS
        from storage.atomic import write_json
        from student.similarity import similarity

        path = self._out / f"similarity_{phase}.json"
        resumed = (self._out / CHECKPOINTS).is_dir() and path.exists()
        if phase == "after" or not resumed:
            scores = similarity(self._student, self._teachers, self._held_out.batches())
            write_json(path, scores)
            for name, score in scores.items():
                log.info(
                    "similarity %s to %-14s flattened %.4f  per token %.4f",
                    phase,
                    name,
                    score["flattened"],
                    score["per_token"],
                )
        self._panels.add(phase, self._maps)

    def save_maps(self) -> None:
        """Write maps.npz."""
        self._panels.save(self._out / "maps.npz")

    def _maps(self, photos: Any) -> Mapping[str, Any]:
        import torch

        from student.pixels import normalise

        self._student.eval()
        with torch.inference_mode():
            return self._student.align(self._student(normalise(photos)).paths)
