"""What a user may ask of extraction: image source, committee of teachers, engine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from storage.config import Frozen


class SourceConfig(Frozen):
    """Images: where they come from."""

    kind: Literal["folder", "wds", "imagenet_tar"] = "folder"
    """folder: any tree of images; wds: WebDataset tars; imagenet_tar: ILSVRC2012_img_train.tar."""
    path: str = ""
    """Folder, tar, glob of tars, or any fsspec URL (s3://, gs://, ...)."""
    max_pixels: int = Field(178_956_970, ge=1, le=178_956_970)
    """A larger image is quarantined as a decompression bomb; at most PIL's own limit, the default."""


class CommitteeConfig(Frozen):
    """Committee: the frozen teachers. Names are those of pipeline/teachers/spec.py."""

    teachers: tuple[str, ...] = ("dinov2_b14", "openclip_b16", "sam_b16")
    """Teachers by name; each means exactly one architecture and one set of weights."""
    weights: str = "pretrained"
    """pretrained (timm downloads), random:<seed>, or a folder made by `cutler weights DIR`."""
    normalisation: Literal["imagenet", "pretrained"] = "imagenet"
    """imagenet: one mean and std for all, as the paper's authors do; pretrained: each teacher's own."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16: autocast with an fp32 residual stream."""
    padding: Literal["cut", "keep"] = "cut"
    """SAM pads an image that is not square. cut: its maps end where the image ends, as the student's do;
    keep: they cover the padding too, as in the authors' code, whose loss stretches the student over it."""

    @model_validator(mode="after")
    def _unique(self) -> CommitteeConfig:
        if not self.teachers:
            raise ValueError("committee.teachers is empty; name at least one teacher, for example dinov2_b14")
        if len(set(self.teachers)) != len(self.teachers):
            raise ValueError(f"committee.teachers {self.teachers} names a teacher twice; name each one once")
        return self


class ExtractConfig(Frozen):
    """Extraction engine: one Ray actor per GPU or CPU slot."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where Ray has GPUs, else CPU."""
    actors: int = Field(0, ge=0)
    """Number of actors; 0: one per GPU, or one per two CPUs without GPUs."""
    cpus_per_actor: int = Field(2, ge=1)
    """CPUs (decode threads) of one actor."""
    batch_size: int = Field(16, ge=1)
    """Rows per teacher forward; batch i of a shard is always rows [iB, (i+1)B)."""
    max_tries: int = Field(3, ge=1)
    """Executions of one shard before it is reported as bad and left out."""
    stall_timeout_s: float = Field(1800.0, gt=0)
    """With no shard finished for this long, the run stops and says what it was waiting for."""


class PlanConfig(Frozen):
    """Plan: the hardware and prices that times and costs are estimated for."""

    gpus: int = Field(8, ge=1)
    """GPUs that train one student together."""
    tflops: float = Field(312.0, gt=0)
    """Dense bf16 peak of one GPU, 1e12 operations per second (an A100's)."""
    utilisation: float = Field(0.4, gt=0, le=1)
    """Share of the peak that is reached."""
    cores_per_gpu: float = Field(16.0, gt=0)
    """CPU cores of the node for each GPU."""
    read_gb_per_s: float = Field(10.0, gt=0)
    """Rate at which all GPUs together read the cache, 1e9 bytes per second."""
    network_gb_per_s: float = Field(0.0, ge=0)
    """Rate of the network between the cache and the GPUs, 1e9 bytes per second; 0: the disk is local."""
    images_per_s: float | None = Field(None, gt=0)
    """Training speed to state rates for; none: the student's own at this peak and utilisation."""
    gpu_hour_usd: float = Field(0.0, ge=0)
    """Price of one GPU for an hour; 0: not stated."""
    tb_month_usd: float = Field(0.0, ge=0)
    """Price of 1e12 bytes for a month; 0: not stated."""

    @property
    def reach_gb_per_s(self) -> float:
        """The slower of disk and network."""
        return min(self.read_gb_per_s, self.network_gb_per_s or self.read_gb_per_s)
