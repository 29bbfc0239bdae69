"""How is the Teacher-Agnostic Stem (TAS), a plain ViT, built?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from student.archs import Arch


def build_stem(arch: Arch, image_size: tuple[int, int]) -> VisionTransformer:
    """timm's ViT without final norm and classifier, position embedding for `image_size` (H, W) in pixels."""
    vit = VisionTransformer(
        img_size=image_size,
        patch_size=arch.patch,
        embed_dim=arch.width,
        depth=arch.depth,
        num_heads=arch.heads,
        num_classes=0,
        dynamic_img_size=True,
    )
    vit.norm = nn.Identity()
    return vit


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random numbers on the CPU from a seed inside, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
