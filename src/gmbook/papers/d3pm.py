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
from torch import Tensor

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
        net: logits of p̃: (x_t (B, L), t (B,), y) -> (B, L, V).
        shape: (L,).
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
        """p_θ(x_s | x_t) for any s < t, (B, L, states): Eq. 4 (d3pm-joint-form, d3pm-mixture-form)."""
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
        kl = kl_categorical(truth, self._step(logits, xt, t, s))  # (B, L)
        return kl.sum(-1), F.cross_entropy(logits.mT, x, reduction="none").sum(-1)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """T/L (L_{i−1} + λ CE), i uniform on 1..T: (), nats per token. Eq. 5 (def-d3pm-hybrid).

        At λ = 0 an unbiased estimate of the bound per token, but for L_T, which has no parameters.
        """
        check_tokens(x, self.shape, self.chain.vocab)
        i = torch.randint(1, self.steps + 1, (len(x),), device=x.device)
        kl, cross_entropy = self.terms(x, self.corrupt(x, self.time(i)), i, y)
        return self.steps / x.shape[1] * (kl + self.hybrid * cross_entropy).mean()

    @torch.no_grad()
    def nelbo(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """An unbiased estimate of L_vb = L_T + Σ_i L_{i−1} ≥ −log p_θ(x): (B,), nats. Eq. 1 (d3pm-elbo).

        All T terms, with one draw of x_i each; L_T is exact.
        """
        check_tokens(x, self.shape, self.chain.vocab)
        total = self.prior_kl(x)
        for i in range(1, self.steps + 1):
            index = torch.full((len(x),), i, device=x.device)
            total = total + self.terms(x, self.corrupt(x, self.time(index)), index, y)[0]
        return total

    @sampling
    def trajectory(
        self, n: int, y: Tensor | None = None, steps: int | None = None, greedy: bool = False
    ) -> Iterator[Tensor]:
        """x_T, …, x_0, each (n, L). With fewer than T steps it skips: Eq. 4 holds for any s < t.

        Args:
            steps: the number of jumps, T by default; of more than T, those between equal levels stand still.
            greedy: take the likeliest token in the last step, as the paper's code does, which narrows the law.
        """
        steps = self.steps if steps is None else steps
        check_count("steps", steps)
        levels = torch.linspace(self.steps, 0, steps + 1, dtype=torch.float64).round()
        x = self.prior(n)
        yield x
        for t, s in pairwise(self.time(levels).to(x.device)):
            law = self.reverse(x, t, s, y)
            x = law.argmax(-1) if greedy and s == 0 else categorical(law)
            yield x

    def sample(self, n: int, y: Tensor | None = None, steps: int | None = None, greedy: bool = False) -> Tensor:
        """n samples, (n, L): the end of `trajectory`."""
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

    β scales with the square of the range: for V = 32 and T = 100 take about 1e-3 to 0.2.
    """
    return MatrixChain(gaussian_matrices(betas, vocab))


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
