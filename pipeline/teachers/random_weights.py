"""Which values does a teacher's network get when nobody trained it: a pure function of (teacher, seed)."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import nn

from pipeline.teachers.spec import TeacherSpec


def random_state(spec: TeacherSpec, network: nn.Module, *, seed: int) -> dict[str, torch.Tensor]:
    """Made-up float32 values for every tensor of `network`, which may be on the meta device.

    Uniform, with these standard deviations: matrices of the blocks 0.02 at width 768, where timm starts them,
    elsewhere in proportion to 1 / sqrt(width), so that the blocks of a miniature change the stream as much;
    the patch projection 1 / sqrt(3 fan_in); tokens and position tables 0.02. Norms are the identity. So is
    DINOv2's LayerScale (init_values=1.0): timm's usual start at 1e-5 would make every block the identity.

    The values come from numpy's raw Philox stream, which is the same on every machine and in every version:
    neither the state nor the algorithms of torch's generator have a part in it.
    """
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    return {name: _values(spec, name, shape, seed) for name, shape in sorted(shapes.items())}


def _values(spec: TeacherSpec, name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    bound = np.float32(3**0.5 * _deviation(spec, name, shape))
    return torch.from_numpy(
        _uniform(f"{spec.name}/{seed}/{name}", int(np.prod(shape))).reshape(shape) * bound
    )


def _deviation(spec: TeacherSpec, name: str, shape: tuple[int, ...]) -> float:
    if name == "patch_embed.proj.weight":
        return (3 * int(np.prod(shape[1:]))) ** -0.5
    if len(shape) == 2 and not name.endswith(("rel_pos_h", "rel_pos_w")):
        return 0.02 * (768 / spec.width) ** 0.5
    return 0.02


def _uniform(key: str, count: int) -> np.ndarray:
    """`count` float32 values in [-1, 1), multiples of 2^-23."""
    philox = np.random.Philox(key=int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little"))
    bits = philox.random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
