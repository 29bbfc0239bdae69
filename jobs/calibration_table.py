"""What did calibration find: a table of each teacher's codec, what it keeps, costs and comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.config import Recipe
from jobs.register import Registered, step_of
from storage.text_table import aligned, format_bytes

ENOUGH = 100
"""Tokens per dimension that a basis should be calibrated on."""


@dataclass(frozen=True)
class TeacherRow:
    """One teacher's column."""

    teacher: str
    column: str
    images: int | None
    """Samples of the calibration; None where the column was there before."""
    tokens: int | None
    """Of those samples, that the codec's statistics are of."""
    dimensions: int
    """Channels of all levels of a grid."""
    block: int
    """How many of them one block of the basis takes together: what tokens must suffice for."""
    basis: str
    """joint, separable, or none where the codec has no basis."""
    kept: int
    """Components that are stored in some radial band."""
    bits_per_value: float
    """Of the records of `encoded` samples."""
    encoded: int
    fidelity: float
    """The worst level of those samples."""
    decode_gmac: float
    """Per image."""
    decode_share: float
    """Of the student's training step."""
    terabytes: float
    """Of all samples of the cache at these bits."""

    def as_json(self) -> dict[str, Any]:
        """Plain values under the names of the fields."""
        return asdict(self)


def teacher_rows(
    recipe: Recipe, cache: Any, registered: Registered, encoded: Mapping[str, Any]
) -> list[TeacherRow]:
    """A row per teacher; `encoded` says what a few samples became in its column."""
    docs = {name: cache.teacher_doc(column) for name, column in registered.columns.items()}
    step = step_of(recipe, [doc["shapes"][-1][0] for doc in docs.values()])
    samples = sum(shard.rows for shard in cache.shards())
    rows = []
    for name, column in registered.columns.items():
        doc, found, new = docs[name], encoded[name], name in registered.new
        values = sum(c * h * w for c, h, w in doc["shapes"])
        basis, dimensions, block, kept = basis_of(cache, column)
        per_sample = found.bytes / max(found.samples, 1)
        rows.append(
            TeacherRow(
                teacher=name,
                column=str(column),
                images=registered.images if new else None,
                tokens=registered.tokens.get(name),
                dimensions=dimensions,
                block=block,
                basis=basis,
                kept=kept,
                bits_per_value=8 * per_sample / values,
                encoded=found.samples,
                fidelity=found.fidelity,
                decode_gmac=doc["array"]["decode_macs"] / 1e9,
                decode_share=doc["array"]["decode_macs"] / step,
                terabytes=samples * per_sample / 1e12,
            )
        )
    return rows


def basis_of(cache: Any, column: Any) -> tuple[str, int, int, int]:
    """The kind of a column's basis, its dimensions, those of a block, and the components that it keeps.

    Of the largest group of levels; those in the zone that most samples use.
    """
    from storage import layout
    from storage.codecs import load_stats

    stats = load_stats(cache.store.read(layout.codec_path(column)))
    if "kept.0" not in stats:
        channels = max(c for c, _, _ in cache.teacher_doc(column)["shapes"])
        return "none", channels, channels, channels
    found = []
    for group in range(sum(name.startswith("kept.") for name in stats)):
        blocks = [len(tensor) for name, tensor in stats.items() if name.startswith(f"basis.{group}.")]
        usual = int(stats[f"usage.{group}"][:-1].argmax())
        kept = int(stats[f"kept.{group}"][usual].amax(1).sum())
        found.append((sum(blocks), "joint" if len(blocks) == 1 else "separable", max(blocks), kept))
    dimensions, kind, block, components = max(found)
    return kind, dimensions, block, components


def format_calibration(recipe: Recipe, rows: Sequence[TeacherRow]) -> list[str]:
    """The table and what its columns mean."""
    header = ["teacher", "images", "tokens", "a dim", "basis", "kept", "bits/value", "worst cos"]
    header += ["GMAC", "of step", "cache"]
    body = [_cells(row) for row in rows]
    total = ["all", *[""] * 7]
    total += [f"{sum(row.decode_gmac for row in rows):.3g}", f"{sum(row.decode_share for row in rows):.1%}"]
    total += [format_bytes(1e12 * sum(row.terabytes for row in rows))]
    codec = recipe.cache.codec
    asked = f" at fidelity {codec.fidelity:g}" if codec.name == "klt" else ""
    foot = [
        f"codec {codec.name}{asked}, grid of the {codec.grid}; bits/value and worst cosine are those of "
        f"{max(row.encoded for row in rows)} samples of the calibration.",
        f"a dim: tokens per dimension, {ENOUGH} are enough; kept: components stored; GMAC: to decode one "
        "image,",
        "of step: as a share of the student's training step; cache: all samples of all views.",
    ]
    return [*aligned([header, *body, total], left=1), "", *foot]


def _cells(row: TeacherRow) -> list[str]:
    images, tokens, each = "there", "", ""
    if row.images is not None and row.tokens is not None:
        images, tokens = f"{row.images:,}", f"{row.tokens:,}"
        each = f"{row.tokens / row.block:.0f}"
    return [
        row.teacher,
        images,
        tokens,
        each,
        row.basis,
        "" if row.basis == "none" else f"{row.kept:,} of {row.dimensions:,}",
        f"{row.bits_per_value:.2f}",
        f"{row.fidelity:.4f}",
        f"{row.decode_gmac:.3g}",
        f"{row.decode_share:.1%}",
        format_bytes(row.terabytes * 1e12),
    ]
