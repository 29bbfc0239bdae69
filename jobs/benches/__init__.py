"""Which questions does `bench cache` answer: name of a section -> the module whose `run` measures it."""

from __future__ import annotations

SECTIONS = {
    "codecs": "jobs.benches.codecs",
    "entropy": "jobs.benches.entropy",
    "containers": "jobs.benches.containers",
    "loader": "jobs.benches.loader",
    "step": "jobs.benches.step",
    "shuffle": "jobs.benches.shuffle",
    "opening": "jobs.benches.opening",
}
