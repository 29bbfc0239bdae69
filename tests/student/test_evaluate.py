"""Evaluation: metrics, pictures and gates of a real student on a real folder, and what a second call does."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from student.config import DatasetConfig, EvaluateConfig, Stage2Config, StudentConfig
from student.evaluate import evaluate_tasks, weights_digest
from student.multitask import SAKMultiTask, build_multitask
from student.pictures import pictured
from student.report.page import write_report
from student.report.tables import MISSING, metrics_table
from student.sak import build_student
from student.single_task import read_single_task
from student.stage2 import run_stage2
from student.tasks.scenes.write import write_pascal_context
from student.tasks.spec import out_channels
from tests.student.nyud_folder import TASKS, nyud_config, write_nyud_folder

CONFIG = EvaluateConfig(batch_size=2, save_predictions=3, workers=0)


def make_model(data: DatasetConfig, teachers: tuple[str, ...] = ("dinov2", "sam")) -> SAKMultiTask:
    """A student whose random heads at least name the two classes that the folder has."""
    config = StudentConfig(arch="mini", weights="random:0")
    sak = build_student(config, dict.fromkeys(teachers, (96,) * 4), 0, image_size=data.size)
    model = build_multitask(sak, out_channels(data.name, data.tasks), seed=1)
    if "semseg" in model.heads:
        model.heads["semseg"].last_conv.bias.data[[2, 5]] += 10
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DatasetConfig:
    return nyud_config(write_nyud_folder(tmp_path_factory.mktemp("nyud") / "NYUDv2"))


@pytest.fixture(scope="module")
def model(data: DatasetConfig) -> SAKMultiTask:
    return make_model(data)


@pytest.fixture(scope="module")
def out(data: DatasetConfig, model: SAKMultiTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "evaluate-nyud"
    evaluate_tasks(model, data, CONFIG, out=folder, device="cpu")
    return folder


def outputs(
    model: SAKMultiTask, data: DatasetConfig
) -> list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """Predictions cut to the image and gates, image by image, from the files alone."""
    found = []
    for path in sorted(Path(data.path).glob("images/v_*.png")):
        pixels = read_png(path).astype(np.float32) / 255
        normal = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        padded = np.pad(normal, ((2, 2), (3, 3), (0, 0))).transpose(2, 0, 1)[None]
        with torch.no_grad():
            made = model.eval()(torch.from_numpy(padded).float())
        predictions = {task: value[0, :, 2:-2, 3:-3].numpy() for task, value in made.predictions.items()}
        found.append((predictions, {task: torch.cat(gates).numpy() for task, gates in made.gates.items()}))
    return found


def read_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def read_metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def test_metrics_are_those_of_the_files(data: DatasetConfig, model: SAKMultiTask, out: Path) -> None:
    metrics, made = read_metrics(out)["metrics"], outputs(model, data)
    root = Path(data.path)
    confusion, squares, angles = np.zeros((40, 40)), [], []
    for i, (predictions, _) in enumerate(made):
        label = read_png(root / "segmentation" / f"v_{i}.png").astype(int) - 1
        np.add.at(confusion, (label[label >= 0], predictions["semseg"].argmax(0)[label >= 0]), 1)
        squares.append((predictions["depth"][0].clip(0) - np.load(root / "depth" / f"v_{i}.npy")) ** 2)
        stored = read_png(root / "normals" / f"v_{i}.png") / 127.5 - 1
        cosine = (stored * predictions["normals"].transpose(1, 2, 0)).sum(2)
        lengths = np.linalg.norm(stored, axis=2) * np.linalg.norm(predictions["normals"], axis=0)
        angles.append(np.degrees(np.arccos((cosine / lengths).clip(-1, 1))))
    union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    assert metrics["semseg"] == pytest.approx(100 * (np.diag(confusion)[union > 0] / union[union > 0]).mean())
    assert metrics["depth"] == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-5)
    assert metrics["normals"] == pytest.approx(np.mean(angles), abs=1e-3)


def test_gates_are_means_over_the_images(data: DatasetConfig, model: SAKMultiTask, out: Path) -> None:
    gates = json.loads((out / "gates.json").read_text())
    assert gates["experts"] == ["shared", "dinov2", "sam"] and list(gates["tasks"]) == list(TASKS)
    for task, weights in gates["tasks"].items():
        expected = np.mean([by_task[task] for _, by_task in outputs(model, data)], axis=0)
        assert np.allclose(weights, expected, atol=1e-6)
        assert np.allclose(np.sum(weights, axis=1), 1)


def test_pictures_have_the_size_of_the_image(data: DatasetConfig, model: SAKMultiTask, out: Path) -> None:
    assert read_metrics(out)["pictures"] == ["v_0", "v_2", "v_4"]
    files = sorted(path.name for path in (out / "predictions").iterdir())
    names = ("image", *TASKS, *(f"{task}_truth" for task in TASKS))
    assert files == sorted(f"{i}_{name}.png" for i in ("v_0", "v_2", "v_4") for name in names)
    for path in (out / "predictions").iterdir():
        assert read_png(path).shape == (60, 90, 3)
    original = read_png(Path(data.path) / "images" / "v_2.png")
    assert np.array_equal(read_png(out / "predictions" / "v_2_image.png"), original)
    predictions, _ = outputs(model, data)[2]
    white = 255 / (1 + np.exp(predictions["edge"][0]))
    assert np.abs(read_png(out / "predictions" / "v_2_edge.png")[..., 0] - white).max() <= 0.51


def test_batching_and_workers_change_nothing(
    data: DatasetConfig, model: SAKMultiTask, out: Path, tmp_path: Path
) -> None:
    config = EvaluateConfig(batch_size=4, save_predictions=0, workers=1)
    found = evaluate_tasks(model, data, config, out=tmp_path, device="cpu")
    assert found == pytest.approx(read_metrics(out)["metrics"], rel=1e-5)
    assert not (tmp_path / "predictions").exists() and read_metrics(tmp_path)["pictures"] == []


def test_second_call_runs_nothing_but_another_model_does(
    data: DatasetConfig, model: SAKMultiTask, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = SAKMultiTask.forward
    monkeypatch.setattr(
        SAKMultiTask, "forward", lambda self, images: calls.append(1) or forward(self, images)
    )
    before = read_metrics(out)
    assert evaluate_tasks(make_model(data), data, CONFIG, out=out, device="cpu") == before["metrics"]
    assert calls == [] and read_metrics(out) == before
    other = make_model(data)
    torch.nn.init.normal_(other.heads["depth"].last_conv.bias)
    evaluate_tasks(model, data, CONFIG, out=tmp_path, device="cpu")
    changed = evaluate_tasks(other, data, CONFIG, out=tmp_path, device="cpu")
    assert len(calls) == 6
    assert changed["depth"] != before["metrics"]["depth"] and changed["semseg"] == before["metrics"]["semseg"]


def test_mode_is_restored_and_state_untouched(data: DatasetConfig, tmp_path: Path) -> None:
    model = make_model(data).train()
    digest = weights_digest(model)
    evaluate_tasks(model, data, CONFIG, out=tmp_path, device="cpu")
    assert model.training and weights_digest(model) == digest
    assert weights_digest(make_model(data, ("dinov2",))) != digest


def test_gain_against_our_own_single_task_scores(
    data: DatasetConfig, model: SAKMultiTask, out: Path, tmp_path: Path
) -> None:
    document = read_metrics(out)
    ours = document["metrics"]
    single = {**ours, "semseg": ours["semseg"] / 2, "depth": ours["depth"] * 2, "edge": ours["edge"] * 4}
    (tmp_path / "single.json").write_text(json.dumps({**document, "metrics": single}))
    given = read_single_task(tmp_path / "single.json")
    evaluate_tasks(model, data, CONFIG, out=tmp_path, device="cpu", single_task=given)
    found = read_metrics(tmp_path)
    assert found["delta_m"] == pytest.approx(100 * (1 + 0.5 + 0 + 0.75) / 4)
    assert found["single_task"] == single and found["delta_m_tasks"] == list(TASKS)
    assert document["single_task"] is None and document["delta_m"] is None


def test_gain_over_plain_figures_leaves_the_boundary_loss_out(
    data: DatasetConfig, model: SAKMultiTask, out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = read_metrics(out)["metrics"]
    single = {"semseg": ours["semseg"] / 2, "depth": ours["depth"] * 2, "normals": ours["normals"]}
    plain = {**single, "edge": 77.35}  # odsF, per cent
    evaluate_tasks(model, data, CONFIG, out=tmp_path, device="cpu", single_task=plain)
    found = read_metrics(tmp_path)
    assert found["delta_m"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)
    assert found["single_task"] == plain and found["delta_m_tasks"] == ["semseg", "depth", "normals"]
    assert "delta_m leaves edge out: it is scored by boundary_loss here" in caplog.text
    table = metrics_table(found)
    assert table.rows[0][-2:] == (MISSING, "0.00") and table.rows[1][-1] == "50.00"
    assert "without Boundary" in table.note
    with pytest.raises(ValueError, match="depth"):
        evaluate_tasks(model, data, CONFIG, out=tmp_path, device="cpu", single_task={**plain, "depth": 0.0})


def test_nothing_labelled_is_null_in_json_and_nan_for_the_caller(tmp_path: Path) -> None:
    root = write_nyud_folder(tmp_path / "NYUDv2", val=2)
    for path in root.glob("depth/v_*.npy"):
        np.save(path, np.zeros((60, 90), np.float32))
    data = nyud_config(root, ("depth", "edge"))
    model = make_model(data, ())
    for _ in range(2):
        found = evaluate_tasks(model, data, CONFIG, out=tmp_path / "out", device="cpu")
        assert math.isnan(found["depth"]) and found["edge"] > 0
    assert read_metrics(tmp_path / "out")["metrics"]["depth"] is None
    gates = json.loads((tmp_path / "out" / "gates.json").read_text())
    assert gates == {"experts": ["shared"], "tasks": {task: [[1.0]] * 4 for task in ("depth", "edge")}}


def test_compat_reaches_the_metrics(
    data: DatasetConfig, model: SAKMultiTask, out: Path, tmp_path: Path
) -> None:
    official = data.model_copy(update={"compat": "official"})
    found = evaluate_tasks(model, official, CONFIG, out=tmp_path, device="cpu")
    assert read_metrics(tmp_path)["compat"] == "official"
    assert found["semseg"] < read_metrics(out)["metrics"]["semseg"]


def test_pascal_context_with_all_its_tasks(tmp_path: Path) -> None:
    root = write_pascal_context(tmp_path, train=2, val=3, size=(64, 60))
    tasks = ("semseg", "human_parts", "sal", "normals", "edge")
    data = DatasetConfig(name="pascal_context", path=str(root), tasks=tasks, size=(64, 64))
    model, out = make_model(data, ()), tmp_path / "run"
    settings = Stage2Config(iterations=2, batch_size=2, gamma=0, workers=0, log_every=1)
    run_stage2(model, None, data, settings, out=out / "finetune-pascal_context", device="cpu")
    found = evaluate_tasks(model, data, CONFIG, out=out / "evaluate-pascal_context", device="cpu")
    assert list(found) == list(tasks) and all(math.isfinite(value) for value in found.values())
    html = write_report(out).read_text()
    assert all(f"{title}, prediction" in html for title in ("Parsing", "Saliency", "Boundary"))


def test_report_shows_the_evaluation(out: Path) -> None:
    html = write_report(out.parent).read_text()
    assert "v_2" in html and html.count("data:image/") == 3 * 9
    assert "Gate weights" in html and '<th scope="col">shared</th>' in html and "sound definitions" in html


@pytest.mark.parametrize(
    ("count", "wanted", "found"), [(5, 3, [0, 2, 4]), (3, 20, [0, 1, 2]), (4, 0, []), (0, 3, []), (9, 1, [0])]
)
def test_pictured(count: int, wanted: int, found: list[int]) -> None:
    assert pictured(count, wanted) == found
