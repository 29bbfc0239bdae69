"""Which teachers are there: a name means exactly one architecture and one set of weights.

Pure data and arithmetic: neither torch nor timm is imported, so that `plan` and `--help` stay quick.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)

LEVELS = 4

Padding = Literal["cut", "keep"]
"""Whether level maps cover only the image, or the canvas's padding as well."""


@dataclass(frozen=True, slots=True)
class TeacherSpec:
    """One frozen teacher as timm builds it, and the arithmetic of what it taps."""

    name: str
    """Name in recipes, in the cache and in the student's state dict."""
    timm_id: str
    """timm model with its pinned weight tag; a miniature has no tag, because it has no trained weights."""
    family: str
    """vit, dinov2, clip, siglip or sam."""
    patch: int
    """Side of one patch in pixels."""
    width: int
    """Channels of every level."""
    depth: int
    """Number of blocks."""
    heads: int
    """Attention heads per block."""
    stats: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Mean and std of the pixels (0..1) in the pretraining, used with normalisation = pretrained."""
    native: int
    """Side in pixels of the images it was trained on; its position embeddings are resampled elsewhere."""
    prefix_tokens: int = 1
    """Class token in the token sequence (dropped at the taps)."""
    canvas: int | None = None
    """SAM: the longest side becomes this many pixels, the rest is padded with zeros right and bottom."""
    window: int = 0
    """SAM: side in patches of the attention windows of the blocks that are not global."""
    global_blocks: tuple[int, ...] = ()
    """SAM: 0-based indices of the blocks with global attention."""
    build: tuple[tuple[str, Any], ...] = ()
    """Arguments that timm's constructor gets beside its own for this model."""

    @property
    def is_mini(self) -> bool:
        """True for a miniature: one of timm's classes made small, with random weights only."""
        return "." not in self.timm_id

    @property
    def levels(self) -> tuple[int, ...]:
        """0-based indices of the tapped blocks: L/4, L/2, 3L/4, L."""
        return tuple(self.depth * (level + 1) // LEVELS - 1 for level in range(LEVELS))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patch rows and columns that the network runs on for an image of `height` x `width` pixels.

        Border pixels that do not fill a patch are left out, as a convolution of stride `patch` does it. SAM
        always sees its whole canvas; what of it holds the image says `content_grid`.

        Raises:
            ValueError: the image is smaller than one patch.
        """
        if min(height, width) < 1 or (self.canvas is None and min(height, width) < self.patch):
            raise ValueError(
                f"an image of {height} x {width} px has no patch of {self.patch} px for teacher {self.name}; "
                f"use at least {self.patch} x {self.patch} px"
            )
        if self.canvas is not None:
            height = width = self.canvas
        return height // self.patch, width // self.patch

    def content_grid(self, height: int, width: int) -> tuple[int, int]:
        """Patch rows and columns that hold the image: `grid` without the canvas's padding.

        A patch counts if at least half of it lies in the image, so the grid's edge is off the image's by half
        a patch at most; one always counts. 448 x 576 px are 796 x 1024 of SAM's canvas: 50 x 64 patches.

        Raises:
            ValueError: the image is smaller than one patch.
        """
        rows, columns = self.grid(height, width)
        if self.canvas is None:
            return rows, columns
        rows, columns = (
            max(1, (side + self.patch // 2) // self.patch) for side in fitted(height, width, self.canvas)
        )
        return rows, columns

    def tokens(self, height: int, width: int) -> int:
        """Tokens in the sequence of an image of `height` x `width` pixels, class token included."""
        rows, columns = self.grid(height, width)
        return rows * columns + self.prefix_tokens

    def level_shapes(
        self, height: int, width: int, *, padding: Padding = "cut"
    ) -> tuple[tuple[int, int, int], ...]:
        """`(channels, rows, columns)` of the four levels for an image of `height` x `width` pixels.

        A square image fills its canvas, so `padding` makes no difference to it.
        """
        grid = self.content_grid(height, width) if padding == "cut" else self.grid(height, width)
        return ((self.width, *grid),) * LEVELS


def fitted(height: int, width: int, canvas: int) -> tuple[int, int]:
    """Sides of a `height` x `width` image once its longest is `canvas`, in pixels rounded half up."""
    scale = canvas / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


_S, _B, _L = (384, 12, 6), (768, 12, 12), (1024, 24, 16)
_DYNAMIC = (("dynamic_img_size", True),)


def _vit(
    name: str, timm_id: str, patch: int, dims: tuple[int, int, int], stats: Any, native: int, **more: Any
) -> TeacherSpec:
    width, depth, heads = dims
    fields = {"family": "clip", "build": _DYNAMIC} | more
    return TeacherSpec(
        name,
        timm_id,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        stats=stats,
        native=native,
        **fields,
    )


def _sam(name: str, timm_id: str, dims: tuple[int, int, int], global_blocks: tuple[int, ...]) -> TeacherSpec:
    width, depth, heads = dims
    return TeacherSpec(
        name,
        timm_id,
        "sam",
        patch=16,
        width=width,
        depth=depth,
        heads=heads,
        stats=_IMAGENET,
        native=1024,
        prefix_tokens=0,
        canvas=1024,
        window=14,
        global_blocks=global_blocks,
    )


_AUGREG = "augreg_in21k_ft_in1k"
_DINO: dict[str, Any] = {"family": "dinov2"}
_SIGLIP: dict[str, Any] = {"family": "siglip", "prefix_tokens": 0}

_TABLE = (
    # Plain ViT, trained on ImageNet-21k: also the students' backbones.
    _vit("vit_s16", f"vit_small_patch16_384.{_AUGREG}", 16, _S, _HALF, 384, family="vit"),
    _vit("vit_b16", f"vit_base_patch16_384.{_AUGREG}", 16, _B, _HALF, 384, family="vit"),
    _vit("vit_l16", f"vit_large_patch16_384.{_AUGREG}", 16, _L, _HALF, 384, family="vit"),
    _vit("dinov2_s14", "vit_small_patch14_dinov2.lvd142m", 14, _S, _IMAGENET, 518, **_DINO),
    _vit("dinov2_b14", "vit_base_patch14_dinov2.lvd142m", 14, _B, _IMAGENET, 518, **_DINO),
    _vit("dinov2_l14", "vit_large_patch14_dinov2.lvd142m", 14, _L, _IMAGENET, 518, **_DINO),
    # OpenCLIP fine-tuned on ImageNet: what the paper's model names resolve to in timm (paper_* recipes).
    _vit("timmclip_b16", "vit_base_patch16_clip_384.laion2b_ft_in12k_in1k", 16, _B, _CLIP, 384),
    _vit("timmclip_l14", "vit_large_patch14_clip_336.laion2b_ft_in12k_in1k", 14, _L, _HALF, 336),
    # OpenCLIP as trained on LAION-2B.
    _vit("openclip_b16", "vit_base_patch16_clip_224.laion2b", 16, _B, _CLIP, 224),
    _vit("openclip_l14", "vit_large_patch14_clip_224.laion2b", 14, _L, _HALF, 224),
    # OpenAI's CLIP was trained with QuickGELU; timm's plain names would run it with GELU.
    _vit("openai_clip_b16", "vit_base_patch16_clip_quickgelu_224.openai", 16, _B, _CLIP, 224),
    _vit("openai_clip_l14", "vit_large_patch14_clip_quickgelu_224.openai", 14, _L, _CLIP, 224),
    # DFN trained B/16 with GELU and L/14 with QuickGELU.
    _vit("dfn_clip_b16", "vit_base_patch16_clip_224.dfn2b", 16, _B, _CLIP, 224),
    _vit("dfn_clip_l14", "vit_large_patch14_clip_quickgelu_224.dfn2b", 14, _L, _CLIP, 224),
    _vit("siglip_b16", "vit_base_patch16_siglip_512.webli", 16, _B, _HALF, 512, **_SIGLIP),
    _vit("siglip_l16", "vit_large_patch16_siglip_384.webli", 16, _L, _HALF, 384, **_SIGLIP),
    _sam("sam_b16", "samvit_base_patch16.sa1b", _B, (2, 5, 8, 11)),
    _sam("sam_l16", "samvit_large_patch16.sa1b", _L, (5, 11, 17, 23)),
)


def _small(dims: tuple[int, int, int], native: int, **more: Any) -> tuple[tuple[str, Any], ...]:
    width, depth, heads = dims
    return tuple({"embed_dim": width, "depth": depth, "num_heads": heads, "img_size": native, **more}.items())


def _minis() -> tuple[TeacherSpec, ...]:
    """The same three timm classes, small enough for a laptop and for tests; random weights only."""
    dino, clip, sam = (48, 4, 3), (64, 4, 4), (32, 4, 2)
    return (
        _vit(
            "mini_dinov2",
            "vit_base_patch14_dinov2",
            14,
            dino,
            _IMAGENET,
            112,
            family="dinov2",
            build=_DYNAMIC + _small(dino, 112),
        ),
        _vit(
            "mini_clip", "vit_base_patch16_clip_224", 16, clip, _CLIP, 128, build=_DYNAMIC + _small(clip, 128)
        ),
        TeacherSpec(
            "mini_sam",
            "samvit_base_patch16",
            "sam",
            patch=16,
            width=sam[0],
            depth=sam[1],
            heads=sam[2],
            stats=_IMAGENET,
            native=256,
            prefix_tokens=0,
            canvas=256,
            window=7,
            global_blocks=(1, 3),
            build=_small(sam, 256, window_size=7, global_attn_indexes=(1, 3), neck_chans=16),
        ),
    )


SPECS: MappingProxyType[str, TeacherSpec] = MappingProxyType({s.name: s for s in _TABLE + _minis()})
"""Every teacher by name."""

COMMITTEES: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "paper_base": ("dinov2_b14", "timmclip_b16", "sam_b16"),
        "paper_large": ("dinov2_l14", "timmclip_l14", "sam_l16"),
        "mini": ("mini_dinov2", "mini_clip", "mini_sam"),
    }
)
"""Committees that have a name: the paper's (Table 10, with the tags its authors ran) and the miniature."""


def spec_of(name: str) -> TeacherSpec:
    """The spec of teacher `name`.

    Raises:
        ValueError: no teacher has that name; the message suggests the nearest ones.
    """
    if name in SPECS:
        return SPECS[name]
    near = difflib.get_close_matches(name, SPECS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(SPECS)}"
    raise ValueError(f"no teacher is named {name!r}; {hint}")
