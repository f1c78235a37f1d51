"""The GAN, small: what stands in for the GPU budget's network on the CPU."""

from gmbook import data
from gmbook.experiments import gan

SMALL = {
    "gan": (
        "mnist",
        lambda: gan.model((1, 8, 8), 8),
        lambda seed, size: gan.batches(data.digits("train"), seed, size),
    )
}
