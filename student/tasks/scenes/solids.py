"""Where a ray meets a box, an ellipsoid, a cylinder or a capsule: the geometry of the generated scenes.

World: x right, y up, z away from the camera, metres. A solid is a unit shape scaled, turned and moved; a ray
is taken into the unit shape's space, where its parameter t stays the same. Rays are [3, N], rows x, y, z:
everything is vectorised over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

from student.tasks.scenes.textures import Material

EPSILON = 1e-4


@dataclass(frozen=True)
class Solid:
    """One convex piece of an object."""

    shape: str
    """box, ellipsoid, or along y cylinder or capsule (half: radius, half length without caps, radius)."""
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

    @cached_property
    def scale(self) -> np.ndarray:
        """What the unit shape is multiplied by: a capsule's caps stay round."""
        return np.repeat(self.half[:1], 3) if self.shape == "capsule" else self.half

    @cached_property
    def bound(self) -> float:
        """Radius of a sphere around the centre that holds the solid."""
        if self.shape == "capsule":
            return float(self.half[0] + self.half[1])
        return float(self.half.max() if self.shape == "ellipsoid" else np.linalg.norm(self.half))

    def local(self, points: np.ndarray) -> np.ndarray:
        """World points [N, 3] -> local coordinates in metres (textures stick to the solid)."""
        return (points - self.centre) @ self.turn

    def distance(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Ray parameter of the first hit in front: float32 [N], infinity where missed.

        origins: [3, N], or [3, 1] for all; directions: [3, N], float32.
        """
        into = (self.turn / self.scale).T.astype(np.float32)
        start = into @ (origins - self.centre[:, None].astype(np.float32))
        with np.errstate(divide="ignore", invalid="ignore"):
            return _HITS[self.shape](start, into @ directions, float(self.half[1] / self.half[0]))

    def normals(self, points: np.ndarray) -> np.ndarray:
        """Outward unit normals at surface points: [N, 3]."""
        unit = self.local(points) / self.scale
        slope = _NORMALS[self.shape](unit, float(self.half[1] / self.half[0])) / self.scale
        world = slope @ self.turn.T
        return world / np.linalg.norm(world, axis=1, keepdims=True)


@dataclass(frozen=True)
class Rays:
    """Rays that start at few points: ray n runs from sources[:, start[n]] along directions[:, n]."""

    sources: np.ndarray
    """float32 [3, K]."""
    start: np.ndarray
    """Index into the sources, [N]."""
    directions: np.ndarray
    """float32 [3, N]."""

    @cached_property
    def squares(self) -> np.ndarray:
        """Squared length of each direction, [N]."""
        return _dot(self.directions, self.directions)

    def __getitem__(self, rays: np.ndarray) -> Rays:
        return Rays(self.sources, self.start[rays], self.directions[:, rays])

    def passing(self, centre: np.ndarray, radius: float) -> np.ndarray:
        """Indices of the rays that pass a sphere: with spheres around things most work is never done."""
        offset = centre[:, None].astype(np.float32) - self.sources
        outside = _dot(offset, offset) - np.float32(radius**2)
        if len(outside) == 1:
            along = offset[:, 0] @ self.directions
            outside = outside[0]
        else:
            along = _dot(offset[:, self.start], self.directions)
            outside = outside[self.start]
        return np.flatnonzero((outside < 0) | ((along > 0) & (along * along >= outside * self.squares)))


def trace(solids: Sequence[Solid], rays: Rays) -> tuple[np.ndarray, np.ndarray]:
    """The nearest solid of each ray: t float32 [N] (infinity: none), the solid's index int16 [N] (-1)."""
    nearest = np.full(len(rays.start), np.inf, np.float32)
    hit = np.full(len(rays.start), -1, np.int16)
    for _, numbered in groupby(enumerate(solids), key=lambda item: item[1].instance):
        pieces = list(numbered)
        near = rays.passing(*_sphere([solid for _, solid in pieces]))
        around = rays[near]
        for index, solid in pieces if len(near) else []:
            chosen = around.passing(solid.centre, solid.bound) if len(pieces) > 1 else np.arange(len(near))
            origins = rays.sources if rays.sources.shape[1] == 1 else rays.sources[:, around.start[chosen]]
            t = solid.distance(origins, around.directions[:, chosen])
            closer = np.flatnonzero(t < nearest[near[chosen]])
            winners = near[chosen[closer]]
            nearest[winners], hit[winners] = t[closer], index
    return nearest, hit


def _sphere(solids: Sequence[Solid]) -> tuple[np.ndarray, float]:
    """Centre and radius of a sphere around an object's pieces."""
    centre = np.mean([solid.centre for solid in solids], axis=0)
    return centre, max(float(np.linalg.norm(solid.centre - centre)) + solid.bound for solid in solids)


def _box(start: np.ndarray, ray: np.ndarray, _: float) -> np.ndarray:
    # A ray along a face has a zero here, and 0 x infinity would be no number.
    inverse = 1 / np.where(ray == 0, np.float32(1e-12), ray)
    middle, reach = -start * inverse, np.abs(inverse)
    low, high = middle - reach, middle + reach
    enter = np.maximum(np.maximum(low[0], low[1]), low[2])
    leave = np.minimum(np.minimum(high[0], high[1]), high[2])
    return np.where((enter <= leave) & (enter > EPSILON), enter, np.float32(np.inf))


def _ellipsoid(start: np.ndarray, ray: np.ndarray, _: float) -> np.ndarray:
    return _smaller_root(_dot(ray, ray), _dot(ray, start), _dot(start, start) - 1)


def _pipe(start: np.ndarray, ray: np.ndarray, half: float) -> np.ndarray:
    """The round side of a cylinder or capsule of that half length."""
    flat, axis = ray[::2], start[::2]
    t = _smaller_root(_dot(flat, flat), _dot(flat, axis), _dot(axis, axis) - 1)
    return np.where(np.abs(start[1] + t * ray[1]) <= half, t, np.float32(np.inf))


def _cylinder(start: np.ndarray, ray: np.ndarray, _: float) -> np.ndarray:
    cap = (np.sign(start[1]) - start[1]) / ray[1]
    reach = start[::2] + cap * ray[::2]
    on_cap = (cap > EPSILON) & (_dot(reach, reach) <= 1) & (np.abs(start[1]) > 1)
    return np.where(on_cap, cap, _pipe(start, ray, 1.0))


def _capsule(start: np.ndarray, ray: np.ndarray, half: float) -> np.ndarray:
    best = _pipe(start, ray, half)
    for end in (-half, half):
        best = np.minimum(best, _ellipsoid(start - np.array([[0], [end], [0]], np.float32), ray, 0))
    return best


def _smaller_root(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Smaller root of a t^2 + 2 b t + c, where it is real and in front."""
    inside = b * b - a * c
    t = (-b - np.sqrt(inside)) / a
    return np.where((inside >= 0) & (t > EPSILON), t, np.float32(np.inf))


def _dot(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Dot products of columns: [3 or 2, N] -> [N]."""
    total = one[0] * two[0]
    for a, b in zip(one[1:], two[1:], strict=True):
        total = total + a * b
    return total


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
