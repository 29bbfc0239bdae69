"""How a scene becomes a picture and its exact labels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from student.tasks.scenes.room import Light, Scene
from student.tasks.scenes.solids import Rays, trace
from student.tasks.scenes.textures import paint
from student.tasks.scenes.things import THING_NAMES, THINGS
from student.tasks.thinning import thin

ROOM_THINGS = tuple(THING_NAMES.index(name) for name in ("wall", "floor", "ceiling"))
SALIENT = np.array([thing.salient for thing in THINGS.values()])
SHADOW_GRID = 4
"""A light has 4 x 4 sample points, one per pixel of a 4 x 4 block, whose visibility is averaged."""
AMBIENT = np.array([0.44, 0.45, 0.48])
EXPOSURE = 1.05


@dataclass(frozen=True)
class Picture:
    """A rendered scene: what the camera sees and what is true at each pixel's centre."""

    image: np.ndarray
    """RGB uint8 [H, W, 3]."""
    thing: np.ndarray
    """Index into THING_NAMES, uint8 [H, W]."""
    instance: np.ndarray
    """Number of the object, 0 for the room, int16 [H, W]."""
    part: np.ndarray
    """Index into PART_NAMES, uint8 [H, W]."""
    depth: np.ndarray
    """Distance along the optical axis, metres, float32 [H, W]."""
    normals: np.ndarray
    """Unit normals in camera space, float32 [H, W, 3]: x right, y up, z towards the viewer."""
    edges: np.ndarray
    """One-pixel boundaries between objects, walls, floor and ceiling, bool [H, W]."""
    salient: np.ndarray
    """People, dogs and toys, bool [H, W]."""


@dataclass
class _Hits:
    """What rays from the eye hit; everything [N, ...]."""

    points: np.ndarray
    normals: np.ndarray
    depth: np.ndarray
    solid: np.ndarray
    """Index into the scene's solids; -1, -2, -3 for wall, floor, ceiling."""


def render(scene: Scene, size: tuple[int, int]) -> Picture:
    """The picture of a scene at height and width `size`, pixels; the same arguments give the same picture."""
    height, width = size
    hits = _cast(scene, _rays(scene, size, (0.5, 0.5)))
    surface = hits.solid.reshape(size)
    points, samples = _lifted(hits), _samples(size)
    visibility = [_soften(_shadow(scene, light, points, samples), surface) for light in scene.lights]
    colour = _shade(scene, hits, visibility).reshape(height, width, 3)
    thing, instance, part = (table[hits.solid].reshape(size) for table in _tables(scene))
    edges = _boundaries(instance.astype(np.int32) * len(THINGS) + thing)
    _smooth_outlines(scene, colour, surface)
    normals = hits.normals @ scene.view.T * [1, 1, -1]
    return Picture(
        image=_expose(colour, np.random.default_rng(scene.seed)),
        thing=thing.astype(np.uint8),
        instance=instance.astype(np.int16),
        part=part.astype(np.uint8),
        depth=hits.depth.reshape(size),
        normals=normals.reshape(height, width, 3).astype(np.float32),
        edges=edges,
        salient=SALIENT[thing],
    )


def _rays(scene: Scene, size: tuple[int, int], offset: tuple[float, float]) -> np.ndarray:
    """World directions [H * W, 3] through the pixels, of length 1 along the optical axis: t is the depth."""
    height, width = size
    focal = scene.focal * width
    u = (np.arange(width) + offset[0] - width / 2) / focal
    v = -(np.arange(height) + offset[1] - height / 2) / focal
    camera = np.stack([*np.broadcast_arrays(u, v[:, None]), np.ones(size)], axis=-1).reshape(-1, 3)
    return (camera @ scene.view).astype(np.float32)


def _cast(scene: Scene, directions: np.ndarray) -> _Hits:
    eye = scene.camera.astype(np.float32)
    start = np.zeros(len(directions), np.intp)
    depth, solid = trace(scene.solids, Rays(eye[:, None], start, np.ascontiguousarray(directions.T)))
    wall_depth, wall_normals, surface = _room(scene, eye, directions)
    of_room = (solid < 0) | (wall_depth < depth)
    depth = np.where(of_room, wall_depth, depth)
    solid = np.where(of_room, surface, solid)
    points = eye + depth[:, None] * directions
    normals = np.where(of_room[:, None], wall_normals, 0)
    for index in np.unique(solid[~of_room]):
        chosen = solid == index
        normals[chosen] = scene.solids[index].normals(points[chosen])
    return _Hits(points, normals, depth, solid)


def _room(scene: Scene, eye: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where rays leave the room: depth [N], inward normals [N, 3], surface -1 wall, -2 floor, -3 ceiling."""
    w, h, d = scene.extent
    low, high = np.array([-w / 2, 0, 0], np.float32), np.array([w / 2, h, d], np.float32)
    with np.errstate(divide="ignore"):
        exits = np.where(directions > 0, high - eye, low - eye) / directions
    axis = exits.argmin(axis=1)
    rows = np.arange(len(directions))
    normals = np.zeros_like(directions)
    normals[rows, axis] = -np.sign(directions[rows, axis])
    surface = np.where(axis == 1, np.where(directions[:, 1] > 0, -3, -2), -1)
    return exits[rows, axis], normals, surface


def _tables(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thing, instance and part of every surface; the last three are ceiling, floor, wall (-3, -2, -1)."""
    solids = scene.solids
    wall, floor, ceiling = ROOM_THINGS
    things = np.array([*(s.thing for s in solids), ceiling, floor, wall])
    instances = np.array([*(s.instance for s in solids), 0, 0, 0])
    return things, instances, np.array([*(s.part for s in solids), 0, 0, 0])


def _shadow(scene: Scene, light: Light, points: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """1 where a point [N, 3] sees its sample [N] of the light's 4 x 4 points, 0 in shadow: float32 [N]."""
    steps = (2 * np.arange(SHADOW_GRID) + 1) / SHADOW_GRID - 1
    a, b = np.repeat(steps, SHADOW_GRID), np.tile(steps, SHADOW_GRID)
    sources = (light.centre + np.stack([a, b], axis=1) @ light.edges).T.astype(np.float32)
    directions = points.T.astype(np.float32) - sources[:, sample]
    nearest, _ = trace(scene.solids, Rays(sources, sample, directions))
    return (nearest > 0.999).astype(np.float32)


def _lifted(hits: _Hits) -> np.ndarray:
    """Points just off the surface, so that it does not shadow itself."""
    return hits.points + np.float32(2e-3) * hits.normals


def _samples(size: tuple[int, int]) -> np.ndarray:
    """Which point of a light each pixel looks at, [H * W]: neighbours look at points far apart."""
    rows, columns = np.indices(size).reshape(2, -1) % SHADOW_GRID
    return (rows * SHADOW_GRID + columns) * 7 % SHADOW_GRID**2


def _soften(seen: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """Mean visibility [H * W] over 4 x 4 neighbours of the same surface: [H * W]."""
    height, width = surface.shape
    total, count = np.zeros(surface.shape, np.float32), np.zeros(surface.shape, np.float32)
    reach = SHADOW_GRID // 2
    seen = seen.reshape(surface.shape)
    value, label = np.pad(seen, reach), np.pad(surface, reach, constant_values=-9)
    for dy in range(SHADOW_GRID):
        for dx in range(SHADOW_GRID):
            window = np.s_[dy : dy + height, dx : dx + width]
            same = label[window] == surface
            total += same * value[window]
            count += same
    return (total / np.maximum(count, 1)).reshape(-1)


def _shade(scene: Scene, hits: _Hits, visibility: list[np.ndarray]) -> np.ndarray:
    """Linear colours [N, 3]: ambient light dimmed near corners, Lambert's law and a highlight per light."""
    albedo, gloss, glow = _surface_colours(scene, hits)
    sky = 0.8 + 0.2 * hits.normals[:, 1:2]
    diffuse = AMBIENT * sky * _openness(scene, hits)[:, None]
    highlight = np.zeros_like(diffuse)
    to_eye = _unit(scene.camera - hits.points)
    for light, seen in zip(scene.lights, visibility, strict=True):
        offset = light.centre - hits.points
        squared = np.einsum("ij,ij->i", offset, offset)
        direction = offset / np.sqrt(squared)[:, None]
        cosine = np.clip(np.einsum("ij,ij->i", direction, hits.normals), 0, None)
        strength = seen / (1.0 + 0.35 * squared)
        diffuse = diffuse + (strength * cosine)[:, None] * light.power
        halfway = np.einsum("ij,ij->i", _unit(direction + to_eye), hits.normals)
        highlight += (strength * np.clip(halfway, 0, 1) ** 40 * gloss)[:, None] * light.power
    return albedo * (diffuse * (1 - glow[:, None]) + 1.25 * glow[:, None]) + 0.6 * highlight


def _surface_colours(scene: Scene, hits: _Hits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Albedo [N, 3], gloss [N] and glow [N] of what was hit."""
    albedo = np.empty((len(hits.solid), 3))
    gloss, glow = np.zeros(len(hits.solid)), np.zeros(len(hits.solid))
    for index in np.unique(hits.solid):
        chosen = np.flatnonzero(hits.solid == index)
        points, normals = hits.points[chosen], hits.normals[chosen]
        if index < 0:
            material = scene.surfaces[-1 - index]
        else:
            solid = scene.solids[index]
            material, points, normals = solid.material, solid.local(points), normals @ solid.turn
        albedo[chosen] = paint(material, points, normals)
        gloss[chosen], glow[chosen] = material.gloss, material.glow
    return np.clip(albedo, 0, 1.2), gloss, glow


def _openness(scene: Scene, hits: _Hits) -> np.ndarray:
    """How much ambient light a point gets, 0.55..1: less near the room's corners and close to the floor."""
    w, h, d = scene.extent
    x, y, z = hits.points.T
    distances = np.stack([x + w / 2, w / 2 - x, y, h - y, d - z])
    facing = np.stack(
        [
            hits.normals[:, 0],
            -hits.normals[:, 0],
            hits.normals[:, 1],
            -hits.normals[:, 1],
            -hits.normals[:, 2],
        ]
    )
    shade = 0.4 * np.exp(-np.clip(distances, 0, None) / 0.22) * (facing < 0.7)
    return np.prod(1 - shade, axis=0)


def _boundaries(label: np.ndarray) -> np.ndarray:
    """Thin outlines of the regions of a label map: bool [H, W]."""
    mask = np.zeros(label.shape, bool)
    mask[:, :-1] |= label[:, :-1] != label[:, 1:]
    mask[:-1] |= label[:-1] != label[1:]
    return thin(mask)


def _smooth_outlines(scene: Scene, colour: np.ndarray, surface: np.ndarray) -> None:
    """Anti-alias in place: pixels at an outline become the mean of four rays instead of one."""
    size = surface.shape
    mask = np.zeros(size, np.uint8)
    mask[:, 1:] |= surface[:, 1:] != surface[:, :-1]
    mask[1:] |= surface[1:] != surface[:-1]
    pixels = np.flatnonzero(cv2.dilate(mask, np.ones((2, 2), np.uint8), anchor=(0, 0)))
    total = np.zeros((len(pixels), 3))
    for number, offset in enumerate(((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))):
        hits = _cast(scene, _rays(scene, size, offset)[pixels])
        points, samples = _lifted(hits), np.full(len(pixels), 5 * number)
        seen = [_shadow(scene, light, points, samples) for light in scene.lights]
        total += np.minimum(_shade(scene, hits, seen), 1.5)
    colour.reshape(-1, 3)[pixels] = total / 4


def _expose(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Linear light -> uint8: highlights rolled off, display gamma, a little sensor noise."""
    light = EXPOSURE * np.clip(colour, 0, None)
    rolled = light * (1 + light / 4) / (1 + light)
    display = 255 * np.clip(1.18 * rolled, 0, 1) ** (1 / 2.2)
    noise = rng.normal(0, 1.6, colour.shape)
    return np.clip(display + noise, 0, 255).round().astype(np.uint8)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
