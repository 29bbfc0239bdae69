"""Which values does a teacher's network get, and are they the right ones: load, stage, digest.

`weights` is one of
    pretrained      timm's checkpoint, from the hub's cache or downloaded
    random:<seed>   made up, see random_weights.py
    a folder        written by `stage_weights` (`cutler weights DIR`): <teacher>.safetensors and digests.json
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import load_state_dict, vision_transformer, vision_transformer_sam
from torch import nn

from pipeline.teachers.hub import WeightsError, pretrained_file
from pipeline.teachers.random_weights import random_state
from pipeline.teachers.spec import TeacherSpec, spec_of
from pipeline.teachers.timm_teacher import build_network

State = dict[str, torch.Tensor]

log = logging.getLogger(__name__)

_DIGESTS = "digests.json"
_CONVERT = {"sam": vision_transformer_sam.checkpoint_filter_fn}
# parts of a published checkpoint that the taps never reach
_UNUSED = ("head", "norm.", "fc_norm.", "attn_pool.", "neck.")


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """Hex SHA-256 over names, types, shapes and values of `state`, in the order of the names."""
    hasher = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def load_network(spec: TeacherSpec, weights: str) -> tuple[nn.Module, str]:
    """The network of teacher `spec` with its values in float32 on the CPU, and the digest of these.

    Raises:
        WeightsError: the weights are missing, damaged, or do not fit the architecture.
    """
    network = build_network(spec)
    if weights == "pretrained" or weights.startswith("random:"):
        state = _made(spec, network, weights)
        found = digest(state)
    else:
        state, found = _staged(spec, Path(weights))
    _fill(spec, network, state)
    return network, found


def known_digest(spec: TeacherSpec, weights: str) -> str | None:
    """The digest that `load_network` would find, where it can be known without a download; else None.

    Raises:
        WeightsError: a folder's digests.json is damaged.
    """
    if weights == "pretrained":
        return None
    if weights.startswith("random:"):
        return load_network(spec, weights)[1]
    return _digests(Path(weights)).get(spec.name, {}).get("sha256")


def stage_weights(teachers: Iterable[str], folder: Path, *, source: str = "pretrained") -> dict[str, str]:
    """Write the weights of `teachers` into `folder` once, with their digests: all else runs offline from it.

    What is staged and intact is left alone. A file `<timm id>.safetensors` (or .pth, .bin) that was put into
    `folder` by hand is taken instead of a download.

    Args:
        source: pretrained or random:<seed>.

    Returns:
        teacher -> digest.

    Raises:
        WeightsError: a download failed, a supplied file does not fit, or `folder` holds another source's
            weights. What was staged before stays.
    """
    specs = [spec_of(name) for name in teachers]
    folder.mkdir(parents=True, exist_ok=True)
    return {spec.name: _stage(spec, folder, source) for spec in specs}


def _made(spec: TeacherSpec, network: nn.Module, source: str, *, supplied: Path | None = None) -> State:
    if source == "pretrained":
        return _published(spec, network, pretrained_file(spec, supplied))
    seed = source.removeprefix("random:")
    if not seed.isdecimal():
        raise WeightsError(f"weights = {source} has no whole number as its seed; use for example random:0")
    return random_state(spec, network, seed=int(seed))


def _published(spec: TeacherSpec, network: nn.Module, path: Path) -> State:
    """The state that `network` needs, from a checkpoint as timm (or SAM's, DINOv2's authors) publish it."""
    convert = _CONVERT.get(spec.family, vision_transformer.checkpoint_filter_fn)
    try:
        state = convert(load_state_dict(str(path), use_ema=False, weights_only=True), network)
    except Exception as error:  # a damaged file shows in many ways
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(f"{path} is no checkpoint of {spec.timm_id} ({reason}); fetch it again") from error
    return {name: v.float().contiguous() for name, v in state.items() if not name.startswith(_UNUSED)}


def _fill(spec: TeacherSpec, network: nn.Module, state: State) -> None:
    """Put `state` into `network` in place of its empty tensors; every name and shape must agree."""
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    if wanted != found:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        first = f"{wrong[0]} (asked {wanted.get(wrong[0], 'none')}, got {found.get(wrong[0], 'none')})"
        raise WeightsError(
            f"the weights for teacher {spec.name} are not those of {spec.timm_id}: {len(wrong)} tensors "
            f"differ, first {first}; supply the checkpoint of {spec.timm_id}"
        )
    network.load_state_dict(state, strict=True, assign=True)
    network.requires_grad_(False)


def _stage(spec: TeacherSpec, folder: Path, source: str) -> str:
    entry = _digests(folder).get(spec.name)
    if entry and entry["source"] != source:
        raise WeightsError(
            f"{folder} holds {entry['source']} weights of {spec.name}, asked {source}; use a new folder"
        )
    if entry:
        try:
            return _staged(spec, folder)[1]
        except WeightsError as damage:
            log.warning("staging %s again: %s", spec.name, damage)
    network = build_network(spec)
    state = _made(spec, network, source, supplied=folder)
    _fill(spec, network, state)
    partial = folder / f".{spec.name}.{os.getpid()}.tmp"
    save_file(state, partial)
    partial.replace(folder / f"{spec.name}.safetensors")
    found = digest(state)
    _record(folder, spec.name, {"timm_id": spec.timm_id, "source": source, "sha256": found})
    return found


def _digests(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / _DIGESTS
    try:
        return json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise WeightsError(
            f"{path} is damaged ({error}); delete it and run `cutler weights {folder}`"
        ) from error


def _record(folder: Path, teacher: str, entry: dict[str, str]) -> None:
    partial = folder / f".{_DIGESTS}.{os.getpid()}.tmp"
    partial.write_text(json.dumps({**_digests(folder), teacher: entry}, indent=1, sort_keys=True) + "\n")
    partial.replace(folder / _DIGESTS)


def _staged(spec: TeacherSpec, folder: Path) -> tuple[State, str]:
    """A teacher's staged state and digest, checked against digests.json."""
    path, remedy = folder / f"{spec.name}.safetensors", f"run `cutler weights {folder}`"
    if not folder.is_dir():
        raise WeightsError(f"weights = {folder} is no folder; use pretrained, random:<seed>, or {remedy}")
    entry = _digests(folder).get(spec.name)
    if entry is None or not path.is_file():
        raise WeightsError(f"{folder} holds no weights of teacher {spec.name}; {remedy} for it")
    if entry["timm_id"] != spec.timm_id:
        raise WeightsError(f"{path} is {entry['timm_id']}, asked {spec.timm_id}; {remedy} with a new folder")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged ({error}); {remedy} to stage it again") from error
    if (found := digest(state)) != entry["sha256"]:
        was = entry["sha256"][:8]
        raise WeightsError(
            f"{path} has digest {found[:8]}, digests.json says {was}; {remedy} to stage it again"
        )
    return state, found
