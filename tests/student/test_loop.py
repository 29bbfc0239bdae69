"""The loop resumes exactly, stops cleanly on signals and bad losses, and tells what it did."""

from __future__ import annotations

import json
import logging
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from student.loop import LoopSettings, Trained, run_loop
from student.metrics_log import read_records
from student.schedule import poly


def batches(first: int, steps: int):
    """Batch n is a pure function of n."""

    @contextmanager
    def stream():
        yield (torch.full((4, 3), float(n + 1)).cos() for n in range(first, first + steps))

    return stream()


class Case:
    """A model with dropout, so that the generators matter, in a folder."""

    def __init__(self, out: Path, total: int = 12, **settings) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
        optimizer = torch.optim.AdamW(model.parameters())
        self.out, self.losses = out, {}
        self.trained = Trained(model, optimizer, poly(total, base=0.01))
        chosen = {"total_steps": total, "batch_size": 4, "log_every": 4, "checkpoint_every": 3, "clip": 1.0}
        self.settings = LoopSettings(**(chosen | settings))
        self.interrupt: tuple[int, int] | None = None
        self.poison: int | None = None

    def step(self, batch):
        """Squares of a noisy prediction; sends a signal or NaN where the test asks for it."""
        number = len(self.losses) + self.first
        loss = self.trained.model(batch + 0.1 * torch.randn_like(batch)).square().sum()
        if self.interrupt and self.interrupt[0] == number:
            os.kill(os.getpid(), self.interrupt[1])
        self.losses[number] = loss.item()
        return (loss * float("nan") if self.poison == number else loss), {"loss/one": loss * 0.5}

    def run(self) -> dict:
        """Run the loop."""

        def source(first: int, steps: int):
            self.first = first
            return batches(first, steps)

        return run_loop(self.step, source, self.trained, settings=self.settings, out=self.out)


def timeless(path: Path) -> list[dict]:
    """Records without what depends on the clock."""
    return [
        {k: v for k, v in record.items() if k not in {"samples_per_s", "data_wait"}}
        for record in read_records(path)
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [0, 5, 11])
def test_a_stopped_run_goes_on_as_if_never_stopped(tmp_path: Path, number: int, at: int) -> None:
    whole = Case(tmp_path / "whole")
    whole.run()
    stopped = Case(tmp_path / "stopped")
    stopped.interrupt = (at, number)
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as left:
        stopped.run()
    assert left.value.code == 128 + number
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    resumed = Case(tmp_path / "stopped")
    summary = resumed.run()
    assert summary["first_step"] == at + 1
    assert stopped.losses | resumed.losses == whole.losses, "bit for bit"
    assert timeless(tmp_path / "stopped/metrics.jsonl") == timeless(tmp_path / "whole/metrics.jsonl")
    for key, value in whole.trained.model.state_dict().items():
        assert torch.equal(value, resumed.trained.model.state_dict()[key])


def test_a_killed_run_repeats_from_its_last_checkpoint_and_drops_later_records(tmp_path: Path) -> None:
    whole = Case(tmp_path / "whole", checkpoint_every=5, log_every=2)
    whole.run()
    killed = Case(tmp_path / "killed", checkpoint_every=5, log_every=2)

    def dies(batch):
        if len(killed.losses) == 9:
            raise MemoryError
        return killed.step(batch)

    with pytest.raises(MemoryError):
        killed.first = 0
        run_loop(dies, batches, killed.trained, settings=killed.settings, out=killed.out)
    path = killed.out / "metrics.jsonl"
    assert read_records(path)[-1]["step"] == 8
    with path.open("a") as file:
        file.write('{"step": 9, "lo')  # a line cut by the kill
    again = Case(tmp_path / "killed", checkpoint_every=5, log_every=2)
    assert again.run()["first_step"] == 5
    assert {n: again.losses[n] for n in range(5, 12)} == {n: whole.losses[n] for n in range(5, 12)}
    assert timeless(path) == timeless(whole.out / "metrics.jsonl")


def test_a_finished_run_takes_no_step_and_asks_for_no_data(tmp_path: Path) -> None:
    case = Case(tmp_path)
    done = case.run()
    again = Case(tmp_path)
    summary = again.run()
    assert summary["steps_run"] == 0
    assert not again.losses
    assert summary["last"] == done["last"] == read_records(tmp_path / "metrics.jsonl")[-1]


def test_records_are_means_of_their_interval_and_reach_tensorboard(tmp_path: Path, caplog) -> None:
    case = Case(tmp_path, total=10)
    with caplog.at_level(logging.INFO):
        case.run()
    records = read_records(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records] == [4, 8, 10]
    assert records[1]["loss"] == pytest.approx(sum(case.losses[n] for n in range(4, 8)) / 4)
    assert records[1]["loss/one"] == pytest.approx(records[1]["loss"] / 2)
    assert records[1]["lr"] == case.trained.schedule(7)
    assert {"grad_norm", "samples_per_s", "data_wait"} <= records[0].keys()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [
        (r["step"], pytest.approx(r["loss"])) for r in records
    ]
    line = next(r.getMessage() for r in caplog.records if r.name == "student.record")
    assert line.startswith("step  4/10  loss ")


@pytest.mark.parametrize("at", [1, 6])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path: Path, at: int) -> None:
    case = Case(tmp_path)
    case.poison = at
    with pytest.raises(ValueError, match=f"loss is nan at step {at + 1}; .*precision to fp32"):
        case.run()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert kept == {1: [], 6: ["step-00000003", "step-00000006"]}[at]


def test_another_recipe_or_snapshot_is_refused_with_both_values(tmp_path: Path) -> None:
    Case(tmp_path, pins={"snapshot": {"shards": 3}}).run()
    with pytest.raises(
        ValueError, match=r"snapshot \{'shards': 3\}, this run has \{'shards': 4\}; resume with the same"
    ):
        Case(tmp_path, pins={"snapshot": {"shards": 4}}).run()
    with pytest.raises(ValueError, match="made with batch_size 4, this run has 8"):
        Case(tmp_path, batch_size=8, pins={"snapshot": {"shards": 3}}).run()


def test_data_that_ends_early_is_named(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.first = 0
    with pytest.raises(ValueError, match="the data ended at step 5 of 12"):
        run_loop(
            case.step, lambda first, steps: batches(0, 5), case.trained, settings=case.settings, out=tmp_path
        )


def test_a_failing_step_closes_the_data(tmp_path: Path) -> None:
    closed = []

    @contextmanager
    def stream(first, steps):
        try:
            yield iter([torch.ones(4, 3)])
        finally:
            closed.append(True)

    def fails(batch):
        raise ValueError("broken step")

    case = Case(tmp_path)
    with pytest.raises(ValueError, match="broken step"):
        run_loop(fails, stream, case.trained, settings=case.settings, out=tmp_path)
    assert closed == [True]


def test_records_are_plain_json_lines(tmp_path: Path) -> None:
    Case(tmp_path).run()
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        assert isinstance(json.loads(line), dict)
