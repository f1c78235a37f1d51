"""What the snippets of Glow's chapter do."""

from __future__ import annotations

from typing import Any

import torch


def snippet_1_the_inverse_and_the_log_determinant_are_right(names: dict[str, Any], printed: str) -> None:
    step, z, x = (names[name] for name in ("step", "z", "x"))
    torch.testing.assert_close(step.eval()(x)[0], z, rtol=0, atol=1e-3)
    jacobian = torch.autograd.functional.jacobian(lambda v: step(v[None])[0].flatten(), x[0].detach())
    truth = torch.linalg.slogdet(jacobian.reshape(256, 256).double())[1]
    torch.testing.assert_close(names["log_det"][0].double(), truth, rtol=1e-4, atol=1e-2)


def snippet_2_both_train_and_stay_above_the_entropy(names: dict[str, Any], printed: str) -> None:
    assert sorted(names["above"]) == ["learned", "reversed"]
    assert all(-0.2 < gap < 1.3 for gap in names["above"].values())


def snippet_3_half_a_quarter_and_a_quarter(names: dict[str, Any], printed: str) -> None:
    assert names["share"].tolist() == [0.5, 0.25, 0.25]


def snippet_4_cooling_is_a_spread(names: dict[str, Any], printed: str) -> None:
    assert abs(names["spread"] - 0.7) < 0.05


def snippet_5_the_convolution_passes(names: dict[str, Any], printed: str) -> None:
    assert names["error"].abs().max() < 1e-9
