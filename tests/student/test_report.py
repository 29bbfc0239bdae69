"""The report: one self-contained page from what a run left behind, and the paper's figures as they add up."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.commits import LevelFidelity
from storage.inspect import ColumnRow
from student.metrics_log import read_records
from student.report.figures import curves, map_uri, picture_uri, series, steps, svg, thin
from student.report.inputs import load_run
from student.report.page import render, write_report
from student.report.published import ABLATION, PUBLISHED, published_for, published_similarity
from student.report.tables import (
    MISSING,
    cache_table,
    duration,
    metrics_table,
    rungs_by_column,
    similarity_table,
    summary_text,
)

TEACHERS = ("mini_dinov2", "mini_clip", "mini_sam")
VOID = {"meta", "img", "br", "link", "path", "use"}


def write_json(path: Path, doc: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(doc))


def png_bytes(rgb: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "png")
    return buffer.getvalue()


def write_log(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def similarities(value: float) -> dict[str, dict[str, float]]:
    return {teacher: {"flattened": value + i / 100, "per_token": value} for i, teacher in enumerate(TEACHERS)}


def make_run(folder: Path) -> Path:
    """A run as the steps leave it: three teachers, two photos, NYUD with three tasks."""
    rng = np.random.default_rng(0)
    for step in ("cache", "distill", "finetune-nyud", "evaluate-nyud"):
        doc = {"command": f"python -m jobs {step} <demo>", "recipe": {"name": "demo"}, "revision": "abc123"}
        libraries = {"torch": "2.14.0"}
        doc |= {"started": "2026-11-24T08:00:00Z", "seconds": 75.0, "device": "cpu", "libraries": libraries}
        write_json(folder / step / "run.json", doc)
    fidelity = [{"min": 0.99 - level / 100, "p1": 0.992, "mean": 0.995} for level in range(4)]
    levels = tuple(LevelFidelity(**level) for level in fidelity)
    facts = {"fingerprint": "abcd", "shards_done": 4, "shards_expected": 5, "samples": 1024, "quarantined": 1}
    facts |= {"bytes": 123_456_789, "bits_per_value": 3.81, "codec": "int8", "grid": "7x7"}
    facts |= {"asked": 0.95, "decode_gmac": 0.25}
    kept = {"fidelity": levels, "per_token": levels, "rungs": {-9: 3, -8: 40, -6: 7}}
    rows = [ColumnRow(teacher=teacher, **kept, **facts) for teacher in TEACHERS]
    nothing = {"fidelity": (), "per_token": (), "rungs": {}, "asked": None, "decode_gmac": None}
    rows.append(ColumnRow(teacher="images", **{**facts, **nothing, "bits_per_value": None}))
    write_json(
        folder / "cache" / "inspect.json",
        {
            "rows": [{"cache": "f16", **row.model_dump(mode="json")} for row in rows],
            "jpeg": {"cosine": {"mini_sam": 0.98765}},
        },
    )
    noise = rng.normal(1, 0.03, 900)
    log = [
        {"step": 10 * i, "loss": 9 * float(np.exp(-i / 200) + 0.05) * noise[i], "lr": 1e-3}
        | {f"loss/{t}": float(np.exp(-i / (150 + 60 * k)) + 0.1) for k, t in enumerate(TEACHERS)}
        for i in range(900)
    ]
    write_log(folder / "distill" / "metrics.jsonl", log)
    write_json(
        folder / "distill" / "summary.json",
        {"steps": 9000, "seconds": 90.0, "student": "/home/x/y", "last": {}},
    )
    write_json(folder / "distill" / "similarity_before.json", similarities(0.1))
    write_json(folder / "distill" / "similarity_after.json", similarities(0.8))
    yy, xx = np.mgrid[:96, :96]
    photo = np.stack([yy * 2, xx * 2, 255 - yy - xx], -1).clip(0, 255).astype(np.uint8)
    maps = {"photos": np.stack([photo, photo[::-1]])}
    for teacher in TEACHERS:
        for phase in ("teacher", "before", "after"):
            maps[f"{teacher}.{phase}"] = rng.integers(0, 256, (2, 7, 7, 3), dtype=np.uint8)
    np.savez(folder / "distill" / "maps.npz", **maps)
    tasks = ("semseg", "depth", "normals")
    log = [
        {"step": i, "loss": 5.0 / (i + 1), **{f"distill/{teacher}": 0.5 / (i + 1) for teacher in TEACHERS}}
        | {f"loss/{task}": 3.0 / (i + k + 1) for k, task in enumerate(tasks)}
        for i in range(30)
    ]
    write_log(folder / "finetune-nyud" / "metrics.jsonl", log)
    scores = {"semseg": 41.234, "depth": 0.51234, "normals": 19.5}
    doc = {"dataset": "nyud", "images": 12, "compat": "official", "metrics": scores, "single_task": None}
    write_json(
        folder / "evaluate-nyud" / "metrics.json", {**doc, "delta_m": None, "pictures": ["a_1", "b_2"]}
    )
    weights = rng.dirichlet(np.ones(4), (4,)).tolist()
    gates = {"experts": ["shared", *TEACHERS], "tasks": dict.fromkeys(tasks, weights)}
    write_json(folder / "evaluate-nyud" / "gates.json", gates)
    pictures = folder / "evaluate-nyud" / "predictions"
    pictures.mkdir()
    for sample in ("a_1", "b_2"):
        for name in ("image", *tasks, *(f"{task}_truth" for task in tasks)):
            (pictures / f"{sample}_{name}.png").write_bytes(png_bytes(photo[:72]))
    return folder


class Page(HTMLParser):
    """Tags that do not close, sources, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return write_report(run).read_text()


def test_page_is_self_contained_and_well_formed(html: str) -> None:
    page = Page(html)
    assert page.open == []
    assert "http" not in html and "<script" not in html and "@import" not in html
    for tag, attributes in page.attributes:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, value)
    assert "prefers-color-scheme: dark" in html and 'name="viewport"' in html
    assert len(html) < 1_000_000


def test_ids_are_unique_and_every_reference_has_its_target(html: str) -> None:
    attributes = [attrs for _, attrs in Page(html).attributes]
    ids = [attrs["id"] for attrs in attributes if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", html)) <= set(ids)


def test_every_section_stands_with_its_figures(html: str) -> None:
    text = Page(html).text
    for words in ("What was run", "Feature cache", "Representation similarity", "Gate weights", "2.14.0"):
        assert words in text
    assert "Not in this run" not in text
    assert "4/5" in text and "370.4 MB" in text and "0.9600" in text and "1 min 15 s" in text
    assert "41.23" in text and "0.5123" in text and "released code's conventions" in text
    assert "python -m jobs cache <demo>" in text and "<demo>" not in html
    assert "9,000" in text and "1 min 30 s" in text and "/home" not in html
    assert "JPEG costs" in text and "0.9877" in text
    assert "paper, Table" not in text


def test_pictures_are_the_files_own(run: Path) -> None:
    with np.load(run / "distill" / "maps.npz") as maps:
        panel = maps["mini_sam.after"][1]
    uri = map_uri(panel)
    assert uri in render(load_run(run))
    decoded = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert np.array_equal(np.asarray(decoded), panel)


def test_report_is_reproducible_and_rewritten_whole(run: Path, html: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    assert write_report(run, out) == out
    assert out.read_text() == html
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_missing_inputs_name_their_command(tmp_path: Path) -> None:
    (tmp_path / "early").mkdir()
    page = Page(write_report(tmp_path / "early").read_text())
    assert page.open == []
    for command in ("inspect", "distill", "finetune", "evaluate"):
        assert f"python -m jobs {command} RECIPE" in page.text
    assert "early" in page.text


def test_only_what_is_there_is_shown(tmp_path: Path) -> None:
    write_log(tmp_path / "distill" / "metrics.jsonl", [{"step": 1, "loss": 2.0}])
    write_json(tmp_path / "evaluate-nyud" / "metrics.json", {"metrics": {"edge": 70.0}, "pictures": ["gone"]})
    page = Page(write_report(tmp_path).read_text())
    assert "total loss" in page.text and "70.00" in page.text and "per teacher" not in page.text


def test_similarity_scored_later_is_shown(tmp_path: Path) -> None:
    write_json(tmp_path / "evaluate-similarity" / "similarity.json", similarities(0.7))
    text = Page(write_report(tmp_path).read_text()).text
    assert "0.7100" in text and "Task metrics: python -m jobs evaluate" in text


def test_names_from_files_cannot_become_markup(tmp_path: Path) -> None:
    row = {
        "teacher": "<img src=x onerror=alert(1)>",
        "bytes": 1,
        "shards_done": 1,
        "shards_expected": 1,
        "samples": 1,
    }
    rows = [{**row, "quarantined": 0}]
    write_json(tmp_path / "cache" / "inspect.json", {"rows": rows})
    losses = {"loss/<b>bold</b>": 1.0, "loss/x": 2.0}
    write_log(tmp_path / "distill" / "metrics.jsonl", [{"step": 1, "loss": 2.0, **losses}])
    html = write_report(tmp_path).read_text()
    assert "<img src=x" not in html and "<b>bold" not in html and "&lt;img" in html


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cache/inspect.json", b"{", "is not JSON"),
        ("cache/inspect.json", b"[]", "not an object"),
        ("distill/metrics.jsonl", b"{}\n", "line 1 is no log record"),
        ("distill/maps.npz", b"PK", "cannot be read"),
    ],
)
def test_damaged_inputs_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        write_report(tmp_path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_incomplete_maps_and_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "distill").mkdir()
    np.savez(tmp_path / "distill" / "maps.npz", **{"t.teacher": np.zeros((1, 2, 2, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"lacks \['photos', 't.after', 't.before'\]"):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        write_report(tmp_path / "nowhere")


def test_log_of_a_resumed_and_killed_run(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 5}\n{"step": 2, "loss": 4}\n{"step": 2, "loss": 3}\n{"step": 3, "lo')
    assert read_records(path) == [{"step": 1, "loss": 5}, {"step": 2, "loss": 3}]


def test_thin_keeps_the_mean() -> None:
    points = np.stack([np.arange(1000.0), np.arange(1000.0) ** 2], 1)
    steps, values = thin(points[:30])
    assert np.array_equal(steps, points[:30, 0]) and np.array_equal(values, points[:30, 1])
    steps, values = thin(points)
    assert len(steps) == 400 and np.all(np.diff(steps) > 0)
    lengths = np.diff(np.linspace(0, 1000, 401).astype(int))
    assert np.dot(values, lengths) == pytest.approx(points[:, 1].sum())


def test_figures_leave_global_state_alone() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    drawn = svg(curves(series([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 30.0}])), "one")
    assert dict(mpl.rcParams) == before
    assert "currentColor" in drawn and "#010203" not in drawn and drawn.startswith("<svg")


def test_picture_is_shrunk_never_enlarged() -> None:
    def shape(uri: str) -> tuple[int, int]:
        return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size

    flat = np.zeros((500, 1000, 3), np.uint8)
    assert picture_uri(flat).startswith("data:image/png") and shape(picture_uri(flat)) == (320, 160)
    assert shape(picture_uri(flat[:10, :20])) == (20, 10)
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    assert picture_uri(noise).startswith("data:image/jpeg")


def test_published_gains_follow_from_the_published_values() -> None:
    """Eq. 7 over the printed values gives the printed gain: a mistyped figure cannot pass."""
    checked = 0
    for rows in (*PUBLISHED.values(), (PUBLISHED["pascal_context", "ViT-B"][0], *ABLATION)):
        base = rows[0].values
        for row in rows:
            if row.model == "TFUT" and row.source == "Table 16":
                continue
            gains = [
                (-1 if task in ("normals", "depth") else 1) * (row.values[task] - base[task]) / base[task]
                for task in base
            ]
            assert 100 * sum(gains) / len(gains) == pytest.approx(row.gain, abs=0.011), row
            checked += 1
    assert checked == 74


def test_published_rows_stand_beside_paper_recipes_only() -> None:
    paper = {"name": "paper_pascal_b", "student": {"arch": "vit_base_patch16"}}
    rows = published_for(paper, "pascal_context")
    assert [row.source for row in rows][-2:] == ["Table 13", "Table 3"]
    assert rows[-2].values["semseg"] == 81.88 and rows[-1].values["semseg"] == 81.65
    assert published_for({**paper, "name": "demo"}, "pascal_context") == ()
    assert published_for({**paper, "student": {"arch": "mini"}}, "pascal_context") == ()
    scores = {"metrics": {"semseg": 80.0, "edge": None}, "images": 5105, "delta_m": 0.5}
    text = metrics_table(scores, rows).text()
    assert "SAK, ViT-L teachers (paper, Table 13)" in text and text.splitlines()[-2].split()[-2:] == [
        MISSING,
        "0.50",
    ]
    teachers = ["dinov2_b14", "timmclip_b16", "sam_b16"]
    assert published_similarity(paper, teachers)["sam_b16"] == 0.8369
    assert published_similarity(paper, teachers[:1]) == {}
    assert published_similarity(paper, ["dinov2_l14", *teachers[1:]]) == {}
    assert published_similarity({**paper, "student": {"arch": "vit_large_patch16"}}, teachers) == {}


def test_summary_for_the_terminal_leaves_out_what_is_missing(run: Path, tmp_path: Path) -> None:
    text = summary_text(load_run(run))
    assert "nyud\n" in text and "mini_sam" in text and "19.50" in text and text.count("\n\n") == 2
    assert summary_text(load_run(tmp_path)) == ""


def test_metric_that_stands_in_is_named() -> None:
    scores = {"metrics": {"edge": 0.123456}, "names": {"edge": "boundary_loss"}, "images": 1}
    assert metrics_table(scores).header[1] == "boundary loss ↓"
    assert metrics_table(scores).rows[-1][1] == "0.1235"
    beside = metrics_table(scores, PUBLISHED["nyud", "ViT-B"]).rows[0]
    assert beside == ("Single-task baseline (paper, Table 14)", MISSING, "0.00")
    assert metrics_table({"metrics": {"edge": 70.0}}).header[1] == "Boundary odsF % ↑"


def test_plain_tables_are_aligned() -> None:
    text = similarity_table(similarities(0.1), similarities(0.8), {"mini_sam": 0.5, "mean": 0.6}).text()
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[-1].split() == ["mean", "0.1100", "0.8100", "0.1000", "0.8000", "0.6000"]
    row = {
        "teacher": "sam",
        "shards_done": 0,
        "shards_expected": 3,
        "samples": 0,
        "quarantined": 0,
        "bytes": 0,
        "fidelity": (),
    }
    assert cache_table([row]).text().splitlines()[2].split()[-3:] == [MISSING] * 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25 s"), (59, "59 s"), (60, "1 min 0 s"), (12000, "3 h 20 min"), (None, MISSING)],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_steps_are_drawn_per_teacher(run: Path) -> None:
    """Bars for every rung between the finest and the coarsest, of the first cache that has any."""
    rows = load_run(run).cache_rows
    rungs = rungs_by_column(rows)
    assert rungs == {teacher: {-9: 3, -8: 40, -6: 7} for teacher in TEACHERS}
    (axis,) = steps(rungs).axes
    heights = [bar.get_height() for bar in axis.patches]
    assert heights == [3, 40, 0, 7] * len(TEACHERS)
    assert "step that each sample took" in render(load_run(run))
    assert rungs_by_column([{"teacher": "a"}]) == {}
