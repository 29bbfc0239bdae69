"""What exactly ran: the resolved recipe, the code and the libraries."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jobs.config import Recipe

HOUSE = Path(__file__).parents[1]
REVISION = "CUTLER_REVISION"
LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "ray",
    "zarr",
    "numcodecs",
    "pcodec",
    "webdataset",
    "pyarrow",
    "pillow",
)


def provenance(recipe: Recipe, command: str) -> dict[str, Any]:
    """The command, the recipe as resolved, git revision, digest of the code, Python and library versions."""
    return {
        "command": command,
        "recipe": recipe.model_dump(mode="json"),
        "revision": git_revision(),
        "code": code_digest(),
        "libraries": {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
    }


def git_revision() -> str:
    """The commit of the code, with `-dirty` for uncommitted changes; `unknown` outside a checkout.

    A Ray job's working folder has no .git: whoever submits it says the revision in CUTLER_REVISION.
    """
    if said := os.environ.get(REVISION):
        return said
    try:
        head = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=HOUSE,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return head.stdout.strip() if head.returncode == 0 else "unknown"


def code_digest() -> str:
    """SHA-256 (16 digits) over the house's Python files: names the code without git, as in Ray jobs."""
    total = hashlib.sha256()
    for folder in ("jobs", "pipeline", "storage", "student"):
        for path in sorted((HOUSE / folder).rglob("*.py")):
            total.update(str(path.relative_to(HOUSE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
