"""What furniture and small things look like: each function draws one object in its own frame.

Frame: origin on the floor in the middle of the footprint, front towards -z. FOOTPRINT says how much floor an
object takes (width along x, depth along z, metres).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from student.tasks.scenes.objects import Assembly
from student.tasks.scenes.textures import Material, hsv

Rng = np.random.Generator


def wood(rng: Rng, pattern: str = "planks") -> Material:
    """Oak to walnut: boards, or one grain."""
    tone = hsv(rng.uniform(0.06, 0.1), rng.uniform(0.35, 0.6), rng.uniform(0.4, 0.8))
    return Material(tone, tuple(0.5 * c for c in tone), pattern, 0.14, gloss=0.15)


def paint(rng: Rng) -> Material:
    """White to grey, sometimes a colour: doors, cabinets."""
    if rng.random() < 0.3:
        return Material(hsv(rng.random(), 0.3, 0.75), gloss=0.1)
    return Material(hsv(0.1, 0.05, rng.uniform(0.75, 0.95)), gloss=0.1)


def fabric(rng: Rng, pattern: str = "weave", size: float = 0.03) -> Material:
    """Upholstery in a clear colour."""
    hue = rng.random()
    tone, accent = hsv(hue, rng.uniform(0.3, 0.7), rng.uniform(0.45, 0.85)), hsv(hue + 0.1, 0.2, 0.92)
    return Material(tone, accent, pattern, size)


def _legs(body: Assembly, corner: tuple[float, float], height: float, material: Material) -> None:
    for x in (-corner[0], corner[0]):
        for z in (-corner[1], corner[1]):
            body.add("cylinder", (x, height / 2, z), (0.028, height / 2, 0.028), material)


def chair(rng: Rng) -> list[Assembly]:
    """A dining chair."""
    body, frame, seat = Assembly("chair"), wood(rng, "grain"), fabric(rng)
    _legs(body, (0.19, 0.19), 0.43, frame)
    body.add("box", (0, 0.45, 0), (0.22, 0.03, 0.22), seat)
    for x in (-0.19, 0.19):
        body.add("box", (x, 0.7, 0.2), (0.02, 0.25, 0.02), frame)
    body.add("box", (0, 0.78, 0.2), (0.2, 0.14, 0.015), seat)
    return [body]


def table(rng: Rng) -> list[Assembly]:
    """A rectangular or round table with a bottle or books on it."""
    body, top = Assembly("table"), wood(rng)
    if rng.random() < 0.35:
        body.add("cylinder", (0, 0.73, 0), (0.55, 0.02, 0.55), top)
        body.add("cylinder", (0, 0.36, 0), (0.06, 0.36, 0.06), top)
        body.add("cylinder", (0, 0.02, 0), (0.28, 0.02, 0.28), top)
    else:
        body.add("box", (0, 0.73, 0), (0.7, 0.025, 0.42), top)
        _legs(body, (0.63, 0.35), 0.71, top)
    return [body, *_clutter(rng, 0.755)]


def _clutter(rng: Rng, y: float) -> list[Assembly]:
    """One or two small things on a surface of that height."""
    found = []
    for x in (-0.25, 0.22):
        kind = rng.choice(["bottle", "books", "none"])
        if kind == "bottle":
            found.append(_bottle(rng, x, y))
        elif kind == "books":
            found.append(_stack(rng, x, y))
    return found


def _bottle(rng: Rng, x: float, y: float) -> Assembly:
    body, glass = Assembly("bottle"), Material(hsv(rng.uniform(0.25, 0.6), 0.7, 0.5), gloss=0.6)
    body.add("cylinder", (x, y + 0.1, 0), (0.045, 0.1, 0.045), glass)
    body.ball((x, y + 0.2, 0), (0.045, 0.05, 0.045), glass)
    body.add("cylinder", (x, y + 0.26, 0), (0.017, 0.05, 0.017), glass)
    return body


def _stack(rng: Rng, x: float, y: float) -> Assembly:
    body = Assembly("books")
    for level in range(int(rng.integers(2, 5))):
        cover = Material(hsv(rng.random(), 0.6, 0.75))
        half = (rng.uniform(0.09, 0.13), 0.018, rng.uniform(0.07, 0.09))
        body.add("box", (x, y + 0.018 + 0.036 * level, rng.uniform(-0.02, 0.02)), half, cover)
    return body


def sofa(rng: Rng) -> list[Assembly]:
    """A three-seat sofa with pillows."""
    body, cloth, feet = Assembly("sofa"), fabric(rng), wood(rng, "grain")
    body.add("box", (0, 0.25, 0), (0.95, 0.17, 0.42), cloth)
    for x in (-0.42, 0.42):
        body.add("box", (x, 0.45, -0.06), (0.41, 0.06, 0.35), cloth)
    body.add("box", (0, 0.6, 0.34), (0.95, 0.25, 0.1), cloth)
    for x in (-0.97, 0.97):
        body.add("box", (x, 0.36, 0), (0.1, 0.24, 0.42), cloth)
    _legs(body, (0.85, 0.35), 0.08, feet)
    return [body, *(_pillow(rng, x, 0.68, 0.2) for x in (-0.62, 0.6) if rng.random() < 0.7)]


def _pillow(rng: Rng, x: float, y: float, z: float) -> Assembly:
    body = Assembly("pillow")
    body.ball((x, y, z), (0.21, 0.18, 0.09), fabric(rng, str(rng.choice(["stripes", "dots", "weave"])), 0.1))
    return body


def bed(rng: Rng) -> list[Assembly]:
    """A double bed: headboard at the back."""
    body, frame = Assembly("bed"), wood(rng)
    sheet = fabric(rng, str(rng.choice(["stripes", "checker", "weave", "dots"])), 0.25)
    body.add("box", (0, 0.2, 0), (0.8, 0.12, 1.0), frame)
    body.add("box", (0, 0.42, -0.02), (0.78, 0.12, 0.97), sheet)
    body.add("box", (0, 0.55, 0.99), (0.84, 0.5, 0.04), frame)
    for x in (-0.4, 0.4):
        body.ball((x, 0.57, 0.7), (0.32, 0.1, 0.2), Material(hsv(0.1, 0.04, 0.95)))
    return [body]


def bookshelf(rng: Rng) -> list[Assembly]:
    """Shelves full of books."""
    body, books, board = Assembly("bookshelf"), Assembly("books"), wood(rng, "grain")
    high = rng.uniform(0.8, 1.0)
    for x in (-0.48, 0.48):
        body.add("box", (x, high, 0), (0.02, high, 0.15), board)
    body.add("box", (0, high, 0.13), (0.48, high, 0.02), board)
    for y in np.linspace(0.05, 2 * high - 0.03, 5):
        body.add("box", (0, y, 0), (0.48, 0.02, 0.15), board)
        if y < 2 * high - 0.2:
            wide = rng.uniform(0.25, 0.44)
            spines = Material(hsv(rng.random(), 0.6, 0.8), hsv(rng.random(), 0.5, 0.6), "books", 0.045)
            books.add("box", (wide - 0.44, y + 0.15, 0), (wide, 0.13, 0.1), spines)
    return [body, books]


def cabinet(rng: Rng) -> list[Assembly]:
    """A low cabinet, with a television, a lamp or clutter on top."""
    body, front = Assembly("cabinet"), paint(rng) if rng.random() < 0.5 else wood(rng, "grain")
    panels = Material(front.colour, tuple(0.3 * c for c in front.colour), "panels", 0.5, front.gloss)
    body.add("box", (0, 0.33, 0), (0.75, 0.27, 0.22), panels)
    body.add("box", (0, 0.61, 0), (0.78, 0.02, 0.24), front)
    _legs(body, (0.65, 0.17), 0.06, front)
    extra = [_tv(0.63)] if rng.random() < 0.6 else [_table_lamp(rng, -0.45, 0.63), *_clutter(rng, 0.63)]
    return [body, *extra]


def _tv(y: float) -> Assembly:
    body = Assembly("tv")
    case = Material(hsv(0.6, 0.1, 0.12), gloss=0.4)
    screen = Material(hsv(0.6, 0.35, 0.22), hsv(0.55, 0.4, 0.4), "blobs", 0.25, gloss=0.7, glow=0.25)
    body.add("box", (0, y + 0.02, 0), (0.2, 0.015, 0.1), case)
    body.add("box", (0, y + 0.08, 0.02), (0.04, 0.06, 0.02), case)
    body.add("box", (0, y + 0.44, 0.02), (0.56, 0.33, 0.025), case)
    body.add("box", (0, y + 0.44, -0.008), (0.53, 0.3, 0.005), screen)
    return body


def _table_lamp(rng: Rng, x: float, y: float) -> Assembly:
    body = Assembly("lamp")
    shade = Material(hsv(rng.uniform(0.08, 0.14), 0.3, 0.98), glow=0.55)
    body.add(
        "cylinder", (x, y + 0.14, 0), (0.03, 0.14, 0.03), Material(hsv(rng.random(), 0.5, 0.6), gloss=0.3)
    )
    body.add("cylinder", (x, y + 0.36, 0), (0.14, 0.1, 0.14), shade)
    return body


def floor_lamp(rng: Rng) -> list[Assembly]:
    """A lamp on a pole."""
    body, pole = Assembly("lamp"), Material(hsv(0.1, 0.1, rng.uniform(0.15, 0.7)), gloss=0.4)
    body.add("cylinder", (0, 0.015, 0), (0.16, 0.015, 0.16), pole)
    body.add("cylinder", (0, 0.75, 0), (0.015, 0.75, 0.015), pole)
    body.add("cylinder", (0, 1.6, 0), (0.19, 0.14, 0.19), Material(hsv(0.12, 0.25, 0.98), glow=0.6))
    return [body]


def desk(rng: Rng) -> list[Assembly]:
    """A desk with a monitor or clutter."""
    body, top = Assembly("desk"), wood(rng)
    body.add("box", (0, 0.72, 0), (0.65, 0.02, 0.32), top)
    drawers = Material(top.colour, tuple(0.4 * c for c in top.colour), "panels", 0.3)
    body.add("box", (0.43, 0.36, 0), (0.2, 0.34, 0.29), drawers)
    for z in (-0.28, 0.28):
        body.add("box", (-0.6, 0.35, z), (0.025, 0.35, 0.025), top)
    return [body, _table_lamp(rng, -0.42, 0.74), *_clutter(rng, 0.74)]


def plant(rng: Rng) -> list[Assembly]:
    """A pot with leaves."""
    body, leaf = Assembly("plant"), hsv(rng.uniform(0.26, 0.38), 0.65, rng.uniform(0.4, 0.65))
    body.add("cylinder", (0, 0.17, 0), (0.17, 0.17, 0.17), Material(hsv(0.05, rng.uniform(0.1, 0.6), 0.7)))
    body.limb((0, 0.3, 0), (0, 0.7, 0), 0.02, Material(hsv(0.08, 0.5, 0.35)))
    for i in range(7):
        around, up = i * 2.4, 0.5 + 0.09 * i
        tip = (0.27 * np.cos(around), up + 0.25, 0.27 * np.sin(around))
        body.limb((0, up - 0.05, 0), tip, 0.055, Material(tuple(c * rng.uniform(0.8, 1.2) for c in leaf)))
    return [body]


def box(rng: Rng) -> list[Assembly]:
    """One or two cardboard boxes."""
    body, card = Assembly("box"), hsv(0.09, rng.uniform(0.35, 0.5), rng.uniform(0.6, 0.75))
    card = Material(card, tuple(1.4 * c for c in card), "stripes", rng.uniform(0.3, 0.5))
    half = rng.uniform(0.14, 0.24, 3)
    body.add("box", (0, half[1], 0), half, card)
    if rng.random() < 0.4:
        body.add("box", (0.03, 2 * half[1] + 0.1, 0), (0.12, 0.1, 0.12), card)
    return [body]


def toy(rng: Rng) -> list[Assembly]:
    """A bright ball."""
    body, radius, hue = Assembly("toy"), rng.uniform(0.13, 0.24), rng.random()
    pattern = str(rng.choice(["hoops", "stripes", "dots"]))
    body.ball(
        (0, radius, 0),
        (radius,) * 3,
        Material(hsv(hue, 0.9, 0.95), hsv(hue + 0.4, 0.7, 1), pattern, 0.16, 0.4),
    )
    return [body]


def dog(rng: Rng) -> list[Assembly]:
    """A sitting-room dog, standing."""
    body, coat = Assembly("dog"), hsv(rng.uniform(0.05, 0.1), rng.uniform(0.2, 0.6), rng.uniform(0.25, 0.85))
    coat = Material(coat, hsv(0.1, 0.1, 0.9), str(rng.choice(["plain", "blobs"])), 0.1)
    dark = Material(hsv(0.07, 0.3, 0.12))
    body.limb((0, 0.36, -0.2), (0, 0.36, 0.22), 0.115, coat)
    for x in (-0.07, 0.07):
        for z in (-0.2, 0.2):
            body.limb((x, 0.3, z), (x, 0.05, z), 0.04, coat)
        body.ball((x, 0.6, -0.3), (0.03, 0.08, 0.05), dark)
    body.ball((0, 0.55, -0.34), (0.095, 0.1, 0.12), coat)
    body.ball((0, 0.52, -0.45), (0.05, 0.045, 0.08), coat)
    body.ball((0, 0.54, -0.53), (0.02, 0.02, 0.02), dark)
    body.limb((0, 0.42, 0.3), (0.03, 0.62, 0.42), 0.03, coat)
    return [body]


Maker = Callable[[Rng], list[Assembly]]
WALL_SIDE: dict[str, tuple[Maker, float, float]] = {
    "sofa": (sofa, 2.2, 0.95),
    "bed": (bed, 1.8, 2.1),
    "bookshelf": (bookshelf, 1.05, 0.4),
    "cabinet": (cabinet, 1.6, 0.55),
    "desk": (desk, 1.4, 0.75),
    "floor_lamp": (floor_lamp, 0.5, 0.5),
    "plant": (plant, 0.8, 0.8),
}
"""Objects that stand with their back to a wall: maker, width, depth in metres."""
FREE: dict[str, tuple[Maker, float, float]] = {
    "table": (table, 1.5, 1.1),
    "chair": (chair, 0.55, 0.55),
    "box": (box, 0.55, 0.55),
    "toy": (toy, 0.5, 0.5),
    "dog": (dog, 0.4, 1.1),
    "plant": (plant, 0.8, 0.8),
}
"""Objects that stand anywhere."""
