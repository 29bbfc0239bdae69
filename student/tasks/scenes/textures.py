"""How a surface of the generated scenes looks: a colour, and a pattern over two coordinates in metres."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """Linear RGB colours 0..1, a pattern's name and size in metres, gloss 0..1, own light 0..1."""

    colour: Colour
    accent: Colour = (0.5, 0.5, 0.5)
    pattern: str = "plain"
    size: float = 0.2
    gloss: float = 0.0
    glow: float = 0.0


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A linear RGB colour from hue (of 1), saturation and value as seen on a screen."""
    return tuple(channel**2.2 for channel in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def paint(material: Material, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Colours [N, 3] at local points [N, 3]: the pattern lies on the two axes along the surface.

    normals [N, 3] are local. The longer horizontal axis of a floor, the vertical axis of a wall is v.
    """
    axis = np.abs(normals).argmax(axis=1)
    u = np.where(axis == 0, points[:, 2], points[:, 0])
    v = np.where(axis == 1, points[:, 2], points[:, 1])
    mix, tint = PATTERNS[material.pattern](u / material.size, v / material.size)
    colour = np.array(material.colour) + mix[:, None] * (np.array(material.accent) - material.colour)
    return colour * (1 + tint)[:, None]


def _hash(*cells: np.ndarray) -> np.ndarray:
    """A random-looking number in 0..1 for each integer cell."""
    phase = sum(cell * weight for cell, weight in zip(cells, (12.9898, 78.233, 37.719), strict=False))
    return (np.sin(phase) * 43758.5453) % 1


def _plain(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros_like(u), 0.02 * np.sin(3 * u + np.sin(2 * v)) * np.sin(2 * v)


def _planks(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row = np.floor(u)
    along = v / 7 + _hash(row)
    board = np.floor(along)
    gap = (np.abs(u - row - 0.5) > 0.47) | (np.abs(along - board - 0.5) > 0.493)
    grain = 0.05 * np.sin(40 * u + 3 * np.sin(v * 0.9 + 9 * _hash(row, board)))
    return np.where(gap, 0.7, 0.0), 0.28 * (_hash(row, board) - 0.5) + grain


def _grain(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros_like(u), 0.08 * np.sin(25 * u + 3 * np.sin(v * 0.9))


def _tiles(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grout = (np.abs(u % 1 - 0.5) > 0.475) | (np.abs(v % 1 - 0.5) > 0.475)
    return grout.astype(float), np.where(grout, 0, 0.12 * (_hash(np.floor(u), np.floor(v)) - 0.5))


def _stripes(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (u % 1 > 0.5).astype(float), np.zeros_like(v)


def _hoops(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (v % 1 > 0.5).astype(float), np.zeros_like(u)


def _checker(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (np.floor(u) + np.floor(v)) % 2, np.zeros_like(u)


def _dots(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    u = u + 0.5 * (np.floor(v) % 2)
    return ((u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.07).astype(float), np.zeros_like(u)


def _weave(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros_like(u), 0.1 * np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v)


def _folds(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros_like(u), 0.22 * np.sin(2 * np.pi * u + 0.6 * np.sin(v))


def _books(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    spine = np.floor(u)
    gap = np.abs(u - spine - 0.5) > 0.44
    return _hash(spine), np.where(gap, -0.7, 0.7 * (_hash(spine, spine * 0 + 3) - 0.5)) + 0 * v


def _blobs(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wave = np.sin(2.1 * u + 1.3 * np.sin(1.7 * v)) + np.sin(2.6 * v - 1.1 * np.sin(1.9 * u))
    return (wave > 0.3).astype(float), 0.18 * wave


def _panes(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A window of size = half its width: sky in colour, cross bars and frame in accent."""
    frame = (np.abs(u) > 0.93) | (np.abs(u) < 0.035) | (np.abs(v % 1.0 - 0.5) > 0.47)
    return frame.astype(float), np.where(frame, 0.0, 0.25 * np.tanh(v))


def _panels(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Doors of a cabinet: a dark joint around each, a knob near its edge."""
    u, v = u + 0.5, v + 0.5
    du, dv = np.abs(u % 1 - 0.5), np.abs(v % 1 - 0.5)
    joint = np.maximum(du, dv) > 0.47
    knob = (u % 1 - 0.86) ** 2 + (v % 1 - 0.5) ** 2 < 0.0025
    return (joint | knob).astype(float), np.zeros_like(u)


Pattern = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
PATTERNS: dict[str, Pattern] = {
    "plain": _plain,
    "planks": _planks,
    "grain": _grain,
    "tiles": _tiles,
    "stripes": _stripes,
    "hoops": _hoops,
    "checker": _checker,
    "dots": _dots,
    "weave": _weave,
    "folds": _folds,
    "books": _books,
    "blobs": _blobs,
    "panes": _panes,
    "panels": _panels,
}
"""Each maps scaled coordinates (u, v) to the accent's share 0..1 and a relative change of brightness."""
