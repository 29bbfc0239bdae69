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


_KLT_ONLY = {"calibration_tokens", "fidelity", "basis", "decode_gmac_per_image"}


class CodecConfig(Frozen):
    """How feature maps become bytes."""

    name: Literal["f16", "int8", "klt"] = "f16"
    """f16: the reference; int8: per-channel z-score and per-token scale; klt: transform coding, each sample
    as coarse as `fidelity` allows."""
    lossless: Literal["auto", "none", "zstd", "pcodec"] = "auto"
    """Lossless stage over the codes (numcodecs): pcodec, for klt alone, gives the smallest records, zstd the
    ones that most readers open; auto: pcodec for klt, none for f16 and int8."""
    level: int = Field(0, ge=0, le=19)
    """Level of the lossless stage; pcodec ends at 12. 0: 8 for pcodec, 1 for zstd."""
    calibration_images: int = Field(0, ge=0)
    """Images of the calibration pass: mean and scale per level and channel, and klt's bases. 0: 2,048 for
    klt, 64 for the others."""
    calibration_tokens: int = Field(64, ge=1)
    """klt: tokens of an image that its basis is calibrated on; 100 tokens per channel of all levels are
    enough."""
    fidelity: float = Field(0.995, ge=0.5, le=0.99999)
    """klt: cosine of z-scored maps that every level of every sample keeps."""
    basis: Literal["auto", "joint", "separable"] = "auto"
    """klt: one basis over all levels' channels, or a mix of levels and a basis for each: a quarter of the
    work to decode, more bits. auto: the one of fewer bits within the budget of decoding."""
    decode_gmac_per_image: float = Field(0.0, ge=0)
    """klt: multiply-adds, 1e9, that a trainer may spend on decoding one image's maps of all teachers that are
    extracted together, shared among them by stored values. 0: 5% of the student's training step."""
    grid: Literal["teacher", "student"] = "teacher"
    """student: maps larger than the student's grid are area-pooled to it before they are stored."""

    @model_validator(mode="after")
    def _fits(self) -> CodecConfig:
        if self.lossless == "pcodec" and self.name != "klt":
            raise ValueError(f"codec.lossless pcodec is for klt, codec.name is {self.name}; use zstd or none")
        if self.lossless == "pcodec" and self.level > 12:
            raise ValueError(f"codec.level {self.level} is too high for pcodec; use 8, or up to 12")
        return self

    @model_serializer(mode="wrap")
    def _used(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As resolved; without klt's settings for other codecs, whose fingerprints they must not change."""
        fields: dict[str, Any] = dump(self.resolved())
        unused = set() if self.name == "klt" else _KLT_ONLY
        unused = unused | ({"grid"} if self.grid == "teacher" else set())
        return {name: value for name, value in fields.items() if name not in unused}

    def resolved(self) -> CodecConfig:
        """The same with every `auto` and 0 that depends on nothing else replaced by what it stands for."""
        klt = self.name == "klt"
        lossless = self.lossless if self.lossless != "auto" else "pcodec" if klt else "none"
        return self.model_copy(
            update={
                "lossless": lossless,
                "level": self.level or (8 if lossless == "pcodec" else 1),
                "calibration_images": self.calibration_images or (2048 if klt else 64),
            }
        )


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
