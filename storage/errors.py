"""What can be wrong with a cache, one class each."""

from __future__ import annotations


class CacheError(ValueError):
    """A cache cannot do what was asked; the message says what is wrong, the value and the remedy."""


class FormatError(CacheError):
    """A document or record is intact but not what this version of Cutler writes."""


class MissingData(CacheError):
    """What was asked for has not been committed."""


class AmbiguousColumn(CacheError):
    """Two columns answer to one teacher's name."""


class StaleColumn(CacheError):
    """A column was made under another identity than the one asked for; names both fingerprints."""

    def __init__(self, what: str, *, found: str, wanted: str, remedy: str) -> None:
        super().__init__(f"{what} has fingerprint {found}, wanted {wanted}; {remedy}")
        self.found = found
        self.wanted = wanted


class CorruptObject(CacheError):
    """Bytes in the cache are not the bytes that were written.

    `path` is relative to the cache, `why` says which check failed.
    """

    def __init__(self, path: str, why: str) -> None:
        remedy = "`cutler repair RECIPE --cache CACHE` makes it again"
        super().__init__(f"{path} is damaged: {why}; {remedy}")
        self.path = path
        self.why = why
