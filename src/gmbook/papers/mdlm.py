"""MDLM: Sahoo, Arriola, Schiff, Gokaslan, Marroquin, Chiu, Rush, Kuleshov. Simple and Effective Masked Diffusion
Language Models. NeurIPS 2024, arXiv:2406.07524. Section and equation numbers are those of arXiv v2.

Notation. The paper's α_t is our ᾱ(t) = `schedule.alpha_bar`, a probability; its z_t is x_t; its mask m is the token
V = vocab. The paper multiplies columns. Its code clips t at 10⁻³ and ends with an argmax; in float64 neither is
needed: ᾱ(0) = 1, so that the last step reveals every mask by a draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from gmbook.core.chains import Chain, categorical
from gmbook.core.checks import as_time, check_count
from gmbook.core.model import sampling
from gmbook.core.schedules import LinearSchedule, Schedule
from gmbook.core.solvers import last
from gmbook.core.tokens import Network, TokenModel, check_tokens, clamp


class MDLM(TokenModel):
    """Absorbing diffusion with the SUBS parametrisation, which makes the bound a weighted masked cross-entropy.

    Args:
        net: logits (x_t (B, L) in 0..V, t (B,), y) -> (B, L, V).
        shape: (L,).
        vocab: V; the mask is token V.
        schedule: ᾱ(t), by default 1 − t. The continuous-time bound does not depend on it.
        timed: show the network the time. The ideal network needs no t: x_t says which tokens are masked, and
            nothing else matters. By default it sees t = 0, and samplers may reuse its output while x_t stands.
    """

    def __init__(
        self,
        net: Network,
        shape: tuple[int, ...],
        vocab: int,
        schedule: Schedule | None = None,
        timed: bool = False,
    ):
        if len(shape) != 1:
            raise ValueError(
                f"shape must be (L,), one axis of tokens, got {tuple(shape)}: flatten the data and the network"
            )
        super().__init__(net, shape, Chain.absorbing(vocab), schedule or LinearSchedule())
        self.timed = timed

    @property
    def mask(self) -> int:
        """The mask token's index, V."""
        return self.chain.vocab

    def log_probs(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """log x_θ(x_t), SUBS: (B, L, V). Section 3.2.3, after Eq. 7 (def-mdlm-subs).

        Zero mask probability: the network has no output for the mask. Carry-over: a token that shows is itself
        with probability 1, so that its log is 0 there and −∞ elsewhere. At a mask the ideal answer is the data's
        conditional given what shows, at every time (mdlm-timeless).
        """
        t = as_time(t, xt)
        logits = self(xt, t if self.timed else torch.zeros_like(t), y)
        shown = torch.where(self.chain.law(xt)[..., : self.mask].bool(), 0.0, -torch.inf).to(logits)
        return torch.where((xt == self.mask)[..., None], logits.log_softmax(-1), shown)

    def cross_entropy(self, x: Tensor, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """−Σ_l log x_θ^l(x_t)[x^l], to which only masked positions contribute: (B,), nats."""
        return -self.log_probs(xt, t, y).gather(-1, x[..., None]).sum((-2, -1))

    def integrand(self, x: Tensor, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """−ᾱ'/(1 − ᾱ) · cross-entropy: (B,), nats. Eq. 11 (mdlm-nelbo).

        The weight is 1/t for ᾱ = 1 − t; its second moment at a masked letter grows like log 1/ε (mdlm-weight-variance).
        """
        return self.schedule.reveal_rate(t) * self.cross_entropy(x, xt, t, y)

    def term(self, x: Tensor, xt: Tensor, t: Tensor, s: Tensor, y: Tensor | None = None) -> Tensor:
        """(ᾱ_s − ᾱ_t)/(1 − ᾱ_t) · cross-entropy, the bound's term of a finite step t -> s: (B,), nats.

        Eq. 8 (mdlm-nelbo-discrete). Absorbing D3PM's terms, as its paper parametrises them, are these (mdlm-d3pm).
        """
        return self._reveal(t, s) * self.cross_entropy(x, xt, t, y)

    def _reveal(self, t: Tensor, s: Tensor) -> Tensor:
        """The probability that a mask at t is a token at s: (ᾱ_s − ᾱ_t)/(1 − ᾱ_t). Eqs. 6, 7 (mdlm-posterior)."""
        return (self.schedule.alpha_bar(s) - self.schedule.alpha_bar(t)) / self.schedule.moved(t)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The bound at one low-discrepancy time each: (), nats per token, averaged over all tokens, masked or not."""
        t = self.draw_times(len(x))
        return self.integrand(x, self.corrupt(x, t), t, y).mean() / x.shape[1]

    def loss_by_counts(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The bound at one number of masks for each row, E_k mean_{l∈S} −log x_θ^l: (), nats per token.

        The same expectation as `loss` for an untimed network, with no weight 1/t (mdlm-mask-counts). The counts k are
        uniform on 1..L and of low discrepancy, as `draw_times`.
        """
        k = 1 + (self.draw_times(len(x)) * x.shape[1]).long()
        return (self.cross_entropy(x, self.hide(x, k), self.moment(0.0), y) / k).mean()

    def masked_mean(self, x: Tensor, low: float, high: float, y: Tensor | None = None) -> Tensor:
        """The mean of −log x_θ^l over all masks of a batch, for times uniform on [low, high]: (), nats per mask.

        No bound: the shares of masks between `low` and `high` count, and each mask in them as much as any other. Its
        minimum over all networks is that of the bound wherever it looks, since each guess is scored by its own
        logarithm. Not in the paper; BERT's loss is low = high = 0.15.

        Raises:
            ValueError: not 0 < low <= high <= 1.
        """
        if not 0 < low <= high <= 1:
            raise ValueError(f"need 0 < low <= high <= 1, got {low} and {high}")
        xt = self.corrupt(x, low + (high - low) * self.draw_times(len(x)))
        return self.cross_entropy(x, xt, self.moment(0.0), y).sum() / (xt == self.mask).sum().clamp(min=1)

    def hide(self, x: Tensor, k: Tensor) -> Tensor:
        """x with k of its tokens masked, every set of k equally likely: x (B, L), k (B,) -> (B, L)."""
        ranks = torch.rand(x.shape, dtype=torch.float64, device=x.device).argsort(-1).argsort(-1)
        return torch.where(ranks < k[:, None], self.mask, x)

    @torch.no_grad()
    def nelbo(self, x: Tensor, y: Tensor | None = None, times: int = 128) -> Tensor:
        """An unbiased estimate of the continuous-time bound on −log p_θ(x): (B,), nats (mdlm-nelbo).

        It depends on the schedule's ends only (mdlm-schedule-invariance), and for an untimed network it is the mean
        over all orders of the any-order autoregressive −log p (mdlm-any-order).

        Args:
            times: the number of intervals of [0, 1], one draw of (t, x_t) in each: the cost in network calls.
        """
        return self.integrate(x, y, times)

    @torch.no_grad()
    def nelbo_discrete(self, x: Tensor, y: Tensor | None = None, steps: int = 128) -> Tensor:
        """An unbiased estimate of the bound of the `steps`-step sampler: (B,), nats (mdlm-nelbo-discrete).

        All terms, with one draw of x_t each. It falls with the number of steps to `nelbo`; for the ideal network, from
        the entropy plus the total correlation at one step (mdlm-total-correlation), and for two tokens by information
        over steps (mdlm-two-token-gap).
        """
        check_tokens(x, self.shape, self.chain.vocab)
        total = self.prior_kl(x)
        for t, s in pairwise(self._times(steps)):
            total = total + self.term(x, self.corrupt(x, t), t, s, y)
        return total

    @torch.no_grad()
    def nelbo_by_counts(self, x: Tensor, y: Tensor | None = None, draws: int | None = None) -> Tensor:
        """An unbiased estimate of `nelbo`'s value, Σ_k E_{|S|=k} mean_{l∈S} −log x_θ^l: (B,), nats (mdlm-mask-counts).

        The time is integrated out, which leaves each set of masks with its weight (mdlm-mask-weights): only the number
        of masks is drawn, and then which. No weight 1/t is left, so that
        the variance is finite. Not in the paper; Nie et al., arXiv:2502.09992, evaluate in this way.

        Args:
            draws: network calls, by default L: each number of masks once. Fewer divide 1..L into as many ranges.

        Raises:
            ValueError: the network sees the time, which this estimate has no value for.
        """
        check_tokens(x, self.shape, self.chain.vocab)
        if self.timed:
            raise ValueError("the bound is a sum over mask counts for untimed networks only: use nelbo(x)")
        length, total, zero = x.shape[1], self.prior_kl(x), self.moment(0.0)
        draws = length if draws is None else draws
        check_count("draws", draws)
        for j in range(draws):
            u = torch.rand(len(x), dtype=torch.float64, device=x.device)
            k = 1 + ((j + u) / draws * length).long()  # uniform on 1..L over all draws together
            total = total + length / draws * self.cross_entropy(x, self.hide(x, k), zero, y) / k
        return total

    def _times(self, steps: int) -> Tensor:
        check_count("steps", steps)
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=self.device)

    @sampling
    def trajectory(
        self, n: int, y: Tensor | None = None, steps: int = 128, known: Tensor | None = None, cache: bool = True
    ) -> Iterator[Tensor]:
        """x_1, …, x_0, each (n, L): the ancestral sampler, Section 4.1 (mdlm-ancestral).

        In each step a mask is revealed with probability (ᾱ_s − ᾱ_t)/(1 − ᾱ_t), its token drawn from x_θ.
        Tokens revealed in the same step are independent: with the ideal network and ᾱ = 1 − t, two tokens come
        from (1 − 1/N) p + (1/N) p_1 ⊗ p_2 after N steps (mdlm-two-token-law).

        Args:
            steps: steps of equal length in t from 1 to 0.
            known: infilling: tokens (n, L) that stand, −1 where they are sought.
            cache: call the network on rows that changed and are not done, only (mdlm-cache-calls); of no effect if the
                network is `timed`.
        """
        check_count("n", n)
        times, y = self._times(steps), self.labels(y, n)
        x = clamp(torch.full((n, *self.shape), self.mask, device=self.device), known)
        yield x
        probabilities = torch.zeros(*x.shape, self.mask, dtype=torch.float64, device=x.device)
        stale = torch.ones(n, dtype=torch.bool, device=x.device)
        for t, s in pairwise(times):
            rows = stale if cache and not self.timed else torch.ones_like(stale)
            if bool(rows.any()):
                labels = None if y is None else y[rows]
                probabilities[rows] = self.log_probs(x[rows], t, labels).double().exp()
            revealed = torch.rand(x.shape, dtype=torch.float64, device=x.device) < self._reveal(t, s)
            revealed &= x == self.mask
            x = torch.where(revealed, categorical(probabilities), x)
            stale = revealed.any(-1) & (x == self.mask).any(-1)
            yield x

    def sample(
        self, n: int, y: Tensor | None = None, steps: int = 128, known: Tensor | None = None, cache: bool = True
    ) -> Tensor:
        """n samples, (n, L): the end of `trajectory`."""
        return last(self.trajectory(n, y, steps, known, cache))

    @sampling
    def first_hitting(self, n: int, y: Tensor | None = None) -> Tensor:
        """n samples, (n, L), with no error from finite steps, in L network calls. Zheng et al., arXiv:2409.02908.

        With m masks left, the next one is revealed when 1 − ᾱ has fallen by a factor u^{1/m}, u uniform; it is
        any of the m, and its token comes from x_θ at that time (mdlm-first-hitting).
        """
        check_count("n", n)
        x = torch.full((n, *self.shape), self.mask, device=self.device)
        moved = self.schedule.moved(self.moment(1.0)).expand(n)
        rows = torch.arange(n, device=x.device)
        for masks in range(self.shape[0], 0, -1):
            moved = moved * torch.rand(n, dtype=torch.float64, device=x.device) ** (1 / masks)
            position = categorical((x == self.mask).double())
            probabilities = self.log_probs(x, self.schedule.time(moved), y)[rows, position].double().exp()
            x[rows, position] = categorical(probabilities)
        return x

    @torch.no_grad()
    def semi_autoregressive(
        self, n: int, length: int, stride: int, y: Tensor | None = None, steps: int = 128
    ) -> Tensor:
        """n sequences of any length, (n, length): the model's window slides by `stride`. Section 4.2.

        The window's last L − stride tokens stand, the next `stride` are sampled given them.

        Raises:
            ValueError: stride is not in 1..L, or length is below L.
        """
        window = self.shape[0]
        if not 1 <= stride <= window or length < window:
            raise ValueError(f"need 1 <= stride <= {window} <= length, got stride {stride} and length {length}")
        text = self.sample(n, y, steps)
        while text.shape[1] < length:
            sought = torch.full((n, stride), -1, device=text.device)
            known = torch.cat([text[:, text.shape[1] - window + stride :], sought], 1)
            text = torch.cat([text, self.sample(n, y, steps, known)[:, -stride:]], 1)
        return text[:, :length]
