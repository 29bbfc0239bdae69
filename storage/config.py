"""What a user may ask of a cache: view parameters, JPEG settings, codec, container, shard size."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)


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

    name: Literal["f16", "int8", "klt"] = "f16"
    """f16: the reference; int8: per-channel z-score and per-token scale; klt: transform coding, each sample
    as coarse as `fidelity` allows."""
    lossless: Literal["none", "zstd", "pcodec"] = "none"
    """Lossless stage over the codes (numcodecs); pcodec is klt's, for size."""
    level: int = Field(1, ge=1, le=19)
    """Level of the lossless stage; 8 suits pcodec, which ends at 12."""
    calibration_images: int = Field(64, ge=1)
    """Images of the calibration pass: mean and scale per level and channel, and klt's bases, which want
    thousands."""
    calibration_tokens: int = Field(64, ge=1)
    """klt: tokens of an image that its basis is calibrated on; 100 tokens per channel of all levels are
    enough."""
    fidelity: float = Field(0.995, ge=0.5, le=0.99999)
    """klt: cosine of z-scored maps that every level of every sample keeps."""
    basis: Literal["joint", "separable"] = "joint"
    """klt: one basis over all levels' channels, or a mix of levels and a basis for each: a quarter of the
    work to decode, more bits."""

    @model_validator(mode="after")
    def _fits(self) -> CodecConfig:
        if self.lossless == "pcodec" and self.name != "klt":
            raise ValueError(f"codec.lossless pcodec is for klt, codec.name is {self.name}; use zstd or none")
        if self.lossless == "pcodec" and self.level > 12:
            raise ValueError(f"codec.level {self.level} is too high for pcodec; use 8, or up to 12")
        return self

    @model_serializer(mode="wrap")
    def _used(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without klt's settings for other codecs, whose fingerprints they must not change."""
        fields: dict[str, Any] = dump(self)
        unused = set() if self.name == "klt" else {"calibration_tokens", "fidelity", "basis"}
        return {name: value for name, value in fields.items() if name not in unused}


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
