"""The first stage of latent diffusion, small: what stands in for the GPU budget's network on the CPU."""

from gmbook import data
from gmbook.experiments import autoencoder, images

SMALL = {
    "autoencoder": (
        "mnist",
        lambda: autoencoder.model((1, 8, 8), 8),
        lambda seed, size: images.image_batches(data.digits("train"), seed, size),
    )
}
