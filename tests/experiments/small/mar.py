"""MAR, small: what stands in for the GPU budget's network on the CPU."""

from gmbook import data
from gmbook.experiments.images import image_batches
from gmbook.networks.mlp import AdaMLP
from gmbook.networks.transformer import MaskedTransformer
from gmbook.papers.ddpm import DDPM
from gmbook.papers.improved_ddpm import cosine_betas
from gmbook.papers.mar import MAR, DiffusionHead


def model() -> MAR:
    """The same parts on 8×8 digits in patches of 2×2."""
    head = DiffusionHead(DDPM(AdaMLP(4, 16, 16, 1), (4,), betas=cosine_betas(1000), clip=1.0), repeats=2, steps=5)
    return MAR(MaskedTransformer(16, 4, 16, (1, 1), 2, classes=10, drop=0.1), head, (1, 8, 8), 2)


SMALL = {"mar": ("mnist_diffusion", model, lambda seed, size: image_batches(data.digits("train"), seed, size))}
