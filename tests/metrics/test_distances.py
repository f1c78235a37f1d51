"""Metrics against closed forms for Gaussians, brute force over permutations, and scipy."""

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
import torch

from gmbook import data, metrics
from gmbook.core.flows.pixels import Logit
from gmbook.laws import plane


def normal(n, mean, std=1.0, dim=2):
    return torch.as_tensor(mean) + std * torch.randn(n, dim, dtype=torch.float64)


@pytest.mark.equation("sliced-w2")
def test_sliced_w2_of_shifted_and_scaled_gaussians():
    """Shift by a: ‖a‖/√d, exactly with whole orthonormal bases. Scale by s: |s − 1|."""
    torch.manual_seed(0)
    x, z = normal(2000, 0.0), normal(50, 0.0, dim=200)
    shifted = metrics.sliced_w2(x, x + torch.tensor([3.0, 4.0]))
    assert shifted.item() == pytest.approx(5 / math.sqrt(2), rel=1e-10)
    assert metrics.sliced_w2(z, z + 0.3, 100).item() == pytest.approx(0.3, rel=0.15)  # half of a basis
    assert metrics.sliced_w2(x, 2.5 * x).item() == pytest.approx(1.5, rel=0.05)
    assert metrics.sliced_w2(x, x[torch.randperm(2000)]) == 0


def test_sliced_w2_is_the_mean_over_all_directions():
    """In the plane the sphere is an angle: against a fine uniform grid of angles, pairing sorted projections."""
    torch.manual_seed(0)
    x, y = plane.moons().sample(200).double(), plane.rings().sample(200).double()
    angle = torch.arange(90).double() * (math.pi / 90)
    theta = torch.stack((angle.cos(), angle.sin()))
    squares = [scipy_w2_squared(x @ t, y @ t) for t in theta.T]
    expected = math.sqrt(sum(squares) / len(squares))
    assert metrics.sliced_w2(x, y, 2000).item() == pytest.approx(expected, rel=0.02)


def scipy_w2_squared(a, b):
    """The best pairing on the line, by assignment."""
    cost = (a[:, None] - b).square()
    rows, columns = scipy.optimize.linear_sum_assignment(cost.numpy())
    return cost[rows, columns].mean().item()


def test_sliced_w2_of_unequal_sizes_equals_repetition():
    """Repeating every point k times does not change the empirical law."""
    torch.manual_seed(0)
    x, y = normal(30, 0.0), normal(20, 1.0)
    expected = metrics.sliced_w2(x.repeat_interleave(2, 0), y.repeat_interleave(3, 0))
    assert metrics.sliced_w2(x, y).item() == pytest.approx(expected.item(), rel=1e-12)


def test_measuring_leaves_the_generator_alone():
    x = torch.randn(50, 2)
    torch.manual_seed(3)
    expected = torch.randn(1)
    torch.manual_seed(3)
    metrics.sliced_w2(x, x + 1)
    metrics.noise_floor(metrics.sliced_w2, plane.moons().sample, 50, repeats=2)
    pixels = torch.arange(64).reshape(32, 2).to(torch.uint8)
    metrics.PixelGaussian(pixels).bits(pixels)
    assert torch.randn(1) == expected


def test_w2_is_the_best_pairing():
    torch.manual_seed(0)
    x, y = normal(6, 0.0), normal(6, 1.0)
    costs = [(x - y[list(order)]).square().sum(1).mean() for order in itertools.permutations(range(6))]
    assert metrics.w2(x, y).item() == pytest.approx(min(costs).sqrt().item(), rel=1e-12)
    assert metrics.w2(x, x + torch.tensor([0.3, 0.4], dtype=torch.float64)).item() == pytest.approx(0.5, rel=1e-9)
    with pytest.raises(ValueError, match="sizes must be equal"):
        metrics.w2(x, y[:3])


def test_mmd_is_unbiased_and_has_its_closed_form():
    """Gaussian kernel h, N(0, I) against N(a, I) in d = 2: 2(h²/(h² + 2))(1 − exp(−‖a‖²/(2(h² + 2))))."""
    torch.manual_seed(0)
    same = torch.stack([metrics.mmd2(normal(60, 0.0), normal(60, 0.0), (1.0,)) for _ in range(400)])
    assert abs(same.mean()) < 4 * same.std() / 20 and (same < 0).any()
    apart = torch.stack([metrics.mmd2(normal(300, 0.0), normal(300, 1.0), (1.0,)) for _ in range(60)])
    exact = 2 / 3 * (1 - math.exp(-2 / 6))
    assert abs(apart.mean() - exact) < 4 * apart.std() / math.sqrt(60)


@pytest.mark.parametrize(("n", "m"), [(2, 3), (127, 128), (129, 300)])
def test_mmd_is_a_sum_over_pairs(n, m):
    """Pair by pair, for samples smaller and larger than a block of rows, and far from the origin."""
    torch.manual_seed(0)
    x, y = 1e3 + torch.randn(n, 3).double(), 1e3 + torch.randn(m, 3).double()
    widths = (0.5, 2.0)

    def kernel(a, b):
        apart = (a[:, None] - b[None]).square().sum(2)
        return sum(torch.exp(-apart / (2 * h**2)) for h in widths)

    within = [(kernel(a, a).sum() - kernel(a, a).trace()) / (len(a) * (len(a) - 1)) for a in (x, y)]
    torch.testing.assert_close(metrics.mmd2(x, y, widths), within[0] + within[1] - 2 * kernel(x, y).mean())


def test_energy_distance_in_one_dimension_is_cramers():
    """Unbiased here, so scipy's (a V-statistic, square-rooted) is matched on its own terms."""
    torch.manual_seed(0)
    x, y = normal(200, 0.0, dim=1), normal(150, 0.7, dim=1)
    biased = scipy.stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    spread = sum(torch.cdist(z, z).sum() / len(z) ** 2 / (len(z) - 1) for z in (x, y))
    assert metrics.energy_distance(x, y).item() == pytest.approx(biased - spread.item(), rel=1e-9)


@pytest.mark.equation("frechet-distance")
def test_frechet_distance_against_the_matrix_root_and_the_closed_form():
    torch.manual_seed(0)
    x, y = normal(500, 0.0, dim=5) @ torch.randn(5, 5).double(), normal(400, 0.5, dim=5) @ torch.randn(5, 5).double()
    cx, cy = x.T.cov(), y.T.cov()
    root = scipy.linalg.sqrtm((cx @ cy).numpy()).real
    expected = (x.mean(0) - y.mean(0)).square().sum() + cx.trace() + cy.trace() - 2 * root.trace()
    assert metrics.frechet_distance(x, y).item() == pytest.approx(expected.item(), rel=1e-8)
    z = normal(200_000, 0.0, dim=3)  # FID(N(0, I), N(m, s²I)) = ‖m‖² + d(1 − s)²
    assert metrics.frechet_distance(z, 2 * z + 1).item() == pytest.approx(3 + 3, rel=0.02)
    few = normal(4, 0.0, dim=5)  # singular covariances
    assert metrics.frechet_distance(few, few).item() == pytest.approx(0, abs=1e-9)


def test_precision_and_recall_tell_quality_from_coverage():
    torch.manual_seed(0)
    real = torch.cat([normal(300, -4.0), normal(300, 4.0)])
    one_mode = normal(600, -4.0)
    noisy = torch.cat([normal(300, -4.0, 8.0), normal(300, 4.0, 8.0)])
    precision, recall = metrics.precision_recall(one_mode, real)
    assert precision > 0.85 and recall < 0.6
    precision, recall = metrics.precision_recall(noisy, real)
    assert precision < 0.4 and recall > 0.9


def test_modes():
    torch.manual_seed(0)
    law = plane.eight_gaussians()
    found, quality = metrics.mode_coverage(law.sample(5000), law)
    assert found == 8 and quality == pytest.approx(1 - math.exp(-4.5), abs=0.006)
    half = law.modes[:4].repeat(50, 1)
    assert metrics.mode_coverage(half, law).found == 4
    with pytest.raises(ValueError, match="no modes"):
        metrics.mode_coverage(half, plane.moons())


def test_tables():
    p, q = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([0.25, 0.25, 0.5]).double()
    assert metrics.kl(p, q).item() == pytest.approx(math.log(2))
    assert metrics.kl(q, p) == math.inf
    assert metrics.tv(p, q).item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="probability tables"):
        metrics.tv(p, 2 * q)


def test_units():
    assert metrics.bits_per_dim(torch.tensor(10 * math.log(2)), 5, offset=7.0).item() == pytest.approx(9)
    nice = metrics.bits_per_dim(torch.tensor(-5371.78), 3072, offset=7.0).item()  # NICE on CIFAR-10
    assert nice == pytest.approx(4.477, abs=1e-3)
    assert metrics.bits_per_char(torch.tensor(256 * 4.0 * math.log(2)), 256).item() == pytest.approx(4)


def test_histogram_bits_by_counting():
    """Two pixels of three levels: add-one counts by hand; levels that were never seen still have mass."""
    train = torch.tensor([[0, 2], [0, 2], [1, 2]], dtype=torch.uint8)
    test = torch.tensor([[0, 2], [2, 0]], dtype=torch.uint8)
    bits = metrics.histogram_bits(train, test, levels=3)
    expected = [-(math.log2(3 / 6) + math.log2(4 / 6)) / 2, -(math.log2(1 / 6) + math.log2(1 / 6)) / 2]
    torch.testing.assert_close(bits, torch.tensor(expected, dtype=torch.float64))
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    total = torch.exp2(-2 * metrics.histogram_bits(train, every, levels=3)).sum()
    assert total.item() == pytest.approx(1)  # a probability on the nine images
    with pytest.raises(ValueError, match="0..1"):
        metrics.histogram_bits(train, test, levels=2)
    with pytest.raises(ValueError, match="one shape"):
        metrics.histogram_bits(train, test[:, :1], levels=3)


def correlated(n):
    """Integer images of three pixels in 0..16 that depend on one another: (n, 1, 1, 3) uint8."""
    z = torch.randn(n, 3) @ torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.5, -1.0], [0.0, 0.0, 0.8]])
    return (z + 8).round().clamp(0, 16).to(torch.uint8).reshape(n, 1, 1, 3)


@pytest.mark.parametrize("space", [None, Logit(0.05)])
def test_gaussian_bits_against_scipy(space):
    """scipy's Gaussian of numpy's moments, on the same dequantised pixels, moved by hand into the Gaussian's space."""
    train, test = correlated(4000), correlated(500)
    law = metrics.PixelGaussian(train, 17, space)

    def moved(x, seed):
        torch.manual_seed(seed)
        y = data.dequantise(x, 17).double().flatten(1).numpy()
        if space is None:
            return y, 0.0
        shrunk = 0.05 + 0.9 * y
        return np.log(shrunk / (1 - shrunk)), np.log(0.9 / shrunk / (1 - shrunk)).sum(1)

    fitted, (y, slopes) = moved(train, 1)[0], moved(test, 2)
    moments = fitted.mean(0), np.cov(fitted.T, bias=True)
    expected = -(scipy.stats.multivariate_normal(*moments).logpdf(y) + slopes) / 3 / math.log(2) + math.log2(17)
    torch.testing.assert_close(law.bits(test), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_gaussian_bits_cost_the_correlation_that_a_histogram_ignores():
    """Of pixels that are really Gaussian the bits are the entropy: ½ log₂ det(2πe C) a pixel, in units of levels."""
    x = correlated(50_000)
    cov = x.double().flatten(1).T.cov() + torch.eye(3).double() / 12  # of the rounded pixels and their dequantisation
    entropy = torch.logdet(2 * math.pi * math.e * cov) / 2 / 3 / math.log(2)
    bits = metrics.PixelGaussian(x[:25_000], 17).bits(x[25_000:]).mean()
    assert bits.item() == pytest.approx(entropy.item(), abs=0.02)
    assert bits < metrics.histogram_bits(x[:25_000], x[25_000:], 17).mean()


@pytest.mark.parametrize("space", [None, Logit(0.05)])
def test_samples_of_the_pixel_gaussian_have_the_pixels_moments(space):
    x = correlated(20_000)
    law = metrics.PixelGaussian(x, 17, space)
    drawn = law.sample(20_000)
    assert drawn.dtype == torch.uint8 and drawn.shape == x.shape and torch.equal(drawn, law.sample(20_000))
    ours, theirs = (z.double().flatten(1) for z in (drawn, x))
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(ours.T.cov(), theirs.T.cov(), rtol=0.1, atol=0.1)


def test_a_pixel_gaussian_needs_more_images_than_pixels():
    with pytest.raises(ValueError, match="more than 3 images, got 3"):
        metrics.PixelGaussian(correlated(3), 17)


def test_the_gaussian_baseline_of_mnist_after_realnvps_logit(data_home):
    """3.90 bits/dim, as measured apart from this code on the same files; on the plain pixels it would be 5.29."""
    train, test = data.mnist("train"), data.mnist("test")
    bits = metrics.PixelGaussian(train.x, 256, Logit(0.05)).bits(test.x)
    assert bits.mean().item() == pytest.approx(3.900, abs=0.01)


def test_noise_floor_is_what_two_true_samples_show():
    law = plane.eight_gaussians()
    floor = metrics.noise_floor(metrics.sliced_w2, law.sample, 500)
    torch.manual_seed(7)
    values = torch.stack([metrics.sliced_w2(law.sample(500), law.sample(500)) for _ in range(40)])
    assert floor.mean == pytest.approx(values.mean().item(), rel=0.35)
    assert floor.max >= floor.mean > 0 and floor.std > 0
    assert metrics.noise_floor(metrics.sliced_w2, law.sample, 500) == floor  # repeats exactly
