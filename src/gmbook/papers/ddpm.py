"""Denoising Diffusion Probabilistic Models. Ho, Jain, Abbeel, NeurIPS 2020, arXiv:2006.11239.

The paper's letters: β_i, α_i = 1 − β_i, ᾱ_i = ∏α_j for i = 1..T, and ᾱ_0 = 1. (`GaussianPath.alpha` of the book is √ᾱ.)
The book's time is t = i/T; tables here are indexed by the paper's i directly, with an entry for i = 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from gmbook.core.checks import check_count, check_range
from gmbook.core.denoiser import Denoiser
from gmbook.core.gaussians import kl_normal, log_discretised_normal, log_normal
from gmbook.core.model import sampling
from gmbook.core.paths import Quantity, TablePath, broadcast
from gmbook.core.solvers import last


def linear_betas(steps: int = 1000) -> Tensor:
    """The paper's table β_1..β_T, linear from 1e-4 to 0.02 at T = 1000 (§4): (T,), float64.

    For another T both ends are scaled by 1000/T, so that ᾱ_T stays about 4e-5 and the prior still fits;
    β is kept below 0.999, which only T < 21 feels. At T = 1 the one entry is the last, 0.999.

    Raises:
        ValueError: steps < 1.
    """
    check_count("steps", steps)
    if steps == 1:
        return torch.tensor([0.999], dtype=torch.float64)
    scale = 1000 / steps
    return torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64).clamp(max=0.999)


class DDPM(Denoiser):
    """A diffusion model with T steps and a fixed reverse variance.

    Args:
        net: net(x_t (B, *S), t (B,), y) -> (B, *S).
        shape: the event shape S.
        steps: T.
        betas: the table (T,); None for the paper's linear one.
        predicts: what the network outputs: "eps" in the paper, or any other quantity.
        variance: σ_i² of the reverse step: "large" is β_i, "small" is β̃_i (§3.2). They are optimal for x_0 ~ N(0, I)
            and for a single point. At i = 1, where only the decoder reads it, both are β̃_2, as in the authors' code.
        clip: sampling clips x̂_0 to [−clip, clip]; 1.0 for images in [−1, 1], None for toys.
        levels: the decoder of the last step: 256 for images on the grid −1 + 2k/255 (Eq. 13), None for a density.
    """

    # tables of step i, (T + 1,), float64, made by the constructor and not saved; the entry at i = 0 is never read
    beta: Tensor
    alpha_bar: Tensor
    weight_x0: Tensor
    weight_xt: Tensor
    beta_tilde: Tensor
    least_variance: Tensor  # β̃_i, and β̃_2 at i = 1
    sigma_squared: Tensor  # β_i or β̃_i, and β̃_2 at i = 1
    chosen_variance: Tensor  # β_i or β̃_i as the paper has them, at i = 1 too

    def __init__(
        self,
        net: nn.Module,
        shape: tuple[int, ...],
        steps: int = 1000,
        betas: Tensor | None = None,
        predicts: Quantity = "eps",
        variance: Literal["large", "small"] = "large",
        clip: float | None = None,
        levels: int | None = None,
    ):
        betas = linear_betas(steps) if betas is None else betas.double()
        super().__init__(net, TablePath(betas), predicts, shape)
        if variance not in ("large", "small"):
            raise ValueError(f'variance must be "large" (β) or "small" (β̃), got {variance!r}')
        self.steps, self.clip, self.levels = len(betas), clip, levels
        zero, one = torch.zeros_like(betas[:1]), torch.ones_like(betas[:1])
        beta = torch.cat([zero, betas])
        alpha_bar = torch.cat([one, torch.cumprod(1 - betas, 0)])
        times = torch.arange(len(betas) + 1, dtype=torch.float64, device=betas.device) / len(betas)
        bridge = self.path.bridge(times[1:], times[:-1])
        beta_tilde = torch.cat([zero, bridge.std**2])
        # β̃_1 = 0 has no density: as in the authors' code, the decoder then takes the variance of i = 2; a chain of one
        # step has none, and takes β_1
        least = beta_tilde.clone()
        least[1] = beta_tilde[2] if self.steps > 1 else beta[1]
        tables = {
            "beta": beta,
            "alpha_bar": alpha_bar,
            "weight_x0": torch.cat([zero, bridge.weight_x0]),  # the entry at i = 0 is never read
            "weight_xt": torch.cat([one, bridge.weight_xt]),
            "beta_tilde": beta_tilde,
            "least_variance": least,  # β̃_i, and at i = 1 β̃_2, or β_1 where T = 1
            "sigma_squared": torch.cat([least[:2], (beta if variance == "large" else least)[2:]]),
            "chosen_variance": beta if variance == "large" else beta_tilde,
        }
        for name, table in tables.items():  # all (T + 1,), float64, made by the constructor and not saved
            self.register_buffer(name, table, persistent=False)

    # ------------------------------------------------------------------------------------------------ training

    def check_data(self, x0: Tensor) -> None:
        """Refuse what is no batch of the model's data; where it has levels, pixels that are not in [−1, 1].

        Raises:
            TypeError, ValueError: as `check`, and for pixels in 0..255.
        """
        self.check(x0)
        if self.levels is not None and self.watch(x0):
            check_range(x0, -1.0, 1.0, "scale the pixels with gmbook.data.scale, or build the model with levels=None")

    def check_grid(self, x0: Tensor) -> None:
        """As `check_data`; and where a decoder weighs the bins of −1 + 2k/(levels − 1), refuse what lies between.

        Raises:
            ValueError: some pixel is no grey level, as those of [0, 1] are not.
        """
        self.check_data(x0)
        if self.levels is not None and self.watch(x0):
            place = (x0 + 1) * ((self.levels - 1) / 2)
            if bool(((place - place.round()).abs() > 0.1).any()):
                raise ValueError(
                    f"the decoder needs pixels on the grid -1 + 2k/{self.levels - 1}, k = 0..{self.levels - 1}: scale "
                    "integers with gmbook.data.scale, or build the model with levels=None for a density"
                )

    def loss(self, x0: Tensor, y: Tensor | None = None) -> Tensor:
        """L_simple, Algorithm 1 and Eq. 14 (ddpm-simple): E ‖ε − ε_θ(√ᾱ_i x_0 + √(1 − ᾱ_i) ε, i)‖², mean over
        dimensions.

        With another `predicts` the same regression for that quantity.
        """
        self.check_data(x0)
        t = torch.randint(1, self.steps + 1, (len(x0),), device=x0.device).double() / self.steps
        eps = torch.randn_like(x0)
        xt = self.path.interpolate(x0, eps, t)
        return (self(xt, t, y) - self.path.target(self.predicts, x0, eps, t)).square().mean()

    # ------------------------------------------------------------------------------------------------ sampling

    def posterior(self, x0: Tensor, xt: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        """q(x_{i−1} | x_i, x_0) = N(μ̃, β̃_i I), Eqs. 6–7 (ddpm-posterior).

        Args:
            i: int64, () or (B,), in 1..T.

        Returns:
            μ̃ = √ᾱ_{i−1}β_i/(1 − ᾱ_i) x_0 + √α_i(1 − ᾱ_{i−1})/(1 − ᾱ_i) x_i, (B, *S), and the *variance* β̃_i, like i.
        """
        mean = broadcast(self.weight_x0[i], xt) * x0 + broadcast(self.weight_xt[i], xt) * xt
        return mean, self.beta_tilde[i]

    def reverse_mean(self, xt: Tensor, i: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """μ_θ(x_i, i) = μ̃(x_i, x̂_0), Eq. 11 (ddpm-mean), and x̂_0, clipped if the model clips: each (B, *S)."""
        return self._mean_from(self(xt, i.double() / self.steps, y), xt, i)

    def _mean_from(self, output: Tensor, xt: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
        """`reverse_mean` from a network output that is already computed."""
        x0 = self.read("x0", output, xt, i.double() / self.steps)
        if self.clip is not None:
            x0 = x0.clamp(-self.clip, self.clip)
        return self.posterior(x0, xt, i)[0], x0

    def reverse(self, xt: Tensor, i: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """p_θ(x_{i−1} | x_i) = N(μ_θ, σ_i² I), for i () or (B,): the mean (B, *S) and the *variance*, broadcastable.

        One network call. A model that learns its variance replaces this method; sampling and the bound follow.
        """
        return self.reverse_mean(xt, i, y)[0], broadcast(self.sigma_squared[i], xt)

    def step(self, xt: Tensor, i: int, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """One line of Algorithm 2: x_{i−1} = μ_θ + σ_i z, with z = 0 when i = 1 (ddpm-ancestral).

        A temperature τ makes it τ σ_i z; the paper has τ = 1.
        """
        mean, variance = self.reverse(xt, torch.as_tensor(i, device=xt.device), y)
        return mean if i == 1 else mean + temperature * variance.sqrt() * torch.randn_like(xt)

    @sampling
    def trajectory(self, x: Tensor, y: Tensor | None = None, temperature: float = 1.0) -> Iterator[Tensor]:
        """Algorithm 2 from x_T = x: yields x_{T−1}, …, x_0."""
        for i in range(self.steps, 0, -1):
            x = self.step(x, i, y, temperature)
            yield x

    def sample(self, n: int, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """n samples by Algorithm 2, T network calls: (n, *S)."""
        return last(self.trajectory(self.noise(n), y, temperature))

    # ------------------------------------------------------------------------------------- the variational bound

    def bound_term(self, x0: Tensor, i: Tensor, y: Tensor | None = None) -> Tensor:
        """L_{i−1} at one draw of x_i, for i (B,) in 1..T, nats summed over dimensions: (B,). Eq. 5 (ddpm-vlb).

        i > 1: KL(q(x_{i−1} | x_i, x_0) ‖ p_θ(x_{i−1} | x_i)). i = 1: −log p_θ(x_0 | x_1), discretised or a density.
        """
        xt = self.path.interpolate(x0, torch.randn_like(x0), i.double() / self.steps)
        return self._bound_term(x0, xt, i, *self.reverse(xt, i, y))

    def _bound_term(self, x0: Tensor, xt: Tensor, i: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """`bound_term` at a given x_i, for a reverse law N(mean, variance) that is already computed."""
        mean_q, variance_q = self.posterior(x0, xt, i)
        std, std_q = variance.sqrt(), broadcast(variance_q.clamp(min=1e-20).sqrt(), xt)
        kl = kl_normal(mean_q, std_q, mean, std).flatten(1).sum(1)
        return torch.where(i == 1, -self._log_decoder(x0, mean, std), kl)

    def _log_decoder(self, x0: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        if self.levels is None:
            return log_normal(x0, mean, std)
        return log_discretised_normal(x0, mean, std.expand_as(x0), self.levels).flatten(1).sum(1)

    def prior_term(self, x0: Tensor) -> Tensor:
        """L_T = KL(q(x_T | x_0) ‖ N(0, I)), exact, nats: (B,)."""
        alpha_bar = self.alpha_bar[-1].to(x0.dtype)
        std = (1 - alpha_bar).sqrt().expand_as(x0)
        return kl_normal(alpha_bar.sqrt() * x0, std).flatten(1).sum(1)

    @torch.no_grad()
    def bound_terms(self, x0: Tensor, y: Tensor | None = None) -> Tensor:
        """All terms L_0, …, L_{T−1}, L_T of the bound, one draw of each x_i: (B, T + 1), nats. T network calls."""
        self.check_grid(x0)
        steps = range(1, self.steps + 1)
        terms = [self.bound_term(x0, torch.full((len(x0),), i, device=x0.device), y) for i in steps]
        return torch.stack([*terms, self.prior_term(x0)], 1)

    def nelbo(self, x0: Tensor, y: Tensor | None = None) -> Tensor:
        """An unbiased estimate of the variational bound L ≥ −log p_θ(x_0), nats: (B,). T network calls."""
        return self.bound_terms(x0, y).sum(1)

    def simple_weight(self, i: Tensor) -> Tensor:
        """The factor of ‖ε − ε_θ‖² in L_{i−1}: β_i²/(2σ_i²α_i(1 − ᾱ_i)), Eq. 12 (ddpm-weight). Like i.

        With the paper's σ_i², β_i or β̃_i, for all i: at i = 1 "small" has β̃_1 = 0, an infinite weight.
        """
        beta = self.beta[i]
        return beta**2 / (2 * self.chosen_variance[i] * (1 - beta) * (1 - self.alpha_bar[i]))
