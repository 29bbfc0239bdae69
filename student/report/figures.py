"""What do the curves, maps and pictures of a run look like as small inline images?"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from PIL import Image

PALETTE = ("#3b7dd8", "#e0793a", "#2f9e76", "#b65bc4", "#c9a227", "#7d8794")
"""Line colours, readable on white and on near black."""
INK = "#010203"
"""Stands for the page's text colour: replaced by `currentColor`, so that a figure follows dark mode."""
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "savefig.transparent": True,
}
MAX_POINTS = 400
MAX_PICTURE_PIXELS = 320


def series(records: Sequence[Mapping[str, Any]], group: str = "") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Curves of a log: {name: (steps, values)} of every `<group>/<name>`, of `loss` where no group is named.

    Records without the name leave a gap; long logs are averaged down to 400 points.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        for key, value in record.items():
            parent, _, name = key.partition("/")
            if (parent == group and name) if group else key == "loss":
                found.setdefault(name or "total", []).append((record["step"], value))
    return {name: thin(np.asarray(points, float)) for name, points in found.items()}


def thin(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of equal runs of [n, 2] points, at most 400 of them: (steps, values)."""
    count = min(len(points), MAX_POINTS)
    edges = np.linspace(0, len(points), count + 1).astype(int)
    sums = np.add.reduceat(points, edges[:-1], axis=0) / np.diff(edges)[:, None]
    return sums[:, 0], sums[:, 1]


def curves(lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """One panel of named curves over steps; log scale where the values span a decade."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.5), layout="constrained")
        axis = figure.subplots()
        for i, (name, (steps, values)) in enumerate(lines.items()):
            marker = "o" if len(steps) == 1 else ""
            axis.plot(steps, values, color=PALETTE[i % len(PALETTE)], label=name, marker=marker)
        pooled = np.concatenate([values for _, values in lines.values()])
        if pooled.min() > 0 and pooled.max() > 10 * pooled.min():
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("step")
        if len(lines) > 1:
            axis.legend(fontsize=8, handlelength=1.2)
    return figure


def steps(rungs: Mapping[str, Mapping[int, int]]) -> Figure:
    """How many samples took which quantisation step: bars over the steps 2^(j/4) by name of {j: samples}."""
    every = [rung for counts in rungs.values() for rung in counts]
    ladder = range(min(every), max(every) + 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.5), layout="constrained")
        axis = figure.subplots()
        width = 0.8 / len(rungs)
        for i, (name, counts) in enumerate(rungs.items()):
            places = [rung + (i - (len(rungs) - 1) / 2) * width for rung in ladder]
            heights = [counts.get(rung, 0) for rung in ladder]
            axis.bar(places, heights, width, color=PALETTE[i % len(PALETTE)], label=name)
        shown = ladder[:: max(1, len(ladder) // 8)]
        axis.set_xticks(shown, [f"{2 ** (rung / 4):.3g}" for rung in shown])
        axis.set_xlabel("step, z-scores")
        axis.set_ylabel("samples")
        axis.legend(fontsize=8, handlelength=1.2)
    return figure


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element to stand in a page: no prolog, no addresses, ids prefixed by `name`."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # an SVG's style sheet would hold for the whole page
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace(INK, "currentColor").strip()


def picture_uri(rgb: np.ndarray | bytes, max_pixels: int = MAX_PICTURE_PIXELS) -> str:
    """A picture (uint8 [H, W, 3] or encoded) as a data URI: shrunk to `max_pixels`, PNG or JPEG by size."""
    image = Image.open(io.BytesIO(rgb)) if isinstance(rgb, bytes) else Image.fromarray(rgb)
    image = image.convert("RGB")
    image.thumbnail((max_pixels, max_pixels), Image.Resampling.LANCZOS)
    coded = {kind: encode(image, kind) for kind in ("png", "jpeg")}
    kind = min(coded, key=lambda key: len(coded[key]))
    return f"data:image/{kind};base64,{base64.b64encode(coded[kind]).decode()}"


def map_uri(rgb: np.ndarray) -> str:
    """A map's panel (uint8 [h, w, 3]) as a PNG data URI at its own size; the page enlarges it unsmoothed."""
    return f"data:image/png;base64,{base64.b64encode(encode(Image.fromarray(rgb), 'png')).decode()}"


def encode(image: Image.Image, kind: str) -> bytes:
    """Encoded bytes of an image."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"png": {"optimize": True}, "jpeg": {"quality": 85, "subsampling": 0}}[kind]
    image.save(buffer, kind, **options)
    return buffer.getvalue()
