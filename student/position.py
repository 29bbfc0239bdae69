"""How does a position embedding of one grid become one of another grid?"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, cat

from student.archs import Grid


def resample_position(position: Tensor, old: Grid, new: Grid) -> Tensor:
    """Resample a position embedding with one prefix (class) token to another patch grid.

    Bicubic without antialiasing, as the authors' stage 1 -> 2 step does; the prefix token is kept as it is.

    Args:
        position: [1, 1 + h*w, C], patch tokens in row order.
        old: (h, w) of `position`, patches.
        new: (h, w) wanted, patches.

    Returns:
        [1, 1 + new_h*new_w, C]; `position` itself where the grids are equal.
    """
    if old == new:
        return position
    prefix, patches = position[:, :1], position[:, 1:]
    maps = patches.float().unflatten(1, old).permute(0, 3, 1, 2)
    maps = F.interpolate(maps, size=new, mode="bicubic", antialias=False, align_corners=False)
    return cat([prefix, maps.flatten(2).transpose(1, 2).to(prefix.dtype)], dim=1)
