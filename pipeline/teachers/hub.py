"""Where is the file of a teacher's pretrained weights: supplied by hand, in the hub's cache, downloaded."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from timm.models import get_pretrained_cfg

from pipeline.teachers.spec import TeacherSpec

_FILE = "model.safetensors"
_SUFFIXES = (".safetensors", ".pth", ".bin")
_PROBE_TIMEOUT_S = 10.0


class WeightsError(ValueError):
    """A teacher's weights are missing, damaged, or not those that its name means."""


def pretrained_file(spec: TeacherSpec, supplied: Path | None = None) -> Path:
    """The checkpoint of `spec` as timm publishes it.

    Looks in the folder `supplied` for `<timm id>.safetensors` (.pth, .bin), then in the hub's cache on this
    machine, and downloads last. Without a network it fails within seconds.

    Raises:
        WeightsError: no such file, or a miniature, which has no pretrained weights.
    """
    if spec.is_mini:
        raise WeightsError(f"teacher {spec.name} has no pretrained weights; set committee.weights=random:0")
    for suffix in _SUFFIXES if supplied else ():
        if (path := supplied / f"{spec.timm_id}{suffix}").is_file():
            return path
    repo = get_pretrained_cfg(spec.timm_id).hf_hub_id
    cached = huggingface_hub.try_to_load_from_cache(repo, _FILE, cache_dir=constants.HF_HUB_CACHE)
    return Path(cached) if isinstance(cached, str) else _download(spec, repo)


def _download(spec: TeacherSpec, repo: str) -> Path:
    try:
        # the hub's own download retries for most of a minute before it says that there is no network
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_PROBE_TIMEOUT_S)
        return Path(huggingface_hub.hf_hub_download(repo, _FILE, cache_dir=constants.HF_HUB_CACHE))
    except Exception as error:  # whatever a network, a proxy or the hub may raise
        raise WeightsError(
            f"teacher {spec.name} (timm {spec.timm_id}): no weights from {constants.ENDPOINT} "
            f"({_one_line(error)}); run `cutler weights DIR` where there is a network and set "
            f"committee.weights=DIR here, or save {_FILE} of {repo} as DIR/{spec.timm_id}.safetensors, "
            "run `cutler weights DIR` and set committee.weights=DIR"
        ) from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
