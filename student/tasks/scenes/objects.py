"""How an object is put together from solids and set into the room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from student.tasks.scenes.solids import Solid
from student.tasks.scenes.textures import Material
from student.tasks.scenes.things import PART_NAMES, THING_NAMES

Vector = Sequence[float]


class Assembly:
    """Solids of one object in its own frame: origin on the floor, front towards -z, metres."""

    def __init__(self, thing: str) -> None:
        self.thing = THING_NAMES.index(thing)
        self.solids: list[Solid] = []

    def add(self, shape: str, centre: Vector, half: Vector, material: Material) -> None:
        """One more piece, upright; see Solid for what `half` means per shape."""
        middle, extent = np.array(centre, float), np.array(half, float)
        self.solids.append(Solid(shape, middle, extent, np.eye(3), material, self.thing, 0))

    def limb(self, start: Vector, end: Vector, radius: float, material: Material, *, part: str = "") -> None:
        """A capsule from one joint to the next."""
        one, two = np.array(start, float), np.array(end, float)
        half = np.array([radius, np.linalg.norm(two - one) / 2, radius])
        solid = Solid("capsule", (one + two) / 2, half, towards(two - one), material, self.thing, 0)
        self.solids.append(_with(solid, part=PART_NAMES.index(part)))

    def tube(self, centre: Vector, half: Vector, material: Material, *, part: str = "") -> None:
        """An upright cylinder, round or oval."""
        self.add("cylinder", centre, half, material)
        self.solids[-1] = _with(self.solids[-1], part=PART_NAMES.index(part))

    def ball(self, centre: Vector, half: Vector, material: Material, *, part: str = "") -> None:
        """An ellipsoid."""
        self.add("ellipsoid", centre, half, material)
        self.solids[-1] = _with(self.solids[-1], part=PART_NAMES.index(part))

    def place(self, x: float, z: float, *, yaw: float, instance: int, y: float = 0.0) -> list[Solid]:
        """The solids in the room, turned by `yaw` radians about the vertical."""
        spin, shift = about_y(yaw), np.array([x, y, z])
        return [
            _with(s, centre=spin @ s.centre + shift, turn=spin @ s.turn, instance=instance)
            for s in self.solids
        ]


def _with(solid: Solid, **changes: object) -> Solid:
    return replace(solid, **changes)


def about_y(angle: float) -> np.ndarray:
    """Rotation [3, 3] about the vertical axis."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def towards(direction: np.ndarray) -> np.ndarray:
    """A rotation [3, 3] whose y axis is `direction`."""
    y = direction / max(np.linalg.norm(direction), 1e-9)
    side = np.array([1.0, 0, 0]) if abs(y[0]) < 0.9 else np.array([0, 0, 1.0])
    z = np.cross(side, y)
    z /= np.linalg.norm(z)
    return np.stack([np.cross(y, z), y, z], axis=1)
