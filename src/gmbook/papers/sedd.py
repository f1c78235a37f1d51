"""SEDD: Lou, Meng, Ermon. Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution.
ICML 2024, arXiv:2310.16834.

Notation. The paper's dp/dt = Q p acts on columns, and Q(x, y) is the rate from y to x; our kernels act on
rows, and Q(x_t, y) is `chain.arrival_rates(x_t)` at y. σ̄(t) = −log ᾱ(t) and σ(t) = σ̄'(t) are the schedule's
`total_noise` and `noise_rate`. Scores s_y = p_t(y)/p_t(x_t) are ratios, positive, one for each of the L(V − 1)
sequences y that differ from x_t in one token; networks emit their logarithms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from gmbook.core.chains import Chain, categorical
from gmbook.core.checks import check_count
from gmbook.core.model import sampling
from gmbook.core.schedules import LinearSchedule, Schedule
from gmbook.core.solvers import last
from gmbook.core.tokens import Network, TokenModel, clamp


def score_entropy(log_score: Tensor, ratio: Tensor) -> Tensor:
    """s − r log s + K(r), K(r) = r(log r − 1): elementwise, ≥ 0, zero only at s = r. Definition 3.1.

    (def-sedd-score-entropy, sedd-score-entropy). The Bregman divergence of u log u from s to r, here as a function
    of log s, in which it is convex.
    """
    return log_score.exp() - ratio * log_score + torch.xlogy(ratio, ratio) - ratio


class SEDD(TokenModel):
    """A continuous-time reverse chain whose rates are read from ratios of the law: s_y Q(x_t, y).

    Args:
        net: log-scores, (x_t (B, *S), t (B,), y) -> (B, *S, V): entry (l, v) for x_t with token l set to v. The
            entry of the present token is ignored, and all of them where an absorbing chain holds no mask.
        shape: S, the event shape: (L,), or (C, H, W).
        chain: `Chain.uniform(V)` or `Chain.absorbing(V)`.
        schedule: ᾱ(t), with ᾱ(1) > 0, as ratios are undefined without a trace of the data. The default is the
            paper's log-linear noise for the absorbing chain; for the uniform one it uses `GeometricSchedule()`.
        scaled: add to the output the log-score of uniform data, so that the network starts at a good scale: the
            paper's `scale_by_sigma` for the absorbing chain, −log(e^σ̄ − 1) − log V, and 0 for the uniform one.

    Raises:
        ValueError: ᾱ(1) = 0.
    """

    chain: Chain

    def __init__(
        self,
        net: Network,
        shape: tuple[int, ...],
        chain: Chain,
        schedule: Schedule | None = None,
        scaled: bool = False,
    ):
        super().__init__(net, shape, chain, schedule or LinearSchedule(end=1e-3))
        if not bool(self.schedule.alpha_bar(self.moment(1.0)) > 0):
            raise ValueError("SEDD needs a schedule with alpha_bar(1) > 0, such as LinearSchedule(end=1e-3)")
        self.scaled = scaled

    def log_score(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """log s_θ(x_t, t), float64: (B, *S, states), 0 at the present token (def-sedd-concrete-score).

        An absorbing chain never asks for the mask's score where there is a token: it is 0 there.
        """
        output = self(xt, t, y).double()
        if self.scaled:
            law = self.chain.prior(self.schedule.alpha_bar(t.double()))  # (states,) or (B, states)
            law = law.reshape(-1, *[1] * len(self.shape), self.chain.states).expand(*xt.shape, -1)
            output = output + (law / law.gather(-1, xt[..., None])).log()[..., : self.chain.vocab]
        padding = output.new_zeros(*xt.shape, self.chain.states - self.chain.vocab)
        return torch.cat([output, padding], -1).masked_fill(self._present(xt), 0.0)

    def _present(self, xt: Tensor) -> Tensor:
        return self.chain.law(xt).bool()

    def _rates(self, xt: Tensor) -> Tensor:
        """Q(x_t, y) at unit noise rate, for y ≠ x_t, and 0 for y = x_t: (B, *S, states)."""
        return self.chain.arrival_rates(xt).masked_fill(self._present(xt), 0.0)

    def integrand(self, x: Tensor, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Σ_{y≠x_t} Q_t(x_t, y)(s_y − r_y log s_y + K(r_y)), r_y = q(y | x_0)/q(x_t | x_0): (B,), nats.

        The integrand of the diffusion-weighted denoising score entropy, Theorem 3.6 (sedd-denoising). Every y
        reaches x_t at the rate σ(t)π_{x_t}, so an absorbing chain weighs masked positions only; with
        s_y = x_θ(y)/(e^σ̄ − 1) it is MDLM's weighted cross-entropy (sedd-absorbing).
        """
        alpha_bar = self.schedule.alpha_bar(t)
        law = self.chain.transition(x, alpha_bar)
        ratio = law / law.gather(-1, xt[..., None])
        entropy = (self._rates(xt) * score_entropy(self.log_score(xt, t, y), ratio)).flatten(1).sum(1)
        return self.schedule.noise_rate(t) * entropy

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The bound's integrand at one low-discrepancy time each: (), nats per token. Algorithm 1."""
        t = self.draw_times(len(x))
        return self.integrand(x, self.corrupt(x, t), t, y).mean() / x[0].numel()

    @torch.no_grad()
    def nelbo(self, x: Tensor, y: Tensor | None = None, times: int = 128) -> Tensor:
        """An unbiased estimate of a bound on −log p_θ(x): (B,), nats. Theorem 3.6 (sedd-elbo).

        ∫_0^1 integrand dt + KL(q(x_1 | x_0) ‖ p(x_1)) − E log p_θ(x_0 | x_{t=0}). Published code leaves out the
        last two. The last is zero if ᾱ(0) = 1; else the Tweedie step from σ̄(0) to 0 decodes.

        Args:
            times: the number of intervals of [0, 1], one draw of (t, x_t) in each: the cost in network calls.
        """
        total = self.integrate(x, y, times)
        start = self.moment(0.0)
        xt = self.corrupt(x, start)
        decoder = self.tweedie(xt, start, torch.ones_like(start), y)
        return total - decoder.gather(-1, x[..., None]).log().flatten(1).sum(1)

    def euler(self, xt: Tensor, t: Tensor, alpha_bar_s: Tensor, y: Tensor | None = None) -> Tensor:
        """p(x_s | x_t) = δ_{x_t} + Δσ̄ s_y Q(x_t, y), clipped to a law: (B, *S, states). Section 4.1 (sedd-euler).

        The step is the difference of σ̄, which is σ(t)Δt to first order and stays finite at the ends.
        """
        step = (alpha_bar_s / self.schedule.alpha_bar(t)).log()
        jumps = step * self.log_score(xt, t, y).exp() * self._rates(xt)
        stay = (1 - jumps.sum(-1, keepdim=True)).clamp(min=0)
        law = torch.where(self._present(xt), stay, jumps)
        return law / law.sum(-1, keepdim=True)

    def tweedie(self, xt: Tensor, t: Tensor, alpha_bar_s: Tensor, y: Tensor | None = None) -> Tensor:
        """p(x_s^l | x_t) ∝ (e^{−Δσ̄Q} s_θ)_y e^{Δσ̄Q}(x_t, y): (B, *S, states). Eq. 19, after Theorem 4.1
        (sedd-tweedie).

        With the true scores this is q(x_s^l | x_t) itself; tokens are then drawn independently, which is where
        the error of a finite step comes from. At alpha_bar_s = 1, where data hold no mask, the mask's entry is cut off:
        learned scores leave it some mass.
        """
        alpha_bar = self.schedule.alpha_bar(t)
        undone = self.chain.undo(self.log_score(xt, t, y).exp(), alpha_bar, alpha_bar_s)
        law = (undone * self.chain.arrival(xt, alpha_bar, alpha_bar_s)).clamp(min=0)
        law[..., self.chain.vocab :] *= alpha_bar_s < 1
        return law / law.sum(-1, keepdim=True)

    @sampling
    def trajectory(
        self,
        n: int,
        y: Tensor | None = None,
        steps: int = 128,
        sampler: Literal["tweedie", "euler"] = "tweedie",
        known: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """x_1, …, x_0, each (n, *S): Algorithms 2 and 3.

        Args:
            steps: steps of equal length in t from 1 to 0. The last one, a Tweedie step with either sampler, goes
                to σ̄ = 0, so that no mask and no noise are left.
            known: infilling: tokens (n, *S) to clamp, −1 where they are sought. Exact for the absorbing chain, whose
                known tokens look the same at every time.
        """
        if sampler not in ("tweedie", "euler"):
            raise ValueError(f"unknown sampler {sampler!r}: 'tweedie' or 'euler'")
        check_count("steps", steps)
        x = clamp(self.prior(n), known)
        yield x
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=x.device)
        alpha_bars = self.schedule.alpha_bar(times)
        alpha_bars[-1] = 1.0
        for k, (t, alpha_bar_s) in enumerate(zip(times[:-1], alpha_bars[1:])):
            step = self.euler if sampler == "euler" and k < steps - 1 else self.tweedie
            x = clamp(categorical(step(x, t, alpha_bar_s, y)), known)
            yield x

    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        steps: int = 128,
        sampler: Literal["tweedie", "euler"] = "tweedie",
        known: Tensor | None = None,
    ) -> Tensor:
        """n samples, (n, *S): the end of `trajectory`."""
        return last(self.trajectory(n, y, steps, sampler, known))
