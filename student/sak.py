"""What is the student of stage 1? A stem (TAS) and one adapter path (TSAP) per teacher, four levels each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from student.adapters import adapter_path
from student.archs import LEVELS, Arch, Grid, arch_of
from student.config import StudentConfig
from student.position import resample_position
from student.stem import build_stem, seeded
from student.weights import load_initial

Maps = list[Tensor]
Channels = Mapping[str, tuple[int, ...]]


class SAKOutput(NamedTuple):
    """Maps [B, C, h, w] of the four levels, C the student's width."""

    stem: Maps
    """The stem's block outputs, un-normalised."""
    paths: dict[str, Maps]
    """teacher -> its path's outputs, after their LayerNorm and before the aligner."""


class SAK(nn.Module):
    """Stem and adapter paths (paper eq. 1-3).

    `forward` runs all of it, `align` maps the paths to the teachers' channels. The class token runs through
    stem and paths and is dropped at the taps. `mor` is empty until stage 2 fills it.
    """

    def __init__(
        self, arch: Arch, teacher_channels: Channels, *, reduction: int, image_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.arch = arch
        self.grid = arch.grid(*image_size)
        self.teacher_channels = {name: tuple(channels) for name, channels in teacher_channels.items()}
        self.vit = build_stem(arch, image_size)
        self.tsap = nn.ModuleDict(
            {name: adapter_path(arch.width, arch.depth, reduction) for name in self.teachers}
        )
        self.out_norms = nn.ModuleDict({key: nn.LayerNorm(arch.width) for key, _ in self._taps()})
        self.ts_aligners = nn.ModuleDict(
            {key: nn.Linear(arch.width, channels) for key, channels in self._taps() if channels != arch.width}
        )
        self.mor = nn.ModuleDict()

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers, in the order of the experts."""
        return tuple(self.teacher_channels)

    def forward(self, images: Tensor) -> SAKOutput:
        """Run the stem and every path.

        Args:
            images: [B, 3, H, W], ImageNet-normalised; H and W multiples of the patch. Where their grid is not
                the stored one, the position embedding is resampled on the fly.

        Raises:
            ValueError: a side is no multiple of the patch.
        """
        grid = self.arch.grid(images.shape[-2], images.shape[-1])
        tokens = self._embed(images, grid)
        paths = {name: adapters[0](tokens) for name, adapters in self.tsap.items()}
        output = SAKOutput([], {name: [] for name in paths})
        for index, block in enumerate(self.vit.blocks):
            tokens = block(tokens)
            paths = {name: self.tsap[name][index + 1](path + tokens) for name, path in paths.items()}
            if index in self.arch.blocks:
                output.stem.append(_to_map(tokens, grid))
                for name, path in paths.items():
                    output.paths[name].append(_to_map(self.out_norms[f"{index}_{name}"](path), grid))
        return output

    def align(self, paths: Mapping[str, Maps]) -> dict[str, Maps]:
        """Path maps [B, C, h, w] -> maps [B, C_teacher, h, w] with their teachers' channels (paper B.1).

        The result is float32 and computed so, whatever the autocast says: some of the teachers' channels have
        a mean of many deviations, which the 8 bits of bfloat16 would round away.
        """
        return {
            name: [
                self._align(f"{block}_{name}", level)
                for block, level in zip(self.arch.blocks, maps, strict=True)
            ]
            for name, maps in paths.items()
        }

    def _align(self, key: str, level: Tensor) -> Tensor:
        level = level.float()
        if key not in self.ts_aligners:
            return level
        with torch.autocast(level.device.type, enabled=False):
            return self.ts_aligners[key](level.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _embed(self, images: Tensor, grid: Grid) -> Tensor:
        patches = self.vit.patch_embed(images).flatten(1, 2)
        tokens = torch.cat([self.vit.cls_token.expand(len(images), -1, -1), patches], dim=1)
        tokens = tokens + resample_position(self.vit.pos_embed, self.grid, grid)
        return self.vit.norm_pre(self.vit.pos_drop(tokens))

    def _taps(self) -> list[tuple[str, int]]:
        """`<block>_<teacher>` and the teacher's channels there, for every tap."""
        return [
            (f"{block}_{name}", width)
            for name, channels in self.teacher_channels.items()
            for block, width in zip(self.arch.blocks, channels, strict=True)
        ]


def build_student(
    config: StudentConfig, teacher_channels: Channels, seed: int, *, image_size: int | tuple[int, int] = 384
) -> SAK:
    """Build the stage-1 student and load its initial weights.

    Args:
        config: architecture, initial weights, adapter reduction.
        teacher_channels: teacher name -> channels of its four levels; empty: the stem alone.
        seed: seed of everything that the weights do not bring.
        image_size: side, or (H, W), for whose grid the position embedding is stored, pixels.

    Raises:
        ValueError: unknown architecture, a size that the patch does not divide, channels of other than four
            levels, a teacher's name with a dot, or weights that do not fit.
    """
    arch = arch_of(config.arch)
    for name, channels in teacher_channels.items():
        if len(channels) != LEVELS or "." in name:
            raise ValueError(
                f"teacher {name!r} with channels {channels}: four levels and a name without dots are needed"
            )
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    with seeded(seed):
        sak = SAK(arch, teacher_channels, reduction=config.adapter_reduction, image_size=size)
    load_initial(sak, config.weights, image_size=size)
    return sak


def _to_map(tokens: Tensor, grid: Grid) -> Tensor:
    """[B, 1 + h*w, C] -> [B, C, h, w] without the class token; a channels-last view of the tokens."""
    return tokens[:, 1:].unflatten(1, grid).permute(0, 3, 1, 2)
