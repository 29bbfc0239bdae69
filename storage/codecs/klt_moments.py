"""Which basis fits a group's tokens: second moments in fp64, merged shard by shard; their eigenvectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from storage.codecs.klt_basis import Basis

# tokens whose products are taken at once
_PENDING = 1024
# a z-score varies by 1; what varies by less than this is the rounding of a constant
_CONSTANT = 1e-6


class GroupMoments:
    """Second moments of the channels of levels that share a grid."""

    def __init__(self, widths: Sequence[int], tokens: int) -> None:
        self.widths, self._tokens = list(widths), tokens
        self.count = 0
        self._pending: list[Tensor] = []
        self._sum: Tensor | None = None
        self._moments: Tensor | None = None

    def add(self, levels: Sequence[Tensor], ordinal: int, most: int) -> None:
        """Add up to `most` tokens of one image's levels [N, C]; `ordinal` decides which."""
        tokens = torch.cat(list(levels), 1)
        if self._tokens > most:
            chosen = np.random.default_rng(ordinal).choice(self._tokens, most, replace=False)
            tokens = tokens[torch.from_numpy(np.sort(chosen)).to(tokens.device)]
        self._pending.append(tokens)
        self.count += len(tokens)
        if sum(map(len, self._pending)) >= _PENDING:
            self._flush()

    def merge(self, other: GroupMoments) -> None:
        """Add what another one has seen."""
        self._flush()
        other._flush()
        if other._sum is not None and other._moments is not None:
            self._accumulate(other._sum, other._moments)
            self.count += other.count

    def _flush(self) -> None:
        if self._pending:
            tokens = torch.cat(self._pending).double()
            self._pending = []
            self._accumulate(tokens.sum(0), tokens.T @ tokens)

    def _accumulate(self, total: Tensor, moments: Tensor) -> None:
        if self._sum is None or self._moments is None:
            self._sum, self._moments = total.clone(), moments.clone()
        else:
            self._sum += total.to(self._sum.device)
            self._moments += moments.to(self._moments.device)

    def __getstate__(self) -> dict[str, Any]:
        """In host memory: who merges may have no GPU."""
        self._flush()
        return {
            name: value.cpu() if isinstance(value, Tensor) else value for name, value in vars(self).items()
        }

    @property
    def separates(self) -> bool:
        """Whether a separable basis is another than the joint one."""
        return len(self.widths) > 1

    def basis(self, mean: Tensor, scale: Tensor, *, separable: bool) -> Basis:
        """The basis of the z-scored channels, `mean` and `scale` fp64 [D]; components by falling variance.

        Time grows with D^3: 49 to 100 s at D = 3,072 on two busy cores.
        """
        covariance = self._covariance(mean, scale)
        if not separable:
            return Basis([_rounded(_eigen(covariance))])
        levels, width = len(self.widths), self.widths[0]
        if len(set(self.widths)) > 1 or levels == 1:
            return Basis([_rounded(_eigen(block)) for block in _diagonal(covariance, self.widths)])
        cells = covariance.view(levels, width, levels, width)
        mix = _eigen(torch.einsum("icjc->ij", cells))
        mixed = torch.einsum("mi,icjd,mj->mcd", mix, cells, mix)
        return Basis([_rounded(_eigen(block)) for block in mixed], mix.float())

    def _covariance(self, mean: Tensor, scale: Tensor) -> Tensor:
        """Second moments of z-scores, fp64 [D, D]."""
        self._flush()
        if self._sum is None or self._moments is None:
            raise ValueError("calibration saw no finite map; check the teacher on its images")
        sampled, moments = self._sum.cpu() / self.count, self._moments.cpu() / self.count
        cross = torch.outer(mean, sampled)
        return (moments - cross - cross.T + torch.outer(mean, mean)) / torch.outer(scale, scale)


def _diagonal(matrix: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """The square blocks on the diagonal."""
    ends = np.cumsum(widths)
    return [matrix[end - width : end, end - width : end] for width, end in zip(widths, ends, strict=True)]


def _eigen(covariance: Tensor) -> Tensor:
    """Eigenvectors as rows by falling eigenvalue, fp64; their largest entries are positive.

    What never varies comes last, each by itself: nothing of the others' rounding may reach a constant level.
    """
    live = (covariance.diagonal() > _CONSTANT).nonzero()[:, 0]
    still = (covariance.diagonal() <= _CONSTANT).nonzero()[:, 0]
    some = covariance[live][:, live]
    vectors = torch.linalg.eigh((some + some.T) / 2)[1].T.flip(0)
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)) if len(live) else vectors
    rows = torch.zeros_like(covariance)
    rows[: len(live), live] = vectors * largest.sign()
    rows[torch.arange(len(live), len(rows)), still] = 1
    return rows


def _rounded(rows: Tensor) -> Tensor:
    """As bf16 can hold them, in float32."""
    return rows.bfloat16().float()
