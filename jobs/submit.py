"""How does a command become a Ray job, and its log this terminal's."""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from jobs.errors import IncompleteError, UsageError
from jobs.provenance import REVISION, git_revision
from jobs.ray_session import QUIET, code_environment

log = logging.getLogger(__name__)
POLL_S = 0.5
ASKED, RETRY_S = 6, 2.0
"""Times that the job server is asked before it counts as gone, and the pause between them."""
RAY_SAYS = ("Runtime env is setting up", "Running entrypoint for job")


@contextmanager
def local_head() -> Iterator[Any]:
    """A Ray head on this machine with its job server on loopback, for as long as the block runs.

    Yields:
        A JobSubmissionClient.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # A job's `python` is looked up on the head's PATH: it must be the one that runs this.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    import ray
    from ray.job_submission import JobSubmissionClient

    for chatty in ("ray.dashboard.modules.dashboard_sdk", "ray._private.authentication"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    port = free_port()
    ray.init(
        address="local",
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=port,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield JobSubmissionClient(f"http://127.0.0.1:{port}")
    finally:
        ray.shutdown()


def free_port() -> int:
    """A TCP port that is free on loopback now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def submit(client: Any, argv: Sequence[str]) -> None:
    """Run `python -m jobs <argv>` as a Ray job and show its log until it ends.

    Raises:
        IncompleteError: the job did not succeed; the message holds its exit code.
    """
    import shlex

    entrypoint = shlex.join(["python", "-m", "jobs", *argv])
    log.info("ray job submit --working-dir . -- %s", entrypoint)
    environment = code_environment() | {"env_vars": QUIET | {REVISION: git_revision()}}
    try:
        job = client.submit_job(entrypoint=entrypoint, runtime_env=environment)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:120]
        raise UsageError(
            f"the job server took no job ({said}); if another Ray head runs on this machine, its agent holds "
            "the port that this one needs: stop it with `ray stop` and run again"
        ) from error
    try:
        _follow(client, job)
    except BaseException:
        with suppress(RuntimeError, OSError):
            client.stop_job(job)
        raise
    info = client.get_job_info(job)
    if str(info.status) != "SUCCEEDED":
        ended = f"{info.status.lower()} with exit code {info.driver_exit_code}"
        raise IncompleteError(f"`{entrypoint}` {ended}; its log is above")


def _answer(ask: Callable[[str], Any], job: str) -> Any:
    """What the job server says of a job; a lost connection is no end of the job, and is tried again.

    Raises:
        IncompleteError: the server does not answer any more.
    """
    for _ in range(ASKED):
        try:
            return ask(job)
        except (RuntimeError, OSError) as error:
            failed = " ".join(str(error).split())[-160:]
            time.sleep(RETRY_S)
    raise IncompleteError(
        f"the job server did not answer {ASKED} times in a row ({failed}); its head may have died: "
        "run the same command again to resume"
    )


def _follow(client: Any, job: str) -> None:
    shown = 0
    while True:
        ended = _answer(client.get_job_status, job).is_terminal()
        text = _answer(client.get_job_logs, job)
        for line in text[shown:].splitlines():
            if line.strip() and not any(said in line for said in RAY_SAYS):
                sys.stderr.write(f"    {line}\n")
        sys.stderr.flush()
        shown = len(text)
        if ended:
            return
        time.sleep(POLL_S)
