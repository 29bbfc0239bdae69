"""Where a ray meets a box, an ellipsoid, a cylinder or a capsule: the geometry of the generated scenes.

World: x right, y up, z away from the camera, metres. A solid is a unit shape scaled, turned and moved; a ray is
taken into the unit shape's space, where its parameter t stays the same. Everything is vectorised over rays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from student.tasks.scenes.textures import Material

EPSILON = 1e-4


@dataclass(frozen=True)
class Solid:
    """One convex piece of an object."""

    shape: str
    """box, ellipsoid, cylinder (axis y) or capsule (axis y; half = radius, half length without caps, radius)."""
    centre: np.ndarray
    half: np.ndarray
    """Half extents along the local axes, metres."""
    turn: np.ndarray
    """Rotation [3, 3]; its columns are the local axes."""
    material: Material
    thing: int
    """Index into THING_NAMES."""
    instance: int
    """Number of the object that this is a piece of; 0 is the room."""
    part: int = 0
    """Index into PART_NAMES."""

    @property
    def scale(self) -> np.ndarray:
        """What the unit shape is multiplied by: a capsule's caps stay round."""
        return np.repeat(self.half[:1], 3) if self.shape == "capsule" else self.half

    @property
    def bound(self) -> float:
        """Radius of a sphere around the centre that holds the solid."""
        if self.shape == "capsule":
            return float(self.half[0] + self.half[1])
        return float(self.half.max() if self.shape == "ellipsoid" else np.linalg.norm(self.half))

    def local(self, points: np.ndarray) -> np.ndarray:
        """World points [N, 3] -> local coordinates in metres (textures stick to the solid)."""
        return (points - self.centre) @ self.turn

    def distance(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Ray parameter of the first hit in front of `origin` [3]: float32 [N], infinity where missed."""
        start = ((origin - self.centre) @ self.turn / self.scale).astype(np.float32)
        ray = directions @ (self.turn / self.scale).astype(np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            return _HITS[self.shape](start, ray, float(self.half[1] / self.half[0]))

    def normals(self, points: np.ndarray) -> np.ndarray:
        """Outward unit normals at surface points: [N, 3]."""
        unit = self.local(points) / self.scale
        slope = _NORMALS[self.shape](unit, float(self.half[1] / self.half[0])) / self.scale
        world = slope @ self.turn.T
        return world / np.linalg.norm(world, axis=1, keepdims=True)


def trace(
    solids: Sequence[Solid], origin: np.ndarray, directions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest solid of each ray: parameter t float32 [N] (infinity: none) and index int16 [N] (-1: none)."""
    nearest = np.full(len(directions), np.inf, np.float32)
    hit = np.full(len(directions), -1, np.int16)
    lengths = np.einsum("ij,ij->i", directions, directions)
    for index, solid in enumerate(solids):
        rays = _candidates(solid, origin, directions, lengths)
        t = solid.distance(origin, directions[rays])
        closer = t < nearest[rays]
        rays = rays[closer]
        nearest[rays], hit[rays] = t[closer], index
    return nearest, hit


def _candidates(solid: Solid, origin: np.ndarray, directions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Indices of the rays that pass the solid's bounding sphere: most of the work is never done."""
    offset = (solid.centre - origin).astype(np.float32)
    outside = float(offset @ offset) - solid.bound**2
    along = directions @ offset
    return np.flatnonzero((along > 0) & (along * along >= np.float32(outside) * lengths) | (outside < 0))


def _box(start: np.ndarray, ray: np.ndarray, _: float) -> np.ndarray:
    inverse = 1 / ray
    one, two = (-1 - start) * inverse, (1 - start) * inverse
    enter = np.minimum(one, two).max(axis=1)
    leave = np.maximum(one, two).min(axis=1)
    return np.where((enter <= leave) & (enter > EPSILON), enter, np.inf)


def _ellipsoid(start: np.ndarray, ray: np.ndarray, _: float) -> np.ndarray:
    return _smaller_root(_dot(ray, ray), ray @ start, float(start @ start) - 1)


def _cylinder(start: np.ndarray, ray: np.ndarray, _: float) -> np.ndarray:
    flat, from_axis = ray[:, ::2], start[::2]
    side = _smaller_root(_dot(flat, flat), flat @ from_axis, float(from_axis @ from_axis) - 1)
    side = np.where(np.abs(start[1] + side * ray[:, 1]) <= 1, side, np.inf)
    cap = (np.sign(start[1]) - start[1]) / ray[:, 1]
    reach = from_axis + cap[:, None] * flat
    cap = np.where((cap > EPSILON) & (_dot(reach, reach) <= 1) & (abs(start[1]) > 1), cap, np.inf)
    return np.minimum(side, cap)


def _capsule(start: np.ndarray, ray: np.ndarray, half: float) -> np.ndarray:
    flat, from_axis = ray[:, ::2], start[::2]
    side = _smaller_root(_dot(flat, flat), flat @ from_axis, float(from_axis @ from_axis) - 1)
    best = np.where(np.abs(start[1] + side * ray[:, 1]) <= half, side, np.inf)
    for end in (-half, half):
        best = np.minimum(best, _ellipsoid(start - np.array([0, end, 0], np.float32), ray, 0))
    return best


def _smaller_root(a: np.ndarray, b: np.ndarray, c: float) -> np.ndarray:
    """Smaller root of a t^2 + 2 b t + c, where it is real and in front."""
    inside = b * b - a * np.float32(c)
    t = (-b - np.sqrt(inside)) / a
    return np.where((inside >= 0) & (t > EPSILON), t, np.inf)


def _dot(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", one, two)


def _box_normals(unit: np.ndarray, _: float) -> np.ndarray:
    axis = np.abs(unit).argmax(axis=1)
    rows = np.arange(len(unit))
    normals = np.zeros_like(unit)
    normals[rows, axis] = np.sign(unit[rows, axis])
    return normals


def _cylinder_normals(unit: np.ndarray, _: float) -> np.ndarray:
    on_cap = np.abs(unit[:, 1]) > 1 - 1e-4
    return np.where(on_cap[:, None], unit * [0, 1, 0], unit * [1, 0, 1])


def _capsule_normals(unit: np.ndarray, half: float) -> np.ndarray:
    return unit - np.clip(unit[:, 1:2], -half, half) * np.array([0, 1, 0])


_HITS = {"box": _box, "ellipsoid": _ellipsoid, "cylinder": _cylinder, "capsule": _capsule}
_NORMALS = {
    "box": _box_normals,
    "ellipsoid": lambda unit, _: unit,
    "cylinder": _cylinder_normals,
    "capsule": _capsule_normals,
}
