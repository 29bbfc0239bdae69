"""How is a run's metrics.jsonl read back, whatever killed its writer?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records of a log by step, one per step (the last one wins); [] where there is no file.

    A last line without its newline is what a killed writer leaves; it is passed over. Raises ValueError for
    any other damage.
    """
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")[:-1]
    records: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            records[record["step"]] = record
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} line {number} is no log record ({error!r}); delete the line") from error
    return [records[step] for step in sorted(records)]
