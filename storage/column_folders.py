"""Which columns of features does a store hold, by its folders?"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from storage import layout
from storage.layout import Column
from storage.store import Store

# a store far away is asked about all teachers at once
_THREADS = 8


def registered_columns(store: Store) -> list[Column]:
    """Columns that have a teacher.json, by path."""
    found = _columns_below(store, layout.FEATURES)
    with ThreadPoolExecutor(_THREADS) as threads:
        there = threads.map(store.exists, map(layout.teacher_path, found))
        return [column for column, registered in zip(found, there, strict=True) if registered]


def every_column(store: Store) -> list[Column]:
    """Columns with objects or commits, those without teacher.json included; by path."""
    committed = _columns_below(store, f"{layout.COMMITS}/{layout.FEATURES}")
    return sorted({*_columns_below(store, layout.FEATURES), *committed})


def _columns_below(store: Store, folder: str) -> list[Column]:
    teachers = store.folders(folder)
    with ThreadPoolExecutor(_THREADS) as threads:
        fingerprints = threads.map(store.folders, [f"{folder}/{teacher}" for teacher in teachers])
        return sorted(
            Column.features(teacher, fp)
            for teacher, fps in zip(teachers, fingerprints, strict=True)
            for fp in fps
        )
