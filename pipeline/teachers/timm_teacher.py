"""What does one frozen teacher make of a batch of images: its four level maps."""

from __future__ import annotations

from typing import Literal

import timm
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.teachers.sam_attention import FusedBlock
from pipeline.teachers.spec import IMAGENET_MEAN, IMAGENET_STD, Padding, TeacherSpec, fitted

Normalisation = Literal["imagenet", "pretrained"]
Precision = Literal["fp32", "bf16"]


def pixel_stats(
    spec: TeacherSpec, normalisation: Normalisation
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of pixels in 0..1 that teacher `spec` is run with."""
    return spec.stats if normalisation == "pretrained" else (IMAGENET_MEAN, IMAGENET_STD)


def build_network(spec: TeacherSpec) -> nn.Module:
    """The teacher's timm model on the meta device (no values yet), without what the taps never reach.

    Final norm, head, pooling and SAM's neck are gone. Building it draws no random numbers.
    """
    arguments = dict(spec.build)
    if spec.family == "sam":
        arguments["block_fn"] = FusedBlock
    with torch.device("meta"):
        network = timm.create_model(spec.timm_id, pretrained=False, num_classes=0, **arguments)
        network.prune_intermediate_layers(indices=list(spec.levels), prune_norm=True, prune_head=True)
    return network.requires_grad_(False).eval()


def fit_to_canvas(pixels: torch.Tensor, canvas: int) -> torch.Tensor:
    """Resize `pixels` so that the longest side is `canvas`, then pad with zeros right and bottom.

    Bicubic without antialiasing on the normalised tensor, sides rounded half up: as the paper's authors do.

    Args:
        pixels: `[B, 3, H, W]` normalised.

    Returns:
        `[B, 3, canvas, canvas]`.
    """
    height, width = pixels.shape[-2:]
    size = fitted(height, width, canvas)
    if size != (height, width):
        pixels = F.interpolate(pixels, size=size, mode="bicubic", align_corners=False, antialias=False)
    return F.pad(pixels, (0, canvas - size[1], 0, canvas - size[0]))


class Teacher(nn.Module):
    """One frozen teacher: images in, four level maps of patch tokens out, without a final norm.

    Args:
        spec: what it is.
        network: its timm model from `build_network`, with values.
        normalisation: imagenet (as the paper's authors do for every teacher) or pretrained (its own).
        precision: bf16 runs the network under autocast; its residual stream, and so every level, stays fp32.
        padding: cut leaves SAM's padding out of the maps, keep returns all patches of its canvas.
    """

    def __init__(
        self,
        spec: TeacherSpec,
        network: nn.Module,
        *,
        normalisation: Normalisation = "imagenet",
        precision: Precision = "fp32",
        padding: Padding = "cut",
    ) -> None:
        super().__init__()
        self.spec, self.network, self.precision, self.padding = spec, network, precision, padding
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in pixel_stats(spec, normalisation))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.eval()

    def shapes(self, height: int, width: int) -> tuple[tuple[int, int, int], ...]:
        """`(channels, rows, columns)` of each level for images of `height` x `width` pixels."""
        return self.spec.level_shapes(height, width, padding=self.padding)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Level maps of `images`.

        Runs without gradients, but not in inference mode: a loss on the maps must be able to save them.

        Args:
            images: `[B, 3, H, W]` float in 0..1 on the teacher's device, any size of at least one patch.

        Returns:
            Four float32 maps `[B, C, h, w]`: blocks L/4, L/2, 3L/4, L, patch tokens only. Their memory is
            token-major (channels last), as the network left it. All teachers' maps cover the image alone and
            so lie on each other when stretched (paper eq. 5), unless `padding` is keep.

        Raises:
            ValueError: images of another shape or type.
        """
        _check(images)
        pixels = self._prepare(images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            levels = self._levels(pixels)
        _, rows, columns = self.shapes(*images.shape[-2:])[0]
        return [level[..., :rows, :columns].float() for level in levels]

    def _prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised pixels of the size the network is run at."""
        rows, columns = self.spec.grid(*images.shape[-2:])
        if self.spec.canvas is not None:
            return fit_to_canvas((images.float() - self.mean).div_(self.std), self.spec.canvas)
        # a convolution of stride `patch` never looks at what is left over right and bottom
        used = images[..., : rows * self.spec.patch, : columns * self.spec.patch]
        return (used.float() - self.mean).div_(self.std)

    def _levels(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Block outputs `[B, C, h, w]` as views of the token sequences: no transposing copy."""
        # without a class token the residual stream keeps the patch convolution's memory order to the end
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        taps = {"indices": list(self.spec.levels), "norm": False, "intermediates_only": True}
        if self.spec.family == "sam":
            return self.network.forward_intermediates(pixels, **taps)
        grid = tuple(side // self.spec.patch for side in pixels.shape[-2:])
        tokens = self.network.forward_intermediates(pixels, output_fmt="NLC", **taps)
        return [level.unflatten(1, grid).permute(0, 3, 1, 2) for level in tokens]


def _check(images: torch.Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"a teacher got a tensor of shape {tuple(images.shape)} and type {images.dtype}; "
            "give float images [B, 3, H, W] with values in 0..1 (uint8 pixels: .float() / 255)"
        )
