"""What a commit says: one sealed document per (column, shard)."""

from __future__ import annotations

from pydantic import Field

from storage import layout
from storage.config import Frozen
from storage.errors import CorruptObject
from storage.identity import seal, unseal
from storage.layout import Column
from storage.manifest import validated
from storage.quality import LevelFidelity


class ObjectRef(Frozen):
    """An object of a commit."""

    name: str
    """Path in the cache."""
    bytes: int = Field(ge=0)
    """Size."""
    sha256: str
    """Hex digest of the whole object."""


class IndexRef(Frozen):
    """Where the index of records is in the object, and its digest: so a commit vouches for each row."""

    offset: int = Field(ge=0)
    size: int = Field(ge=0)
    """Bytes."""
    sha256: str
    """Hex digest of the index."""


class Commit(Frozen):
    """That a shard of a column is complete, and what it consists of."""

    column: str
    """Path of the column."""
    shard: int = Field(ge=0)
    rows: int = Field(ge=1)
    keys: str
    """Digest of the shard's sample keys; the same in every column."""
    source: str | None = None
    """Features: hex digest of the object of images that they were made from; None for images."""
    objects: tuple[ObjectRef, ...] = Field(min_length=1)
    """The object of records first; for images the sample table second."""
    index: IndexRef
    """Of the first object."""
    fidelity: tuple[LevelFidelity, ...] | None = None
    """Flattened cosines, one per level; None for images, and where no sample could be used."""
    per_token: tuple[LevelFidelity, ...] | None = None
    """Mean cosines of tokens, likewise."""
    rungs: dict[str, int] = Field(default_factory=dict)
    """klt: rung j of the step 2^(j/4) -> samples (of each group of levels) that took it."""
    quarantined: tuple[int, ...] = ()
    """Rows without a record."""
    reasons: tuple[str, ...] = ()
    """Why, one per quarantined row."""
    stats: dict[str, int | float] = Field(default_factory=dict)
    """values: numbers that the records stand for; bytes: size of the records."""

    @property
    def records(self) -> ObjectRef:
        """The object that holds the records."""
        return self.objects[0]

    @property
    def path(self) -> str:
        """Where the commit is."""
        return layout.commit_path(Column(self.column), self.shard)

    def mismatch(self, images: Commit) -> str | None:
        """Why this commit does not go with that of the shard's images; None when it does."""
        if self.keys != images.keys:
            return f"it is about other samples than the images of shard {self.shard}"
        if self.column != images.column and self.source != images.records.sha256:
            return (
                f"it was made from other pixels than the images of shard {self.shard}, {images.records.name}"
            )
        return None


def write_commit(commit: Commit) -> bytes:
    """The bytes of a commit."""
    return seal(commit.model_dump(mode="json"))


def read_commit(data: bytes, path: str, column: Column, shard: int) -> Commit:
    """The commit of `shard` of `column` in `data`. Raises CorruptObject or FormatError."""
    commit = validated(Commit, unseal(data, path), path)
    if (commit.column, commit.shard) != (column.path, shard):
        raise CorruptObject(path, f"it is the commit of shard {commit.shard} of {commit.column}")
    return commit
