"""How does a run survive being killed? Atomic checkpoints, each verified before it is believed.

A checkpoint is a folder `step-<n>` with model.safetensors, optimizer.pt (read back weights_only) and a sealed
state.json with size and CRC32C of the other two. The folder is renamed into place when all is on disk.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from storage.atomic import sync
from storage.errors import CorruptObject
from storage.identity import seal, unseal
from student.fit import misfit

log = logging.getLogger(__name__)

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.pt", "state.json"
CHUNK_BYTES = 1 << 24


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was loaded: its folder, the steps done, and what the run kept with it."""

    path: Path
    step: int
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in one folder; the newest `keep` stay."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def save(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> Path:
        """Write a checkpoint after `step` steps; `state` is JSON. Returns its folder, whole and on disk."""
        target = self.folder / f"step-{step:08d}"
        partial = self.folder / f".partial-{step:08d}"
        self._clean(partial)
        partial.mkdir(parents=True)
        tensors = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
        save_file(tensors, partial / MODEL)
        torch.save(optimizer.state_dict(), partial / OPTIMIZER)
        files = {name: _describe(partial / name) for name in (MODEL, OPTIMIZER)}
        (partial / STATE).write_bytes(seal({"step": step, "state": state, "files": files}))
        for path in (*partial.iterdir(), partial):
            sync(path)
        if target.exists():  # only where a damaged one was passed over and its step reached again
            shutil.rmtree(target)
        partial.rename(target)
        sync(self.folder)
        self._forget_old()
        return target

    def load_latest(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint | None:
        """Load the newest sound checkpoint into model and optimizer; None where the run has none yet.

        A damaged one is passed over with a warning.

        Raises:
            ValueError: every checkpoint is damaged, or the newest sound one is of another model.
        """
        paths = self._paths()
        for path in reversed(paths):
            try:
                found, tensors, moments = _read(path)
            except (OSError, ValueError) as error:
                log.warning("checkpoint %s is damaged (%s); trying the one before", path, error)
                continue
            _apply(path, model, optimizer, tensors=tensors, moments=moments)
            return found
        if paths:
            raise ValueError(
                f"every checkpoint in {self.folder} is damaged; delete the folder to start again"
            )
        return None

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def _forget_old(self) -> None:
        for path in self._paths()[: -self.keep]:
            shutil.rmtree(path)

    def _clean(self, partial: Path) -> None:
        for leftover in {partial, *self.folder.glob(".partial-*")}:
            shutil.rmtree(leftover, ignore_errors=True)


def _read(path: Path) -> tuple[Checkpoint, dict[str, Any], dict[str, Any]]:
    try:
        doc = unseal((path / STATE).read_bytes(), STATE)
    except CorruptObject as error:  # its remedy is a cache's
        raise ValueError(f"{STATE}: {error.why}") from None
    for name, wanted in doc["files"].items():
        found = _describe(path / name)
        if found != wanted:
            raise ValueError(f"{name} is {found}, {wanted} was written")
    moments = torch.load(path / OPTIMIZER, weights_only=True, map_location="cpu")
    return Checkpoint(path, doc["step"], doc["state"]), load_file(path / MODEL), moments


def _apply(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    tensors: dict[str, Any],
    moments: dict[str, Any],
) -> None:
    if problem := misfit(tensors, model.state_dict()):
        raise ValueError(
            f"checkpoint {path} is of another model: it {problem}; use the recipe it was made with, "
            "or another output folder"
        )
    model.load_state_dict(tensors)
    optimizer.load_state_dict(moments)


def _describe(path: Path) -> dict[str, int]:
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            checksum.update(chunk)
    return {"bytes": path.stat().st_size, "crc32c": int.from_bytes(checksum.digest(), "big")}
