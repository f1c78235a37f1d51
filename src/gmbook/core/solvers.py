"""Solvers of differential equations. They take functions and know no model.

A field f(x, t) maps a state (B, *S) and a scalar time () to the state's derivative. Every solver walks the given
times `ts`, in whatever direction they run, and yields the state at each of them but the first, so that a notebook
writes `path = list(heun(f, x, ts))` or `x = last(heun(f, x, ts))`.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Field = Callable[[Tensor, Tensor], Tensor]
Solver = Callable[[Field, Tensor, Tensor], Iterator[Tensor]]
Norm = Callable[[Tensor], Tensor]


def last(states: Iterable[Tensor]) -> Tensor:
    """The last of the yielded states.

    Raises:
        ValueError: there is none.
    """
    end = deque(states, maxlen=1)
    if not end:
        raise ValueError("no step was taken: give a start and at least one more time, or at least one step")
    return end[0]


# ------------------------------------------------------------------------------------------- fixed steps, ODEs


def euler(f: Field, x: Tensor, ts: Tensor) -> Iterator[Tensor]:
    """x ← x + hf(x, t), order 1, one evaluation a step."""
    for t, s in itertools.pairwise(ts):
        x = x + (s - t) * f(x, t)
        yield x


def midpoint(f: Field, x: Tensor, ts: Tensor) -> Iterator[Tensor]:
    """x ← x + hf(x + hf(x, t)/2, t + h/2), order 2, two evaluations a step."""
    for t, s in itertools.pairwise(ts):
        h = s - t
        x = x + h * f(x + h / 2 * f(x, t), t + h / 2)
        yield x


def heun(f: Field, x: Tensor, ts: Tensor) -> Iterator[Tensor]:
    """The mean of the slopes at both ends of an Euler step: order 2, two evaluations a step."""
    for t, s in itertools.pairwise(ts):
        h = s - t
        slope = f(x, t)
        x = x + h / 2 * (slope + f(x + h * slope, s))
        yield x


def rk4(f: Field, x: Tensor, ts: Tensor) -> Iterator[Tensor]:
    """The classical Runge–Kutta method: order 4, four evaluations a step."""
    for t, s in itertools.pairwise(ts):
        h = s - t
        k1 = f(x, t)
        k2 = f(x + h / 2 * k1, t + h / 2)
        k3 = f(x + h / 2 * k2, t + h / 2)
        k4 = f(x + h * k3, s)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        yield x


# ---------------------------------------------------------------------------------------- adaptive steps, ODEs

# Dormand & Prince (1980), table 2: nodes c, stages a, and the difference of the 5th- and 4th-order weights.
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def rms(x: Tensor) -> Tensor:
    """The root mean square over all entries, ()."""
    return x.square().mean().sqrt()


def _combine(weights: Sequence[float], slopes: list[Tensor]) -> Tensor:
    return torch.tensordot(torch.tensor(weights, dtype=slopes[0].dtype).to(slopes[0].device), torch.stack(slopes), 1)


def _first_step(f: Field, x: Tensor, t: Tensor, span: Tensor, slope: Tensor, tolerance: Tensor, norm: Norm) -> Tensor:
    """A first step size whose Euler step is accurate: Hairer, Nørsett & Wanner I, II.4."""
    size, speed = norm(x / tolerance), norm(slope / tolerance)
    guess = 0.01 * size / speed if min(size, speed) > 1e-5 else torch.full_like(size, 1e-6)
    guess = guess.to(span).clamp(max=span.abs())
    trial = f(x + span.sign() * guess * slope, t + span.sign() * guess)
    curvature = max(speed, norm((trial - slope) / tolerance) / guess.to(x))
    refined = (0.01 / curvature) ** 0.2 if curvature > 1e-15 else torch.full_like(size, 1e-3)
    return torch.minimum(100 * guess, refined.to(span)).clamp(max=span.abs()) * span.sign()


def dopri5(
    f: Field,
    x: Tensor,
    ts: Tensor,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    norm: Norm = rms,
    max_steps: int = 10_000,
) -> Iterator[Tensor]:
    """Dormand–Prince 5(4) with step-size control: each step's error estimate stays below atol + rtol·|x| in `norm`.

    The last stage of an accepted step is the first of the next, so a step costs six evaluations.

    Raises:
        ValueError: ts has fewer than two times.
        RuntimeError: a step underflows, the state stops being finite, or max_steps are not enough.
    """
    if len(ts) < 2:
        raise ValueError(f"ts must hold a start and at least one end, got {len(ts)} time(s)")
    slope = f(x, ts[0])
    with torch.no_grad():
        step = _first_step(f, x, ts[0], ts[-1] - ts[0], slope, atol + rtol * x.abs(), norm)
    taken = 0
    for t, end in itertools.pairwise(ts):
        while t != end:
            h = step if abs(step) < abs(end - t) else end - t
            slopes = [slope]
            for node, weights in zip(_NODES, _STAGES):
                proposal = x + h * _combine(weights, slopes)
                slopes.append(f(proposal, t + node * h))
            with torch.no_grad():
                tolerance = atol + rtol * torch.maximum(x.abs(), proposal.abs())
                error = norm(h * _combine(_ERROR, slopes) / tolerance)
            taken += 1
            if not torch.isfinite(error) or taken > max_steps or t + h == t:
                raise RuntimeError(
                    f"dopri5 stopped at t = {t:g} after {taken} steps of size {h:.1e}: the field is not finite "
                    "or too stiff there; loosen rtol and atol, or end the time interval earlier"
                )
            if error <= 1:
                arrived = abs(step) >= abs(end - t)
                x, slope, t = proposal, slopes[-1], end if arrived else t + h
            factor = 0.9 * error.clamp(min=1e-10) ** -0.2
            if error > 1 or abs(h) >= abs(step):  # a step cut short by an output time says nothing about longer ones
                step = h * factor.clamp(0.2, 10.0).to(h)
        yield x


class _Adjoint(torch.autograd.Function):
    """Pontryagin's adjoint: gradients by a second ODE, backwards, with memory independent of the steps
    (ffjord-adjoint)."""

    @staticmethod
    def forward(ctx: Any, f: Field, solver: Solver, x: Tensor, ts: Tensor, *parameters: Tensor) -> Tensor:
        with torch.no_grad():
            end = last(solver(f, x, ts))
        ctx.f, ctx.solver = f, solver
        ctx.save_for_backward(end, ts, *parameters)
        return end

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        end, ts, *parameters = ctx.saved_tensors
        n = end.numel()

        def augmented(state: Tensor, t: Tensor) -> Tensor:  # d/dt of (x, a, dL/dθ) = (f, −a ∂f/∂x, −a ∂f/∂θ)
            with torch.enable_grad():
                x = state[:n].view_as(end).detach().requires_grad_()
                a = state[n : 2 * n].view_as(end)
                slope = ctx.f(x, t)
                pulls = torch.autograd.grad(slope, (x, *parameters), -a, allow_unused=True)
            wanted = (x, *parameters)
            filled = [torch.zeros_like(p) if g is None else g for g, p in zip(pulls, wanted)]
            return torch.cat([slope.detach().flatten(), *(g.flatten() for g in filled)])

        zeros = [torch.zeros_like(p).flatten() for p in parameters]
        state = torch.cat([end.flatten(), cotangent.flatten(), *zeros])
        with torch.no_grad():
            state = last(ctx.solver(augmented, state, ts.flip(0)))
        pieces = state[2 * n :].split([p.numel() for p in parameters]) if parameters else ()
        gradients = [g.view_as(p) for g, p in zip(pieces, parameters)]
        return None, None, state[n : 2 * n].view_as(end), None, *gradients


def adjoint(f: Field, x: Tensor, ts: Tensor, parameters: Iterable[nn.Parameter], solver: Solver = dopri5) -> Tensor:
    """x(ts[-1]) with gradients for x and `parameters` by the adjoint method. arXiv:1806.07366.

    ȧ = −aᵀ∂f/∂x and dL/dθ = −∫ aᵀ∂f/∂θ dt, integrated from the end back to the start with the same solver
    (ffjord-adjoint). Memory does not grow with the number of steps; the gradient carries the solver's error.
    """
    return _Adjoint.apply(f, solver, x, ts, *(p for p in parameters if p.requires_grad))


# ------------------------------------------------------------------------------------------------------- SDEs


def euler_maruyama(f: Field, g: Callable[[Tensor], Tensor], x: Tensor, ts: Tensor) -> Iterator[Tensor]:
    """dx = f dt + g dw: x ← x + hf(x, t) + g(t)√|h| z, with z ~ N(0, I). Weak order 1. Runs backwards for h < 0."""
    for t, s in itertools.pairwise(ts):
        x = x + (s - t) * f(x, t) + (s - t).abs().sqrt() * g(t) * torch.randn_like(x)
        yield x


def langevin(score: Callable[[Tensor], Tensor], x: Tensor, step: float, steps: int) -> Iterator[Tensor]:
    """Unadjusted Langevin dynamics: x ← x + (ε/2)∇log p(x) + √ε z (def-langevin).

    `step` is ε in this form, arXiv:1907.05600, Eq. 4. (The paper's code writes x + εs + √(2ε) z: there ε is half as
    large.)
    """
    for _ in range(steps):
        x = x + step / 2 * score(x) + step**0.5 * torch.randn_like(x)
        yield x
