"""Which room a seed means: walls, light, camera, and what stands where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from student.tasks.scenes.furniture import FREE, WALL_SIDE, fabric, paint, wood
from student.tasks.scenes.objects import Assembly
from student.tasks.scenes.people import person
from student.tasks.scenes.solids import Solid
from student.tasks.scenes.textures import Material, hsv


@dataclass(frozen=True)
class Light:
    """A rectangle that shines: its centre, two half edges, and its linear RGB power."""

    centre: np.ndarray
    edges: np.ndarray
    power: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A room with everything in it. The room spans -w/2..w/2, 0..h, 0..d metres."""

    extent: np.ndarray
    """Width, height, depth."""
    surfaces: tuple[Material, Material, Material]
    """Walls, floor, ceiling."""
    solids: tuple[Solid, ...]
    lights: tuple[Light, ...]
    camera: np.ndarray
    """Position of the eye."""
    view: np.ndarray
    """Rotation [3, 3]; rows are the camera's right, up and forward."""
    focal: float
    """Focal length as a fraction of the image width."""
    seed: int


def generate(seed: int, *, people: int | None = None) -> Scene:
    """The scene of a seed, with that many people (default: drawn, 0 to 2)."""
    rng = np.random.default_rng(seed)
    extent = np.array([rng.uniform(4.2, 6.2), rng.uniform(2.5, 2.9), rng.uniform(4.8, 6.8)])
    camera, view = _camera(rng, extent)
    builder = _Builder(rng, extent, camera)
    builder.furnish_walls()
    builder.decorate_walls()
    builder.furnish_floor(int(rng.choice([0, 1, 1, 2])) if people is None else people)
    surfaces = (_wall(rng), _floor(rng), Material(hsv(0.12, 0.03, 0.97), glow=0.3))
    lights = (_lamp(rng, extent), _daylight(rng, extent))
    focal = rng.uniform(0.72, 0.88)
    return Scene(extent, surfaces, tuple(builder.solids), lights, camera, view, focal, seed)


def _camera(rng: np.random.Generator, extent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    eye = np.array([rng.uniform(-0.22, 0.22) * extent[0], rng.uniform(1.25, 1.65), rng.uniform(0.25, 0.5)])
    aim = np.array([rng.uniform(-0.1, 0.1) * extent[0], rng.uniform(0.7, 1.0), 0.62 * extent[2]])
    forward = (aim - eye) / np.linalg.norm(aim - eye)
    right = np.cross([0, 1, 0], forward)
    right /= np.linalg.norm(right)
    return eye, np.stack([right, np.cross(forward, right), forward])


def _lamp(rng: np.random.Generator, extent: np.ndarray) -> Light:
    centre = np.array(
        [rng.uniform(-0.2, 0.2) * extent[0], extent[1] - 0.02, rng.uniform(0.35, 0.6) * extent[2]]
    )
    warmth = np.array([1.0, rng.uniform(0.86, 0.97), rng.uniform(0.7, 0.92)])
    return Light(centre, np.array([[0.6, 0, 0], [0, 0, 0.6]]), rng.uniform(2.2, 2.9) * warmth)


def _daylight(rng: np.random.Generator, extent: np.ndarray) -> Light:
    """Light from a window beside or behind the camera."""
    side = rng.choice([-1, 1])
    centre = np.array([side * (0.5 * extent[0] - 0.02), 1.5, rng.uniform(0.15, 0.3) * extent[2]])
    tint = np.array([0.86, 0.94, 1.0])
    return Light(centre, np.array([[0, 0.6, 0], [0, 0, 0.7]]), rng.uniform(1.2, 2.2) * tint)


def _wall(rng: np.random.Generator) -> Material:
    hue, pattern = rng.random(), str(rng.choice(["plain", "plain", "plain", "stripes", "dots"]))
    tone = hsv(hue, rng.uniform(0.04, 0.22), rng.uniform(0.82, 0.96))
    return Material(tone, tuple(0.93 * c for c in tone), pattern, rng.uniform(0.2, 0.45))


def _floor(rng: np.random.Generator) -> Material:
    kind = rng.choice(["wood", "wood", "tiles", "carpet"])
    if kind == "wood":
        return wood(rng)
    if kind == "tiles":
        return Material(hsv(0.1, 0.1, rng.uniform(0.6, 0.9)), hsv(0.1, 0.1, 0.5), "tiles", 0.4, gloss=0.25)
    return Material(
        hsv(rng.random(), rng.uniform(0.1, 0.3), rng.uniform(0.4, 0.7)), pattern="weave", size=0.02
    )


class _Builder:
    """Sets objects down where nothing else stands."""

    def __init__(self, rng: np.random.Generator, extent: np.ndarray, camera: np.ndarray) -> None:
        self.rng, self.extent = rng, extent
        self.solids: list[Solid] = []
        self.instances = 0
        # Rectangles of floor that are taken: x, z, half width, half depth. Nothing stands before the lens.
        self.taken = [(float(camera[0]), 0.7, 0.7, 1.0)]
        self.hung: dict[int, list[tuple[float, float]]] = {0: [], 1: [], 2: []}

    def put(self, assemblies: Sequence[Assembly], x: float, z: float, yaw: float, *, y: float = 0) -> None:
        """Set down the pieces of one arrangement; each assembly is an object of its own."""
        for assembly in assemblies:
            self.instances += 1
            self.solids += assembly.place(x, z, yaw=yaw, instance=self.instances, y=y)

    def claim(self, x: float, z: float, half_x: float, half_z: float) -> bool:
        """Take a rectangle of floor if it is free and inside the room."""
        inside = abs(x) + half_x <= self.extent[0] / 2 and half_z <= z <= self.extent[2] - half_z
        clash = any(abs(x - tx) < half_x + hx and abs(z - tz) < half_z + hz for tx, tz, hx, hz in self.taken)
        if inside and not clash:
            self.taken.append((x, z, half_x, half_z))
            return True
        return False

    def furnish_walls(self) -> None:
        """Three to six objects with their backs to the far wall and the side walls."""
        kinds = list(WALL_SIDE)
        for number in range(int(self.rng.integers(5, 9))):
            make, width, depth = WALL_SIDE[str(self.rng.choice(kinds))]
            wall = 0 if number < 3 else int(self.rng.integers(0, 3))
            x, z, yaw = self._against(wall, width, depth)
            half = (width / 2, depth / 2) if wall == 0 else (depth / 2, width / 2)
            if self.claim(x, z, *half):
                self.put(make(self.rng), x, z, yaw)
                self.hung[wall].append((x if wall == 0 else z, width / 2))

    def _against(self, wall: int, width: float, depth: float) -> tuple[float, float, float]:
        """A place with the back to wall 0 (far), 1 (left) or 2 (right): x, z, yaw."""
        w, d = self.extent[0], self.extent[2]
        if wall == 0:
            return self.rng.uniform(-1, 1) * (w - width) / 2, d - depth / 2 - 0.02, 0.0
        z = self.rng.uniform(1.8, max(1.81, d - width / 2))
        side = -1 if wall == 1 else 1
        return side * (w / 2 - depth / 2 - 0.02), z, side * np.pi / 2

    def decorate_walls(self) -> None:
        """A window or a door, curtains, and pictures, where they do not overlap."""
        self._hang(_window if self.rng.random() < 0.6 else _door, int(self.rng.integers(0, 3)), 0.75)
        for _ in range(int(self.rng.integers(2, 5))):
            self._hang(_picture, int(self.rng.integers(0, 3)), 0.4)

    def _hang(self, make: object, wall: int, half: float) -> None:
        w, d = self.extent[0], self.extent[2]
        span = (-w / 2 + half, w / 2 - half) if wall == 0 else (2.0 + half, d - half)
        at = self.rng.uniform(*span)
        low = make in (_door, _window)
        rivals = [r for r in self.hung[wall] if abs(r[0] - at) < r[1] + half]
        if rivals and (low or any(r[1] < 0.6 for r in rivals)):
            return
        self.hung[wall].append((at, half))
        x, z = (at, d) if wall == 0 else ((-w if wall == 1 else w) / 2, at)
        self.put(make(self.rng), x, z, (0.0, -np.pi / 2, np.pi / 2)[wall])

    def furnish_floor(self, people: int) -> None:
        """People first (they must be seen), then a rug, a table with chairs, small things."""
        for _ in range(people):
            self._stand([person(self.rng)], 0.35, 0.35, facing=True)
        if self.rng.random() < 0.5:
            x, z = self.rng.uniform(-0.6, 0.6), 0.55 * self.extent[2]
            self.put(_rug(self.rng), x, z, self.rng.uniform(-0.1, 0.1))
        kinds = ["toy", "dog"] if people == 0 else []
        kinds += [str(k) for k in self.rng.choice(list(FREE), int(self.rng.integers(2, 6)))]
        for kind in kinds:
            make, width, depth = FREE[kind]
            self._stand(make(self.rng), width / 2, depth / 2, facing=kind in ("dog", "chair"))

    def _stand(self, assemblies: Sequence[Assembly], half_x: float, half_z: float, *, facing: bool) -> None:
        for _ in range(12):
            z = self.rng.uniform(2.0, self.extent[2] - 0.8)
            x = self.rng.uniform(-0.42, 0.42) * min(self.extent[0], z * 1.1)
            if self.claim(x, z, half_x, half_z):
                self.put(assemblies, x, z, self.rng.uniform(-0.9, 0.9) if facing else self.rng.normal(0, 0.1))
                return


def _window(rng: np.random.Generator) -> list[Assembly]:
    body, frame = Assembly("window"), hsv(0.1, 0.03, 0.95)
    sky = Material(hsv(0.56, rng.uniform(0.12, 0.35), 1.0), frame, "panes", 0.6, glow=0.85)
    body.add("box", (0, 1.55, -0.02), (0.6, 0.6, 0.03), sky)
    body.add("box", (0, 0.92, -0.06), (0.68, 0.02, 0.08), Material(frame))
    curtain = Assembly("curtain")
    cloth = fabric(rng, "folds", 0.09)
    for x in (-0.66, 0.66):
        curtain.add("box", (x, 1.3, -0.08), (0.13, 1.0, 0.03), cloth)
    return [body, curtain] if rng.random() < 0.7 else [body]


def _door(rng: np.random.Generator) -> list[Assembly]:
    body, leaf = Assembly("door"), paint(rng)
    panels = Material(leaf.colour, tuple(0.6 * c for c in leaf.colour), "panels", 0.8, gloss=0.15)
    body.add("box", (0, 1.02, -0.02), (0.42, 1.02, 0.03), panels)
    for x in (-0.46, 0.46):
        body.add("box", (x, 1.05, -0.03), (0.045, 1.05, 0.04), leaf)
    body.add("box", (0, 2.08, -0.03), (0.5, 0.045, 0.04), leaf)
    return [body]


def _picture(rng: np.random.Generator) -> list[Assembly]:
    body, hue = Assembly("picture"), rng.random()
    half_w, half_h, y = rng.uniform(0.2, 0.38), rng.uniform(0.2, 0.34), rng.uniform(1.5, 1.75)
    art = Material(hsv(hue, 0.6, 0.85), hsv(hue + rng.uniform(0.1, 0.5), 0.5, 0.95), "blobs", 0.12)
    body.add("box", (0, y, -0.015), (half_w, half_h, 0.02), wood(rng, "grain"))
    body.add("box", (0, y, -0.035), (half_w - 0.035, half_h - 0.035, 0.005), art)
    return [body]


def _rug(rng: np.random.Generator) -> list[Assembly]:
    body = Assembly("rug")
    cloth = fabric(rng, str(rng.choice(["stripes", "checker", "dots"])), rng.uniform(0.15, 0.35))
    body.add("box", (0, 0.006, 0), (rng.uniform(0.9, 1.3), 0.006, rng.uniform(0.7, 1.0)), cloth)
    return [body]
