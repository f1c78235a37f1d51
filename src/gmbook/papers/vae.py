"""Auto-Encoding Variational Bayes. Kingma, Welling, ICLR 2014, arXiv:1312.6114.

Encoder q_φ(z | x) = N(μ(x), diag σ(x)²), prior p(z) = N(0, I), decoder p_θ(x | z). The encoder outputs μ and log σ²,
side by side. Everything is summed over dimensions and averaged over the batch: nats per example.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.core.checks import Watch, check_count, check_output, check_range
from gmbook.core.gaussians import kl_normal, log_normal
from gmbook.core.model import Model, sampling

Normal = tuple[Tensor, Tensor]  # the mean and the standard deviation of a diagonal Gaussian over z, each (B, latent)


class Likelihood(nn.Module, ABC):
    """p_θ(x | z), given the decoder's output."""

    @abstractmethod
    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """log p(x | z), nats: x (B, *S), output (B, *S) -> (B,)."""

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """E[x | z]: (B, *S)."""

    @abstractmethod
    def draw(self, output: Tensor) -> Tensor:
        """One draw x ~ p(x | z): (B, *S)."""


class Bernoulli(Likelihood):
    """Pixels in {0, 1}; the decoder outputs logits (vae-bernoulli). With grey targets it is no likelihood at all.

    Raises:
        ValueError: (in `log_prob`) pixels outside [0, 1], which would have a code length below 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.watch = Watch()

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        if self.watch(x):
            check_range(x, 0.0, 1.0, "binarise integers with gmbook.data.binarise, or take a Gaussian likelihood")
        return -F.binary_cross_entropy_with_logits(output, x, reduction="none").flatten(1).sum(1)

    def mean(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def draw(self, output: Tensor) -> Tensor:
        return torch.bernoulli(self.mean(output))


class Gaussian(Likelihood):
    """N(x; output, σ² I) with one σ (vae-gaussian), learned or fixed; fixed at 1 on pixels in [0, 1] most
    units collapse."""

    def __init__(self, std: float = 1.0, learned: bool = True):
        super().__init__()
        self.log_std = nn.Parameter(torch.tensor(math.log(std)), requires_grad=learned)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        return log_normal(x, output, self.log_std.exp())

    def mean(self, output: Tensor) -> Tensor:
        return output

    def draw(self, output: Tensor) -> Tensor:
        return output + self.log_std.exp() * torch.randn_like(output)


class OptimalGaussian(Gaussian):
    """N(x; output, σ² I) with σ² the batch's mean squared error, the maximum-likelihood constant (vae-optimal-sigma).

    In training σ follows the batch, in closed form, and is stored; at evaluation the stored σ is used.
    """

    def __init__(self) -> None:
        super().__init__(learned=False)

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        if self.training:
            log_std = (x - output).square().mean().log() / 2
            self.log_std.data.copy_(log_std.detach())
            return log_normal(x, output, log_std.exp())
        return super().log_prob(x, output)


class VAE(Model):
    """A variational autoencoder.

    Args:
        encoder: (B, *S) -> (B, 2·latent), the mean and log-variance of q(z | x).
        decoder: (B, latent) -> (B, *S), read by the likelihood.
        latent: the dimension d of z.
        shape: the event shape S.
        likelihood: p(x | z).
        beta: the weight of the KL term (β-VAE); 1 is the paper's bound. `elbo` and `iwae` never use it.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent: int,
        shape: tuple[int, ...],
        likelihood: Likelihood | None = None,
        beta: float = 1.0,
    ):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.latent, self.shape, self.beta = latent, tuple(shape), beta
        self.likelihood = Bernoulli() if likelihood is None else likelihood

    def encode(self, x: Tensor) -> Normal:
        """μ(x) and the *standard deviation* σ(x) of q(z | x): each (B, latent)."""
        self.check(x)
        mean, log_variance = check_output(self.encoder(x), (len(x), 2 * self.latent), "the encoder").chunk(2, 1)
        return mean, torch.exp(log_variance / 2)

    def reparametrise(self, mean: Tensor, std: Tensor) -> Tensor:
        """z = μ + σ ⊙ ε, ε ~ N(0, I) (vae-reparametrisation): (B, latent)."""
        return mean + std * torch.randn_like(std)

    def decode(self, z: Tensor) -> Tensor:
        """The decoder's output, which the likelihood reads: (B, latent) -> (B, *S).

        Raises:
            ValueError: the decoder returns another shape.
        """
        return check_output(self.decoder(z), (len(z), *self.shape), "the decoder")

    # ------------------------------------------------------------------------------------------------ the bound

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) = log p(x | z) + log p(z), nats: x (B, *S), z (B, latent) -> (B,)."""
        return self.likelihood.log_prob(x, self.decode(z)) + log_normal(z, 0.0, 1.0)

    def rate_distortion(self, x: Tensor, q: Normal | None = None) -> tuple[Tensor, Tensor]:
        """Rate KL(q(z|x) ‖ p(z)), exact, and distortion −log p(x|z) at one z ~ q: each (B,), nats. Eq. 10.

        Averaged over data, the rate is I_q(x; z) + KL(q(z) ‖ p(z)) (vae-surgery), and entropy of the data minus
        distortion ≤ I_q ≤ rate (vae-rate-distortion). `q` takes the place of the encoder's answer, if given.
        """
        mean, std = self.encode(x) if q is None else q
        rate = kl_normal(mean, std).sum(1)
        return rate, -self.likelihood.log_prob(x, self.decode(self.reparametrise(mean, std)))

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The negative β-ELBO, estimator B (analytic KL), mean over the batch, nats, (): −1/N times the paper's Eq. 8.

        Labels play no part.

        N times it estimates the sum over the whole data set without bias (vae-minibatch). With β = 1 its mean over the
        law of the data is never below that law's entropy (vae-floor).
        """
        rate, distortion = self.rate_distortion(x)
        return (distortion + self.beta * rate).mean()

    def elbo(self, x: Tensor, q: Normal | None = None) -> Tensor:
        """Estimator B, Eq. 7: log p(x|z) − KL(q(z|x) ‖ p(z)), one draw of z: (B,), nats (vae-elbo).

        Its mean lies below log p(x) by KL(q(z|x) ‖ p(z|x)) (vae-gap). `q` takes the place of the encoder's answer.
        """
        rate, distortion = self.rate_distortion(x, q)
        return -distortion - rate

    def log_weights(self, x: Tensor, k: int, q: Normal | None = None) -> Tensor:
        """log w_j = log p(x, z_j) − log q(z_j | x) for z_1..z_k ~ q(z | x): (k, B), nats (vae-weights).

        Their mean over j is the paper's estimator A, Eq. 6; logsumexp makes the IWAE bound.
        """
        check_count("k", k)
        mean, std = (c.repeat(k, 1) for c in (self.encode(x) if q is None else q))
        z = self.reparametrise(mean, std)
        repeated = x.repeat(k, *[1] * (x.ndim - 1))
        return (self.log_joint(repeated, z) - log_normal(z, mean, std)).reshape(k, len(x))

    def iwae(self, x: Tensor, k: int, q: Normal | None = None) -> Tensor:
        """The importance-weighted bound with k draws, arXiv:1509.00519: (B,), nats (vae-iwae).

        log (1/k) Σ_j w_j; its expectation rises with k to log p(x), from about Var[w]/(2k p(x)²) below (vae-iwae-gap).
        """
        return self.log_weights(x, k, q).logsumexp(0) - math.log(k)

    def refine(self, x: Tensor, steps: int = 300, lr: float = 0.03, draws: int = 16) -> Normal:
        """The best diagonal Gaussian for each x by itself: ascent on the bound from the encoder's answer (vae-gaps).

        What this gains is the amortisation gap, what is left to log p(x) the approximation gap, arXiv:1801.03558.
        The weights keep still. `draws` of z per x and step.
        """
        with torch.no_grad():
            mean, std = self.encode(x)
        mean, log_std = mean.clone().requires_grad_(), std.log().requires_grad_()
        optimiser = torch.optim.Adam([mean, log_std], lr)
        repeated = x.repeat(draws, *[1] * (x.ndim - 1))
        for k in range(steps):
            optimiser.param_groups[0]["lr"] = lr * (1 - k / steps)
            bound = self.elbo(repeated, (mean.repeat(draws, 1), log_std.exp().repeat(draws, 1)))
            mean.grad, log_std.grad = torch.autograd.grad(-bound.sum() / draws, (mean, log_std))
            optimiser.step()
        return mean.detach(), log_std.exp().detach()

    def score_function_surrogate(self, x: Tensor, baseline: float = 0.0) -> Tensor:
        """A scalar whose gradient for the encoder is the score-function estimator (vae-score-function), for comparison.

        ∇_φ E_q[f] = E_q[(f − b)∇_φ log q(z|x)] with f = log p(x, z) − log q(z|x): unbiased, and
        noisier where f is smooth and a sum over many units, though not always (vae-gradient-variance).
        """
        mean, std = self.encode(x)
        z = self.reparametrise(mean, std).detach()
        log_q = log_normal(z, mean, std)
        value = self.log_joint(x, z) - log_q
        return -((value.detach() - baseline) * log_q).mean()

    # ------------------------------------------------------------------------------------------ samples, diagnosis

    @sampling
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """E[x | z] for n draws z ~ p(z): (n, *S). Labels play no part. (`likelihood.draw` adds the decoder's noise.)"""
        check_count("n", n)
        z = torch.randn(n, self.latent, device=self.device, dtype=self.dtype)
        return self.likelihood.mean(self.decode(z))

    @torch.no_grad()
    def active_units(self, x: Tensor, threshold: float = 0.01) -> Tensor:
        """Which units carry information: Var_x E_q[z_j | x] > threshold, arXiv:1509.00519: (latent,) bool."""
        return self.encode(x)[0].var(0) > threshold
