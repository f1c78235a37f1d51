"""SEDD on pairs of tokens, and on text8 by both of its kernels.

The paper trains on OpenWebText, LM1B and text8. On the first: 12 layers, width 768, told σ̄ by adaLN with 128 numbers,
windows of 1,024 tokens, batch 512, AdamW 3e-4 with 2,500 steps of warm-up, clip 1, EMA 0.9999, 1.3 M steps. Its noise
is log-linear where tokens are absorbed, geometric from 1e-4 to 20 where they jump evenly, and the outputs of the
absorbing one are scaled by the ratios of uniform data.

Ours has MDLM's network on text8, told the time in the same way by 32 numbers, and a batch of its windows for each of
the comparison's steps (`mdlm.compared`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from gmbook.core.chains import Chain
from gmbook.core.schedules import GeometricSchedule, LinearSchedule, Schedule
from gmbook.experiments import mdlm
from gmbook.experiments.toys import VOCAB, token_net, tokens
from gmbook.networks.transformer import Transformer
from gmbook.papers.sedd import SEDD

REFERENCE = (
    "Lou et al. 2024, OpenWebText, LM1B, text8; on the first 12 layers, width 768, AdamW 3e-4, warm-up 2,500, batch "
    "512 of 1,024 tokens, EMA 0.9999, 1.3 M steps"
)
KERNELS: dict[str, tuple[Callable[[int], Chain], Callable[[], Schedule]]] = {
    "absorbing": (Chain.absorbing, lambda: LinearSchedule(end=1e-3)),
    "uniform": (Chain.uniform, GeometricSchedule),
}


def model() -> SEDD:
    """With a mask, and ratios scaled as in the paper's code."""
    return SEDD(token_net(VOCAB + 1), (2,), Chain.absorbing(VOCAB), scaled=True)


def letters(
    kernel: str, width: int, depth: int, heads: int, length: int, vocab: int = mdlm.LETTERS, **options: Any
) -> SEDD:
    """Ratios of windows of `length` letters of `vocab` kinds, by one of KERNELS; the options are the network's."""
    make, schedule = KERNELS[kernel]
    chain = make(vocab)
    net = Transformer(chain.states, width, depth, heads, time=True, told=width // 4, out=vocab, **options)
    return SEDD(net, (length,), chain, schedule(), scaled=True)


def bound(model: Any, x: Tensor) -> Tensor:
    """SEDD's bound on −log p(x), prior and decoder included, at one time in each of DRAWS intervals: (B,), nats."""
    return model.nelbo(x, times=mdlm.DRAWS)


EXPERIMENTS = (
    tokens("sedd", model, 2500, lambda m, n: m.sample(n, steps=100)),
    *(
        experiment
        for kernel in KERNELS
        for experiment in mdlm.compared(
            "sedd", kernel, partial(letters, kernel), bound, "128 Tweedie steps", REFERENCE, fill=mdlm.fill
        )
    ),
)
