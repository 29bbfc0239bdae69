"""`bench` runs end to end on small sizes and says nothing that cannot be so; oracles against closed forms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from jobs.__main__ import main
from jobs.benches import SECTIONS
from jobs.benches.hard4 import Hard4
from jobs.benches.peak import peak_bytes
from jobs.benches.rate import distortion_of, rate
from jobs.benches.shuffle import mean_classes
from jobs.benches.table import Asked, Row, Section, page
from jobs.benches.timing import alternate

# webdataset leaves the tars that it read to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a quick run of all but the slowest section wrote."""
    out = tmp_path_factory.mktemp("bench")
    names = ",".join(name for name in SECTIONS if name != "opening")
    assert main(["bench", "cache", "--quick", "--only", names, "--out", str(out)]) == 0
    assert "| what | ours |" in (out / "bench.md").read_text()
    return json.loads((out / "bench.json").read_text())


def rows(found: dict, title: str) -> Iterator[dict]:
    for section in found["sections"]:
        if section["title"].startswith(title):
            yield from section["rows"]


def test_every_section_gives_figures(found: dict) -> None:
    titles = [section["title"] for section in found["sections"]]
    wanted = ("bits per value on HARD4", "bits per value on RI", "what one sample", "lossless stage")
    wanted += ("reading records", "loader", "stage-1 step", "classes in a batch")
    assert all(any(title.startswith(start) for title in titles) for start in wanted)
    for section in found["sections"]:
        assert "small sizes: no target applies" in section["notes"]
        for row in section["rows"]:
            assert row["ours"] > 0 and (row["ratio"] is None or row["ratio"] > 0) and row["reached"] is None


def test_no_code_beats_theory_and_every_promise_is_kept(found: dict) -> None:
    bits = [row for row in rows(found, "bits per value") if row["theirs"]]
    assert len(bits) == 9 + 8
    for row in bits:
        assert row["ours"] >= row["theirs"], row["what"]
        asked = float(row["what"].split(" at ")[1].split(",")[0]) if " at " in row["what"] else 0
        assert float(row["remarks"].split("cosine min ")[1].split()[0]) >= asked
    at = [
        row["ours"]
        for row in rows(found, "bits per value on HARD4")
        if row["what"].startswith("klt joint + pc")
    ]
    assert all(first < second for first, second in pairwise(at)), "more is asked, more is spent"


def test_facts_name_no_place(found: dict) -> None:
    assert {"cores", "numpy", "torch", "zarr", "pcodec"} <= set(found["facts"])
    assert found["command"].endswith("--out DIR") and "/" not in json.dumps(found["facts"])


def test_rate_of_equal_variances_is_shannons() -> None:
    for distortion in (0.5, 0.02, 0.002):
        assert rate(np.full(7, 3.0), np.ones(1), distortion) == pytest.approx(0.5 * np.log2(1 / distortion))
    # a component below the water costs nothing: of 8 and 2 at error 4 + 0, the level is 2
    assert rate(np.array([8.0, 2.0]), np.ones(2), 0.4) == pytest.approx(0.5 * np.log2(8 / 2) / 2)
    assert distortion_of(0.8) == pytest.approx(0.36)


def test_hard4s_true_covariance_is_what_its_maps_have() -> None:
    source = Hard4(3, channels=6, side=9)
    tokens = torch.cat(source.maps(600), 1).double().permute(0, 2, 3, 1).flatten(0, 2).numpy()
    found, wanted = np.corrcoef(tokens.T), source._correlation()
    np.testing.assert_allclose(found, wanted, atol=0.1)
    assert source.rate(0.99) < source.rate(0.995) < source.rate(0.999)


def test_peak_counts_what_lives_at_once() -> None:
    def work() -> torch.Tensor:
        first = torch.zeros(1000)
        second = first + 1
        del first
        return second.view(10, 100) @ torch.ones(100, 1)

    assert peak_bytes(work) == 8000


def test_ways_are_timed_in_turn() -> None:
    order: list[str] = []
    ways = {name: lambda name=name: order.append(name) for name in "ab"}
    taken = alternate(ways, repeats=3)
    assert order == list("ab") * 4 and all(len(timed.seconds) == 3 for timed in taken.values())


def test_a_target_is_reached_or_not() -> None:
    row = Row("read", 4.0, "GB/s", "theirs", 2.0, Asked(2.5, "ratio", "least"))
    assert row.ratio == 2 and row.reached is False
    assert Row("size", 1.7, "bits", asked=Asked(1.75, "ours", "most")).reached is True
    section = Section("speed", [row], ["on one core"])
    assert "| read | 4 GB/s | theirs | 2 GB/s | 2x | >= 2.5x | NO |  |" in page(
        [section], {"cores": 2}, "bench"
    )
    assert section.without_targets().rows[0].reached is None and "NO" in section.text()


def test_classes_are_counted() -> None:
    assert mean_classes(np.array([[1, 1, 2], [3, 4, 5]])) == 2.5


def test_an_unknown_section_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "cache", "--only", "codec"]) == 2
    assert "did you mean codecs?" in capsys.readouterr().err
