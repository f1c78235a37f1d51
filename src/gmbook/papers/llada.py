"""Large Language Diffusion Models: Nie et al., arXiv:2502.09992. Its samplers, for any `MDLM`: a fixed number of tokens
a call, in an order that the guesses themselves may choose, and in blocks from left to right.

The order by confidence is MaskGIT's (Chang, Zhang, Jiang, Liu, Freeman, CVPR 2022, arXiv:2202.04200).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gmbook.core.chains import categorical
from gmbook.core.checks import check_count
from gmbook.core.model import sampling
from gmbook.core.solvers import last
from gmbook.papers.mdlm import MDLM

Order = Callable[[Tensor, Tensor], Tensor]  # guesses (B, L, V), a draw from each (B, L) -> scores (B, L)


def at_random(guesses: Tensor, drawn: Tensor) -> Tensor:
    """Every order equally likely: (B, L, V), (B, L) -> scores (B, L)."""
    return torch.rand(drawn.shape, dtype=torch.float64, device=drawn.device)


def by_draw(guesses: Tensor, drawn: Tensor) -> Tensor:
    """The probability of the token that was drawn, the "low confidence" order of MaskGIT and LLaDA: scores (B, L).

    The draw decides whether it stands, so likely tokens stand too often, even where one comes a call and every guess
    is exact. Two tokens then come from p(a, b)[P(p_2(B) ≤ p_1(a)) + P(p_1(A) < p_2(b))] (mdlm-confidence).
    """
    return guesses.gather(-1, drawn[..., None])[..., 0]


def by_peak(guesses: Tensor, drawn: Tensor) -> Tensor:
    """max_v x_θ(v): like `by_draw` where the draw is the likeliest token, but the draw has no say: scores (B, L).

    A function of the guesses alone only chooses an order of the chain rule. With exact guesses and one token a call the
    samples have the law of the data.
    """
    return guesses.max(-1).values


@sampling
def trajectory(
    model: MDLM, n: int, calls: int, order: Order = at_random, block: int | None = None, y: Tensor | None = None
) -> Iterator[Tensor]:
    """From all masks to tokens in `calls` network calls: yields x after each, (n, L), and the masks first.

    Each call draws every masked token of the present block from its guess and lets those with the highest scores
    stand, as many as make the counts of all its calls even.

    Args:
        block: tokens are written in blocks of so many, from left to right, each with its share of the calls; the
            blocks to the right are masks meanwhile. None: one block, the whole window.

    Raises:
        ValueError: blocks do not fill the window, or calls do not divide evenly among them, or are more than tokens;
            or the network is told the time, which a count of masks does not say.
    """
    length, block = model.shape[0], model.shape[0] if block is None else block
    check_count("n", n)
    check_count("calls", calls)
    check_count("block", block)
    if length % block or calls % (length // block) or calls > length:
        raise ValueError(
            f"{length} tokens in blocks of {block} and {calls} calls: blocks must fill the window, calls be a multiple "
            f"of the number of blocks and at most {length}"
        )
    if model.timed:
        raise ValueError("these samplers have no time to show to the network: use an untimed MDLM")
    x, y = torch.full((n, length), model.mask, device=model.device), model.labels(y, n)
    yield x
    ends = torch.linspace(0, block, calls // (length // block) + 1).round().long()
    place = torch.arange(length, device=x.device)
    for start in range(0, length, block):
        for count in ends.diff().tolist():
            guesses = model.log_probs(x, model.moment(0.0), y).double().exp()
            drawn = categorical(guesses)
            free = (x == model.mask) & (place >= start) & (place < start + block)
            chosen = order(guesses, drawn).masked_fill(~free, -torch.inf).topk(count, -1).indices
            x = x.scatter(-1, chosen, drawn.gather(-1, chosen))
            yield x


def sample(
    model: MDLM, n: int, calls: int, order: Order = at_random, block: int | None = None, y: Tensor | None = None
) -> Tensor:
    """n samples, (n, L): the end of `trajectory`."""
    return last(trajectory(model, n, calls, order, block, y))
