"""What do several sections need that is dear to make? Maps under study, and codecs measured on them."""

from __future__ import annotations

import logging
from functools import cached_property
from itertools import islice

from jobs.benches.ask import Ask
from jobs.benches.crops import Crops
from jobs.benches.hard4 import Hard4
from jobs.benches.measured import Measured, measure
from jobs.benches.studied import Studied, study_hard4, study_photos
from storage.config import CodecConfig

log = logging.getLogger(__name__)


class Material:
    """Made when first asked for."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self._measured: dict[tuple[str, str, float | None], Measured] = {}

    @cached_property
    def _hard4(self) -> tuple[Studied, Hard4]:
        return study_hard4(self.ask)

    @property
    def hard4(self) -> Studied:
        """Synthetic maps."""
        return self._hard4[0]

    @property
    def hard4_source(self) -> Hard4:
        """Where they come from, with their true covariance."""
        return self._hard4[1]

    @cached_property
    def photos(self) -> Studied:
        """A random teacher's maps of photos."""
        return study_photos(self.ask)

    def jpegs(self, count: int) -> list[bytes]:
        """Crops of `count` photos, or of as many as are measured."""
        return list(islice(Crops(self.ask).test(), count))

    def measured(
        self,
        studied: Studied,
        config: CodecConfig,
        *,
        calibrated_for: CodecConfig | None = None,
        budget_gmac: float | None = None,
    ) -> Measured:
        """A codec's figures on maps under study.

        It may share another config's basis and zones; `budget_gmac` bounds what decoding a sample may take.
        """
        key = (studied.name, config.model_dump_json(), budget_gmac)
        if key not in self._measured:
            codec = studied.codec(config, calibrated_for=calibrated_for, budget_gmac=budget_gmac)
            self._measured[key] = found = measure(studied, codec, self.ask.device)
            log.info(
                "%s, %s: %.3f bits per value, %s", studied.name, described(config), found.bits, found.said
            )
        return self._measured[key]


def described(config: CodecConfig) -> str:
    """A codec's settings, for people."""
    if config.name != "klt":
        return config.name
    return f"klt {config.basis} + {config.resolved().lossless} at {config.fidelity:g}"


def klt(fidelity: float, *, basis: str = "joint", lossless: str = "pcodec") -> CodecConfig:
    """The codec that most rows are about."""
    return CodecConfig.model_validate(
        {"name": "klt", "fidelity": fidelity, "basis": basis, "lossless": lossless}
    )
