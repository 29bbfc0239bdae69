"""Which plain ViTs can be the Teacher-Agnostic Stem (TAS): pure data, so that `plan` stays quick."""

from __future__ import annotations

from dataclasses import dataclass

Grid = tuple[int, int]
"""Patches (h, w)."""
LEVELS = 4
"""Tapped blocks."""


@dataclass(frozen=True)
class Arch:
    """One stem: a plain ViT with a class token."""

    width: int
    depth: int
    heads: int
    patch: int = 16
    timm_id: str = ""
    """timm name and tag of the pretrained weights; empty: there are none."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """0-based indices of the tapped blocks L/4, L/2, 3L/4, L."""
        return tuple(self.depth * (level + 1) // LEVELS - 1 for level in range(LEVELS))

    def grid(self, height: int, width: int) -> Grid:
        """Patches (h, w) of an image, whose sides are in pixels.

        Raises:
            ValueError: a side is no multiple of the patch.
        """
        if height % self.patch or width % self.patch or not height or not width:
            raise ValueError(
                f"image size {height}x{width} is no multiple of the student's patch {self.patch}; resize it"
            )
        return height // self.patch, width // self.patch


ARCHS = {
    "vit_small_patch16": Arch(384, 12, 6, timm_id="vit_small_patch16_384.augreg_in21k_ft_in1k"),
    "vit_base_patch16": Arch(768, 12, 12, timm_id="vit_base_patch16_384.augreg_in21k_ft_in1k"),
    "vit_large_patch16": Arch(1024, 24, 16, timm_id="vit_large_patch16_384.augreg_in21k_ft_in1k"),
    "mini": Arch(96, 4, 3),
}


def arch_of(name: str) -> Arch:
    """The architecture of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in ARCHS:
        raise ValueError(f"student.arch {name!r} is unknown; choose one of {', '.join(ARCHS)}")
    return ARCHS[name]
