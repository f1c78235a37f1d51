"""SEDD, small: what stands in for the GPU budget's network on the CPU."""

from gmbook import data
from gmbook.experiments import mdlm, sedd

SMALL = {
    "sedd": (
        "text8_uniform",
        lambda: sedd.letters("uniform", 32, 1, 2, 16, dropout=0.05),
        lambda seed, size: mdlm.batches(data.prose("train"), 16, seed, size),
    ),
}
