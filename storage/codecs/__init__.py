"""How feature maps become codes and back: the only part of storage, with stream.py, that knows torch."""

from storage.codecs.calibration import Calibrator, load_stats, save_stats
from storage.codecs.klt_calibration import Estimated, estimate_of
from storage.codecs.spec import CODECS, Codec, Encoded, LevelShape, Stats, make_calibrator, make_codec

__all__ = [
    "CODECS",
    "Calibrator",
    "Codec",
    "Encoded",
    "Estimated",
    "LevelShape",
    "Stats",
    "estimate_of",
    "load_stats",
    "make_calibrator",
    "make_codec",
    "save_stats",
]
