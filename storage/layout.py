"""Where everything in a cache lives: pure names, no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass

from storage.errors import FormatError
from storage.identity import digest8

INVARIANTS = "cache.json"
SEGMENTS = "segments"
LOGS = "logs"
FEATURES = "features"
SAMPLES = "samples"
COMMITS = "commits"

_TEACHER = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_COMMIT = re.compile(r"(\d{6})\.json")
_CLAIM = re.compile(r"(\d{6})-[0-9a-f]{8}\.claim\.json")
_COMPACTION = re.compile(r"commits/.*/compact/[0-9a-f]{8}\.parquet")


@dataclass(frozen=True, order=True)
class Column:
    """One thing known about every sample: the images, or one teacher's features under one fingerprint."""

    path: str
    """Folder of its objects, and below commits/ of its commits."""

    @staticmethod
    def images() -> Column:
        """The JPEG crops that teachers and student decode."""
        return Column("images")

    @staticmethod
    def features(teacher: str, fp: str) -> Column:
        """The features of `teacher` under fingerprint `fp`. Raises FormatError for an impossible name."""
        if not _TEACHER.fullmatch(teacher) or not re.fullmatch(r"[0-9a-f]{8}", fp):
            raise FormatError(
                f"{teacher!r} with fingerprint {fp!r} is no column; "
                "a teacher's name has a-z, 0-9, _, . and -, a fingerprint eight hex characters"
            )
        return Column(f"{FEATURES}/{teacher}/{fp}")

    @property
    def is_images(self) -> bool:
        """Whether this is the images column."""
        return self.path == "images"

    @property
    def teacher(self) -> str | None:
        """Name of the teacher, None for images."""
        return None if self.is_images else self.path.split("/")[1]

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the column, None for images."""
        return None if self.is_images else self.path.split("/")[2]

    def __str__(self) -> str:
        return self.path


def segment_path(index: int) -> str:
    """Document of segment `index`, counted from 1."""
    return f"{SEGMENTS}/{index:04d}.json"


def shard_prefix(folder: str, shard: int) -> str:
    """How the paths of a shard's objects in a folder begin: the digest of the content follows."""
    return f"{folder}/{shard:06d}-"


def samples_path(shard: int, digest: str) -> str:
    """Sample table of a shard."""
    return f"{shard_prefix(SAMPLES, shard)}{digest8(digest)}.parquet"


def tar_path(column: Column, shard: int, digest: str) -> str:
    """Tar of a shard of a column."""
    return f"{shard_prefix(column.path, shard)}{digest8(digest)}.tar"


def zarr_shard_path(column: Column, shard: int) -> str:
    """Zarr shard object of a shard of a column: the array's chunk key is fixed by the zarr standard."""
    return f"{column.path}/c/{shard}/0"


def zarr_path(column: Column) -> str:
    """Metadata of a column's zarr array."""
    return f"{column.path}/zarr.json"


def teacher_path(column: Column) -> str:
    """Identity of a column."""
    return f"{column.path}/teacher.json"


def replacing_path(teacher: str) -> str:
    """What says, while a column of a teacher takes the place of others, which."""
    return f"{FEATURES}/{teacher}/replacing.json"


def codec_path(column: Column) -> str:
    """Calibrated tensors of a column's codec."""
    return f"{column.path}/codec.safetensors"


def commit_folder(column: Column) -> str:
    """Folder of a column's commits."""
    return f"{COMMITS}/{column.path}"


def commit_path(column: Column, shard: int) -> str:
    """The commit of a shard of a column."""
    return f"{commit_folder(column)}/{shard:06d}.json"


def committed_shard(name: str) -> int | None:
    """Shard of a commit's file name, None when it is another file."""
    return _number(_COMMIT, name)


def claim_path(column: Column, shard: int, digest: str) -> str:
    """A writer's prospective commit of a zarr shard object with this digest."""
    return f"{shard_prefix(commit_folder(column), shard)}{digest8(digest)}.claim.json"


def claimed_shard(name: str) -> int | None:
    """Shard of a claim's file name, None when it is another file."""
    return _number(_CLAIM, name)


def compaction_folder(column: Column) -> str:
    """Folder of a column's compactions: apart, so that finding one lists no commits."""
    return f"{commit_folder(column)}/compact"


def compaction_path(column: Column, digest: str) -> str:
    """The commits of a column in one file."""
    return f"{compaction_folder(column)}/{digest8(digest)}.parquet"


def is_compaction(path: str) -> bool:
    """Whether this is the path of a compaction of commits."""
    return _COMPACTION.fullmatch(path) is not None


def _number(pattern: re.Pattern[str], name: str) -> int | None:
    found = pattern.fullmatch(name)
    return int(found[1]) if found else None
