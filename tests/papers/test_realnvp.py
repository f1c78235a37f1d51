"""NICE and RealNVP, against Jacobians, quadrature and the entropy of a known law."""

import math
from pathlib import Path

import pytest
import scipy.stats
import torch
from specimen import Returns, Specimen, defaults
from torch import nn

from gmbook.core.flows.couplings import AdditiveCoupling, AffineCoupling
from gmbook.core.flows.linear import FlowBatchNorm
from gmbook.core.flows.multiscale import Squeeze
from gmbook.core.gaussians import GaussianMixture
from gmbook.networks.mlp import MLP
from gmbook.papers import realnvp
from gmbook.papers.realnvp import NICE, RealNVP, ScaledTanh

SPECIMEN = Specimen(lambda: RealNVP.on_vectors(2, lambda i, o: MLP(i, o, 16), layers=3, batch_norm=True), labels=False)

MEASURES = {
    "log_prob": lambda model, x: model.log_prob(x),
}


def make_mlp(i, o):
    return nn.Sequential(nn.Linear(i, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, o))


def make_conv(i, o):
    return nn.Sequential(nn.Conv2d(i, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, o, 3, padding=1))


def model(shape):
    """A random flow whose batch norms have seen data, in evaluation mode."""
    torch.manual_seed(0)
    if len(shape) == 1:
        flow = RealNVP.on_vectors(shape[0], make_mlp, batch_norm=True)
        batch = 2 * torch.randn(64, *shape)
    else:
        flow = RealNVP.on_images(shape, make_conv, scales=2)
        batch = torch.rand(16, *shape)
    for _ in range(50):
        flow.log_prob(batch)
    return flow.eval()


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8), (3, 8, 8)], ids=str)
@pytest.mark.fact("R1")
@pytest.mark.fact("R2")
@pytest.mark.equation("realnvp-multiscale")
def test_contract(shape):
    """Exact inverse, log-determinant against the autograd Jacobian, and sample -> z -> x."""
    flow = model(shape).double()
    x = torch.rand(4, *shape, dtype=torch.float64) * 0.9 + 0.05
    z, log_det = flow.bijection(x)
    torch.testing.assert_close(flow.bijection.inverse(z), x, rtol=1e-9, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.bijection(v[None])[0][0], x[0])
    expected = torch.linalg.slogdet(jacobian.reshape(math.prod(shape), -1))[1]
    torch.testing.assert_close(log_det[0], expected, rtol=1e-10, atol=1e-10)
    sample = flow.sample(5)
    assert sample.shape == (5, *shape)
    z = flow.bijection(sample)[0]
    torch.testing.assert_close(flow.bijection.inverse(z), sample, rtol=1e-6, atol=1e-6)


def test_float32_round_trip_of_twelve_couplings():
    torch.manual_seed(1)
    flow = RealNVP.on_vectors(6, make_mlp, layers=12)
    z = torch.randn(256, 6)
    torch.testing.assert_close(flow.bijection(flow.bijection.inverse(z))[0], z, rtol=0, atol=1e-4)


@pytest.mark.equation("change-of-variables")
def test_densities_integrate_to_one():
    torch.manual_seed(2)
    axis = torch.linspace(-15, 15, 401, dtype=torch.float64)
    grid, cell = torch.cartesian_prod(axis, axis), (axis[1] - axis[0]) ** 2
    for flow in (RealNVP.on_vectors(2, make_mlp, layers=4), NICE(2, make_mlp)):
        with torch.no_grad():
            mass = flow.double().log_prob(grid).exp().sum() * cell
        assert abs(mass - 1) < 1e-3


@pytest.mark.equation("nice-scaling")
def test_nice_changes_volume_only_in_its_scaling():
    torch.manual_seed(3)
    flow = NICE(5, make_mlp).double()
    nn.init.normal_(flow.bijection.layers[-1].log_scale)
    x = torch.randn(4, 5, dtype=torch.float64)
    z, log_det = flow.bijection(x)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.bijection(v[None])[0][0], x[0])
    assert abs(torch.linalg.slogdet(jacobian)[1] - flow.bijection.layers[-1].log_scale.sum()) < 1e-10
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian)[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(flow.bijection.inverse(z), x)


@pytest.mark.fact("R4")
@pytest.mark.equation("realnvp-logit")
def test_bits_per_dim_of_an_image_flow_by_hand():
    """The whole pipeline against the density of y = logit(α + (1 − 2α)(k + u)/256), all Jacobians written out."""
    shape = (1, 4, 4)
    flow = model(shape).double()
    k = torch.randint(256, (8, *shape))
    torch.manual_seed(5)
    bits = flow.bits_per_dim(k)
    torch.manual_seed(5)
    u = torch.rand(k.shape)
    p = 0.05 + 0.9 * (k + u).double() / 256
    logit, couplings = flow.bijection.layers
    z, log_det = couplings(p.log() - (1 - p).log())
    slope = (0.9 / 256 / (p * (1 - p))).log().flatten(1).sum(1)  # dy/dk
    log_mass = -(z.square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2 + log_det + slope
    torch.testing.assert_close(bits, -log_mass / (16 * math.log(2)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1e-3])
def test_on_images_uses_the_given_alpha(alpha):
    flow = RealNVP.on_images((1, 4, 4), make_conv, scales=1, alpha=alpha).eval()
    x = torch.rand(3, 1, 4, 4, dtype=torch.float64).float()
    p = alpha + (1 - 2 * alpha) * x
    want, inner = flow.bijection.layers[1](p.log() - (1 - p).log())
    got, log_det = flow.bijection(x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    slope = ((1 - 2 * alpha) / (p * (1 - p))).log().flatten(1).sum(1)
    torch.testing.assert_close(log_det, inner + slope, rtol=1e-4, atol=1e-3)


def test_what_stayed_moves_next():
    """In every stack of an image flow, and of a vector flow, neighbouring couplings have complementary masks."""
    flows = (RealNVP.on_images((1, 8, 8), make_conv, scales=2), RealNVP.on_vectors(4, make_mlp), NICE(4, make_mlp))
    turns = 0
    for flow in flows:
        masks = [m.mask for m in flow.modules() if isinstance(m, (AffineCoupling, AdditiveCoupling))]
        for a, b in zip(masks, masks[1:]):
            if a.shape == b.shape:
                assert torch.equal(a + b, torch.ones_like(a))
                turns += 1
    assert turns == 2 + 2 + 3 + 7 + 3  # checkerboard, channels, last scale; eight layers; four


def test_defaults():
    """Images get batch normalisation, vectors do not; NICE has a logistic base."""
    norms = lambda flow: sum(isinstance(m, FlowBatchNorm) for m in flow.modules())  # noqa: E731
    assert (
        norms(RealNVP.on_images((1, 8, 8), make_conv, scales=2)) == 10 and norms(RealNVP.on_vectors(4, make_mlp)) == 0
    )
    z = torch.linspace(-4, 4, 10).reshape(5, 2)
    want = scipy.stats.logistic.logpdf(z.double().numpy()).sum(1)
    torch.testing.assert_close(NICE(2, make_mlp).base.log_prob(z.double()), torch.from_numpy(want))


def test_the_scale_stands_outside_of_the_tanh():
    bound = ScaledTanh(2, 0)
    with torch.no_grad():
        bound.scale.copy_(torch.tensor([3.0, 0.5]))
    got = bound(torch.tensor([[1.0, -2.0]]))
    assert got[0].tolist() == pytest.approx([3 * math.tanh(1), 0.5 * math.tanh(-2)], abs=1e-6)


def test_in_colour_the_deeper_scale_keeps_red_and_half_of_green():
    """After squeezing (3, H, W) the first six of twelve channels go on: red's four pixels, green's first two."""
    where = torch.tensor([0.0, 10.0, 20.0])[:, None, None] + torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(2, 2)
    kept, done = Squeeze()(where[None])[0][0, :, 0, 0].chunk(2)
    assert kept.tolist() == [0, 1, 2, 3, 10, 11] and done.tolist() == [12, 13, 20, 21, 22, 23]


def test_an_unbounded_scale_overflows_and_the_bounded_does_not():
    h = torch.tensor([[500.0]])
    assert torch.isinf(h.exp()) and torch.isfinite(ScaledTanh(1, 0)(h).exp())


def test_batch_norm_in_training_mode_is_another_density():
    """In training mode a point's likelihood depends on its neighbours; in evaluation mode it does not."""
    flow = model((2,))
    x = torch.randn(8, 2)
    torch.testing.assert_close(flow.log_prob(x)[:4], flow.log_prob(x[:4]))
    flow.train()
    assert (flow.log_prob(x)[:4] - flow.log_prob(x[:4])).abs().max() > 1e-2
    assert any(isinstance(m, FlowBatchNorm) for m in flow.modules())


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="halved 2 times"):
        RealNVP.on_images((1, 14, 14), make_conv, scales=3)
    flow = RealNVP.on_images((1, 4, 4), make_conv, batch_norm=False)
    with pytest.raises(TypeError, match="raw pixels"):
        flow.loss(torch.rand(2, 1, 4, 4))
    with pytest.raises(ValueError, match="expected a batch"):
        flow.log_prob(torch.rand(2, 1, 6, 6))


def train(model, batch, steps, lr=5e-3):
    """Adam with a linearly falling rate."""
    (objective,) = model.objectives().values()
    optimiser = torch.optim.Adam(objective.parameters, lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, steps)
    for _ in range(steps):
        loss = objective.loss(batch())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def test_training_approaches_the_negative_entropy():
    """−E log p is at least the entropy of the data; a trained flow comes close, a Gaussian does not."""
    torch.manual_seed(0)
    angle = torch.linspace(0, 2 * math.pi, 5)[:-1]
    law = GaussianMixture(torch.ones(4), 1.5 * torch.stack([angle.cos(), angle.sin()], 1), torch.full((4,), 0.3))
    x = law.sample(20_000)
    entropy = -law.log_prob(x).mean()
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov())
    flow = RealNVP.on_vectors(2, make_mlp, layers=6)
    train(flow, lambda: law.sample(256), 300)
    with torch.no_grad():
        gap = flow.loss(x) - entropy
    assert -0.01 < gap < 0.08, gap
    assert -gaussian.log_prob(x).mean() - entropy > 0.25


def test_outputs_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="must return"):
        RealNVP.on_vectors(2, lambda i, o: Returns(4, 1), 2).loss(torch.randn(4, 2))
    for outputs in (1, 4):
        with pytest.raises(ValueError, match="must return"):
            NICE(2, lambda i, o, k=outputs: Returns(4, k)).loss(torch.randn(4, 2))


def test_pixels_of_another_range_are_refused_and_its_own_samples_are_not():
    model = RealNVP.on_images((1, 4, 4), lambda i, o: nn.Conv2d(i, o, 3, padding=1), scales=1)
    x = torch.rand(4, 1, 4, 4)
    for wrong in (2 * x - 1, 255 * x):
        with pytest.raises(ValueError, match="values must lie in"):
            model.log_prob(wrong)
    assert model.eval().log_prob(model.sample(4)).isfinite().all()


def test_a_batch_of_one_has_no_variance():
    model = SPECIMEN.build()
    with pytest.raises(ValueError, match="larger batch"):
        model.loss(torch.randn(1, 2))
    assert model.eval().log_prob(torch.randn(1, 2)).isfinite().all()


def test_sigma_is_a_standard_deviation_in_the_chapter_and_the_sigmoid_has_its_name():
    page = Path(__file__).parents[2] / "chapters" / "03_realnvp" / "realnvp.md"
    assert r"\sigma(" not in page.read_text(encoding="utf-8")


def test_the_defaults_are_the_papers_constants():
    """arXiv:1410.8516; arXiv:1605.08803."""
    assert {"couplings": 4}.items() <= defaults(NICE).items()
    assert {"per_mask": 3, "last": 4}.items() <= defaults(realnvp.multiscale).items()
    assert {"alpha": 0.05, "levels": 256}.items() <= defaults(RealNVP.on_images).items()
