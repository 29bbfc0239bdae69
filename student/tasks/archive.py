"""How a data set's folder is found, checked and read, with one clear line for what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from student.tasks.spec import IGNORE, DatasetSpec

DAMAGED = (OSError, ValueError, SyntaxError, EOFError)
"""What image and array readers raise for a damaged file."""


class DatasetError(ValueError):
    """A data set folder is not what its layout promises; the message has path, expectation and remedy."""


def find_root(path: str | Path, spec: DatasetSpec, marker: str) -> Path:
    """The folder that holds `marker`: `path` itself or its sub-folder of the archive's name.

    Raises DatasetError when neither holds it.
    """
    base = Path(path).expanduser()
    if str(path) in ("", "."):
        raise DatasetError(
            f"dataset.path is empty; set it to the {spec.title} folder ({spec.folders[0]}/ with {marker}/)"
        )
    for root in (base, *(base / name for name in spec.folders)):
        if (root / marker).is_dir():
            return root
    raise DatasetError(
        f"{base} is no {spec.title} folder: neither it nor its {spec.folders[0]}/ holds {marker}/; "
        "set dataset.path to the unpacked archive or its parent"
    )


def read_ids(path: Path) -> list[str]:
    """The sample names of a split file, one a line; DatasetError when it is missing or empty."""
    if not path.is_file():
        raise DatasetError(
            f"{path} is missing: the split's image names, one a line; unpack the archive again"
        )
    ids = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not ids:
        raise DatasetError(f"{path} lists no images; unpack the archive again")
    return ids


class Files:
    """The files of one label (or the images): for each name, the first of some places that has it.

    Folders are listed once, so a missing file is reported when the data set is opened, not hours later.
    """

    def __init__(self, root: Path, places: Sequence[str]) -> None:
        """`places`: patterns relative to the root, such as `edge/{}.png`, in order of preference."""
        self.root, self.places = root, tuple(places)
        self._listed = {folder: _names(root / folder) for folder in {p.rpartition("/")[0] for p in places}}

    def path(self, name: str) -> Path | None:
        """The first existing file of this sample, or None."""
        for place in self.places:
            folder, _, pattern = place.rpartition("/")
            file = pattern.format(name)
            if file in self._listed[folder]:
                return self.root / folder / file
        return None

    def require(self, names: Sequence[str], what: str) -> dict[str, Path]:
        """Every sample's file; DatasetError names the first one missing, how many, and the remedy."""
        found = {name: self.path(name) for name in names}
        missing = [name for name, path in found.items() if path is None]
        if missing:
            expected = " or ".join(place.format(missing[0]) for place in self.places)
            raise DatasetError(
                f"{self.root} lacks {expected} ({what}; {len(missing)} of {len(names)} are missing); "
                "unpack the archive again, or leave the task out of dataset.tasks"
            )
        return {name: path for name, path in found.items() if path is not None}


def _names(folder: Path) -> frozenset[str]:
    return frozenset(entry.name for entry in folder.iterdir()) if folder.is_dir() else frozenset()


def read_array(path: Path) -> np.ndarray:
    """A label file as it is: the numbers of an .npy, the palette indices or grey values of a .png."""
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        with Image.open(path) as image:
            return np.asarray(image)
    except DAMAGED as error:
        raise DatasetError(f"{path} cannot be read ({error}); unpack the archive again") from error


def read_image(path: Path) -> np.ndarray:
    """An image file as uint8 RGB [H, W, 3]."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except DAMAGED as error:
        raise DatasetError(f"{path} cannot be read ({error}); unpack the archive again") from error


def check_classes(label: np.ndarray, classes: int, path: Path) -> np.ndarray:
    """The label map itself; DatasetError if it names a class that is not there (255: ignored)."""
    worst = int(np.max(label, where=label != IGNORE, initial=0))
    if worst >= classes:
        raise DatasetError(f"{path} holds class {worst}, the data set has {classes}; another label set?")
    return label


def fit(label: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A label map at the image's height and width (nearest): some archives' labels are of another size."""
    if label.shape[:2] == shape[:2]:
        return label
    return cv2.resize(label, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
