"""Models on token chains: what D3PM, SEDD and MDLM share; and the ideal networks of a law that is small and known."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmbook.core.chains import MarkovChain, categorical
from gmbook.core.checks import as_time, check_count
from gmbook.core.model import Model
from gmbook.core.schedules import Schedule

Network = Callable[
    [Tensor, Tensor, Tensor | None], Tensor
]  # (B, *S) int64, (B,), y -> (B, *S, V); a module or a function


def check_tokens(
    x: Tensor, shape: tuple[int, ...], states: int, look: Callable[[Tensor], bool] = lambda x: not x.is_meta
) -> None:
    """Refuse what is not a batch (B, *shape) of int64 tokens in 0..states − 1.

    Args:
        look: whether to look at the values now, such as a `Watch`; always, by default.

    Raises:
        TypeError: x is no tensor, or not int64.
        ValueError: x has another event shape, or a token is out of range.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"expected int64 tokens, got {type(x).__name__}: torch.as_tensor(x) makes a tensor")
    if x.dtype != torch.int64:
        raise TypeError(f"expected int64 tokens, got {x.dtype}: use x.long() on whole numbers, or quantise first")
    if x.shape[1:] != shape:
        raise ValueError(f"expected tokens of shape (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
    if x.numel() and look(x) and not (0 <= int(x.min()) and int(x.max()) < states):
        raise ValueError(f"tokens must lie in 0..{states - 1}, got values from {int(x.min())} to {int(x.max())}")


def check_emitted(output: Tensor, tokens: Tensor, vocab: int, special: str = "mask") -> Tensor:
    """A network's output for tokens (B, *S), if it is (B, *S, V).

    Raises:
        ValueError: it is not.
    """
    if output.shape != (*tokens.shape, vocab):
        raise ValueError(
            f"the network must return (B, {'L' if tokens.ndim == 2 else '*S'}, V) = {(*tokens.shape, vocab)}, got "
            f"{tuple(output.shape)}: "
            f"it reads the {special} token but does not emit it"
        )
    return output


class TokenModel(Model):
    """A network on a token chain that runs at a schedule's pace; what the network's output means is the paper's.

    Args:
        net: net(tokens (B, *S) in 0..states − 1, t (B,), y (B,) or None) -> (B, *S, V), V = `chain.vocab`. The mask,
            where the chain has one, is token V: the network reads it and never emits it.
        shape: S, the event shape: (L,) for text, (C, H, W) for images of grey levels.
        chain: the Markov chain.
        schedule: ᾱ(t).

    Raises:
        ValueError: shape is empty.
    """

    def __init__(self, net: Network, shape: tuple[int, ...], chain: MarkovChain, schedule: Schedule):
        super().__init__()
        if not shape:
            raise ValueError("shape must have an axis of tokens, such as (L,) or (C, H, W), got ()")
        self.net, self.shape, self.chain, self.schedule = net, tuple(shape), chain, schedule

    def forward(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The network's output at x_t (B, *S), t () or (B,), y (B,) or None: (B, *S, V).

        Raises:
            TypeError, ValueError: x_t is no batch of tokens, t lies outside [0, 1], or the network's shape is wrong.
        """
        check_tokens(xt, self.shape, self.chain.states, self.watch)
        t = as_time(t, xt)
        dtype = next((p.dtype for p in self.parameters()), t.dtype)  # an ideal network takes t in full precision
        output = self.net(xt, t.to(dtype).expand(len(xt)), self.labels(y, len(xt)))
        return check_emitted(output, xt, self.chain.vocab)

    def corrupt(self, x: Tensor, t: Tensor) -> Tensor:
        """One draw of x_t given x_0 = x, for t () or (B,): (B, *S) -> (B, *S)."""
        check_tokens(x, self.shape, self.chain.vocab, self.watch)
        return self.chain.corrupt(x, self.schedule.alpha_bar(as_time(t, x)))

    def prior(self, n: int) -> Tensor:
        """n draws of x_1, where sampling starts: (n, *S)."""
        check_count("n", n)
        law = self.chain.prior(self.schedule.alpha_bar(self.moment(1.0)))
        return categorical(law.expand(n, *self.shape, -1))

    def prior_kl(self, x: Tensor) -> Tensor:
        """KL(q(x_1 | x_0) ‖ p(x_1)) of the prior that sampling starts from: (B,), nats. Zero where ᾱ(1) = 0."""
        alpha_bar = self.schedule.alpha_bar(self.moment(1.0))
        return kl_categorical(self.chain.transition(x, alpha_bar), self.chain.prior(alpha_bar)).flatten(1).sum(1)

    def integrand(self, x: Tensor, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """The rate of a continuous-time bound at (x, x_t, t), whose integral over t is the bound: (B,), nats."""
        raise NotImplementedError(f"{type(self).__name__} has no bound in continuous time")

    def integrate(self, x: Tensor, y: Tensor | None, times: int) -> Tensor:
        """KL(q(x_1 | x) ‖ p(x_1)) + ∫_0^1 E integrand dt, without bias: (B,), nats.

        Args:
            times: the number of intervals of [0, 1], one draw of (t, x_t) in each: the cost in network calls.
        """
        check_count("times", times)
        check_tokens(x, self.shape, self.chain.vocab)
        total = self.prior_kl(x)
        for k in range(times):
            t = (k + torch.rand(len(x), dtype=torch.float64, device=x.device)) / times
            total = total + self.integrand(x, self.corrupt(x, t), t, y) / times
        return total

    def moment(self, t: float) -> Tensor:
        """t as a float64 scalar on the model's device."""
        return torch.tensor(t, dtype=torch.float64, device=self.device)

    def draw_times(self, n: int) -> Tensor:
        """n times in (0, 1), one in each of n equal intervals: (n,), float64 (def-mdlm-low-discrepancy).

        Low-discrepancy times: each is uniform when the batch is shuffled, and their mean varies far less.
        """
        ranks = torch.arange(n, dtype=torch.float64, device=self.device)
        return (ranks + torch.rand_like(ranks)) / n


def clamp(x: Tensor, known: Tensor | None) -> Tensor:
    """x with the known tokens put in, where `known` is not −1: (B, *S)."""
    if known is None:
        return x
    known = known.to(x.device)
    return torch.where(known >= 0, known, x)


def kl_categorical(q: Tensor, p: Tensor) -> Tensor:
    """Σ_v q_v log(q_v/p_v) over the last axis: (..., V) -> (...), nats. Where q_v = 0, no NaN gradient."""
    tiny = torch.finfo(p.dtype).tiny
    return (torch.xlogy(q, q) - torch.xlogy(q, p.clamp(min=tiny))).sum(-1)


class Enumeration:
    """A law on V^L whose every conditional is known by enumeration, and so the ideal network of every token model.

    `posterior`, `leave_one_out` and `log_score` have a network's signature, (x_t (B, L), t (B,), y) -> (B, L, V):
    `D3PM(law.leave_one_out, …)`, `MDLM(law.posterior, …)`, `SEDD(law.log_score, …)` need no training. Costs B · V^L.

    Args:
        pmf: p(x_0), (V,) * L; normalised here.
        chain: a chain on V data tokens.
        schedule: ᾱ(t).

    Raises:
        ValueError: pmf has a negative entry, or an axis that is not V long.
    """

    def __init__(self, pmf: Tensor, chain: MarkovChain, schedule: Schedule):
        if set(pmf.shape) != {chain.vocab} or bool((pmf < 0).any()):
            raise ValueError(f"pmf must be non-negative, of shape ({chain.vocab},) * L, got {tuple(pmf.shape)}")
        self.pmf = pmf.double() / pmf.double().sum()
        self.chain, self.schedule = chain, schedule

    def sample(self, n: int) -> Tensor:
        """n draws of x_0: (n, L)."""
        flat = torch.multinomial(self.pmf.flatten(), n, replacement=True)
        return torch.stack(torch.unravel_index(flat, self.pmf.shape), -1)

    def _keep(self, t: Tensor) -> Tensor:
        """ᾱ(t), drawn in from 0 and 1 for the limits of 0/0: a mask at t = 0 (MDLM without time), a token at t = 1."""
        return self.schedule.alpha_bar(t.double()).clamp(1e-60, 1 - 1e-14)

    def _others(self, xt: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """p(x_0^l, x_t^{−l}) and q(x_t^l | x_0^l), both (B, L, V)."""
        likelihood = self.chain.arrival(xt, self._keep(t))[..., : self.chain.vocab]
        length = self.pmf.ndim
        marginals = []
        for l in range(length):  # over the axes of the table
            table = self.pmf.to(xt.device).movedim(l, -1).expand(len(xt), *self.pmf.shape)
            for m in [m for m in range(length) if m != l]:  # contracts the table's first axis with token m's
                table = torch.einsum("bv...,bv->b...", table, likelihood[:, m])
            marginals.append(table)
        return torch.stack(marginals, 1), likelihood

    def leave_one_out(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x_0^l = v | x_t^{−l}), which does not look at x_t^l (def-d3pm-leave-one-out): (B, L, V)."""
        others, _ = self._others(xt, t)
        return (others / others.sum(-1, keepdim=True)).log()

    def posterior(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x_0^l = v | x_t): (B, L, V)."""
        others, likelihood = self._others(xt, t)
        joint = others * likelihood
        return (joint / joint.sum(-1, keepdim=True)).log()

    def log_score(self, xt: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """log p_t(x_t with x_t^l = v)/p_t(x_t), SEDD's concrete score (def-sedd-concrete-score): (B, L, V)."""
        others, likelihood = self._others(xt, t)
        neighbours = self.chain.transition(others, self._keep(t))[..., : self.chain.vocab]
        return (neighbours / (others * likelihood).sum(-1, keepdim=True)).log()
