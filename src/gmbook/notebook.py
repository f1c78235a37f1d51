"""The line that a check cell prints: the claim, its bar and what was measured; and an error where it fails.

The claim and the bar are the same on every machine. The measured value is not, so it stands in brackets with the word
`MEASURED`, which nbval is told to pass over (chapters/nbval.cfg).
"""

from __future__ import annotations

import torch
from torch import Tensor

Number = float | int | Tensor
MEASURED = "measured"


def check(
    claim: str,
    value: Number,
    *,
    below: float | None = None,
    between: tuple[float, float] | None = None,
    equals: Number | None = None,
    digits: int = 6,
) -> None:
    """Print `claim: bar  ok (measured …)` if `value` keeps the bar, raise otherwise.

    Two digits of the value are printed: of a tensor its largest entry below a bar, its range between two.

    Args:
        value: a number, or a tensor of which every entry must keep the bar.
        below: the value must be less than this; NaN never is.
        between: the value must lie in [low, high].
        equals: the value, rounded to `digits` decimals, must be this.
        digits: decimals for `equals`.

    Raises:
        AssertionError: the bar is missed; the message shows the value.
        ValueError: not exactly one bar is given.
    """
    if sum(bar is not None for bar in (below, between, equals)) != 1:
        raise ValueError("give exactly one of below=, between=, equals=")
    got = torch.as_tensor(value).detach().double()
    if below is not None:
        passed, text = bool((got < below).all()), f"< {below:g}"
        measured = f"{got.max().item():.2g}" if got.numel() else "nothing"
    elif between is not None:
        low, high = between
        passed, text = bool(((got >= low) & (got <= high)).all()), f"in [{low:g}, {high:g}]"
        measured = " to ".join(dict.fromkeys(f"{v.item():.3g}" for v in (got.min(), got.max())))
    else:
        want = torch.as_tensor(equals).double()
        passed = bool(((got - want).abs() <= 0.5000001 * 10.0**-digits).all())
        text = "= " + ", ".join(f"{v:.{digits}f}".rstrip("0").removesuffix(".") for v in want.flatten().tolist())
        measured = ""
    if not passed:
        raise AssertionError(f"{claim}: got {got.tolist()}, wanted {text}")
    print(f"{claim}: {text}  ok" + (f" ({MEASURED} {measured})" if measured else ""))
