"""What a check is made of: exercises, verdicts, hints, and comparisons that say what kind of mistake they see.

A check is a function that looks at one answer and raises `Wrong(hint)` where a property fails:

    @exercise(points=2, stars=2, kind="derive")
    def bridge(answer: Any) -> None:
        before, now = ...                                         # fresh random inputs, a new seed at every call
        got = numbers(answer(before, now), (3,), "the answer")    # one clear hint on type, shape, dtype, NaN
        want = ...                                                # by another road than the solution
        agree(got, want, "the law of x_j")                        # sign? factor? square root? one end?

In a notebook `check.bridge(bridge)` prints the verdict, and raises where it is not right, so that a run stops there
and nbgrader gives no points. The grader calls `check.bridge.examine(answer)`, where the answer may live in another
process: a check therefore touches an answer only by calling it, with tensors, numbers, strings, None, lists, tuples,
dicts and functions, and such values come back. Gradients pass.
"""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["derive", "code", "experiment", "diagnose"]
NESTED = 12  # how deep an answer's lists may go


class Wrong(Exception):
    """The answer lacks a property; the message is the hint that the student reads."""

    def __str__(self) -> str:
        return " ".join(str(part) for part in self.args).strip() or "It lacks a property that the exercise asks for."


class Unanswered(Wrong):
    """The blank is still a blank."""


class NotYet(AssertionError):
    """Raised in a notebook by a check that does not pass: one line instead of a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@dataclass(frozen=True)
class Verdict:
    """What a check says of one answer."""

    exercise: str
    possible: int  # points of the exercise
    points: int  # all of them or none
    answered: bool
    hint: str  # for the student; it decides nothing
    seed: int  # with which the same random inputs come again

    @property
    def right(self) -> bool:
        """Whether the answer has every property that was looked at."""
        return self.answered and self.points == self.possible

    def __str__(self) -> str:
        if self.right:
            return f"{self.exercise}: right, {self.points} of {self.possible} points"
        word = "not right yet" if self.answered else "not answered yet"
        return f"{self.exercise}: {word}, 0 of {self.possible} points. {self.hint}"


class Exercise:
    """One exercise: its points, and the check of an answer.

    Attributes:
        name: of the exercise, of the student's answer in the notebook, and of the grade cell: one name for all.
        points: for a right answer; a wrong one gets none.
        stars: 1 to 3, how hard.
        kind: "derive", "code", "experiment" or "diagnose".
    """

    def __init__(self, look: Callable[[Any], None], points: int, stars: int, kind: Kind):
        if not look.__doc__:
            raise ValueError(f"{look.__name__}: say in a docstring what is asked")
        self.look, self.points, self.stars, self.kind = look, points, stars, kind
        self.name, self.__doc__ = look.__name__, look.__doc__

    def examine(self, answer: Any, seed: int | None = None) -> Verdict:
        """Look at an answer: a function, or data. Never raises because of it.

        Args:
            answer: what the student made.
            seed: of the random inputs; None for a fresh one.
        """
        seed = secrets.randbits(48) if seed is None else seed
        points, answered, hint = 0, True, ""
        with own_randomness(seed, torch.float32 if self.kind == "experiment" else torch.float64):
            try:
                if answer is None or answer is ...:
                    raise Unanswered("There is no answer in the cell above.")
                self.look(careful(answer))
                points = self.points  # only an examination that came to its end gives any
            except Wrong as wrong:
                answered, hint = not isinstance(wrong, Unanswered), said(wrong)
            except SystemExit:
                hint = "It ends Python, by sys.exit, exit or quit."
        return Verdict(self.name, self.points, points, answered, hint, seed)

    def __call__(self, answer: Any) -> None:
        """For the notebook: print the verdict on a right answer.

        Raises:
            NotYet: the answer is not right; the message is the verdict.
        """
        verdict = self.examine(answer)
        if not verdict.right:
            raise NotYet(str(verdict))
        print(verdict)


def exercise(*, points: int, stars: int, kind: Kind) -> Callable[[Callable[[Any], None]], Exercise]:
    """Make a check of a function that raises `Wrong`; the function's name is the exercise's and the answer's."""
    return lambda look: Exercise(look, points, stars, kind)


def exercises(paper: str) -> dict[str, Exercise]:
    """The exercises of `gmbook.course.checks.<paper>`, in their order there."""
    checks = vars(importlib.import_module(f"gmbook.course.checks.{paper}"))
    return {name: value for name, value in checks.items() if isinstance(value, Exercise)}


@contextmanager
def own_randomness(seed: int, dtype: torch.dtype) -> Iterator[None]:
    """A seed and a default dtype within; the caller's random state and default dtype are as before afterwards."""
    before = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


# ------------------------------------------------------------------------------------------ the student's functions


def careful(value: Any, depth: int = 0) -> Any:
    """The answer with every function in it guarded: called on copies, and what goes wrong inside becomes a hint.

    Functions within lists, tuples and dicts, and functions that a function returns, are guarded too.

    Raises:
        Wrong: lists within lists within lists, more than `NESTED` deep.

    Raises (a guarded function, when called):
        Unanswered: it is still a blank (NotImplementedError).
        Wrong: it raised anything else, or changed a tensor that it was given.
    """
    if depth > NESTED:
        raise Wrong("It is nested too deeply: lists within lists within lists, without end.")
    if callable(value):
        return _guarded(value)
    if type(value) in (list, tuple):
        return type(value)(careful(part, depth + 1) for part in value)
    return {key: careful(part, depth + 1) for key, part in value.items()} if type(value) is dict else value


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        copies = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
        try:
            value = function(*copies, **options)
        except Wrong:
            raise
        except NotImplementedError as blank:
            raise Unanswered("The blank is not filled in.") from blank
        except Exception as error:  # whatever a student's code may raise
            raise Wrong(f"It raised {type(error).__name__}: {said(error)}") from error
        for place, (copy, given) in enumerate(zip(copies, arguments), 1):
            if isinstance(given, Tensor) and not torch.equal(copy, given):
                raise Wrong(f"It changes its argument number {place} in place: work on a new tensor instead.")
        return careful(value)

    return call


class Given:
    """A function for an answer that travels to it: its class and its tensors, instead of its calls.

    A plain function that a check hands to an answer stays with the check. It can remember what it was asked, and may
    be differentiated once. A `Given` is built again beside the answer, so that torch.func and derivatives of any order
    work there; it remembers nothing. Write the class in the checks file, with `__call__` and with an `__init__` whose
    arguments are tensors and numbers, passed on as they are: `super().__init__(matrix, shift)`.
    """

    def __init__(self, *arguments: Tensor | float | int | str):
        self.arguments = arguments


def column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, …), to multiply `like` (B, *S)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


class Probe:
    """A network a·x + b·t + c that remembers what it was given, with parameters that a gradient must reach.

    Args:
        time: the letter that the sheet has for its second argument.
    """

    def __init__(self, time: str = "t"):
        self.time, self.weights = time, torch.randn(3).requires_grad_()
        self.calls: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Its output for x (B, *S) and t (B,), like x."""
        if not isinstance(t, Tensor) or t.shape != x.shape[:1]:
            name = self.time
            raise Wrong(f"The network is called as net(x, {name}), x (B, *S), with one {name} for each point: (B,).")
        self.calls.append((x.detach(), t.detach()))
        a, b, c = self.weights
        return a * x + b * column(t.to(x.dtype), x) + c


def shortened(text: str, most: int = 200) -> str:
    """At most so many characters, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def said(error: BaseException) -> str:
    """What an exception says, on one line; its class may be the student's and refuse to speak."""
    try:
        return shortened(str(error))
    except Exception:
        return "(no message)"


# ----------------------------------------------------------------------------------------------- what came back


def between(low: float, high: float, *shape: int) -> Tensor:
    """Uniform draws from [low, high], of this shape: one, (), by default."""
    return low + (high - low) * torch.rand(shape)


def numbers(value: Any, shape: Sequence[int], what: str) -> Tensor:
    """The value as a float64 tensor of this shape, gradients kept; a number or a tuple of numbers will do.

    Raises:
        Wrong: nothing was returned, it is not a number, or its shape, dtype or entries (NaN, infinite) are not fit.
    """
    if value is None:
        raise Wrong(f"{what} is None: is a `return` missing?")
    if callable(value):
        raise Wrong(f"{what} is a function where numbers are due: is a call missing?")
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) and len(shape) > 0:
        parts = [numbers(part, shape[1:], f"part {place} of {what}") for place, part in enumerate(value, 1)]
        value = torch.stack(parts)
    try:
        got = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(f"{what} is a {type(value).__name__} where numbers are due.") from error
    if tuple(got.shape) != tuple(shape):
        raise Wrong(f"{what} has shape {tuple(got.shape)} where {tuple(shape)} is due.")
    if got.is_complex():
        raise Wrong(f"{what} is complex where real numbers are due.")
    if isinstance(value, Tensor) and got.dtype in (torch.float32, torch.float16, torch.bfloat16):
        raise Wrong(f"{what} is {got.dtype} although all that was given is float64: keep the dtype of the arguments.")
    got = got.double()
    if not bool(got.isfinite().all()):
        raise Wrong(f"{what} holds NaN or infinite entries.")
    return got


def samples(value: Any, shape: Sequence[int], what: str) -> Tensor:
    """Like `numbers`, for draws of either precision: they are looked at by statistics, float32 will do."""
    return numbers(value.double() if isinstance(value, Tensor) and value.is_floating_point() else value, shape, what)


def whole(value: Any, what: str) -> int:
    """The value as an integer; a tensor or float of integer value will do.

    Raises:
        Wrong: it is not one.
    """
    got = numbers(value.double() if isinstance(value, Tensor) else value, (), what).item()
    if got != round(got):
        raise Wrong(f"{what} must be a whole number.")
    return round(got)


# ------------------------------------------------------------------------------------------------- comparisons


def agree(
    got: Tensor, want: Tensor, what: str, *, tolerance: float = 1e-7, hints: Mapping[str, Tensor] | None = None
) -> None:
    """Hold a value against the right one, both from `numbers`; say what kind of mistake it looks like.

    Args:
        tolerance: relative to the largest entry of `want`.
        hints: what to say when the value equals this one, a well-known wrong one: {hint: wrong value}.

    Raises:
        Wrong: they differ.
    """
    if close(got, want, tolerance):
        return
    for hint, wrong in (hints or {}).items():
        if close(got, wrong, tolerance):
            raise Wrong(f"{what} is not right. {hint}")
    raise Wrong(f"{what} is not right{kind_of_difference(got.detach(), want.detach(), tolerance)}")


def close(got: Tensor, want: Tensor, tolerance: float = 1e-7) -> bool:
    """Whether all entries agree, relative to the largest of `want`."""
    scale = want.detach().abs().max().clamp(min=1e-12)
    return bool(((got - want).detach().abs() <= tolerance * scale).all())


def kind_of_difference(got: Tensor, want: Tensor, tolerance: float) -> str:
    """The end of the sentence "… is not right": sign, factor, square, transposed, one end, some entries, all."""
    if close(got, -want, tolerance):
        return ": look at its sign."
    if want.ndim >= 2 and want.shape[-1] == want.shape[-2] and close(got, want.mT, tolerance):
        return ": it looks transposed."
    if bool((want > 0).all()) and (close(got, want.sqrt(), tolerance) or close(got, want.square(), tolerance)):
        return ": a variance and a standard deviation seem to be confused."
    if want.numel() > 1 and bool((want != 0).all()):
        factor = got / want
        if close(factor, factor.mean().expand_as(factor), tolerance) and factor.mean().abs() > tolerance:
            return ": it is off by a constant factor."
    if want.ndim == 1 and len(want) > 2:
        for end, rest in (("first", slice(1, None)), ("last", slice(None, -1))):
            if close(got[rest], want[rest], tolerance):
                return f": only its {end} entry is off."
    if want.numel() > 1:
        entries = (got - want).abs() <= tolerance * want.abs().max().clamp(min=1e-12)
        if bool(entries.any()):
            return f": {int((~entries).sum())} of its {want.numel()} entries are off."
    error = ((got - want).abs().max() / want.abs().max().clamp(min=1e-12)).item()
    return f": it is off by {100 * error:.2g} % on a random input." if error < 0.1 else ", and not nearly."


def hold(condition: bool | Tensor, hint: str) -> None:
    """Say the hint unless the condition holds.

    Raises:
        Wrong: it does not.
    """
    if not bool(condition):
        raise Wrong(hint)


def gradient(value: Tensor, inputs: Tensor, what: str) -> Tensor:
    """d value / d inputs, for a scalar value.

    Raises:
        Wrong: the value does not depend on the inputs: something was detached, or taken as a number.
    """
    detached = f"No gradient reaches {what}: something is detached on the way (.item(), .detach(), torch.tensor)."
    if not value.requires_grad:
        raise Wrong(detached)
    (found,) = torch.autograd.grad(value, inputs, allow_unused=True, retain_graph=True)
    if found is None:
        raise Wrong(detached)
    return found
