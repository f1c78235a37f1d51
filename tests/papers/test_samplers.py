"""Every sampler on every path and every toy law, with the truth in the network's place: no training at all.

What a sample is then away from the law is the sampler's own error. It is measured twice, because each measure is blind
to what the other sees. Sliced W2 sees mass in the wrong place, up to its noise floor: two true samples of some hundred
points differ in how many fall on each mode, as coins do, and by a factor of two from draw to draw, so both sides of the
comparison are means over draws. The cross-entropy with the law sees the *width* of what is narrow: in nats, against
that of true points.
"""

import functools

import pytest
import torch

from gmbook import metrics
from gmbook.core.denoiser import Denoiser, ideal
from gmbook.core.paths import CosinePath, LinearPath, SubVPPath, TablePath, VEPath, VPPath
from gmbook.laws import plane
from gmbook.papers import ddim, score_sde
from gmbook.papers.ddpm import DDPM, linear_betas

PATHS = [LinearPath(), VPPath(), SubVPPath(), VEPath(sigma_max=20.0), CosinePath(), TablePath(linear_betas())]
POINTS, DRAWS = 500, {plane.two_gaussians: 40}


def ancestral(denoiser: Denoiser, n: int) -> torch.Tensor:
    """The book's ancestral step on any path is DDIM's at η = 1; `test_ddim` proves that DDPM's own is the same."""
    return ddim.sample(denoiser, n, steps=200, eta=1.0)


SAMPLERS = {
    "ancestral": ancestral,
    "ddim": lambda denoiser, n: ddim.sample(denoiser, n, steps=50),
    "ddim-half": lambda denoiser, n: ddim.sample(denoiser, n, steps=100, eta=0.5),
    "flow-heun": lambda denoiser, n: score_sde.probability_flow(denoiser, n, steps=50),
    "reverse-sde": lambda denoiser, n: score_sde.reverse_sde(denoiser, n, steps=100),
}


@functools.cache
def floor(make):
    """The mean sliced W2 between two true samples."""
    return metrics.noise_floor(metrics.sliced_w2, make().sample, POINTS, repeats=100).mean


def log_densities(make, x):
    """log p_b(x) (N,), nats, under the law blurred by b = 0.1, for the checkerboard is 0 between squares."""
    return make().diffused(torch.tensor(1.0), torch.tensor(0.1)).log_prob(x)


@functools.cache
def entropy(make):
    """The cross-entropy of true points, nats."""
    with torch.random.fork_rng(devices=[]):
        return -log_densities(make, make().sample(40_000)).mean().item()


def distances(sample, make):
    """Sliced W2 of samples to the truth, in units of its floor; and their cross-entropy above that of true points."""
    x = sample(DRAWS.get(make, 8) * POINTS)
    pairs = zip(x.split(POINTS), make().sample(len(x)).split(POINTS))
    distance = torch.stack([metrics.sliced_w2(a, b) for a, b in pairs]).mean().item()
    return distance / floor(make), -log_densities(make, x).mean().item() - entropy(make)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("make", plane.ALL, ids=lambda make: make.__name__)
def test_ends_on_the_law(make, path, sampler):
    torch.manual_seed(0)
    model = ideal(make().law, path)
    distance, nats = distances(lambda n: sampler(model, n), make)
    assert distance < 1.5
    assert abs(nats) < 0.12  # DDIM's steps of first order shrink what is narrow by a few percent; Heun's do not


@pytest.mark.parametrize("make", plane.ALL, ids=lambda make: make.__name__)
@pytest.mark.parametrize("variance", ["large", "small"])
def test_ddpm_ends_on_the_law(make, variance):
    """DDPM's own loop over its own table, at T = 200, for each of the two variances of the paper."""
    torch.manual_seed(0)
    betas = linear_betas(200)
    model = DDPM(ideal(make().law, TablePath(betas)).net, (2,), betas=betas, predicts="x0", variance=variance)
    distance, nats = distances(model.sample, make)
    assert distance < 1.5
    assert abs(nats) < 0.12


def test_wrong_samplers_are_seen():
    """Both bars can be missed: noise added at the last step, a scale that is off, one cluster of eight too heavy."""
    torch.manual_seed(0)
    make = plane.eight_gaussians
    model = ideal(make().law, VPPath())
    assert distances(lambda n: ddim.sample(model, n, 200, eta=1.0) + 0.15 * torch.randn(n, 2), make)[1] > 0.12
    assert distances(lambda n: ddim.sample(model, n, 200, eta=1.0) * 1.15, make)[1] > 0.12
    heavy = make().modes[0] + 0.15 * torch.randn(20_000, 2)
    mixed = lambda n: torch.where(torch.rand(n, 1) < 0.2, heavy[:n], make().sample(n))  # noqa: E731
    assert distances(mixed, make)[0] > 1.5
