"""The VAE, small: what stands in for the GPU budget's network on the CPU."""

from gmbook import data
from gmbook.experiments import vae

SMALL = {
    "vae": (
        "mnist",
        lambda: vae.model((1, 8, 8), 16, 4, depth=2),
        lambda seed, size: vae.batches(data.digits("train"), seed, size),
    )
}
