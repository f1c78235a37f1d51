"""Where a run computes."""

from __future__ import annotations

import torch


def device() -> torch.device:
    """The GPU where there is one that CUDA drives, else the CPU. Apple's has no float64, and is not used."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
