"""Embeddings, against their formulas in numpy and against the invariances that define them."""

import numpy as np
import pytest
import torch

from gmbook.networks.embed import (
    Condition,
    GaussianFourier,
    LabelEmbedding,
    NoLabels,
    Sinusoidal,
    Words,
    rotary_angles,
    rotate,
    sincos_positions,
)


@pytest.mark.equation("def-time-embedding")
@pytest.mark.parametrize("dim", [4, 32, 256])
def test_sinusoidal_is_ddpms_formula(dim):
    """At t = i/1000 the features are those that DDPM's code gives the step i."""
    steps = np.array([0, 1, 17, 500, 1000])
    frequency = np.exp(-np.log(10_000) * np.arange(dim // 2) / (dim // 2 - 1))
    expected = np.concatenate([np.sin(steps[:, None] * frequency), np.cos(steps[:, None] * frequency)], 1)
    got = Sinusoidal(dim)(torch.from_numpy(steps / 1000).float())
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)  # float32 angles of up to 1000 rad: 6e-5


def test_gaussian_fourier_features_estimate_a_gaussian_kernel():
    """2/dim ⟨γ(x), γ(x')⟩ = mean cos(2π w·(x − x')) tends to exp(−2π² scale² |x − x'|²), by Bochner."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, dtype=torch.float64) * 0.3
    features = GaussianFourier(200_000, scale=0.5, inputs=3).double()(x)
    squared = (x[:, None] - x).square().sum(-1)
    kernel = features @ features.T / 100_000
    torch.testing.assert_close(kernel, torch.exp(-2 * np.pi**2 * 0.25 * squared), atol=0.01, rtol=0)


def test_gaussian_fourier_frequencies_are_saved_and_take_times():
    one, other = GaussianFourier(8), GaussianFourier(8)
    t = torch.rand(5)
    assert not torch.equal(one(t), other(t))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(t), other(t)) and one(t).shape == (5, 8)


def test_labels_without_y_are_the_null_class():
    embedding, h = LabelEmbedding(3, 4), torch.randn(5, 4)
    null = torch.full((5,), embedding.null)
    assert embedding.null == 3
    torch.testing.assert_close(embedding(h, None), embedding(h, null))
    torch.testing.assert_close(embedding(h, torch.arange(4)[[0, 1, 2, 0, 1]])[3] - h[3], embedding.weight[0])
    image = torch.randn(5, 4, 2, 2)
    torch.testing.assert_close((embedding(image, null) - image)[:, :, 1, 0], embedding.weight[3].expand(5, 4))


def test_unconditional_networks_refuse_labels():
    with pytest.raises(ValueError, match="classes="):
        NoLabels()(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="classes must be"):
        LabelEmbedding(0, 4)


def test_condition_tells_times_and_labels_apart():
    torch.manual_seed(0)
    condition, t = Condition(16, classes=2), torch.tensor([0.2, 0.2, 0.2, 0.7])
    c = condition(t, torch.tensor([0, 1, 2, 0]))
    assert torch.cdist(c, c)[~torch.eye(4, dtype=torch.bool)].min() > 0.1
    torch.testing.assert_close(condition(t)[0], c[2])


def test_grid_positions_are_the_formula():
    got = sincos_positions(3, 5, 16).numpy()
    frequency = 1 / 10_000 ** (np.arange(4) / 4)
    for row in range(3):
        for column in range(5):
            parts = [np.sin(row * frequency), np.cos(row * frequency)]
            parts += [np.sin(column * frequency), np.cos(column * frequency)]
            np.testing.assert_allclose(got[row * 5 + column], np.concatenate(parts), atol=1e-6)


@pytest.mark.equation("rotary-relative")
def test_rotary_scores_depend_on_the_distance_only():
    q, k = torch.randn(2, 8, dtype=torch.float64)
    angles = rotary_angles(12, 8, q)
    turned_q, turned_k = rotate(q.expand(12, 8), angles), rotate(k.expand(12, 8), angles)
    scores = turned_q @ turned_k.T  # (12, 12): the same q and k at every pair of positions
    for distance in range(-11, 12):
        diagonal = scores.diagonal(distance)
        # The angles are computed in float32, so that all dtypes see the same ones.
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    assert (scores[0] - scores[0, 0]).abs()[1:].min() > 1e-3  # and they do depend on it
    torch.testing.assert_close(scores[3, 3], q @ k)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(12))


@pytest.mark.equation("rotary-relative")
def test_rotary_is_multiplication_by_a_complex_phase():
    x = torch.randn(7, 6, dtype=torch.float64)
    got = rotate(x, rotary_angles(7, 6, x)).numpy()
    z = x[:, :3].numpy() + 1j * x[:, 3:].numpy()
    z = z * np.exp(1j * np.arange(7)[:, None] * 10_000 ** (-2 * np.arange(3) / 6))
    np.testing.assert_allclose(got, np.concatenate([z.real, z.imag], 1), atol=1e-5)


def test_bad_sizes_are_refused():
    for build in (lambda: Sinusoidal(7), lambda: Sinusoidal(2), lambda: GaussianFourier(3)):
        with pytest.raises(ValueError, match="features"):
            build()
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions(2, 2, 6)
    with pytest.raises(ValueError, match="multiple of 2"):
        rotary_angles(4, 5, torch.zeros(1))


def test_a_caption_is_a_set_of_words_of_which_any_part_may_stay_unsaid():
    """In training a word is blanked with probability p, a whole caption with q; in evaluation none is."""
    torch.manual_seed(0)
    words = Words(5, 4, drop=0.3, drop_all=0.2)
    y = torch.randint(5, (20_000, 3))
    silent = (words(y) == words.weight[words.blank]).all(-1)
    share = 1 - 0.8 * 0.7
    assert abs(silent.double().mean() - share) < 5 * (share * (1 - share) / 20_000) ** 0.5
    every = 0.2 + 0.8 * 0.3**3
    assert abs(silent.all(1).double().mean() - every) < 5 * (every * (1 - every) / 20_000) ** 0.5
    words.eval()
    assert torch.equal(words(y), words.weight[y])
    plain = Words(5, 4)  # in training, without a share to blank
    assert torch.equal(plain(y), plain.weight[y])
