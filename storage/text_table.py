"""How do rows and sizes become text for a terminal?"""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """One line per row, columns two spaces apart: the first `left` flush left, numbers flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        placed = (c.ljust(w) if at < left else c.rjust(w) for at, (c, w) in enumerate(cells))
        lines.append("  ".join(placed).rstrip())
    return lines


def format_bytes(size: float) -> str:
    """A size for people, decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} PB"
