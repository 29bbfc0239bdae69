"""A real Ray head for the tests that need one, started once and apart from the test process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.cli import load_recipe
from jobs.config import Recipe
from jobs.ray_session import QUIET


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The demo's tests first: it starts a Ray head of its own, and a machine holds one at a time."""
    items.sort(key=lambda item: item.path.name != "test_demo.py")


@pytest.fixture(scope="session")
def ray_head() -> Iterator[str]:
    """Address of a Ray head with two CPUs; RAY_ADDRESS names it meanwhile, so commands join it."""
    os.environ.update(QUIET)
    from ray.cluster_utils import Cluster

    head = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 200_000_000})
    os.environ["RAY_ADDRESS"] = head.address
    yield head.address
    del os.environ["RAY_ADDRESS"]
    head.shutdown()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small pictures in two folders, and one file that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(10):
        coarse = rng.integers(0, 256, (6, 8, 3), np.uint8)
        path = folder / f"class{number % 2}" / f"img {number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(coarse).resize((120, 90), Image.Resampling.BICUBIC).save(path)
    (folder / "class0" / "broken.jpg").write_bytes(b"not a picture")
    return folder


def small_recipe(photos: Path) -> Recipe:
    """The mini recipe, smaller still and with exact codes, over `photos`."""
    recipe = load_recipe("mini").model_dump()
    recipe["source"]["path"] = str(photos)
    recipe["views"] |= {"size": 64}
    recipe["cache"] |= {"samples_per_shard": 4}
    recipe["cache"]["codec"] = {"name": "f16", "calibration_images": 6}
    recipe["extract"] |= {"batch_size": 4}
    return Recipe.model_validate(recipe)


@pytest.fixture
def mini(photos: Path) -> Recipe:
    """The small recipe."""
    return small_recipe(photos)
