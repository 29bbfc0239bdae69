"""How do pixels become the student's input, and the input pixels again?"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_unit(images: Tensor, device: torch.device) -> Tensor:
    """uint8 [B, H, W, 3] on the host -> float32 [B, 3, H, W] in 0..1 on the device (channels-last memory)."""
    return images.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


def normalise(images: Tensor) -> Tensor:
    """Pixels 0..1 [..., 3, H, W] -> ImageNet mean 0 and standard deviation 1."""
    mean, std = _statistics(images.device, images.dtype)
    return (images - mean).div_(std)


def denormalise(images: Tensor) -> Tensor:
    """The inverse of `normalise`, as the teachers take pixels; 0 (padding) becomes the mean colour."""
    mean, std = _statistics(images.device, images.dtype)
    return images * std + mean


@cache
def _statistics(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and std [3, 1, 1], copied to a device once: a copy in every step would wait for it."""
    # made in inference mode they could never be saved for a backward pass
    with torch.inference_mode(False):
        mean, std = (torch.tensor(v, dtype=dtype, device=device) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return mean.view(3, 1, 1), std.view(3, 1, 1)
