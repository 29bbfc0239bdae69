"""How a command finds its Ray cluster: the job's own, a running one, or one started for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.paths import in_ray_job

log = logging.getLogger(__name__)

HOUSE = Path(__file__).parents[1]
NOT_UPLOADED = [".git", ".venv", "runs", ".ci", ".mypy_cache", ".ruff_cache"]
# Worker output is one line per record already; Ray's banners, usage reports and tqdm patch are not wanted.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TQDM_PATCH_PRINT": "0",
}


@contextmanager
def cluster(address: str = "") -> Iterator[None]:
    """Join the cluster at `address`, in RAY_ADDRESS or on this machine; else start one for this command.

    Under `ray job submit` RAY_ADDRESS names the job's cluster. A cluster that was started here ends with the
    command; one that was joined goes on.

    Raises:
        ValueError: there is no cluster at the address that was given.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    # That Ray guards its ports with a token is as it should be, and no warning.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    wanted = address or os.environ.get("RAY_ADDRESS", "")
    quiet = {"log_to_driver": True, "logging_level": logging.WARNING}
    # Workers of a cluster that was there before would import whatever version of the code its nodes have; a
    # job has brought its own already.
    code = None if in_ray_job() else code_environment()
    try:
        ray.init(address=wanted or "auto", runtime_env=code, **quiet)
    except ConnectionError as error:
        if wanted:
            raise ValueError(
                f"no Ray cluster at {wanted}; start one with `ray start --head`, or leave the address out"
            ) from error
        ray.init(address="local", include_dashboard=False, **quiet)
        log.info("started a Ray cluster for this command: %s", _resources())
    else:
        log.info("joined the Ray cluster: %s", _resources())
    try:
        yield
    finally:
        ray.shutdown()


def code_environment() -> dict[str, Any]:
    """The runtime environment that brings this code to workers; nothing where it is an installed package."""
    if not (HOUSE / "pyproject.toml").is_file():
        return {}
    return {"working_dir": str(HOUSE), "excludes": NOT_UPLOADED}


def _resources() -> str:
    import ray

    total = ray.cluster_resources()
    return f"{total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
