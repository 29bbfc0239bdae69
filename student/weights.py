"""Where do a student's weights come from (a seed, timm, a file), and how are they saved?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import timm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from storage.atomic import replace_file
from student.archs import Grid
from student.fit import misfit
from student.position import resample_position
from student.stem import build_stem, seeded

if TYPE_CHECKING:
    from student.sak import SAK

State = dict[str, Tensor]
POSITION = "vit.pos_embed"
CLASSIFIER = ("head.", "norm.", "fc_norm.", "pre_logits.")
"""Keys of a plain ViT that the stem does without."""


def load_initial(sak: SAK, weights: str, *, image_size: tuple[int, int]) -> None:
    """Give a fresh student its initial weights.

    Args:
        sak: the student, changed in place.
        weights: `random:<seed>` (the stem; the rest keeps its own seed), `pretrained` (timm's ViT into the
            stem), or a safetensors file: a stage-1 student (everything) or a plain ViT of timm (the stem).
        image_size: (H, W) of the student's stored position embedding, pixels.

    Raises:
        ValueError: weights that cannot be had, cannot be read or do not fit; the message names the remedy.
    """
    if weights.startswith("random:"):
        with seeded(_seed_of(weights)):
            sak.vit.load_state_dict(build_stem(sak.arch, image_size).state_dict())
    elif weights == "pretrained":
        _load_stem(sak, _pretrained(sak.arch.timm_id), None, source=sak.arch.timm_id)
    else:
        state, grid = _read(Path(weights))
        if POSITION in state:
            _load_student(sak, state, grid, source=weights)
        else:
            _load_stem(sak, state, grid, source=weights)


def save_student(model: nn.Module, sak: SAK, path: Path) -> None:
    """Write a model's state (stage 1: `sak` itself) atomically, with its facts in the header."""
    facts = {
        "grid": list(sak.grid),
        "width": sak.arch.width,
        "depth": sak.arch.depth,
        "teachers": {name: list(channels) for name, channels in sak.teacher_channels.items()},
    }
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    replace_file(path, save(state, metadata={"cutler": json.dumps(facts, sort_keys=True)}))


def load_state(model: nn.Module, path: Path) -> None:
    """Load a file written by `save_student` into a model of the same shape, strictly.

    Raises:
        ValueError: the file cannot be read or does not fit the model.
    """
    state, _ = _read(path)
    _load(model, state, str(path), remedy="build the model with the recipe the file was made with")


def _load_student(sak: SAK, state: State, grid: Grid | None, *, source: str) -> None:
    state = _fit_position(state, POSITION, grid, sak.grid)
    _load(
        sak,
        state,
        f"student.weights {source}",
        remedy="use the arch, reduction and teachers it was made with",
    )


def _load_stem(sak: SAK, state: State, grid: Grid | None, *, source: str) -> None:
    state = {key: value for key, value in state.items() if not key.startswith(CLASSIFIER)}
    if "pos_embed" in state:
        state = _fit_position(state, "pos_embed", grid, sak.grid)
    _load(
        sak.vit, state, f"student.weights {source}", remedy="give a plain ViT of student.arch in timm's names"
    )


def _load(module: nn.Module, state: State, source: str, *, remedy: str) -> None:
    if problem := misfit(state, module.state_dict()):
        raise ValueError(f"{source} {problem}; {remedy}")
    module.load_state_dict(state)


def _fit_position(state: State, key: str, old: Grid | None, new: Grid) -> State:
    """Resample the position embedding where its grid (square unless the header says so) is another one."""
    if old is None:
        side = math.isqrt(state[key].shape[1] - 1)
        if side * side != state[key].shape[1] - 1:
            raise ValueError(
                f"student.weights: {key} has {state[key].shape[1]} tokens, not a class token and a square "
                "grid; give a plain ViT with a class token"
            )
        old = (side, side)
    return {**state, key: resample_position(state[key], old, new)}


def _read(path: Path) -> tuple[State, Grid | None]:
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("cutler", "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a safetensors handle)
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"student.weights {path} cannot be read ({error}); give a safetensors file, or set it to random:0"
        ) from error
    return state, tuple(facts["grid"]) if "grid" in facts else None


def _pretrained(timm_id: str) -> State:
    if not timm_id:
        raise ValueError(
            "student.weights `pretrained`: this arch has no pretrained weights; use random:0 or a file"
        )
    try:
        return timm.create_model(timm_id, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # timm, the hub client and the network each raise their own
        raise ValueError(
            f"student.weights `pretrained`: {timm_id} cannot be downloaded ({error}); "
            "set student.weights to a safetensors file of it, or to random:0"
        ) from error


def _seed_of(weights: str) -> int:
    text = weights.removeprefix("random:")
    if not text.isdecimal():
        raise ValueError(
            f"student.weights {weights!r} needs a whole number after the colon; for example random:0"
        )
    return int(text)
