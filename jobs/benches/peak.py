"""How many bytes do tensors take at the most while something is computed?"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(work: Callable[[], Any]) -> int:
    """Most bytes at once of the tensors that `work` makes, what it returns among them, on any device."""
    with _Storages() as held:
        work()
    return held.peak


class _Storages(TorchDispatchMode):
    """Counts storages from the operation that makes them until nothing refers to them."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._live: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = {self._key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and (key := self._key(leaf)) not in known | self._live:
                self._add(key, leaf.untyped_storage())
        return made

    def _key(self, tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def _add(self, key: int, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._live.add(key)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._live.discard(key)
        self._now -= size
