"""D3PM: Austin, Johnson, Ho, Tarlow, van den Berg. Structured Denoising Diffusion Models in Discrete State-Spaces.
NeurIPS 2021, arXiv:2107.03006.

Notation. The paper's steps t = 0..T are here times i/T in [0, 1]; its Q̄_t is the chain's kernel at ᾱ(i/T). As in
the paper, matrices act on row vectors. (Its image code counts t = 0..T − 1 and calls the data x_{−1}.) p̃ is the
network's softmax. Where the code uses p̃ itself as p(x_0 | x_1), we use Eq. 4 at t = 1 too, so that the bound is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.core.chains import MarkovChain, MatrixChain, categorical
from gmbook.core.checks import check_count
from gmbook.core.model import sampling
from gmbook.core.schedules import LinearSchedule, Schedule
from gmbook.core.solvers import last
from gmbook.core.tokens import Network, TokenModel, check_tokens, kl_categorical


class D3PM(TokenModel):
    """A reverse chain whose every step is read from a prediction of x_0.

    The network's softmax p̃(x_0 | x_t) becomes a step by one of two forms:
    - "joint", the paper's Eq. 4 and its code: p(x_s | x_t) ∝ Σ_v q(x_s, x_t | v) p̃(v). The best p̃ is the
      *leave-one-out* law p(x_0^l | x_t^{−l}) (d3pm-leave-one-out), as the evidence of x_t^l comes in through q.
    - "mixture": p(x_s | x_t) = Σ_v q(x_s | x_t, v) p̃(v). The best p̃ is the posterior q(x_0^l | x_t), to which the
      hybrid loss's cross-entropy leads as well; with "joint" the two terms pull to different laws.
    For an absorbing chain with an extra mask the two agree.

    Args:
        net: logits of p̃: (x_t (B, *S), t (B,), y) -> (B, *S, V); for images `networks.token_unet.TokenUNet`, with
            `TruncatedLogistic` around it if the levels are ordered.
        shape: S, the event shape: (L,), or (C, H, W).
        chain: `Chain.uniform(V)`, `Chain.absorbing(V)`, `gaussian_chain(…)`, `nearest_neighbour_chain(…)`.
        steps: T.
        schedule: ᾱ at i/T. The default is the paper's mutual-information schedule β_i = 1/(T − i + 1), and the levels
            of a `MatrixChain` with T tables.
        form: how p̃ becomes a step.
        hybrid: λ of Eq. 5, on one term of the bound as in the code: 0.001 on images, 0.01 on text, absorbing.
    """

    def __init__(
        self,
        net: Network,
        shape: tuple[int, ...],
        chain: MarkovChain,
        steps: int = 1000,
        schedule: Schedule | None = None,
        form: Literal["joint", "mixture"] = "joint",
        hybrid: float = 0.0,
    ):
        super().__init__(net, shape, chain, schedule or LinearSchedule())
        if form not in ("joint", "mixture"):
            raise ValueError(f"unknown form {form!r}: 'joint' or 'mixture'")
        check_count("steps", steps)
        self.steps, self.form, self.hybrid = steps, form, hybrid

    def time(self, i: Tensor) -> Tensor:
        """t = i/T, float64."""
        return i.double() / self.steps

    def reverse(self, xt: Tensor, t: Tensor, s: Tensor, y: Tensor | None = None) -> Tensor:
        """p_θ(x_s | x_t) for any s < t, (B, *S, states): Eq. 4 (d3pm-joint-form, d3pm-mixture-form)."""
        return self._step(self(xt, t, y), xt, t, s)

    def _step(self, logits: Tensor, xt: Tensor, t: Tensor, s: Tensor) -> Tensor:
        step = self.chain.posterior if self.form == "joint" else self.chain.mixture
        return step(xt, logits.double().softmax(-1), self.schedule.alpha_bar(s), self.schedule.alpha_bar(t))

    def terms(self, x: Tensor, xt: Tensor, i: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One term of the bound, and the cross-entropy of x_0, at steps i (B,) in 1..T: (B,), (B,), nats.

        L_{i−1} = KL(q(x_{i−1} | x_i, x_0) ‖ p_θ(x_{i−1} | x_i)), which is L_0 = −log p_θ(x_0 | x_1) when i = 1.
        With an absorbing chain and the default schedule, KL = CE/i on masks and 0 elsewhere (d3pm-absorbing-kl).
        """
        t, s = self.time(i), self.time(i - 1)
        logits = self(xt, t, y)
        truth = self.chain.posterior(xt, x, self.schedule.alpha_bar(s), self.schedule.alpha_bar(t))
        kl = kl_categorical(truth, self._step(logits, xt, t, s))  # (B, *S)
        cross_entropy = F.cross_entropy(logits.movedim(-1, 1), x, reduction="none")
        return kl.flatten(1).sum(1), cross_entropy.flatten(1).sum(1)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """T/L (L_{i−1} + λ CE), i uniform on 1..T, L tokens: (), nats per token. Eq. 5 (def-d3pm-hybrid).

        The cross-entropy is that of all tokens, changed or not. At λ = 0 an unbiased estimate of the bound per token,
        but for L_T, which has no parameters.
        """
        check_tokens(x, self.shape, self.chain.vocab)
        i = torch.randint(1, self.steps + 1, (len(x),), device=x.device)
        kl, cross_entropy = self.terms(x, self.corrupt(x, self.time(i)), i, y)
        return self.steps / x[0].numel() * (kl + self.hybrid * cross_entropy).mean()

    @torch.no_grad()
    def nelbo(self, x: Tensor, y: Tensor | None = None, draws: int | None = None) -> Tensor:
        """An unbiased estimate of L_vb = L_T + Σ_i L_{i−1} ≥ −log p_θ(x): (B,), nats. Eq. 1 (d3pm-elbo).

        L_T is exact. Each of the other terms is taken at one draw of x_i.

        Args:
            draws: network calls, by default T: every term once. Fewer divide 1..T into as many ranges, and take one
                term of each for its whole range.

        Raises:
            ValueError: draws is not in 1..T.
        """
        check_tokens(x, self.shape, self.chain.vocab)
        draws = self.steps if draws is None else draws
        if not 1 <= draws <= self.steps:
            raise ValueError(f"draws must lie in 1..{self.steps}, the number of terms, got {draws}")
        total = self.prior_kl(x)
        for k in range(draws):
            first, end = k * self.steps // draws, (k + 1) * self.steps // draws
            i = torch.randint(first + 1, end + 1, (len(x),), device=x.device)
            total = total + (end - first) * self.terms(x, self.corrupt(x, self.time(i)), i, y)[0]
        return total

    @sampling
    def trajectory(
        self, n: int, y: Tensor | None = None, steps: int | None = None, greedy: bool = False
    ) -> Iterator[Tensor]:
        """x_T, …, x_0, each (n, *S). With fewer than T steps it skips: Eq. 4 holds for any s < t.

        Args:
            steps: the number of jumps, T by default.
            greedy: take the likeliest token in the last step, as the paper's code does, which narrows the law.

        Raises:
            ValueError: steps is not in 1..T; or, at the first such step, the network's logits give no law.
        """
        steps = self.steps if steps is None else steps
        check_count("steps", steps)
        if steps > self.steps:
            raise ValueError(f"the chain has {self.steps} steps, so a sampler takes at most as many jumps, got {steps}")
        levels = torch.linspace(self.steps, 0, steps + 1, dtype=torch.float64).round()
        x = self.prior(n)
        yield x
        for t, s in pairwise(self.time(levels).to(x.device)):
            law = self.reverse(x, t, s, y)
            drawn = categorical(law)  # which refuses what is no law
            x = law.argmax(-1) if greedy and s == 0 else drawn
            yield x

    def sample(self, n: int, y: Tensor | None = None, steps: int | None = None, greedy: bool = False) -> Tensor:
        """n samples, (n, *S): the end of `trajectory`."""
        return last(self.trajectory(n, y, steps, greedy))


# ------------------------------------------------------------------------------------------ transition matrices


def gaussian_matrices(betas: Tensor, vocab: int) -> Tensor:
    """Discretised Gaussians for ordinal tokens: (T,) -> (T, V, V), float64. Appendix A.2.3 (def-d3pm-gaussian).

    Off the diagonal exp(−4(i − j)²/((V − 1)²β))/Σ_{n=−(V−1)}^{V−1} exp(−4n²/((V − 1)²β)); the diagonal is what is
    missing to 1, which keeps Q symmetric, hence doubly stochastic (d3pm-doubly-stochastic).

    The paper's code writes linspace(0, 255, V) · 2/(V − 1) for 2n/(V − 1): equal at V = 256 only.
    """
    n = torch.arange(-(vocab - 1), vocab, dtype=torch.float64, device=betas.device)
    weights = (-4 * n**2 / ((vocab - 1) ** 2 * betas.double()[:, None])).softmax(-1)[:, vocab - 1 :]  # (T, V), n ≥ 0
    tokens = torch.arange(vocab, device=betas.device)
    matrices = weights[:, (tokens[:, None] - tokens).abs()]
    matrices = matrices - torch.diag_embed(matrices.diagonal(dim1=-2, dim2=-1))
    return matrices + torch.diag_embed(1 - matrices.sum(-1))


def gaussian_chain(vocab: int, betas: Tensor) -> MatrixChain:
    """A chain of `gaussian_matrices`; the paper's images have V = 256, T = 1000 and β linear from 1e-4 to 0.02.

    β scales with the square of the range. With fewer steps than that let its logarithm grow evenly: for V = 32 and T =
    100 `torch.logspace(-3.1, -0.52, 100)`, with which the exact network's samples of `laws.pairs.eight_gaussians` are
    within 0.007 of the law in total variation; with β linear to the same end they miss it by 0.025.
    """
    return MatrixChain(gaussian_matrices(betas, vocab))


def band_matrices(betas: Tensor, vocab: int, width: int) -> Tensor:
    """Steps to near tokens only, all alike: (T,) -> (T, V, V), float64. Appendix A.2 (def-d3pm-band).

    β/V for 0 < |i − j| ≤ width, 0 beyond; the diagonal is what is missing to 1. Symmetric, hence doubly stochastic.

    Raises:
        ValueError: width is not in 1..V − 1, or β is so large that a diagonal entry is negative.
    """
    if not 1 <= width < vocab:
        raise ValueError(f"width must lie in 1..{vocab - 1}, got {width}")
    tokens = torch.arange(vocab, device=betas.device)
    apart = (tokens[:, None] - tokens).abs()
    matrices = betas.double()[:, None, None] / vocab * ((apart > 0) & (apart <= width))
    stay = 1 - matrices.sum(-1)
    if bool((stay < 0).any()):
        raise ValueError(
            f"2·width·beta/V must not exceed 1: take beta up to {vocab / (2 * width):g}, or a smaller width"
        )
    return matrices + torch.diag_embed(stay)


def nearest_neighbour_rates(embeddings: Tensor, neighbours: int) -> Tensor:
    """The generator of a walk to near embeddings, (V, D) -> (V, V). Appendix A.2.4 (def-d3pm-neighbours).

    A = (G + Gᵀ)/(2k), G the k-nearest-neighbour graph; R = A off the diagonal, and its rows sum to 0.
    R is symmetric, so e^{βR} is doubly stochastic.

    Raises:
        ValueError: neighbours is not in 1..V − 1.
    """
    if not 1 <= neighbours < len(embeddings):
        raise ValueError(f"neighbours must lie in 1..{len(embeddings) - 1}, got {neighbours}")
    distances = torch.cdist(embeddings.double(), embeddings.double()).fill_diagonal_(torch.inf)
    graph = torch.zeros_like(distances).scatter_(1, distances.topk(neighbours, largest=False).indices, 1.0)
    adjacency = (graph + graph.T) / (2 * neighbours)
    return adjacency - torch.diag(adjacency.sum(-1))


def nearest_neighbour_chain(embeddings: Tensor, neighbours: int, betas: Tensor) -> MatrixChain:
    """Q_i = e^{β_i R} with `nearest_neighbour_rates` R, for β (T,). It becomes uniform if the graph is connected."""
    rates = nearest_neighbour_rates(embeddings, neighbours)
    matrices = torch.linalg.matrix_exp(betas.double()[:, None, None] * rates).clamp(min=0)
    return MatrixChain(matrices)


def equal_information_betas(rates: Tensor, law: Tensor, steps: int, end: float = 0.01) -> Tensor:
    """β_1..β_T for which I(x_0; x_i) falls evenly from H(x_0) to end·H(x_0), with Q_i = e^{β_i R}: (T,), float64.

    The mutual-information schedule of Section 3.2 and Appendix A.7 for chains that have no closed form
    (d3pm-equal-information). For the absorbing chain it is β_i = 1/(T − i + 1), whatever the law.

    Args:
        rates: R, (V, V), symmetric, with rows that sum to 0, such as `nearest_neighbour_rates`.
        law: of a data token, (V,).
        steps: T.
        end: what is left at T, as a share; above 0, which takes for ever.

    Raises:
        ValueError: R is not symmetric, or end is not in (0, 1).
    """
    rates, law = rates.double(), law.double() / law.double().sum()
    if not torch.allclose(rates, rates.T):
        raise ValueError("rates must be symmetric, as those of nearest_neighbour_rates are")
    if not 0 < end < 1:
        raise ValueError(f"end must lie in (0, 1), got {end}")
    values, vectors = torch.linalg.eigh(rates)
    entropy = torch.special.entr(law).sum()

    def information(noise: Tensor) -> Tensor:  # (T,) -> (T,), of e^{noise R}
        kernel = (vectors * (noise[:, None, None] * values).exp()) @ vectors.T
        joint = law[:, None] * kernel.clamp(min=0)
        return entropy + torch.special.entr(joint.sum(1)).sum(-1) - torch.special.entr(joint).sum((1, 2))

    wanted = entropy * (1 - (1 - end) * torch.arange(1, steps + 1, dtype=torch.float64) / steps)
    low, high = torch.full_like(wanted, -30.0), torch.full_like(wanted, 30.0)  # of log noise
    for _ in range(80):
        middle = (low + high) / 2
        more = information(middle.exp()) > wanted
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    noise = high.exp()
    return torch.diff(noise, prepend=noise.new_zeros(1))


# ------------------------------------------------------------------------------------------------ ordered levels


def truncated_logistic(mean: Tensor, log_scale: Tensor, vocab: int) -> Tensor:
    """Logits of a logistic law on V levels in [−1, 1]: (B, *S), (B, *S) -> (B, *S, V). Appendix A.8
    (d3pm-truncated-logistic).

    Level k is the bin of width 2/(V − 1) around 2k/(V − 1) − 1. Its mass under a logistic law of this mean and scale s
    is S(b) − S(a) with the sigmoid S and the edges a < b of the bin, measured in s. That is S(b)S(−a)(1 − e^{a−b}), and
    the last factor is the same for all bins; a softmax of log S(b) + log S(−a) is then the law, truncated to the bins.
    As in the authors' code s = e^{log_scale − 2}, so that a network that starts at 0 starts narrow.
    """
    half = 1 / (vocab - 1)
    centres = torch.linspace(-1, 1, vocab, dtype=mean.dtype, device=mean.device) - mean[..., None]
    per_scale = (2 - log_scale).exp()[..., None]
    return F.logsigmoid(per_scale * (centres + half)) + F.logsigmoid(-per_scale * (centres - half))


class TruncatedLogistic(nn.Module):
    """A network that says two numbers for a token, as one that says V logits: Appendix A.8 (d3pm-truncated-logistic).

    The mean is tanh(x_t + r) with the level of x_t in [−1, 1], so that r = 0 stays near what is seen, and log-scale the
    other number. A mask, which is no level, counts as 0.

    Args:
        net: (x_t (B, *S), t (B,), y) -> (B, *S, 2): r and the log-scale.
        vocab: V.
    """

    def __init__(self, net: nn.Module, vocab: int):
        super().__init__()
        self.net, self.vocab = net, vocab

    def forward(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        residual, log_scale = self.net(xt, t, y).unbind(-1)
        level = torch.where(xt < self.vocab, 2 * xt.to(residual) / (self.vocab - 1) - 1, 0.0)
        return truncated_logistic(torch.tanh(level + residual), log_scale, self.vocab)
