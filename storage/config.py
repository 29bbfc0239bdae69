"""What a user may ask of a cache: view parameters, JPEG settings, codec, container, shard size."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """Base of every config in Cutler: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ViewConfig(Frozen):
    """Views: view k of a key is a random resized crop and flip, a pure function of (seed, key, k)."""

    count: int = Field(2, ge=1)
    """Views cached per image (K); epoch e trains on view e mod K."""
    size: int = Field(384, ge=16)
    """Side of the square crop, pixels."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Range of the crop's share of the image area (torchvision's default)."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the crop's aspect ratio, width / height (torchvision's default)."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""
    seed: int = 0
    """Seed of every crop and flip."""

    @model_validator(mode="after")
    def _ranges(self) -> ViewConfig:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"views.scale {self.scale} must satisfy 0 < low <= high <= 1; use (0.08, 1.0)")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"views.ratio {self.ratio} must satisfy 0 < low <= high; use (0.75, 1.3333)")
        return self


class JpegConfig(Frozen):
    """How a crop is stored; its decoded pixels are what teachers and student both see."""

    quality: int = Field(95, ge=1, le=100)
    """JPEG quality."""
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:4:4"
    """Chroma subsampling."""


class CodecConfig(Frozen):
    """How feature maps become bytes."""

    name: Literal["f16", "int8"] = "f16"
    """f16: the reference; int8: per-channel z-score and per-token scale."""
    lossless: Literal["none", "zstd"] = "none"
    """Lossless stage over the codes (numcodecs)."""
    level: int = Field(1, ge=1, le=19)
    """Level of the lossless stage."""
    calibration_images: int = Field(64, ge=1)
    """Images of the calibration pass: mean and scale per level and channel."""


class CacheConfig(Frozen):
    """The cache: shard size, container, codec and JPEG settings."""

    samples_per_shard: int = Field(256, ge=1)
    """Samples (key, view) in one shard; a shard holds one view only."""
    container: Literal["wds", "zarr"] = "wds"
    """wds: one packed record per sample in a tar; zarr: a standard zarr v3 array."""
    codec: CodecConfig = CodecConfig()
    """How feature maps become bytes."""
    jpeg: JpegConfig = JpegConfig()
    """How crops are stored."""
