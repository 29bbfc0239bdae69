"""Routers mix the experts by eq. 4; heads bring four levels to full size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from student.config import StudentConfig
from student.heads import Head
from student.multitask import build_multitask
from student.router import MixtureOfRepresentations, Router
from student.sak import build_student

MINI = StudentConfig(arch="mini", weights="random:0")
CHANNELS = {"dino": (48,) * 4, "sam": (96,) * 4}


def test_gates_are_the_softmax_of_the_mean_score_in_evaluation() -> None:
    router = Router(32, 3, "image").eval()
    stem = torch.randn(2, 32, 4, 5)
    gates = router(stem)
    tokens = stem.permute(0, 2, 3, 1).reshape(2, 20, 32)
    wanted = router.module(tokens)[..., :3].mean(1).softmax(-1)
    torch.testing.assert_close(gates, wanted)
    assert torch.equal(gates, router(stem)), "evaluation has no noise"
    torch.testing.assert_close(gates.sum(1), torch.ones(2))


def test_training_noise_has_the_learned_size_per_image_and_averages_out_per_token() -> None:
    stem = torch.randn(1, 32, 8, 8).expand(4000, -1, -1, -1)
    spreads = {}
    for noise in ("image", "pixel"):
        torch.manual_seed(1)
        router = Router(32, 2, noise).train()
        logits = router(stem).log()
        spreads[noise] = (logits[:, 0] - logits[:, 1]).std()
        e = router.module(stem[:1].flatten(2).mT)[..., 2:].mean(1)
        std = (F.softplus(e) + 1e-2).square().sum().sqrt()
        expected = std if noise == "image" else std / 8
        torch.testing.assert_close(spreads[noise], expected, rtol=0.1, atol=0.0)


def test_mixture_is_the_weighted_sum_with_the_stem_first() -> None:
    mixture = MixtureOfRepresentations(32, 3, "image").eval()
    maps = [torch.randn(2, 32, 3, 3) for _ in range(3)]
    fused, gates = mixture(maps[0], maps[1:])
    wanted = torch.einsum("be,ebchw->bchw", gates, torch.stack(maps))
    torch.testing.assert_close(fused, wanted)


def test_head_decodes_at_a_quarter_and_answers_at_full_size() -> None:
    head = Head(32, 5).eval()
    seen = []
    head.last_conv.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape)))
    out = head([torch.randn(2, 32, 4, 6) for _ in range(4)], (64, 96))
    assert out.shape == (2, 5, 64, 96)
    assert seen == [(2, 5, 16, 24)]


def test_forward_gives_every_task_and_gradients_reach_every_parameter() -> None:
    sak = build_student(MINI, CHANNELS, 0, image_size=64)
    model = build_multitask(sak, {"semseg": 7, "depth": 1}, noise="pixel", seed=1)
    out = model(torch.randn(2, 3, 64, 96))
    assert {task: tuple(p.shape) for task, p in out.predictions.items()} == {
        "semseg": (2, 7, 64, 96),
        "depth": (2, 1, 64, 96),
    }
    assert list(out.paths) == list(CHANNELS)
    assert [tuple(g.shape) for g in out.gates["depth"]] == [(2, 3)] * 4
    distilled = sum(level.square().mean() for maps in sak.align(out.paths).values() for level in maps)
    (distilled + sum(p.square().mean() for p in out.predictions.values())).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_baseline_without_teachers_decodes_the_stem() -> None:
    model = build_multitask(build_student(MINI, {}, 0, image_size=64), {"depth": 1}).eval()
    images = torch.randn(1, 3, 64, 64)
    out = model(images)
    torch.testing.assert_close(
        out.predictions["depth"], model.heads["depth"](model.backbone(images).stem, (64, 64))
    )
    assert all(torch.equal(gate, torch.ones(1, 1)) for gate in out.gates["depth"])


@pytest.mark.parametrize("seed", [0, 1])
def test_seed_decides_routers_and_heads(seed: int) -> None:
    models = [build_multitask(build_student(MINI, CHANNELS, 0), {"depth": 1}, seed=s) for s in (0, seed)]
    keys = [model.heads["depth"].last_conv.weight for model in models]
    assert torch.equal(*keys) == (seed == 0)
