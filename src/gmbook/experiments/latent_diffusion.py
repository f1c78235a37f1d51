"""Latent diffusion on points in the plane."""

from __future__ import annotations

import math

import torch
from torch import nn

from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.papers.ddpm import DDPM
from gmbook.papers.latent_diffusion import KLAutoencoder, LatentDiffusion


def model() -> LatentDiffusion:
    """A rotation by 45 degrees, shrunk by five, for a first stage: what it costs the second is then plain to see."""
    c = math.cos(math.pi / 4)
    turn = torch.tensor([[c, -c], [c, c]])
    encoder, decoder = nn.Linear(2, 4), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([turn / 5, torch.zeros(2, 2)]))
        encoder.bias.copy_(torch.tensor([0.0, 0.0, -20.0, -20.0]))  # no noise: log-variances of −20
        decoder.weight.copy_(5 * turn.T)
    first = KLAutoencoder(encoder, decoder, (2,))
    return LatentDiffusion(first.requires_grad_(False), DDPM(net(), (2,), steps=200), scale=5.0)


EXPERIMENTS = (points("latent_diffusion", GAUSSIANS, model, 8000),)
