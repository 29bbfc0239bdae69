"""Does a stored state fit a model, and if not, what differs?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

SHOWN = 3
"""Names in a message; a large model has hundreds."""


def misfit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What keeps `state` from loading into a model whose state is `wanted`, in one line; empty: it fits."""
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or extra:
        parts = [("lacks", missing), ("holds unknown", extra)]
        return " and ".join(f"{verb} {_some(keys)}" for verb, keys in parts if keys)
    shapes = {key: (tuple(state[key].shape), tuple(value.shape)) for key, value in wanted.items()}
    other = [f"{key} {found} instead of {asked}" for key, (found, asked) in shapes.items() if found != asked]
    return f"holds {_some(other)}" if other else ""


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
