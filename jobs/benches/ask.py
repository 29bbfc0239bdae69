"""What was a benchmark asked to do: sizes, repeats, photos, and the device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ask:
    """Settings that all sections share; `quick` makes everything small."""

    photos: Path
    """Folder of photos."""
    photos_are: str
    """What they are, for the table."""
    test_photos: int
    calibration_photos: int
    """0: all others."""
    calibration_tokens: int
    """Tokens of a map that the bases are calibrated on."""
    repeats: int
    """Timed runs of each way."""
    device: str
    quick: bool

    @property
    def channels(self) -> int:
        """Of each level of HARD4."""
        return 48 if self.quick else 768

    @property
    def side(self) -> int:
        """Of HARD4's grid."""
        return 9 if self.quick else 27

    @property
    def hard4_maps(self) -> tuple[int, int]:
        """Maps to calibrate on, and others to measure."""
        return (48, 4) if self.quick else (16, 4)

    @property
    def teacher(self) -> str:
        """Whose random initialisation is measured on photos."""
        return "mini_dinov2" if self.quick else "dinov2_b14"

    @property
    def crop(self) -> int:
        """Side of a crop, pixels."""
        return 112 if self.quick else 384
