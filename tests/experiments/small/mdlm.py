"""MDLM and the autoregression beside it, small: what stands in for the GPU budget's network on the CPU."""

from gmbook import data
from gmbook.experiments import mdlm

SMALL = {
    "mdlm": (
        "text8",
        lambda: mdlm.mdlm(16, 1, 2, 16, dropout=0.05),
        lambda seed, size: mdlm.batches(data.prose("train"), 16, seed, size),
    ),
    "autoregressive": (
        "text8",
        lambda: mdlm.autoregressive(16, 1, 2, 16, dropout=0.05),
        lambda seed, size: mdlm.batches(data.prose("train"), 16, seed, size),
    ),
}
