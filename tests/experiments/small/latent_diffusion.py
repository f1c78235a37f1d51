"""Latent diffusion, small: what stands in for the GPU budget's networks on the CPU."""

from gmbook import data
from gmbook.experiments import autoencoder, latent_diffusion
from gmbook.papers.latent_diffusion import LatentDiffusion

SMALL = {
    "latent_diffusion": (
        "mnist",
        lambda: LatentDiffusion(autoencoder.model((1, 8, 8), 8).requires_grad_(False), small_prior()),
        lambda seed, size: latent_diffusion.batches(data.digits("train"), seed, size),
    )
}


def small_prior():
    return latent_diffusion.prior(16, 1, 2, (4, 2, 2))
