"""The loss and the samples depend on the label, in every class of the book that takes one.

The networks of the specimens know no labels. Here the place where a label embedding would stand adds y to what it is
given. Two runs from one seed, with labels 0 and with labels 1, then differ unless a label is dropped on its way.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import pytest
import specimen
import torch
from torch import Tensor, nn

from gmbook.networks.embed import NoLabels
from gmbook.papers import ddim, edm, ncsn, score_sde

# Their y stands in the signature for the contract's sake and is ignored: these models are unconditional.
UNCONDITIONAL = {"dc_ae", "ffjord", "gan", "glow", "realnvp", "vae", "vqgan"}
LOSSES = ("loss", "vlb_loss", "distillation_loss")
BOUNDS = ("nelbo", "nelbo_discrete", "nelbo_by_counts", "log_prob")
SAMPLERS = ("sample", "first_hitting")
PREDICTORS = (score_sde.euler_maruyama_predictor, score_sde.reverse_diffusion, score_sde.ancestral)


class Told(nn.Module):
    """In place of a label embedding: h + 3y, more in later coordinates."""

    def forward(self, h: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            return h
        return h + 3 * y.to(h).reshape(-1, *[1] * (h.ndim - 1)) * torch.linspace(-1, 1, h.shape[-1])


def built(paper: str) -> nn.Module:
    """The specimen with networks that listen to labels, and with no weight at 0."""
    torch.manual_seed(0)
    model = SPECIMENS[paper].build()
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, NoLabels):
                setattr(part, name, Told())
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


SPECIMENS = specimen.found()
Call = Callable[[nn.Module, Tensor, Tensor], Tensor]


def method(name: str, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    function = getattr(model, name)
    first = (len(x),) if name in SAMPLERS else (x, torch.zeros_like(x)) if name == "distillation_loss" else (x,)
    return function(*first, y) if signature(function)[1:2] == ["y"] else function(*first, y=y)


def calls_of(paper: str) -> dict[str, Call]:
    """All that a model of the paper does with labels."""
    model = SPECIMENS[paper].build()
    named = [name for name in (*LOSSES, *BOUNDS, *SAMPLERS) if "y" in signature(getattr(model, name, None))]
    return {name: functools.partial(method, name) for name in named}


def signature(function: Callable[..., Tensor] | None) -> list[str]:
    return list(inspect.signature(function).parameters) if function else []


ANY_DENOISER: dict[str, Call] = {
    "ddim": lambda model, x, y: ddim.sample(model, len(x), 3, y=y),
    "edm": lambda model, x, y: edm.sample(model, len(x), 3, y=y),
    "annealed Langevin": lambda model, x, y: list(
        ncsn.annealed_langevin(model, x, model.path.times(3), 2, 1e-3, denoise=False, y=y)
    )[-1],
    "denoising at the end": lambda model, x, y: list(
        ncsn.annealed_langevin(model, x, model.path.times(3)[-1:], 1, 1e-12, y=y)
    )[-1],
    "flow": lambda model, x, y: score_sde.probability_flow(model, len(x), 3, y=y),
    "reverse SDE": lambda model, x, y: score_sde.reverse_sde(model, len(x), 3, y=y),
    "corrector alone": lambda model, x, y: list(
        score_sde.corrected_trajectory(model, x, model.path.times(3), score_sde.no_predictor, y=y)
    )[-2],
    **{
        predictor.__name__: lambda model, x, y, p=predictor: list(
            score_sde.corrected_trajectory(model, x, model.path.times(3), p, 0, y=y)
        )[-2]
        for predictor in PREDICTORS
    },
}
CASES = [
    (paper, name, call) for paper in SPECIMENS if paper not in UNCONDITIONAL for name, call in calls_of(paper).items()
]
CASES += [("score_sde", name, call) for name, call in ANY_DENOISER.items()]


@pytest.mark.parametrize(("paper", "name", "call"), CASES, ids=lambda case: case if isinstance(case, str) else "")
def test_depends_on_the_label(paper, name, call):
    torch.manual_seed(1)
    x = SPECIMENS[paper].data()[:32]
    found = []
    for label in (0, 0, 1):
        model = built(paper)
        torch.manual_seed(2)
        found.append(call(model, x, torch.full((len(x),), label)).detach())
    assert torch.equal(found[0], found[1]), "two runs with one label differ: this test says nothing"
    assert not torch.allclose(found[0].double(), found[2].double(), rtol=1e-3, atol=1e-4)


def test_all_papers_are_asked():
    assert set(SPECIMENS) - UNCONDITIONAL == {paper for paper, *_ in CASES}
    for paper in UNCONDITIONAL:
        assert not any("y" in signature(type(part).forward) for part in SPECIMENS[paper].build().modules()) or (
            paper == "ffjord"  # its network is the one of the denoisers, and is never told a label
        )
