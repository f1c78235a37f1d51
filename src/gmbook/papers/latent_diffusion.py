"""High-Resolution Image Synthesis with Latent Diffusion Models. Rombach, Blattmann, Lorenz, Esser, Ommer, CVPR 2022,
arXiv:2112.10752.

Two stages, which are two calls of `train`. The first is an autoencoder x ≈ D(E(x)), with a KL regulariser (here) or a
quantiser (`vqgan.VQAutoencoder`), trained as `vqgan` says. The second is any `Denoiser` as the prior of its latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gmbook.core.checks import check_event
from gmbook.core.denoiser import Denoiser
from gmbook.core.gaussians import kl_normal
from gmbook.core.model import Model, Objective, sampling
from gmbook.papers.vqgan import Autoencoder


def sqrt_linear_betas(steps: int = 1000, first: float = 0.0015, last: float = 0.0195) -> Tensor:
    """β_i = (√first + (i − 1)/(T − 1) (√last − √first))², i = 1..T: (T,), float64 (ldm-schedule).

    The authors' code calls this schedule "linear"; it is so in √β. The ends are those of its class-conditional models;
    Stable Diffusion has 0.00085 and 0.012. For another T both ends are scaled by 1000/T, as `ddpm.linear_betas` does,
    and β is kept below 0.999.

    Raises:
        ValueError: steps < 2, or not 0 < first <= last.
    """
    if steps < 2 or not 0 < first <= last:
        raise ValueError(f"need at least two steps and 0 < first <= last, got {steps}, {first} and {last}")
    lowest, highest = (math.sqrt(end * 1000 / steps) for end in (first, last))
    return torch.linspace(lowest, highest, steps, dtype=torch.float64).square().clamp(max=0.999)


class KLAutoencoder(Autoencoder):
    """E(x) = N(μ(x), diag σ(x)²), held near N(0, I) by a very small KL weight (ldm-kl).

    A VAE whose β is so small that its latents are no standard Gaussian: the prior of the second stage is needed.

    Args:
        encoder: (B, *S) -> (B, 2c, …): mean and log-variance, side by side in the channels.
        decoder: (B, c, …) -> (B, *S).
        weight: of the KL term, nats summed over the latent; 1e-6 in the paper's configurations.
        options: perceptual, adversary, as of `Autoencoder`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        shape: tuple[int, ...],
        weight: float = 1e-6,
        **options: Any,
    ):
        super().__init__(shape, **options)
        self.encoder, self.decoder, self.weight = encoder, decoder, weight

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """μ(x) and the *standard deviation* σ(x): each (B, c, …). The log-variance is kept in [−30, 20]."""
        check_event(x, self.shape)
        both = self.encoder(x).to(x.dtype).contiguous()  # bfloat16 is coarse; draws do not depend on the memory's order
        mean, log_variance = both.chunk(2, 1)
        return mean, torch.exp(log_variance.clamp(-30, 20) / 2)

    def encode(self, x: Tensor) -> Tensor:
        """One draw of z ~ N(μ(x), diag σ(x)²): (B, c, …)."""
        mean, std = self.posterior(x)
        return mean + std * torch.randn_like(std)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = self.posterior(x)
        penalty = kl_normal(mean, std).flatten(1).sum(1)
        return self.decoder(mean + std * torch.randn_like(std)), self.weight * penalty


class LatentDiffusion(Model):
    """An autoencoder and a prior of its latents: D(z/s) with s·E(x) modelled by any `Denoiser` (ldm-loss).

    L_LDM = E ‖ε − ε_θ(z_t, t, τ_θ(y))‖² with z_0 = s E(x), and likewise for any other loss the prior has: it is the
    prior's own. The autoencoder stays as it is, in evaluation mode and without gradients. Any sampler runs on the
    prior: `model.decode(ddim.sample(model.prior, n))`. For guidance put `networks.guided.Guided` around its network.

    Args:
        autoencoder: the trained first stage.
        prior: a diffusion model on the latents' shape; it needs a `sample` of its own only for `sample` here.
        scale: s; 1 until `measure_scale` is called.
    """

    scale: Tensor

    def __init__(self, autoencoder: Autoencoder, prior: Denoiser, scale: float | Tensor = 1.0):
        super().__init__()
        self.autoencoder, self.prior, self.shape = autoencoder.eval(), prior, autoencoder.shape
        self.register_buffer("scale", torch.tensor(float(scale)))

    def train(self, mode: bool = True) -> LatentDiffusion:
        """Only the prior changes its mode."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    @torch.no_grad()
    def measure_scale(self, x: Tensor) -> Tensor:
        """Set s = 1/std of the latents of x, all their entries together, and return it: (B, *S) -> () (latent-scale).

        A path's log-SNR is meant for data of unit variance: latents of standard deviation σ̂ shift it by 2 log σ̂ at
        every t. Give much data: the authors' code takes the first batch it meets.

        Raises:
            ValueError: the latents do not vary.
        """
        std = self.autoencoder.encode(x).std()
        if not std > 0:
            raise ValueError(
                f"the latents have standard deviation {std.item()}: give more data, or train the autoencoder"
            )
        self.scale.copy_(1 / std)
        return self.scale.clone()

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """s E(x): (B, *S) -> (B, *latent)."""
        return self.scale * self.autoencoder.encode(x)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """D(z/s): (B, *latent) -> (B, *S)."""
        return self.autoencoder.decode(z / self.scale)

    def loss(self, x: Tensor, *y: Tensor) -> Tensor:
        """The prior's loss on the latents of x: (B, *S) -> ()."""
        return self.prior.loss(self.encode(x), *y)

    def objectives(self) -> dict[str, Objective]:
        """The prior's players, on latents: they move the prior's parameters only."""

        def on_latents(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
            return lambda x, *y: loss(self.encode(x), *y)

        return {name: o._replace(loss=on_latents(o.loss)) for name, o in self.prior.objectives().items()}

    def networks(self) -> list[nn.Module]:
        """Those of the prior."""
        return self.prior.networks()

    @sampling
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """D(z/s) for n draws z of the prior by its own sampler: (n, *S)."""
        return self.decode(self.prior.sample(n, y))


class Conditioned(nn.Module):
    """net(x, t, τ_θ(y)): a network with cross-attention, told y through an encoder that is trained with it.

    Args:
        net: net(x, t, tokens (B, M, d)), such as `UNet` or `DiT` with `context=d`; y None is passed on. With guidance
            it is `Guided(dit, s, dit.null)`: the null is tokens, not a label.
        tau: y -> τ_θ(y), (B, M, d): a text encoder, or nn.Embedding and an axis for labels.
    """

    def __init__(self, net: nn.Module, tau: nn.Module):
        super().__init__()
        self.net, self.tau = net, tau

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(x, t, None if y is None else self.tau(y))


class Concatenated(nn.Module):
    """net([x, y], t): a condition with a place of its own, told as more channels (def-ldm-concatenation).

    For conditions that are maps, such as a small image to enlarge, a picture with a hole, or a plan of regions.

    Args:
        net: net(x (B, C + C', H, W), t) -> (B, C, H, W), such as `UNet(C + C', out_channels=C)`.
        channels: C'.

    Shapes: x (B, C, H, W), y (B, C', H, W); None stands for a map of zeros, as does 0 as the null of `Guided`.

    Raises:
        ValueError: y is no map of C' channels and the sides of x.
    """

    def __init__(self, net: nn.Module, channels: int):
        super().__init__()
        self.net, self.channels = net, channels

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        expected = (len(x), self.channels, *x.shape[2:])
        y = x.new_zeros(expected) if y is None else y
        if y.shape != expected:
            raise ValueError(f"the condition must be a map {expected}, got {tuple(y.shape)}: resize it to the latents")
        return self.net(torch.cat([x, y], 1), t)
