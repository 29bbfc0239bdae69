"""How does a cache look: crops beside each teacher's PCA-coloured maps, as one PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

CELL_INCHES = 1.6


def cache_picture(crops: Sequence[np.ndarray], maps: Mapping[str, Sequence[np.ndarray]]) -> bytes:
    """One row per sample: the crop, then each teacher's last level; PNG bytes.

    Args:
        crops: uint8 `[H, W, 3]`.
        maps: teacher -> uint8 `[h, w, 3]` of the same samples.
    """
    columns = {"crop": crops, **maps}
    size = (CELL_INCHES * len(columns), CELL_INCHES * len(crops) + 0.3)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(crops), len(columns), squeeze=False)
    for column, (name, pictures) in enumerate(columns.items()):
        axes[0, column].set_title(name, fontsize=9)
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture, interpolation="nearest")
            axes[row, column].set_axis_off()
    sink = io.BytesIO()
    figure.savefig(sink, format="png")
    return sink.getvalue()
