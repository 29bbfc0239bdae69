"""A training run on a cache that is stopped leaves a checkpoint, and no process, thread or shared memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.student.test_stage1_cache import CachedTeachers

TRAINING = """
import sys
from pathlib import Path
from storage.cache import Cache
from storage.local_copy import LocalCopy
from storage.stream import Stream, make_order
from student.stage1 import Stage1Data, run_stage1
from tests.student.test_stage1 import config, make_student

cache = Cache.open(sys.argv[1])
cache = Cache(LocalCopy(cache.store, Path(sys.argv[2]) / "near", room=10**8), cache.invariants)
columns = cache.teacher_columns()
order = make_order(cache, seed=0, global_batch=4, window=2)

def targets(batch):
    if batch.step == int(sys.argv[3]):
        raise MemoryError("enough")
    return {name: cache.codec(c).decode(batch.codes[name], "cpu") for name, c in columns.items()}

stream = lambda first, steps: Stream(cache, order, columns, first, steps, threads=3)
data = Stage1Data(stream, targets, order.steps_per_epoch)
run_stage1(make_student(), data, config(epochs=100_000, log_every=1), out=Path(sys.argv[2]), device="cpu")
"""


def processes_of(session: int) -> list[str]:
    """Processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(path.parent.name)
    return found


ENDS = [
    ("interrupt", 130),
    ("error", 1),
    pytest.param("terminate", 143, marks=pytest.mark.slow),
    pytest.param("kill", -9, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("how", "code"), ENDS)
def test_nothing_is_left(tmp_path: Path, how: str, code: int) -> None:
    CachedTeachers(tmp_path / "cache")
    log = tmp_path / "metrics.jsonl"
    command = [sys.executable, "-c", TRAINING, str(tmp_path / "cache"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, "5" if how == "error" else "-1"],
        env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        deadline = time.monotonic() + 60
        while how != "error" and not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        signals = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM, "kill": signal.SIGKILL}
        if how != "error":
            run.send_signal(signals[how])
        said = run.communicate(timeout=60)[1]
    assert run.returncode == code, said
    assert ("MemoryError: enough" in said) == (how == "error")
    assert bool(list((tmp_path / "checkpoints").glob("step-*"))) or how in {"error", "kill"}
    assert not processes_of(run.pid)
    assert not [path.name for path in Path("/dev/shm").iterdir() if str(run.pid) in path.name]
