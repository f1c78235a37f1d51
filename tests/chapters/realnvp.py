"""What the snippets of RealNVP's chapter do."""

from __future__ import annotations

from typing import Any

import scipy.stats
import torch


def snippet_1_the_inverse_and_the_log_determinant_are_right(names: dict[str, Any], printed: str) -> None:
    flow, z, x = (names[name] for name in ("flow", "z", "x"))
    torch.testing.assert_close(flow.bijection(x)[0], z, rtol=0, atol=1e-4)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.bijection(v[None])[0][0], x[0].detach())
    torch.testing.assert_close(names["log_det"][0], torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-4)


def snippet_2_training_approaches_the_entropy_from_above(names: dict[str, Any], printed: str) -> None:
    losses = names["losses"]
    assert 0 < names["kl"] < losses[0] - names["law"].entropy()
    gaussian = scipy.stats.multivariate_normal([0, 0], torch.eye(2).numpy())  # the start is nearly this one
    start = -gaussian.logpdf(names["law"].sample(4000).numpy()).mean()
    assert abs(losses[0].item() - start) < 0.5 and losses[-1] < start - 0.3


def snippet_3_every_image_costs_the_same(names: dict[str, Any], printed: str) -> None:
    torch.testing.assert_close(names["bits"], torch.full((4,), 8.152003), rtol=0, atol=1e-4)


def snippet_4_the_stretch_is_that_of_the_best_map_of_the_line(names: dict[str, Any], printed: str) -> None:
    """g steep on [−2/2L, 2/2L] and flat outside leaves 2Φ(1/L) − 1 between the modes: one per mille."""
    between = 2 * scipy.stats.norm.cdf(1 / names["stretch"].item()) - 1
    assert abs(between - 1e-3) < 1e-9


def snippet_5_the_mass_is_one(names: dict[str, Any], printed: str) -> None:
    assert abs(names["mass"] - 1) < 5e-3
