"""What the snippets of the VAE's chapter do."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from gmbook.core.gaussians import kl_normal
from gmbook.data.batches import LawBatches
from gmbook.laws import plane
from gmbook.networks.mlp import MLP
from gmbook.papers.theory.vae import linear_vae_rates
from gmbook.papers.vae import VAE, Gaussian
from gmbook.train import train


def snippet_1_the_gap_is_the_one_on_a_grid_of_codes(names: dict[str, Any], printed: str) -> None:
    model, x = names["model"].eval(), names["x"]
    axis = torch.linspace(-4.5, 4.5, 201)
    codes = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        joint = torch.stack([model.log_joint(xi.expand(len(codes), 2), codes) for xi in x])
        evidence = joint.logsumexp(1) + 2 * math.log(0.045)  # log p(x), a sum over codes
        bound = model.elbo(x.repeat(500, 1)).mean()
        assert abs(model.iwae(x, 1000).mean() - evidence.mean()) < 0.02
    assert 0.01 < evidence.mean() - bound < 1
    assert abs(names["gap"] - (evidence.mean() - bound)) < 0.25  # one draw of each z


def snippet_2_the_score_function_is_noisier(names: dict[str, Any], printed: str) -> None:
    assert names["noise"]["score function"] > 3 * names["noise"]["reparametrised"]


def snippet_3_both_parts_are_positive_and_add_up(names: dict[str, Any], printed: str) -> None:
    approximation, amortisation = names["approximation"], names["amortisation"]
    assert approximation > 0 and amortisation > 0
    assert (approximation + amortisation - names["evidence"] + names["bound"]).abs() < 1e-5


def snippet_4_the_rates_are_half_a_logarithm(names: dict[str, Any], printed: str) -> None:
    torch.testing.assert_close(names["rates"], torch.tensor([math.log(2), 0.0]))
    assert names["alive"].tolist() == [True, True]


def snippet_4_the_prediction_comes_true(names: dict[str, Any], printed: str) -> None:
    std, variances = 1.0, torch.tensor([4.0, 0.5])
    torch.manual_seed(0)
    model = VAE(nn.Linear(2, 4), nn.Linear(2, 2), 2, (2,), Gaussian(std, learned=False))
    batches = iter(lambda: (torch.randn(512, 2) * variances.sqrt(),), None)
    list(train(model, batches, steps=400, lr=3e-2, decay="cosine"))
    x = torch.randn(5000, 2) * variances.sqrt()
    rates = kl_normal(*model.encode(x)).mean(0).detach().sort(descending=True).values
    torch.testing.assert_close(rates, linear_vae_rates(variances, std**2), rtol=0, atol=0.05)
    assert model.active_units(x).sum() == 1


def snippet_5_a_right_loss_stays_above_the_entropy_and_a_bug_falls_below(names: dict[str, Any], printed: str) -> None:
    class Buggy(VAE):
        def reparametrise(self, mean, std):
            return mean + std.square() * torch.randn_like(std)  # a variance for a standard deviation

    assert 0 < names["excess"] < 1.5
    law = plane.moons()
    torch.manual_seed(0)
    model = Buggy(MLP(2, 4, 64, 2), MLP(2, 2, 64, 2), 2, (2,), Gaussian(0.3))
    list(train(model, LawBatches(law, 256), steps=500, lr=1e-2, decay="cosine"))
    assert model.loss(law.sample(4000)).item() < law.entropy()
