"""Pictures of predictions and labels: the right colours, and ignored pixels in one grey."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch

from student.tasks.spec import IGNORE, TASKS
from student.tasks.visualise import IGNORED, depth_range, show_image, show_label, show_prediction
from tests.student.tasks.test_losses import make_batch


@pytest.mark.parametrize("task", list(TASKS))
def test_pictures_are_rgb_and_ignored_pixels_grey(task: str) -> None:
    predictions, labels = make_batch(0)
    for prediction, label in zip(predictions[task], labels[task], strict=True):
        ours, truth = show_prediction(task, prediction), show_label(task, label)
        assert ours.shape == truth.shape == (9, 11, 3) and ours.dtype == truth.dtype == np.uint8
        ignored = (label == IGNORE).reshape(-1, 9, 11).any(0).numpy()
        assert ignored.any() and (truth[ignored] == IGNORED).all()


@pytest.mark.parametrize("task", ["semseg", "human_parts", "sal", "normals", "edge", "depth"])
def test_a_right_prediction_looks_like_its_label(task: str) -> None:
    predictions, labels = make_batch(1, ignored=0)
    label, channels = labels[task][0], predictions[task].shape[1]
    if task == "edge":
        prediction = torch.where(label == 1, 50.0, -50.0)[None]
    elif label.dim() == 2:
        prediction = 50 * torch.nn.functional.one_hot(label.long(), channels).permute(2, 0, 1).float()
    else:
        prediction = label
    difference = show_prediction(task, prediction).astype(int) - show_label(task, label)
    assert np.abs(difference).max() <= 1


def test_vocs_colours_and_matplotlibs_viridis() -> None:
    classes = torch.tensor([[0, 1, 15, 20]], dtype=torch.uint8)
    expected = [[44, 44, 44], [128, 0, 0], [192, 128, 128], [0, 64, 128]]
    assert show_label("semseg", classes)[0].tolist() == expected
    depth = torch.tensor([[[1.0, 3.0, 5.0, 9.0]]])
    share = np.array([0, 0.5, 1, 1])
    colours = matplotlib.colormaps["viridis"](share)[:, :3] * 255
    assert np.abs(show_label("depth", depth, depth_m=(1, 5))[0] - colours).max() < 2
    up_and_towards = torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]], [[0.0, 2.0]]])
    assert show_prediction("normals", up_and_towards)[0].tolist() == [[128, 255, 128], [128, 128, 255]]


def test_depth_scale_of_a_label() -> None:
    label = torch.tensor([[[255.0, 2.0, 7.5]]])
    assert depth_range(label) == (2.0, 7.5)
    assert depth_range(torch.full((1, 2, 2), 255.0)) == (0.0, 1.0)
    assert show_label("depth", torch.full((1, 2, 2), 255.0)).shape == (2, 2, 3)


def test_images_and_unknown_tasks() -> None:
    pixels = torch.tensor([0.0, 0.5, 1.2]).view(3, 1, 1)
    assert show_image(pixels)[0, 0].tolist() == [0, 128, 255]
    with pytest.raises(ValueError, match="unknown task 'edges'; did you mean 'edge'"):
        show_prediction("edges", pixels)
