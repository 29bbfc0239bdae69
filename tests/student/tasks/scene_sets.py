"""What the generated folders of these tests hold."""

from __future__ import annotations

SIZE = (72, 96)
TASKS = {
    "nyud": ("semseg", "depth", "normals", "edge"),
    "pascal_context": ("semseg", "human_parts", "sal", "normals", "edge"),
}
