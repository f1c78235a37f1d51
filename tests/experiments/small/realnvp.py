"""RealNVP, small: what stands in for the GPU budget's network on the CPU."""

from gmbook import data
from gmbook.experiments import realnvp

SMALL = {
    "realnvp": (
        "mnist",
        lambda: realnvp.model((1, 8, 8), 4, 1, 2, levels=17),
        lambda seed, size: realnvp.batches(data.digits("train"), seed, size),
    )
}
