"""FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models. Grathwohl*, Chen*, Bettencourt,
Sutskever, Duvenaud, ICLR 2019, arXiv:1810.01367. Regularised as in Finlay, Jacobsen, Nurbekyan, Oberman, ICML 2020,
arXiv:2002.02798.

The paper puts the base at t_0 and the data at t_1, log p(x) = log p(z) − ∫ tr(∂f/∂z) dt; its code integrates the other
way. In the book data is at t = 0 and the base at t = 1, hence log p(x) = log p(z(1)) + ∫_0^1 tr(∂f/∂z) dt. Both are
right; mixing them flips the sign. f(z, t) should be smooth (tanh, softplus, SiLU, not ReLU), or the solver crawls.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmbook.core.checks import check_output
from gmbook.core.divergence import divergence, pullback
from gmbook.core.flows.base import Bijection, Compose
from gmbook.core.flows.density import Flow
from gmbook.core.flows.multiscale import Multiscale, Squeeze
from gmbook.core.flows.pixels import Logit
from gmbook.core.law import Density
from gmbook.core.model import sampling
from gmbook.core.solvers import Solver, adjoint, dopri5, last

Probe = Callable[[Tensor], Tensor]

gaussian: Probe = torch.randn_like  # variance of the trace: 2‖A_s‖_F², A_s = (A + Aᵀ)/2 (ffjord-hutchinson-variance)


def rademacher(x: Tensor) -> Tensor:
    """±1 with equal chances, like x.

    The variance of εᵀAε is 2(‖A_s‖_F² − Σ a_ii²), never above the Gaussian's 2‖A_s‖_F² (ffjord-hutchinson-variance).
    """
    return torch.randint_like(x, 2) * 2 - 1


class Solution(NamedTuple):
    """What one solve from data to noise accumulates.

    Attributes:
        z: z(1), (B, *S).
        log_det: ∫ tr(∂f/∂z) dt, (B,), nats.
        kinetic: ∫ ‖f‖² dt, (B,).
        jacobian: ∫ ‖εᵀ∂f/∂z‖² dt, (B,); zero without a probe.
    """

    z: Tensor
    log_det: Tensor
    kinetic: Tensor
    jacobian: Tensor


class CNF(Bijection):
    """dz/dt = f(z, t) from data, t = 0, to noise, t = 1: a bijection with log|det| = ∫ tr(∂f/∂z) dt.

    The instantaneous change of variables, Eq. 2 (ffjord-trace), integrated together with z, Eq. 4
    (ffjord-augmented). In training mode the trace is Hutchinson's εᵀ(∂f/∂z)ε with one ε per sample, drawn before the
    solve and fixed during it, Eqs. 7–8 (ffjord-hutchinson): with a new ε at each evaluation an adaptive solver would
    chase noise. In evaluation mode it is exact, unless `test_probe` is given: exact costs D backward passes.

    On the line paths keep their order, so that no CNF turns it round (ffjord-order).

    Args:
        net: f, net(z (B, *S), t (B,), None) -> (B, *S).
        probe: `rademacher`, `gaussian`, or None for the exact trace in training too.
        test_probe: the same for evaluation mode.
        rtol, atol: tolerances of dopri5.
        use_adjoint: gradients by the adjoint method, Section 2.2.1 (ffjord-adjoint): memory does not grow with the
            steps. False differentiates through the solver: exact for the steps taken, and faster on small nets.
        with_jacobian: `forward` accumulates ∫‖εᵀ∂f/∂z‖² dt too, wherever it has a probe.
        solver: another solver of the same kind; then rtol and atol play no part.
        times: the times to stop at, (n,) from 0 to 1; a fixed-step solver takes one step between two of them.
    """

    times: Tensor

    def __init__(
        self,
        net: nn.Module,
        probe: Probe | None = rademacher,
        test_probe: Probe | None = None,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        use_adjoint: bool = True,
        solver: Solver | None = None,
        times: Tensor | None = None,
        with_jacobian: bool = False,
    ):
        super().__init__()
        self.with_jacobian = with_jacobian
        self.net, self.probe, self.test_probe, self.use_adjoint = net, probe, test_probe, use_adjoint
        self.solver = solver or functools.partial(dopri5, rtol=rtol, atol=atol)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        self.register_buffer("times", ends if times is None else times, persistent=False)
        self.evaluations = 0  # of f, since the start of the last solve (the paper's NFE)
        self.spent: tuple[Tensor, Tensor] | None = None  # kinetic and jacobian of the last `forward`

    def field(self, z: Tensor, t: Tensor) -> Tensor:
        """f(z, t) for z (B, *S) and t (): (B, *S)."""
        self.evaluations += 1
        return check_output(self.net(z, t.to(z).expand(len(z)), None), z.shape)

    def _augmented(self, shape: torch.Size, epsilon: Tensor | None, with_jacobian: bool) -> Callable:
        """d/dt (z, log-det, kinetic, jacobian) as one flat state, (B, D + 3). One backward pass gives εᵀ∂f/∂z, and
        with it both the trace and the Jacobian's norm."""

        def rates(state: Tensor, t: Tensor) -> Tensor:
            grad = torch.is_grad_enabled()
            z = state[:, :-3].reshape(shape)
            if not (grad and z.requires_grad):  # without grad a view may claim to require it, and is no graph's
                z = z.detach().requires_grad_()
            if epsilon is None:
                f, trace = divergence(lambda z: self.field(z, t), z, create_graph=grad)
            else:
                f, pull = pullback(lambda z: self.field(z, t), z, epsilon, create_graph=grad)
                trace = (pull * epsilon).flatten(1).sum(1)
            jacobian = pull.flatten(1).square().sum(1) if with_jacobian else torch.zeros_like(trace)
            f = f.flatten(1)
            return torch.cat([f, torch.stack([trace, f.square().sum(1), jacobian], 1)], 1)

        return rates

    def solve(self, x: Tensor, probe: Probe | None, with_jacobian: bool = False) -> Solution:
        """Integrate from data to noise, with the probe's ε drawn once: x (B, *S).

        Raises:
            ValueError: the Jacobian's norm is wanted without a probe.
            RuntimeError: the solver gives up (see `dopri5`).
        """
        if with_jacobian and probe is None:
            raise ValueError("the Jacobian penalty is estimated with the probe: give one, for example rademacher")
        epsilon = None if probe is None else probe(x)
        rates = self._augmented(x.shape, epsilon, with_jacobian)
        self.evaluations = 0
        state = torch.cat([x.flatten(1), x.new_zeros(len(x), 3)], 1)
        if self.use_adjoint and torch.is_grad_enabled():
            state = adjoint(rates, state, self.times, self.net.parameters(), self.solver)
        else:
            state = last(self.solver(rates, state, self.times))
        log_det, kinetic, jacobian = state[:, -3:].unbind(1)
        return Solution(state[:, :-3].view_as(x), log_det, kinetic, jacobian)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        probe = self.probe if self.training else self.test_probe
        solution = self.solve(x, probe, self.with_jacobian and probe is not None)
        self.spent = solution.kinetic, solution.jacobian
        return solution.z, solution.log_det

    def inverse(self, z: Tensor) -> Tensor:
        self.evaluations = 0
        return last(self.solver(self.field, z, self.times.flip(0)))


def multiscale(shape: tuple[int, ...], scales: int, make: Callable[[tuple[int, ...]], list[CNF]]) -> Bijection:
    """The paper's multi-scale flow (Section 4.2, and the code): CNFs, squeeze, CNFs, and half of the channels is done.

    The other half goes on; at the last scale there are CNFs only.
    """
    if scales == 1:
        return Compose(*make(shape))
    channels, height, width = shape
    squeezed, half = (4 * channels, height // 2, width // 2), (2 * channels, height // 2, width // 2)
    first, second = make(shape), make(squeezed)
    deeper = Multiscale(multiscale(half, scales - 1, make))
    return Compose(*first, Squeeze(), *second, deeper, Squeeze(undo=True))


class FFJORD(Flow):
    """A continuous normalising flow, on vectors or on images.

    On images log p is estimated with one probe per image, of the kind that training has, in evaluation mode too: the
    exact trace costs one backward pass per pixel and evaluation. Pass `test_probe=None` to pay that.

    Args:
        net: f, net(z (B, *S), t (B,), None) -> (B, *S); None where `flow` is given.
        shape: the event shape S.
        alpha: for integer images: dequantise, then logit with this α (1e-6 in the paper's MNIST run). None: real
            numbers as they are.
        levels: how many values such a pixel can have.
        kinetic: λ_K, the weight of ∫‖f‖² dt per dimension (ffjord-kinetic): straight, slow paths, hence few
            evaluations.
        jacobian: λ_J, the weight of ∫‖εᵀ∂f/∂z‖² dt per dimension (arXiv:2002.02798).
        flow: layers with several CNFs, as `on_images` makes them; their penalties are summed. Then `jacobian` needs
            CNFs that were built `with_jacobian`.
        options: as of `CNF`: probe, test_probe, rtol, atol, use_adjoint, solver, times.

    Raises:
        ValueError: λ_J is not 0 and there is no probe.
    """

    bijection: Compose

    def __init__(
        self,
        net: nn.Module | None,
        shape: tuple[int, ...],
        alpha: float | None = None,
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        base: Density | None = None,
        flow: Bijection | None = None,
        levels: int = 256,
        **options: Any,
    ):
        if flow is None:
            assert net is not None, "give net, or flow"
            flow = CNF(net, with_jacobian=jacobian > 0, **_on(shape, options))
        first = [] if alpha is None else [Logit(alpha)]
        super().__init__(Compose(*first, flow), shape, base, levels=None if alpha is None else levels)
        self.kinetic, self.jacobian = kinetic, jacobian
        if jacobian > 0 and any(cnf.probe is None for cnf in self.cnfs):
            raise ValueError("the Jacobian penalty is estimated with the probe: give one, for example rademacher")

    @classmethod
    def on_images(
        cls,
        make_net: Callable[[tuple[int, ...]], nn.Module],
        shape: tuple[int, ...],
        scales: int = 2,
        blocks: int = 2,
        alpha: float | None = 0.05,
        kinetic: float = 0.0,
        jacobian: float = 0.0,
        levels: int = 256,
        **options: Any,
    ) -> FFJORD:
        """The multi-scale flow of the paper's image models.

        Args:
            make_net: makes f for an event shape (C, H, W); each CNF has its own.
            scales: how many times some channels are finished, the last included.
            blocks: CNFs in a row.

        Raises:
            ValueError: the height or width cannot be halved that often.
        """
        if any(size % 2 ** (scales - 1) for size in shape[1:]):
            raise ValueError(f"{scales} scales need a height and width divisible by {2 ** (scales - 1)}, got {shape}")
        kept = _on(shape, options) | {"with_jacobian": jacobian > 0}
        flow = multiscale(shape, scales, lambda s: [CNF(make_net(s), **kept) for _ in range(blocks)])
        return cls(None, shape, alpha, kinetic, jacobian, flow=flow, levels=levels)

    @property
    def cnfs(self) -> list[CNF]:
        """The flow's continuous layers, in their order."""
        return [layer for layer in self.bijection.modules() if isinstance(layer, CNF)]

    @property
    def cnf(self) -> CNF:
        """Its last continuous layer."""
        return self.cnfs[-1]

    def networks(self) -> list[nn.Module]:
        """None: f is differentiated twice in training, once for the trace and once for the weights."""
        return []

    @property
    def evaluations(self) -> int:
        """Of f in all CNFs, since the start of the last solve of each: the paper's NFE."""
        return sum(cnf.evaluations for cnf in self.cnfs)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−E log p(x) + λ_K E ∫‖f‖² dt/D + λ_J E ∫‖εᵀ∂f/∂z‖² dt/D: (B, *S) -> (), nats. Labels play no part.

        The first term is unbiased for −log p (not for p) up to the solver's error (ffjord-loss). log p holds the
        logit's log-determinant. In evaluation mode without a probe the last term is left out.
        """
        log_prob = self.log_prob(x if self.levels is None else self.prepare(x))
        kinetic, jacobian = (sum(parts) for parts in zip(*(cnf.spent for cnf in self.cnfs if cnf.spent is not None)))
        penalty = self.kinetic * kinetic + self.jacobian * jacobian
        return (penalty / math.prod(self.shape) - log_prob).mean()

    @sampling
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """Solve from noise to data: (n, *S). Labels play no part."""
        return super().sample(n)


def _on(shape: tuple[int, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The options of a CNF, on images with the probe in evaluation mode too."""
    return options if len(shape) == 1 else {"test_probe": options.get("probe", rademacher)} | options
