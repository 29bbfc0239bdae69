"""How do stored pixels become the student's input?"""

from __future__ import annotations

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_unit(images: Tensor, device: torch.device) -> Tensor:
    """uint8 [B, H, W, 3] on the host -> float32 [B, 3, H, W] in 0..1 on the device (channels-last memory)."""
    return images.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


def normalise(images: Tensor) -> Tensor:
    """ImageNet-normalise float [B, 3, H, W] in 0..1."""
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std
