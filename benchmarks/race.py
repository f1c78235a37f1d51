"""The library beside the libraries that a reader would pick instead, at equal architecture.

    make race                         all races, one line per contestant
    python -m benchmarks.race glow    those whose name contains a word

The contestants of a race take turns in one process, each round beginning with another of them, so that whatever else
the machine does hits all alike. A line shows the median milliseconds of processor time and the median of the paired
ratios to gmbook. The number of parameters is printed. Contestants with a comma in their name are experiments: one of
the two sides with one thing changed, to show where a difference comes from (README.md). Not part of the tests: times
are of a machine, not of a program.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator

import nflows.flows.realnvp
import normflows
import torch
import zuko
from benchmarks import distances
from benchmarks.contestants import Contestant, Turn, ours, size, theirs
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
from torchdiffeq import odeint_adjoint

from gmbook.core.flows.base import Compose
from gmbook.core.flows.couplings import AffineCoupling, parity_mask
from gmbook.core.flows.density import Flow
from gmbook.networks.mlp import MLP, TimeMLP
from gmbook.networks.transformer import Transformer
from gmbook.networks.unet import UNet
from gmbook.papers import ddim
from gmbook.papers.ddpm import DDPM
from gmbook.papers.ffjord import FFJORD
from gmbook.papers.flow_matching import FlowMatching
from gmbook.papers.glow import Glow
from gmbook.papers.mdlm import MDLM
from gmbook.papers.realnvp import RealNVP, alternating

# --------------------------------------------------------------------------------------------------------- races


def flow_matching_step() -> dict[str, Contestant]:
    """2-D, a 4×256 MLP without Fourier features, batch 1,024."""
    data = torch.randn(1024, 2)
    net = TimeMLP(2, 256, 4, fourier=0)
    matcher = ConditionalFlowMatcher(sigma=0.0)

    def loss() -> Tensor:
        t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(data), data)
        return (net(xt, t) - ut).square().mean()

    model = FlowMatching(TimeMLP(2, 256, 4, fourier=0), (2,))
    bare = FlowMatching(TimeMLP(2, 256, 4, fourier=0), (2,))
    return {
        "gmbook": ours(model, data),
        "torchcfm": theirs(net, loss),
        "gmbook, their loop": theirs(bare, lambda: bare.loss(data)),
    }


def net_of_relus(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers of 128 with ReLU, the peers' network."""
    return nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, outputs))


def real_nvps() -> dict[str, nn.Module]:
    """Eight affine couplings in 2-D, each with a network of two hidden layers of 128 ReLUs (nflows': residual)."""
    halves = [
        normflows.flows.AffineCouplingBlock(normflows.nets.MLP([1, 128, 128, 2], init_zeros=True)) for _ in range(8)
    ]
    swaps = [normflows.flows.Permute(2, mode="swap") for _ in range(8)]
    stack = [layer for pair in zip(halves, swaps) for layer in pair]
    masks = alternating(parity_mask, (2,), 8)
    unbounded = [AffineCoupling(net_of_relus(2, 4), mask, bound=nn.Identity()) for mask in masks]  # s = h, as in theirs
    return {
        "gmbook": RealNVP.on_vectors(2, net_of_relus, layers=8),
        "normflows": normflows.NormalizingFlow(normflows.distributions.DiagGaussian(2), stack),
        "nflows": nflows.flows.realnvp.SimpleRealNVP(2, 128, 8, 1),
        "zuko": zuko.flows.RealNVP(2, transforms=8, hidden_features=(128, 128)),
        "gmbook, SiLU": RealNVP.on_vectors(2, lambda i, o: MLP(i, o, 128, 2), layers=8),  # the book's own network
        "gmbook, no bound": Flow(Compose(*unbounded), (2,)),
    }


def log_probs(flows: dict[str, nn.Module]) -> dict[str, Callable[[Tensor], Tensor]]:
    """How each library is asked for log p(x)."""
    asked = {name: flow.log_prob for name, flow in flows.items() if name != "zuko"}
    return asked | {"zuko": lambda x: flows["zuko"]().log_prob(x)}


def realnvp_step() -> dict[str, Contestant]:
    """A training step of eight couplings, batch 1,024."""
    data, flows = torch.randn(1024, 2), real_nvps()
    asked = log_probs(flows)

    def step(name: str) -> Contestant:
        mine = name.startswith("gmbook")
        return ours(flows[name], data) if mine else theirs(flows[name], lambda: -asked[name](data).mean())

    bare = copy.deepcopy(flows["gmbook, no bound"])
    plain = theirs(bare, lambda: -bare.log_prob(data).mean())
    return {name: step(name) for name in flows} | {"gmbook, no bound, their loop": plain}


def realnvp_log_prob() -> dict[str, Contestant]:
    """log p of 1,024 points, without gradients."""
    data, flows = torch.randn(1024, 2), real_nvps()
    return {name: Contestant(lambda ask=ask: ask(data), size(flows[name])) for name, ask in log_probs(flows).items()}


def realnvp_sample() -> dict[str, Contestant]:
    """1,024 samples."""
    flows = real_nvps()
    draw: dict[str, Turn] = {name: lambda flow=flow: flow.sample(1024) for name, flow in flows.items()}
    draw["zuko"] = lambda: flows["zuko"]().sample((1024,))
    return {name: Contestant(turn, size(flows[name])) for name, turn in draw.items()}


class Field(nn.Module):
    """A smooth field, an MLP of (x, t): with fast features of time the number of steps would be the features'."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(3, 2, 64, 3)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        return self.net(torch.cat([x, t[:, None]], 1))


class PlainField(nn.Module):
    """The same field as torchdiffeq's examples write it: state (x, log-det), trace by autograd."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            f = self.net(x, t.expand(len(x)), None)
            trace = sum(torch.autograd.grad(f[:, d].sum(), x, retain_graph=True)[0][:, d] for d in range(x.shape[1]))
        return f.detach(), trace.detach()


def cnf_log_prob() -> dict[str, Contestant]:
    """log p of 512 points in 2-D, exact trace, dopri5 with tolerances of 1e-5, the same 3×64 MLP in all.

    zuko multiplies the log-determinant by 0.01 where it measures the step's error (`trace_scale`): it controls the
    error of the points, not of the likelihood. Its second entry weighs both alike, as the others do.
    """
    torch.manual_seed(0)
    data, net = torch.randn(512, 2), Field()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2.0)  # a field that has something to do
    flow = FFJORD(net, (2,), rtol=1e-5, atol=1e-5).eval()
    field, ends = PlainField(net), torch.tensor([0.0, 1.0])
    start = (data, torch.zeros(512))

    def free_form(trace_scale: float) -> Tensor:
        transform = zuko.transforms.FreeFormJacobianTransform(
            lambda t, x: net(x, t.expand(len(x)), None), 0.0, 1.0, net.parameters(), atol=1e-5, rtol=1e-5
        )
        transform.trace_scale = trace_scale
        z, log_det = transform.call_and_ladj(data)
        return flow.base.log_prob(z) + log_det

    return {
        "gmbook": Contestant(lambda: flow.log_prob(data), size(flow)),
        "torchdiffeq": Contestant(lambda: odeint_adjoint(field, start, ends, rtol=1e-5, atol=1e-5), size(net)),
        "zuko": Contestant(lambda: free_form(0.01), size(net)),
        "zuko, full trace": Contestant(lambda: free_form(1.0), size(net)),
    }


def unets() -> tuple[nn.Module, nn.Module]:
    """Two UNets for 28×28 with about the same number of weights: ours, and diffusers'."""
    mine = UNet(1, width=32, multipliers=(1, 2, 2), blocks=1)
    other = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    return mine, other


def ddpm_step() -> dict[str, Contestant]:
    """28×28, batch 32."""
    data, (mine, other), scheduler = torch.randn(32, 1, 28, 28), unets(), DDPMScheduler(1000)

    def loss() -> Tensor:
        eps, i = torch.randn_like(data), torch.randint(0, 1000, (len(data),))
        return (other(scheduler.add_noise(data, eps, i), i).sample - eps).square().mean()

    return {"gmbook": ours(DDPM(mine, (1, 28, 28)), data), "diffusers": theirs(other, loss)}


def ddim_50() -> dict[str, Contestant]:
    """Eight images of 28×28 in 50 steps."""
    mine, other = unets()
    model, scheduler = DDPM(mine, (1, 28, 28)).eval(), DDIMScheduler(1000)
    scheduler.set_timesteps(50)

    @torch.no_grad()
    def sample() -> Tensor:
        x = torch.randn(8, 1, 28, 28)
        for i in scheduler.timesteps:
            x = scheduler.step(other(x, i).sample, i, x).prev_sample
        return x

    return {
        "gmbook": Contestant(lambda: ddim.sample(model, 8, 50), size(mine)),
        "diffusers": Contestant(sample, size(other)),
    }


def other_glow(net_actnorm: bool) -> nn.Module:
    """normflows' Glow of two scales of four steps on 3×16×16, width 64."""
    merges, flows, bases = [], [], []
    for level, channels in enumerate((24, 12)):  # from noise to data: the deeper scale comes first
        blocks = [
            normflows.flows.GlowBlock(channels, 64, split_mode="channel", scale=True, net_actnorm=net_actnorm)
            for _ in range(4)
        ]
        flows.append([*blocks, normflows.flows.Squeeze()])
        bases.append(normflows.distributions.GlowBase((channels if level == 0 else channels // 2, *(4 << level,) * 2)))
        if level > 0:
            merges.append(normflows.flows.Merge())
    return normflows.MultiscaleFlow(bases, flows, merges, class_cond=False)


def glow_step() -> dict[str, Contestant]:
    """Two scales of four steps of flow on 3×16×16, width 64, batch 16, 1×1 convolutions by PLU, actnorm in the nets."""
    data = torch.rand(16, 3, 16, 16)
    mine = Glow.on_images((3, 16, 16), scales=2, steps=4, width=64)
    mine.levels = None  # real numbers in, as the other library has it
    paper, plain = other_glow(net_actnorm=True), other_glow(net_actnorm=False)
    return {
        "gmbook": ours(mine, data),
        "normflows": theirs(paper, lambda: paper.forward_kld(data)),
        "normflows, plain nets": theirs(plain, lambda: plain.forward_kld(data)),  # its default; not the paper's
    }


class PlainMasked(nn.Module):
    """torch's own pre-norm encoder with learned positions, trained as masked diffusion is."""

    def __init__(self, vocab: int, length: int, width: int, depth: int, heads: int):
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.embed, self.positions = nn.Embedding(vocab + 1, width), nn.Parameter(torch.zeros(length, width))
        self.stack = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, vocab)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stack(self.embed(x) + self.positions))


def mdlm_step() -> dict[str, Contestant]:
    """Masked diffusion of 128 characters, four layers of width 128, batch 16, beside torch's own encoder."""
    data = torch.randint(27, (16, 128))
    other = PlainMasked(27, 128, 128, 4, 4)

    def loss() -> Tensor:
        t = torch.rand(len(data), 1) * 0.999 + 1e-3
        masked = torch.rand(data.shape) < t
        logits = other(data.masked_fill(masked, 27))
        nats = nn.functional.cross_entropy(logits.flatten(0, 1), data.flatten(), reduction="none").view_as(data)
        return (nats * masked / t).mean()

    mine = MDLM(Transformer(28, 128, 4, 4, out=27), (128,), 27)
    bare = MDLM(Transformer(28, 128, 4, 4, out=27, positions=False), (128,), 27)
    return {"gmbook": ours(mine, data), "torch": theirs(other, loss), "gmbook, no rotary": ours(bare, data)}


RACES = (
    flow_matching_step,
    realnvp_step,
    realnvp_log_prob,
    realnvp_sample,
    cnf_log_prob,
    ddpm_step,
    ddim_50,
    glow_step,
    mdlm_step,
    *distances.RACES,
)


# ------------------------------------------------------------------------------------------------------- the run


def milliseconds(turn: Turn) -> float:
    """Processor time of one turn."""
    start = time.process_time()
    turn()
    return 1e3 * (time.process_time() - start)


def run(race: Callable[[], dict[str, Contestant]], seconds: float) -> Iterator[str]:
    """Let the contestants take turns for so many seconds, at least five rounds; a line for each."""
    torch.manual_seed(0)
    contestants = race()
    grad = race.__name__.endswith("_step") or race is cnf_log_prob
    with torch.set_grad_enabled(grad):
        for contestant in contestants.values():  # warm up
            contestant.turn(), contestant.turn()
        rounds: list[dict[str, float]] = []
        end = time.perf_counter() + seconds
        while len(rounds) < 5 or time.perf_counter() < end:
            shift = len(rounds) % len(contestants)
            order = [*contestants][shift:] + [*contestants][:shift]
            rounds.append({name: milliseconds(contestants[name].turn) for name in order})
    for name, contestant in contestants.items():
        median = statistics.median(r[name] for r in rounds)
        ratio = statistics.median(r[name] / r["gmbook"] for r in rounds)
        yield f"  {name:22} {median:9.2f} ms   {ratio:5.2f} of gmbook   {contestant.parameters:9,} parameters"


def main() -> None:
    """Run the races whose names contain the given word."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("word", nargs="?", default="", help="only races whose name contains it")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each race lasts (default %(default)s)")
    arguments = parser.parse_args()
    for race in RACES:
        if arguments.word in race.__name__:
            print(f"{race.__name__.replace('_', ' ')}: {race.__doc__.splitlines()[0]}")
            for line in run(race, arguments.seconds):
                print(line, flush=True)


if __name__ == "__main__":
    main()
