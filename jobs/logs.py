"""How a command logs: configured once, here."""

from __future__ import annotations

import logging
import os
import sys


def set_up_logging() -> None:
    """Log to standard error, one line per record; CUTLER_LOG sets the level (default INFO)."""
    level = os.environ.get("CUTLER_LOG", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise ValueError(f"CUTLER_LOG={level} is no log level; use DEBUG, INFO, WARNING or ERROR")
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    for chatty in ("fsspec", "PIL", "matplotlib", "urllib3", "ray", "filelock", "httpx", "aiobotocore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
