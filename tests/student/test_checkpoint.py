"""Checkpoints survive damage: what is broken is seen, named and passed over."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from student.checkpoint import MODEL, OPTIMIZER, STATE, Checkpoints


def trained(seed: int, width: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small model after one AdamW step."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def same(one: nn.Module, two: nn.Module) -> bool:
    """Equal parameters and buffers."""
    theirs = two.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Checkpoints, list[nn.Module]]:
    """Three saves, of which the last two stay."""
    checkpoints, models = Checkpoints(tmp_path / "checkpoints"), []
    for step in (10, 20, 30):
        model, optimizer = trained(step)
        checkpoints.save(step, model, optimizer, {"note": step})
        models.append(model)
    return checkpoints, models


def test_round_trip_of_model_moments_and_state(saved) -> None:
    checkpoints, models = saved
    model, optimizer = trained(0)
    found = checkpoints.load_latest(model, optimizer)
    assert (found.step, found.state) == (30, {"note": 30})
    assert same(model, models[-1])
    reference = trained(30)[1].state_dict()["state"]
    for index, moments in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, reference[index][key]) for key, value in moments.items())


def test_the_last_two_are_kept(saved) -> None:
    checkpoints, _ = saved
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step-00000020", "step-00000030"]


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "nothing").load_latest(*trained(0)) is None


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, STATE])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
def test_a_damaged_newest_falls_back_with_a_warning(saved, caplog, name: str, damage: str) -> None:
    checkpoints, models = saved
    path = checkpoints.folder / "step-00000030" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if damage != "delete":
        path.write_bytes({"flip": data, "truncate": data[: len(data) // 2], "empty": b""}[damage])
    model, optimizer = trained(0)
    with caplog.at_level(logging.WARNING):
        found = checkpoints.load_latest(model, optimizer)
    assert found.step == 20
    assert same(model, models[1])
    assert "step-00000030 is damaged" in caplog.text
    assert name in caplog.text


def test_any_flipped_byte_of_the_state_is_seen(saved) -> None:
    checkpoints, _ = saved
    path = checkpoints.folder / "step-00000030" / STATE
    data = path.read_bytes()
    for position in range(len(data)):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        assert checkpoints.load_latest(*trained(0)).step == 20, position


def test_all_damaged_is_an_error_and_never_a_silent_fresh_start(saved) -> None:
    checkpoints, _ = saved
    for path in checkpoints.folder.glob("*/" + MODEL):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged; delete the folder"):
        checkpoints.load_latest(*trained(0))


def test_a_save_cut_off_before_its_rename_is_never_read_and_is_cleared(saved) -> None:
    checkpoints, _ = saved
    partial = checkpoints.folder / ".partial-00000040"
    partial.mkdir()
    (partial / MODEL).write_bytes(b"half")
    assert checkpoints.load_latest(*trained(0)).step == 30
    checkpoints.save(40, *trained(40), {})
    assert not list(checkpoints.folder.glob(".partial-*"))


def test_a_damaged_step_reached_again_is_replaced(saved) -> None:
    checkpoints, _ = saved
    (checkpoints.folder / "step-00000030" / MODEL).write_bytes(b"")
    checkpoints.save(30, *trained(5), {})
    assert checkpoints.load_latest(*trained(0)).step == 30


def test_another_model_is_an_error_and_not_damage(saved) -> None:
    checkpoints, _ = saved
    with pytest.raises(
        ValueError,
        match=r"another model: it holds 0\.weight \(3, 4\) instead of \(4, 4\), .* another output",
    ):
        checkpoints.load_latest(*trained(0, width=4))
