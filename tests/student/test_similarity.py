"""Similarity against plain numpy, after the aligner and at the larger grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from student.config import StudentConfig
from student.pixels import normalise, to_unit
from student.sak import build_student
from student.similarity import similarity
from tests.student.test_losses import bilinear

CHANNELS = {"small": (20,) * 4, "same": (96,) * 4}


@pytest.fixture
def student():
    return build_student(StudentConfig(arch="mini", weights="random:0"), CHANNELS, 0, image_size=64).train()


def test_both_measures_are_those_of_numpy(student) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 64, 64, generator=generator)
    grids = {"small": (20, 7, 7), "same": (96, 3, 3)}
    targets = {n: [torch.randn(3, *g, generator=generator) for _ in range(4)] for n, g in grids.items()}
    rows = iter([slice(0, 2), slice(2, 3)])

    def teachers(batch):
        row = next(rows)
        return {name: [level[row] for level in levels] for name, levels in targets.items()}

    found = similarity(student, teachers, [images[:2], images[2:]])
    assert student.training
    with torch.no_grad():
        paths = student.eval().align(student(normalise(images)).paths)
    for name in CHANNELS:
        flat, token = np.zeros((2, 4, 3))
        for level in range(4):
            for i in range(3):
                s, t = paths[name][level][i].double().numpy(), targets[name][level][i].double().numpy()
                s, t = (bilinear(s, (7, 7)), t) if name == "small" else (s, bilinear(t, (4, 4)))
                flat[level, i] = (s * t).sum() / np.linalg.norm(s) / np.linalg.norm(t)
                token[level, i] = (
                    (s * t).sum(0) / np.linalg.norm(s, axis=0) / np.linalg.norm(t, axis=0)
                ).mean()
        assert found[name]["flattened"] == pytest.approx(flat.mean(), abs=1e-5)
        assert found[name]["per_token"] == pytest.approx(token.mean(), abs=1e-5)
        assert found[name]["levels"] == pytest.approx(flat.mean(1).tolist(), abs=1e-5)
        assert found[name]["levels_per_token"] == pytest.approx(token.mean(1).tolist(), abs=1e-5)


def test_a_student_is_its_own_perfect_teacher(student) -> None:
    def teachers(images):
        return student.align(student(normalise(images)).paths)

    found = similarity(student, teachers, [torch.rand(2, 3, 64, 64)])
    assert all(
        found[name][key] == pytest.approx(1.0) for name in CHANNELS for key in ("flattened", "per_token")
    )


def test_no_images_is_an_error(student) -> None:
    with pytest.raises(ValueError, match="similarity got no images"):
        similarity(student, lambda images: {}, [])


def test_normalising_can_be_trained_through_after_inference() -> None:
    """The constants are kept per device and type; made in inference mode, they must serve training too."""
    pixels = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    with torch.inference_mode():
        normalise(pixels)
    normalise(pixels.requires_grad_()).sum().backward()
    assert pixels.grad is not None


def test_pixels_are_scaled_and_normalised_as_imagenet() -> None:
    white = to_unit(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8), torch.device("cpu"))
    assert torch.equal(white, torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(
        normalise(white)[0, :, 0, 0],
        torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]),
    )
