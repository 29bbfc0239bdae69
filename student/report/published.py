"""What did the paper publish? Its comparison tables, as data.

The test recomputes every gain by eq. 7; one disagrees in print (Table 16, TFUT: 3.99, recomputed 4.36).
Units as printed: mIoU, maxF, odsF and the MTL gain in percent, mErr in degrees, RMSE in metres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PASCAL_TASKS = ("semseg", "human_parts", "sal", "normals", "edge")
NYUD_TASKS = ("semseg", "depth", "normals", "edge")
BACKBONES = {"vit_small_patch16": "ViT-S", "vit_base_patch16": "ViT-B", "vit_large_patch16": "ViT-L"}
"""The student's architecture in a recipe -> the backbone that heads the paper's table."""
SIMILARITY = {"dinov2": 0.8615, "clip": 0.9138, "sam": 0.8369, "mean": 0.8707}
"""Table 17, with TSAP: cosine of student and teacher on ImageNet's validation set (Table 3 prints 0.8708)."""
TABLE_17 = {"dinov2_b14": "dinov2", "timmclip_b16": "clip", "openclip_b16": "clip", "sam_b16": "sam"}
"""The teachers that Table 17 is about, by their names in a recipe."""


@dataclass(frozen=True)
class Row:
    """One printed row: values by task, MTL gain (eq. 7) against the table's first row."""

    model: str
    backbone: str
    params: str
    values: dict[str, float]
    gain: float
    source: str


def rows(source: str, tasks: tuple[str, ...], printed: str) -> tuple[Row, ...]:
    """Rows of one printed table: `model | backbone | parameters | a value per task, then the gain`."""
    found = []
    for line in printed.strip().splitlines():
        model, backbone, params, figures = (part.strip() for part in line.split("|"))
        *values, gain = map(float, figures.split())
        found.append(Row(model, backbone, params, dict(zip(tasks, values, strict=True)), gain, source))
    return tuple(found)


PUBLISHED: dict[tuple[str, str], tuple[Row, ...]] = {
    ("pascal_context", "ViT-B"): rows(
        "Table 13",
        PASCAL_TASKS,
        """
        Single-task baseline | ViT-B | 462M | 80.25 70.54 84.54 13.57 74.22 0.00
        Multi-task baseline | ViT-B | 116M | 76.76 65.26 84.39 13.98 70.37 -4.04
        InvPT | ViT-B | 176M | 77.33 66.62 85.14 13.78 73.20 -2.28
        InvPT++ | ViT-B | ~176M | 76.95 66.89 85.12 13.54 73.30 -1.92
        TaskPrompter | ViT-B | 418M | 79.00 67.00 85.05 13.47 73.50 -1.24
        TaskExpert | ViT-B | 347M | 78.45 67.38 84.96 13.55 72.30 -1.73
        BFCI | ViT-B | 230M | 77.98 68.19 85.06 13.48 72.98 -1.31
        MLoRE | ViT-B | 259M | 79.26 67.82 85.31 13.65 74.69 -0.83
        RADIO | ViT-B | 128M | 78.06 68.13 85.18 13.59 72.64 -1.53
        Theia | ViT-B | 115M | 76.51 67.53 84.38 14.56 70.34 -4.33
        SAK, ViT-L teachers | ViT-B | 134M | 81.88 74.30 84.79 14.02 74.09 0.83
        """,
    ),
    ("pascal_context", "ViT-L"): rows(
        "Table 5",
        PASCAL_TASKS,
        """
        Single-task baseline | ViT-L | 1573M | 81.61 72.77 83.80 13.87 75.24 0.00
        Multi-task baseline | ViT-L | 357M | 79.26 68.28 84.16 14.06 71.59 -2.97
        PAD-Net | ViT-L | 330M | 78.01 67.12 79.21 14.37 72.60 -4.95
        MTL-Net | ViT-L | 851M | 78.31 67.40 84.75 14.67 73.00 -3.81
        ATRC | ViT-L | 340M | 77.11 66.84 81.20 14.23 72.10 -4.71
        InvPT | ViT-L | 423M | 79.03 67.61 84.81 14.15 73.00 -2.81
        InvPT++ | ViT-L | 421M | 80.22 69.12 84.74 13.73 74.20 -1.19
        TaskPrompter | ViT-L | 401M | 80.89 68.89 84.83 13.72 73.50 -1.24
        TaskExpert | ViT-L | 420M | 80.64 69.42 84.87 13.56 73.30 -0.97
        BFCI | ViT-L | 477M | 80.64 70.06 84.64 13.82 72.96 -1.32
        3D-aware | ViT-L | 430M | 79.53 69.12 84.94 13.53 74.00 -1.08
        TSP | ViT-L | 423M | 81.48 70.64 84.86 13.69 74.80 -0.22
        MLoRE | ViT-L | 407M | 81.41 70.52 84.90 13.51 75.42 0.16
        RADIO | ViT-L | 372M | 81.11 71.50 85.17 13.49 74.80 0.29
        SAK, ViT-L teachers | ViT-L | 407M | 84.01 76.99 84.65 13.82 76.27 2.30
        """,
    ),
    ("pascal_context", "ViT-S"): rows(
        "Table 15",
        PASCAL_TASKS,
        """
        Single-task baseline | ViT-S | 117M | 77.59 66.58 84.60 14.16 70.95 0.00
        Multi-task baseline | ViT-S | 29M | 73.94 61.22 83.96 14.89 67.03 -4.84
        TaskPrompter | ViT-S | 132M | 76.57 63.22 84.54 13.93 70.60 -1.06
        TaskExpert | ViT-S | 55M | 75.04 62.68 84.68 14.22 68.80 -2.50
        MLoRE | ViT-S | 44M | 75.64 62.65 84.70 14.43 69.81 -2.36
        MQTransformer | Swin-S | 57M+ | 71.25 60.11 84.05 14.74 71.80 -4.29
        DeMT | Swin-S | 54M | 72.01 58.96 83.20 14.57 72.10 -4.31
        DeMTG | Swin-S | 55M+ | 71.54 61.49 83.70 14.90 72.20 -3.99
        ATMPNet | Swin-S | 50M+ | 70.58 61.17 83.96 14.41 73.15 -3.32
        TFUT | Swin-S | 63M+ | 72.49 63.24 84.06 14.42 73.50 -2.09
        Theia | ViT-S | 29M | 70.82 62.71 83.95 14.87 67.52 -5.03
        SAK, ViT-B teachers | ViT-S | 34M | 78.66 68.46 84.66 14.33 70.28 0.43
        """,
    ),
    ("nyud", "ViT-B"): rows(
        "Table 14",
        NYUD_TASKS,
        """
        Single-task baseline | ViT-B | 369M | 51.15 0.5792 19.77 77.35 0.00
        Multi-task baseline | ViT-B | 110M | 49.27 0.5823 19.92 75.88 -1.72
        InvPT | ViT-B | 161M | 50.30 0.5367 19.00 77.60 2.47
        InvPT++ | ViT-B | ~161M | 49.79 0.5318 18.90 77.10 2.40
        TaskPrompter | ViT-B | 160M+ | 50.40 0.5402 18.91 77.60 2.49
        ECS | ViT-B | 122M | 50.46 0.5332 18.42 77.89 3.53
        BFCI | ViT-B | 200M+ | 51.14 0.5186 18.92 77.98 3.89
        TSP | ViT-B | 160M+ | 51.22 0.5301 18.78 76.90 3.26
        SEM | ViT-B | - | 51.34 0.5222 18.95 77.60 3.67
        RADIO | ViT-B | 122M | 55.03 0.5186 18.49 77.97 6.33
        Theia | ViT-B | 109M | 51.80 0.5367 19.70 76.08 1.83
        SAK, ViT-L teachers | ViT-B | 126M | 59.93 0.4942 17.60 78.60 11.11
        """,
    ),
    ("nyud", "ViT-L"): rows(
        "Table 6",
        NYUD_TASKS,
        """
        Single-task baseline | ViT-L | 1259M | 54.19 0.5560 19.22 78.09 0.00
        Multi-task baseline | ViT-L | 346M | 52.42 0.5413 19.29 76.50 -0.76
        InvPT | ViT-L | 402M | 53.56 0.5183 19.04 78.10 1.64
        InvPT++ | ViT-L | ~402M | 53.85 0.5096 18.67 78.10 2.65
        TaskPrompter | ViT-L | 392M | 55.30 0.5152 18.47 78.20 3.36
        TaskExpert | ViT-L | 400M+ | 55.35 0.5157 18.54 78.40 3.33
        BFCI | ViT-L | 400M+ | 55.51 0.4930 18.47 78.22 4.46
        3D-aware | ViT-L | 409M | 54.87 0.5006 18.55 78.30 3.74
        TSP | ViT-L | 402M | 55.39 0.4961 18.44 77.50 4.07
        MLoRE | ViT-L | 552M | 55.96 0.5076 18.33 78.43 4.26
        RADIO | ViT-L | 362M | 59.32 0.4698 17.46 79.41 8.95
        SAK, ViT-L teachers | ViT-L | 394M | 63.18 0.4313 16.25 79.43 14.05
        """,
    ),
    ("nyud", "ViT-S"): rows(
        "Table 16",
        NYUD_TASKS,
        """
        Single-task baseline | ViT-S | 94M | 48.11 0.5911 20.27 75.17 0.00
        Multi-task baseline | ViT-S | 28M | 45.87 0.6626 20.55 74.44 -4.78
        MQTransformer | Swin-S | 57M | 49.18 0.5785 20.81 77.00 1.03
        DeMT | Swin-S | 53M | 51.50 0.5474 20.02 78.10 4.89
        DeMTG | Swin-S | 55M | 52.23 0.5599 20.05 78.40 4.81
        ATMPNet | Swin-S | 50M+ | 51.82 0.5526 20.11 78.27 4.78
        TFUT | Swin-S | 63M | 50.04 0.5419 20.08 78.30 3.99
        Theia | ViT-S | 28M | 46.54 0.6047 20.95 74.59 -2.42
        SAK, ViT-B teachers | ViT-S | 32M | 54.30 0.5785 19.67 76.58 4.96
        """,
    ),
}
"""(data set, backbone) -> the rows of the paper's comparison."""
ABLATION = rows(
    "Table 3",
    PASCAL_TASKS,
    """
        SAK without TSAP and MoR, ViT-B teachers | ViT-B | - | 80.97 69.71 84.64 14.11 72.82 -1.21
        SAK without MoR, ViT-B teachers | ViT-B | - | 81.26 69.92 84.31 14.45 71.41 -2.03
        SAK, ViT-B teachers | ViT-B | 134M | 81.65 72.38 84.87 14.05 73.23 -0.03
        """,
)
"""Table 3: the same student with ViT-B teachers; its number of parameters is in Tables 12 and 19."""


def published_rows(dataset: str, arch: str) -> tuple[Row, ...]:
    """The paper's rows for a data set and a student architecture; () where it has none."""
    backbone = BACKBONES.get(arch, arch)
    extra = ABLATION[2:] if (dataset, backbone) == ("pascal_context", "ViT-B") else ()
    return PUBLISHED.get((dataset, backbone), ()) + extra


def published_for(recipe: Mapping[str, Any], dataset: str) -> tuple[Row, ...]:
    """Rows to print beside a run of a `paper_*` recipe, those of its data set and backbone; else none."""
    if not str(recipe.get("name", "")).startswith("paper_"):
        return ()
    return published_rows(dataset, str(recipe.get("student", {}).get("arch", "")))


def published_similarity(recipe: Mapping[str, Any], teachers: list[str]) -> dict[str, float]:
    """Table 17's figures by the names of a `paper_*` run's teachers; {} unless all models are ViT-B."""
    arch = recipe.get("student", {}).get("arch")
    if not str(recipe.get("name", "")).startswith("paper_") or arch != "vit_base_patch16":
        return {}
    found = {name: SIMILARITY[TABLE_17[name]] for name in teachers if name in TABLE_17}
    return {**found, "mean": SIMILARITY["mean"]} if len(found) == len(teachers) == 3 else {}
