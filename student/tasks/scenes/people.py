"""What a person of the generated scenes looks like: a body of the six parts that the parsing task knows.

The body stands at the origin and looks towards -z, at the camera: its own left is at +x, the picture's right.
"""

from __future__ import annotations

import numpy as np

from student.tasks.scenes.objects import Assembly
from student.tasks.scenes.textures import Colour, Material, hsv

SKINS: tuple[Colour, ...] = tuple(
    hsv(0.06, s, v) for s, v in ((0.30, 0.95), (0.38, 0.87), (0.46, 0.72), (0.5, 0.55), (0.52, 0.42))
)
HAIRS: tuple[Colour, ...] = (
    hsv(0.07, 0.6, 0.2),
    hsv(0.09, 0.6, 0.4),
    hsv(0.12, 0.55, 0.8),
    hsv(0.6, 0.1, 0.15),
)

DARK = Material(hsv(0.07, 0.5, 0.15), gloss=0.5)


def person(rng: np.random.Generator) -> Assembly:
    """One standing person in a drawn pose and drawn clothes."""
    body = Assembly("person")
    clothes = Clothes(rng)
    size = rng.uniform(0.9, 1.06)
    hips = 0.92 * size
    _trunk(body, clothes, hips, size)
    for side in (-1, 1):
        _arm(body, clothes, rng, (side * 0.2 * size, hips + 0.5 * size, 0.0), size)
        _leg(body, clothes, rng, (side * 0.095 * size, hips, 0.0), size)
    return body


class Clothes:
    """Skin, hair and clothes of one person."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.skin = Material(SKINS[rng.integers(len(SKINS))])
        self.hair = Material(HAIRS[rng.integers(len(HAIRS))])
        hue = rng.random()
        pattern = rng.choice(["plain", "hoops", "weave", "plain"])
        accent = hsv(hue + 0.5, 0.25, 0.95)
        self.shirt = Material(
            hsv(hue, rng.uniform(0.55, 0.85), rng.uniform(0.6, 0.95)), accent, pattern, 0.12
        )
        self.trousers = Material(hsv(rng.uniform(0.55, 0.68), rng.uniform(0.2, 0.6), rng.uniform(0.25, 0.55)))
        self.shoes = Material(hsv(rng.random(), 0.3, rng.uniform(0.15, 0.9)))
        self.forearm = self.skin if rng.random() < 0.6 else self.shirt
        self.long_hair = rng.random() < 0.45


def _trunk(body: Assembly, clothes: Clothes, hips: float, size: float) -> None:
    skin, shirt = clothes.skin, clothes.shirt
    chest, shoulders, neck, top = (hips + size * up for up in (0.33, 0.49, 0.62, 0.74))
    wide = 0.13 * size
    body.ball((0, hips, 0), size * np.array([0.155, 0.12, 0.11]), clothes.trousers, part="torso")
    body.tube((0, hips + 0.18 * size, 0), size * np.array([0.153, 0.17, 0.105]), shirt, part="torso")
    body.ball((0, chest, 0), size * np.array([0.185, 0.23, 0.12]), shirt, part="torso")
    body.limb((-wide, shoulders, 0), (wide, shoulders, 0), 0.07 * size, shirt, part="torso")
    body.limb((0, shoulders, 0), (0, neck, -0.01), 0.055 * size, skin, part="neck")
    body.ball((0, top, -0.015), size * np.array([0.085, 0.12, 0.1]), skin, part="head")
    body.ball((0, top + 0.04 * size, 0.022), size * np.array([0.095, 0.105, 0.1]), clothes.hair, part="hair")
    for part, x in (("leye", 0.032), ("reye", -0.032)):
        body.ball(
            (x * size, top + 0.02 * size, -0.1 * size), size * np.array([0.016, 0.012, 0.02]), DARK, part=part
        )
    body.ball((0, top - 0.015 * size, -0.115 * size), size * np.array([0.014, 0.03, 0.02]), skin, part="nose")
    if clothes.long_hair:
        body.ball(
            (0, top - 0.07 * size, 0.06), size * np.array([0.095, 0.17, 0.06]), clothes.hair, part="hair"
        )


def _arm(body: Assembly, clothes: Clothes, rng: np.random.Generator, shoulder: tuple, size: float) -> None:
    side = np.sign(shoulder[0])
    raised = rng.random() < 0.2
    lift = rng.uniform(1.6, 2.5) if raised else rng.uniform(0.12, 0.5)
    swing = rng.uniform(-0.3, 0.5)
    elbow = shoulder + 0.29 * size * _down(side * lift, swing)
    bend = rng.uniform(0.1, 0.6) if raised else rng.uniform(-0.15, 0.25)
    aside = side * (lift + (bend if raised else -bend))
    wrist = elbow + 0.26 * size * _down(aside, swing + rng.uniform(0.1, 0.9))
    hand = wrist + 0.05 * (wrist - elbow) / np.linalg.norm(wrist - elbow)
    one = "l" if side > 0 else "r"
    body.limb(shoulder, elbow, 0.052 * size, clothes.shirt, part=f"{one}uarm")
    body.limb(elbow, wrist, 0.042 * size, clothes.forearm, part=f"{one}larm")
    body.ball(hand, (0.045 * size, 0.06 * size, 0.05 * size), clothes.skin, part=f"{one}hand")


def _leg(body: Assembly, clothes: Clothes, rng: np.random.Generator, hip: tuple, size: float) -> None:
    one = "l" if hip[0] > 0 else "r"
    spread = np.sign(hip[0]) * rng.uniform(0.02, 0.12)
    swing = rng.uniform(-0.25, 0.3)
    knee = hip + 0.43 * size * _down(spread, swing)
    ankle = knee + (max(knee[1] - 0.09, 0.1)) * _down(spread / 2, min(swing, 0) - 0.05)
    ankle[1] = max(ankle[1], 0.08)
    body.limb(hip, knee, 0.078 * size, clothes.trousers, part=f"{one}uleg")
    body.limb(knee, ankle, 0.056 * size, clothes.trousers, part=f"{one}lleg")
    body.ball((ankle[0], 0.05, ankle[2] - 0.06), (0.05, 0.05, 0.125), clothes.shoes, part=f"{one}foot")


def _down(aside: float, forward: float) -> np.ndarray:
    """A unit vector hanging down, turned sideways (+x) and then forward (-z) by these angles."""
    return np.array([np.sin(aside), -np.cos(aside) * np.cos(forward), -np.cos(aside) * np.sin(forward)])
