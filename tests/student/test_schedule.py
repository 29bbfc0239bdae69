"""Learning rates at the steps that matter."""

from __future__ import annotations

import pytest

from student.schedule import cosine, poly


def test_cosine_warms_up_linearly_and_ends_at_the_floor() -> None:
    rate = cosine(100, warmup_steps=10, base=1e-3, start=1.25e-7, floor=1e-5)
    assert rate(0) == 1.25e-7
    assert rate(5) == pytest.approx((1e-3 + 1.25e-7) / 2)
    assert rate(10) == pytest.approx(1e-3)
    assert rate(55) == pytest.approx((1e-3 + 1e-5) / 2)
    assert rate(100) == pytest.approx(1e-5)
    assert all(rate(n) > rate(n + 1) for n in range(10, 100))


def test_cosine_without_warm_up_starts_at_the_base() -> None:
    assert cosine(3, warmup_steps=0, base=0.5, start=0.0, floor=0.1)(0) == pytest.approx(0.5)


def test_warm_up_must_be_shorter_than_the_run() -> None:
    with pytest.raises(ValueError, match="warm-up of 10 steps in a run of 10"):
        cosine(10, warmup_steps=10, base=1.0, start=0.0, floor=0.0)


def test_poly_falls_with_power_0_9() -> None:
    rate = poly(40_000, base=2e-5)
    assert rate(0) == 2e-5
    assert rate(20_000) == pytest.approx(2e-5 * 0.5**0.9)
    assert rate(40_000) == 0
