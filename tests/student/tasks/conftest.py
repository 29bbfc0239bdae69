"""One generated folder of each data set, written once per test session."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from student.tasks.scenes.write import write_nyud, write_pascal_context
from tests.student.tasks.scene_sets import SIZE


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NYUDv2/ and PASCALContext/ with 4 training and 2 validation scenes each; read only."""
    folder = tmp_path_factory.mktemp("scenes")
    write_nyud(folder, train=4, val=2, size=SIZE, seed=5)
    write_pascal_context(folder, train=4, val=2, size=SIZE, seed=5)
    return folder


@pytest.fixture
def copy_of(data: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies one of the two folders, for a test that breaks it."""
    return lambda name: Path(shutil.copytree(data / name, tmp_path / name))
