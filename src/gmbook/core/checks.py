"""What a model refuses, each in one sentence that says what to do, and when it is worth looking.

Looking at a tensor's values on a GPU waits for the GPU. So values are looked at on the CPU, where it costs nothing, and
elsewhere now and then (`Watch`); shapes and dtypes are looked at everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def readable(x: Tensor) -> bool:
    """Whether x's values can be looked at now and for nothing: on the CPU, and not within torch.func's transforms."""
    return x.device.type == "cpu" and not torch._C._functorch.is_functorch_wrapped_tensor(x)


class Watch:
    """Says whether it is time to look at a tensor's values: always where they are readable; on a GPU at the first call
    and at every thousandth, since looking waits there.

    Args:
        every: how rarely.
    """

    def __init__(self, every: int = 1000):
        self.every, self.calls = every, 0

    def __call__(self, x: Tensor) -> bool:
        if x.device.type in ("cpu", "meta"):  # a meta tensor has no values
            return readable(x)
        self.calls += 1
        return (self.calls - 1) % self.every == 0


def check_count(name: str, n: int) -> None:
    """Refuse a number of samples, steps or draws below 1.

    Raises:
        ValueError: it is below 1.
    """
    if n < 1:
        raise ValueError(f"{name} must be at least 1, got {n}")


def check_event(x: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse what is not a floating batch (B, *shape), with a message that says what to do.

    Raises:
        TypeError: x is no tensor, or holds integers.
        ValueError: x has another event shape.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"expected a tensor, got {type(x).__name__}: torch.as_tensor(x, dtype=torch.float32) makes one")
    if not x.is_floating_point():
        raise TypeError(
            f"expected floating-point data, got {x.dtype}: scale images to [-1, 1] first, "
            "for example with gmbook.data.scale"
        )
    if x.shape[1:] != shape:
        raise ValueError(f"expected a batch of shape (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}")


def check_output(output: Tensor, shape: tuple[int, ...] | torch.Size, what: str = "the network") -> Tensor:
    """`output`, if it has this shape. A near miss, such as (B,) for (B, 1), would broadcast to a table of all pairs.

    Raises:
        ValueError: it has another one.
    """
    if output.shape != shape:
        raise ValueError(f"{what} must return {tuple(shape)}, got {tuple(output.shape)}: the two would broadcast")
    return output


def check_precision(x: Tensor, first: Tensor | None) -> None:
    """Refuse doubles in front of a network of another precision, whose first parameter is given.

    Raises:
        TypeError: x is in float64 and the network is not.
    """
    if x.dtype == torch.float64 and first is not None and first.dtype != torch.float64:
        raise TypeError(f"the data are float64 and the network is {first.dtype}: give x.float(), or model.double()")


def check_range(x: Tensor, low: float, high: float, hint: str, slack: float = 1e-3) -> None:
    """Refuse values outside [low, high]; with NaN among them too.

    Args:
        hint: what to do.
        slack: by how much rounding may leave the interval.

    Raises:
        ValueError: some value lies outside.
    """
    if x.numel() == 0:
        return
    least, most = (bound.item() for bound in x.detach().aminmax())
    if not (low - slack <= least and most <= high + slack):
        raise ValueError(f"values must lie in [{low:g}, {high:g}], got {least:g} to {most:g}: {hint}")


def check_time(t: Tensor) -> None:
    """Refuse times outside [0, 1], where their values can be looked at.

    Raises:
        ValueError: some t lies outside [0, 1] or is NaN.
    """
    if not readable(t) or t.numel() == 0:
        return
    least, most = (bound.item() for bound in t.detach().aminmax())
    if not (least >= 0 and most <= 1):
        raise ValueError(
            f"t must lie in [0, 1] (0 is data, 1 is noise), got values from {least:g} to {most:g}; "
            "divide a step index by the number of steps"
        )


def as_time(t: Any, x: Tensor) -> Tensor:
    """t as a floating tensor () or (B,) beside a batch x (B, *S), on its device.

    Taken are a number, an array or a tensor of one entry or of B, with axes of length 1 behind them: (B, 1) is (B,).

    Raises:
        TypeError: t is none of these.
        ValueError: t has another shape, or lies outside [0, 1].
    """
    if not isinstance(t, Tensor):
        try:
            t = torch.as_tensor(t, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"t must be a number, or a tensor () or (B,), got {type(t).__name__}") from error
    if t.device != x.device:
        t = t.to(x.device)
    if not t.is_floating_point():
        t = t.double()
    if t.ndim and t.shape != x.shape[:1]:
        if t.numel() not in (1, len(x)) or (t.numel() > 1 and len(t) != len(x)):
            raise ValueError(
                f"t must be one time or one for each example, () or ({len(x)},), got the shape {tuple(t.shape)}"
            )
        t = t.reshape(() if t.numel() == 1 else (len(x),))
    check_time(t)
    return t
