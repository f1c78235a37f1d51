"""What several checks compare answers with.

None of it calls the book's library. An answer may do so, and would be its own judge then.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def runge_kutta(f: Callable[[Tensor, float], Tensor], x: Tensor, start: float, end: float, steps: int) -> Tensor:
    """Where ẋ = f(x, t) carries x from t = start to t = end, by the classical method of fourth order: like x.

    Args:
        f: (x, t) -> like x.
        steps: of equal length; backwards where end < start.
    """
    h = (end - start) / steps
    for k in range(steps):
        t = start + k * h
        a = f(x, t)
        b = f(x + h / 2 * a, t + h / 2)
        c = f(x + h / 2 * b, t + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + f(x + h * c, t + h))
    return x
