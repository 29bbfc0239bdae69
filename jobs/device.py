"""On which device does a training or evaluation command run."""

from __future__ import annotations

import os
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]


def pick_device(asked: Device) -> str:
    """`cuda` or `cpu`.

    Raises:
        ValueError: CUDA is asked for and torch sees no GPU.
    """
    import torch

    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise ValueError(
            "--device cuda: torch sees no GPU here; use --device cpu, or submit with --entrypoint-num-gpus 1"
        )
    if not found and "OMP_NUM_THREADS" in os.environ:
        # Ray sets one thread for a job without CPUs of its own; this entry point is the node's only work.
        torch.set_num_threads(os.cpu_count() or 1)
    # TF32 would round the convolutions of what is called fp32 to ten bits.
    torch.backends.cudnn.allow_tf32 = False
    return "cuda" if found and asked != "cpu" else "cpu"
