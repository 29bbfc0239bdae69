"""Generated scenes: rays against a search along them, labels against the geometry that they describe."""

from __future__ import annotations

import time

import numpy as np
import pytest
from skimage.morphology import thin as skimage_thin

from student.tasks.scenes.objects import towards
from student.tasks.scenes.render import Picture, render
from student.tasks.scenes.room import Scene, generate
from student.tasks.scenes.solids import Rays, Solid, trace
from student.tasks.scenes.textures import PATTERNS, Material, paint
from student.tasks.scenes.things import PART_NAMES, THING_NAMES, THINGS

SIZE = (120, 160)
SEEDS = range(4)
GREY = Material((0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Scene, Picture]]:
    return [(scene, render(scene, SIZE)) for scene in map(generate, SEEDS)]


def contains(solid: Solid, points: np.ndarray) -> np.ndarray:
    """Whether world points are inside, from each shape's defining inequality."""
    local = (points - solid.centre) @ solid.turn
    x, y, z = (local / solid.half).T
    if solid.shape == "box":
        return np.maximum(np.maximum(abs(x), abs(y)), abs(z)) <= 1
    if solid.shape == "ellipsoid":
        return x**2 + y**2 + z**2 <= 1
    if solid.shape == "cylinder":
        return (x**2 + z**2 <= 1) & (abs(y) <= 1)
    radius, half = solid.half[0], solid.half[1]
    nearest = local * [0, 1, 0]
    nearest = np.clip(nearest, -half, half)
    return np.linalg.norm(local - nearest, axis=1) <= radius


@pytest.mark.parametrize("shape", ["box", "ellipsoid", "cylinder", "capsule"])
def test_rays_stop_where_a_search_along_them_does(shape: str) -> None:
    rng = np.random.default_rng(len(shape))
    half = np.array([0.3, 0.7, 0.3]) if shape == "capsule" else np.array([0.3, 0.7, 0.5])
    turn = towards(rng.normal(size=3))
    solid = Solid(shape, np.array([0.2, -0.1, 3.0]), half, turn, GREY, 0, 0)
    sources = rng.normal(0, 0.3, (3, 2)).astype(np.float32)
    start = rng.integers(0, 2, 600)
    directions = np.stack([*rng.normal(0, 0.25, (2, 600)), np.ones(600)]).astype(np.float32)
    t, hit = trace([solid], Rays(sources, start, directions))
    steps = np.arange(0, 6, 0.004)
    for ray in range(600):
        path = sources[:, start[ray]] + steps[:, None] * directions[:, ray]
        inside = np.flatnonzero(contains(solid, path))
        if len(inside):
            assert hit[ray] == 0 and abs(t[ray] - steps[inside[0]]) < 0.005
        elif hit[ray] == 0:
            # A ray may graze the solid between two steps.
            point = sources[:, start[ray]] + (t[ray] + 1e-3) * directions[:, ray]
            assert contains(solid, point[None] + 0.0)[0] or t[ray] < 6
    points = (sources[:, start] + t * directions).T[hit == 0]
    normals = solid.normals(points)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)
    assert contains(solid, points - 2e-3 * normals).mean() > 0.99
    assert contains(solid, points + 2e-3 * normals).mean() < 0.01
    assert 0.1 < (hit == 0).mean() < 0.95


def test_the_nearest_solid_wins() -> None:
    solids = [
        Solid("box", np.array([0, 0, z]), np.array([0.5, 0.5, 0.1]), np.eye(3), GREY, 0, i)
        for i, z in enumerate((5.0, 2.0, 3.0))
    ]
    rays = Rays(
        np.zeros((3, 1), np.float32), np.zeros(2, int), np.array([[0, 2], [0, 0], [1, 1]], np.float32)
    )
    t, hit = trace(solids, rays)
    assert list(hit) == [1, -1] and t[0] == pytest.approx(1.9) and np.isinf(t[1])


def reproject(scene: Scene, picture: Picture) -> np.ndarray:
    """World points [H, W, 3] from depth alone, through the pinhole camera."""
    height, width = SIZE
    focal = scene.focal * width
    u, v = np.meshgrid(np.arange(width) + 0.5 - width / 2, height / 2 - np.arange(height) - 0.5)
    camera = np.stack([u / focal, v / focal, np.ones(SIZE)], -1) * picture.depth[..., None]
    return scene.camera + camera @ scene.view


def test_depth_puts_the_room_where_it_is(drawn: list[tuple[Scene, Picture]]) -> None:
    for scene, picture in drawn:
        points = reproject(scene, picture)
        thing = np.array(THING_NAMES)[picture.thing]
        assert np.abs(points[thing == "floor"][:, 1]).max() < 1e-3
        assert np.abs(points[thing == "ceiling"][:, 1] - scene.extent[1]).max(initial=0) < 1e-3
        wall = points[thing == "wall"]
        away = np.abs(np.stack([np.abs(wall[:, 0]) - scene.extent[0] / 2, wall[:, 2] - scene.extent[2]])).min(
            0
        )
        assert np.minimum(away, np.abs(wall[:, 2])).max() < 1e-3
        assert picture.depth.dtype == np.float32 and picture.depth.min() > 0.1
        others = points[~np.isin(thing, ["wall", "floor", "ceiling"])]
        assert (np.abs(others[:, 0]) <= scene.extent[0] / 2 + 0.5).all() and (others[:, 1] > -1e-3).all()


def test_normals_are_the_slopes_of_depth(drawn: list[tuple[Scene, Picture]]) -> None:
    for scene, picture in drawn:
        camera = (reproject(scene, picture) - scene.camera) @ scene.view.T * [1, 1, -1]
        right = camera[1:-1, 2:] - camera[1:-1, :-2]
        up = camera[:-2, 1:-1] - camera[2:, 1:-1]
        slope = np.cross(right, up)
        slope /= np.linalg.norm(slope, axis=-1, keepdims=True)
        normals = picture.normals[1:-1, 1:-1]
        assert np.allclose(np.linalg.norm(picture.normals, axis=-1), 1, atol=1e-5)
        angle = np.degrees(np.arccos(np.clip((slope * normals).sum(-1), -1, 1)))
        # Outlines and curved pieces differ; the plain surfaces that fill most of a room do not.
        assert np.median(angle) < 0.1 and (angle < 2).mean() > 0.7
        # Every visible surface faces the eye.
        assert (picture.normals * -camera).sum(-1).min() > -1e-3
    floor = picture.normals[np.array(THING_NAMES)[picture.thing] == "floor"]
    assert (floor @ (scene.view[:, 1] * [1, 1, -1])).min() > 0.999


def test_labels_agree_with_each_other(drawn: list[tuple[Scene, Picture]]) -> None:
    people = THING_NAMES.index("person")
    for _, picture in drawn:
        assert np.array_equal(picture.part > 0, picture.thing == people)
        salient = np.isin(picture.thing, [i for i, thing in enumerate(THINGS.values()) if thing.salient])
        assert np.array_equal(picture.salient, salient) and salient.any()
        for instance in np.unique(picture.instance[picture.instance > 0]):
            assert len(np.unique(picture.thing[picture.instance == instance])) == 1
        assert np.array_equal(skimage_thin(picture.edges), picture.edges)
        assert 0.005 < picture.edges.mean() < 0.12
        label = picture.instance.astype(int) * 100 + picture.thing
        change = np.zeros(SIZE, bool)
        change[:, :-1] |= label[:, :-1] != label[:, 1:]
        change[:-1] |= label[:-1] != label[1:]
        assert change[picture.edges].all()


def test_people_are_there_when_asked_for() -> None:
    for seed in range(3):
        picture = render(generate(seed, people=2), (96, 128))
        parts = {PART_NAMES[i] for i in np.unique(picture.part)}
        assert "torso" in parts and len(parts) > 4
    assert not render(generate(0, people=0), (48, 64)).part.any()


def test_pictures_are_pure_and_differ(drawn: list[tuple[Scene, Picture]]) -> None:
    again = render(generate(0), SIZE)
    for field, value in vars(drawn[0][1]).items():
        assert np.array_equal(value, getattr(again, field)), field
    assert not np.array_equal(drawn[0][1].image, drawn[1][1].image)


def test_pictures_are_well_exposed(drawn: list[tuple[Scene, Picture]]) -> None:
    for _, picture in drawn:
        assert 70 < picture.image.mean() < 210 and picture.image.std() > 20
        assert (picture.image == 255).mean() < 0.25 and (picture.image < 8).mean() < 0.1


def test_a_scene_takes_less_than_half_a_second() -> None:
    times = []
    for seed in (3, 4):
        start = time.process_time()
        render(generate(seed), (224, 288))
        times.append(time.process_time() - start)
    # Two of the fullest scenes; CPU time, with room for a loaded machine.
    assert min(times) < 0.8


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_every_pattern_paints(pattern: str) -> None:
    rng = np.random.default_rng(0)
    points, normals = rng.normal(size=(50, 3)), np.eye(3)[rng.integers(0, 3, 50)]
    colours = paint(Material((0.2, 0.4, 0.6), (0.9, 0.1, 0.1), pattern, 0.2), points, normals)
    assert colours.shape == (50, 3) and np.isfinite(colours).all() and colours.min() >= 0
