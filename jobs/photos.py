"""Where do the demo's photos come from: real pictures that scikit-image and scikit-learn ship."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = {
    "skimage.data": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "sklearn.datasets.images": ("china.jpg",),
}
HELD_OUT = {"skimage.data": ("chelsea.png", "coffee.png"), "sklearn.datasets.images": ("flower.jpg",)}
TILE_SHARE = 0.6


def write_photos(folder: Path) -> tuple[Path, Path]:
    """Write `folder`/train (tiles of each photo, ImageFolder layout) and `folder`/val (whole photos).

    Returns:
        The two folders. What is already there is left alone.

    Raises:
        ModuleNotFoundError: scikit-image or scikit-learn is not installed.
    """
    train, val = folder / "train", folder / "val"
    for name, photo in _photos(TRAIN):
        for index, tile in enumerate(tiles(photo)):
            _save(tile, train / name / f"{name}_{index}.jpg")
    for name, photo in _photos(HELD_OUT):
        _save(photo, val / f"{name}.jpg")
    return train, val


def tiles(photo: Image.Image) -> list[Image.Image]:
    """Five overlapping tiles (corners and centre), each `TILE_SHARE` of the photo's side."""
    width, height = photo.size
    w, h = int(width * TILE_SHARE), int(height * TILE_SHARE)
    corners = [
        (0, 0),
        (width - w, 0),
        (0, height - h),
        (width - w, height - h),
        ((width - w) // 2, (height - h) // 2),
    ]
    return [photo.crop((x, y, x + w, y + h)) for x, y in corners]


def _photos(table: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, Image.Image]]:
    for package, names in table.items():
        for name in names:
            with (files(package) / name).open("rb") as file:
                yield Path(name).stem, Image.fromarray(np.asarray(Image.open(file).convert("RGB")))


def _save(picture: Image.Image, path: Path) -> None:
    """Write a JPEG atomically: an interrupted demo leaves no half picture."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    picture.save(partial, "JPEG", quality=95, subsampling=0)
    partial.rename(path)
