"""What is a coefficient's code: the nearest step of a ladder, or 0 where a code would cost more than it says.

A coefficient of z-scores c becomes round(c / 2^(j/4)), j the rung of its sample; but 0 below a reach that
grows with the price of a code that is not 0, which is high where the calibrated deviation s is small. With p0
and p1 the shares of codes 0 and 1 of a Laplacian, log2(p0 / p1) bits are about 0.5 + step / s; the reach is a
half step, and a share of a step per bit. Decoding does not depend on it. Measured on HARD4 at 0.99: 5.7%
fewer bits than plain rounding, 2% fewer than one dead zone for all; random-initialised DINOv2: 11% and 2.5%.
"""

from __future__ import annotations

import torch
from torch import Tensor

FINEST, COARSEST = -64, 240
"""Ends of the ladder: steps from 2^-16 to 2^60 z-scores."""
REACHES = 16
"""How many reaches there are between one rung and the next, from the narrowest, 0."""
_SHARE, _MOST_BITS = 0.01, 13.5


def step_of(rung: Tensor) -> Tensor:
    """2^(rung/4), float32 [B, 1, 1]."""
    return torch.exp2(rung.double() / 4).float().view(-1, 1, 1)


def quantise(coefficients: Tensor, precision: Tensor, rung: Tensor, dead: Tensor) -> Tensor:
    """Codes, whole numbers in float32, of coefficients [B, n, D] of rungs and reaches int64 [B].

    `precision` [n, D] is 1 / s, infinite where nothing was calibrated.
    """
    step = step_of(rung)
    share = (_SHARE * (1 + dead.float())).view(-1, 1, 1)
    reach = (precision * step).clamp_(max=_MOST_BITS).add_(0.5).mul_(share).add_(0.5)
    codes = coefficients / step
    near = codes.abs() < reach
    return codes.round_().masked_fill_(near, 0)
