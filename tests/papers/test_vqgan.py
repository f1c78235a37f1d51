"""First stages: the quantiser against enumeration and k-means, the adaptive weight against gradients known by hand."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from specimen import Specimen, decoded
from torch import nn

from gmbook.networks.conv import MapDecoder, MapEncoder
from gmbook.networks.mlp import MLP
from gmbook.papers.gan import hinge
from gmbook.papers.vqgan import Adversary, FeatureDistance, VQAutoencoder, adaptive_weight, perplexity
from gmbook.train import train

SPECIMEN = Specimen(lambda: VQAutoencoder(MLP(2, 2, 16), MLP(2, 2, 16), (2,), codes=8, dim=2), draw=decoded)

DOUBLE = torch.float64
SHAPES = [(2,), (1, 8, 8), (3, 32, 32)]


def autoencoder(shape, adversarial=True, codes=8, dim=3, perceptual=None):
    """A small VQ autoencoder with a patch discriminator, on vectors and on images."""
    if len(shape) == 1:
        encoder, decoder, critic = MLP(*shape, dim, 8, 1), MLP(dim, *shape, 8, 1), MLP(*shape, 1, 8, 1)
        last = decoder[-1].weight
    else:
        encoder, decoder = MapEncoder(shape, dim, 8), MapDecoder(dim, shape, 8)
        critic, last = MapEncoder(shape, 1, 8, spectral=True), decoder.rest[-1].weight
    adversary = Adversary(critic, last) if adversarial else None
    return VQAutoencoder(encoder, decoder, shape, codes, dim, perceptual=perceptual, adversary=adversary)


def bare(codes=5, dim=2, shape=(2, 3, 3)):
    """The quantiser alone: encoder and decoder are the identity."""
    model = VQAutoencoder(nn.Identity(), nn.Identity(), shape, codes, dim).double()
    nn.init.normal_(model.codebook)
    return model


# ------------------------------------------------------------------------------------------------- the quantiser


@pytest.mark.equation("ldm-vq")
@pytest.mark.parametrize("shape", [(2,), (2, 3, 3)], ids=str)
def test_the_nearest_code_by_enumeration(shape):
    model = bare(shape=shape)
    z = torch.randn(4, *shape, dtype=DOUBLE)
    e, index = model.quantise(z)
    places = z.movedim(1, -1).reshape(-1, 2)
    for vector, k, code in zip(places, index.flatten(), e.movedim(1, -1).reshape(-1, 2), strict=True):
        distances = [float(((vector - c) ** 2).sum()) for c in model.codebook.detach()]
        assert k == int(np.argmin(distances))
        assert torch.equal(code, model.codebook[k])


@pytest.mark.fact("L1")
@pytest.mark.equation("ldm-straight-through")
def test_straight_through():
    """The value is the code's, dx̂/dz is the identity, and the codebook feels nothing of the reconstruction."""
    model = bare()
    x = torch.randn(1, 2, 3, 3, dtype=DOUBLE)
    output, _ = model(x)
    torch.testing.assert_close(output, model.quantise(x)[0], rtol=0, atol=1e-14)
    jacobian = torch.autograd.functional.jacobian(lambda z: model(z)[0], x).reshape(18, 18)
    assert torch.equal(jacobian, torch.eye(18, dtype=DOUBLE))
    output, _ = model(x.requires_grad_())
    to_x, to_codes = torch.autograd.grad(output.sum(), (x, model.codebook), allow_unused=True)
    assert torch.equal(to_x, torch.ones_like(x)) and to_codes is None


@pytest.mark.fact("L1")
@pytest.mark.equation("ldm-vq-loss")
def test_the_two_terms_pull_at_one_side_each():
    """∂L_reg/∂z = 2β(z − e) and ∂L_reg/∂e_k = 2 Σ (e_k − z) over the vectors of code k."""
    model = bare()
    x = torch.randn(6, 2, 3, 3, dtype=DOUBLE, requires_grad=True)
    e, index = model.quantise(x)
    penalty = model(x)[1]
    torch.testing.assert_close(penalty, 1.25 * (x - e).square().flatten(1).sum(1))
    to_z, to_codes = torch.autograd.grad(penalty.sum(), (x, model.codebook))
    torch.testing.assert_close(to_z, 2 * 0.25 * (x - e).detach())
    vectors, owner = x.detach().movedim(1, -1).reshape(-1, 2), index.flatten()
    for k, code in enumerate(model.codebook.detach()):
        torch.testing.assert_close(to_codes[k], 2 * (code - vectors[owner == k]).sum(0))
        # so a gradient step of 1/(2 n_k) is a step of k-means: the code lands on the mean of its vectors
        n = int((owner == k).sum())
        torch.testing.assert_close(code - to_codes[k] / (2 * n), vectors[owner == k].mean(0))


@pytest.mark.equation("ldm-perplexity")
def test_perplexity():
    assert math.isclose(perplexity(torch.full((7,), 1 / 7, dtype=DOUBLE)), 7, rel_tol=1e-12)
    assert perplexity(torch.tensor([0.0, 1, 0])) == 1
    law = torch.tensor([0.5, 0.3, 0.2], dtype=DOUBLE)
    assert math.isclose(perplexity(law), math.exp(scipy.stats.entropy(law.numpy())), rel_tol=1e-12)


def test_usage_and_seeding():
    """The start of the codebook leaves most codes unused; codes put on latent vectors are all used."""
    x = torch.randn(64, 2, 3, 3, dtype=DOUBLE)
    model = bare(codes=16)
    nn.init.uniform_(model.codebook, -1 / 16, 1 / 16)
    before = model.usage(x)
    model.seed_codebook(x)
    after = model.usage(x)
    assert math.isclose(before.sum(), 1, rel_tol=1e-6) and math.isclose(after.sum(), 1, rel_tol=1e-6)
    assert after.min() > 0 and perplexity(before) < perplexity(after)
    assert model(x)[1].mean() < 18 * 1.25  # less than with all codes at 0: E‖z‖² = 18
    vectors = {tuple(v) for v in x.movedim(1, -1).reshape(-1, 2).tolist()}
    assert all(tuple(code) in vectors for code in model.codebook.tolist())


def test_what_the_prior_sees_is_not_quantised():
    model = bare()
    x = torch.randn(3, 2, 3, 3, dtype=DOUBLE)
    assert torch.equal(model.encode(x), x)
    assert torch.equal(model.decode(x), model.quantise(x)[0]) and torch.equal(model.reconstruct(x), model.decode(x))


# ------------------------------------------------------------------------------------------------- the adversary


@pytest.mark.equation("ldm-adaptive-weight")
def test_adaptive_weight_by_hand():
    """x̂ = wᵀz: L_rec = 3wᵀa and L_adv = 2wᵀb have gradients 3a and 2b, of norms 15 and 26."""
    w = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
    a, b = torch.tensor([3.0, 4]).double(), torch.tensor([5.0, 12]).double()
    weight = adaptive_weight(3 * (w @ a), 2 * (w @ b), w, delta=0.5)
    assert math.isclose(weight, 15 / 26.5, rel_tol=1e-14) and not weight.requires_grad
    assert adaptive_weight(3 * (w @ a), 0 * (w @ b), w, most=7.0) == 7  # a silent adversary: limited


@pytest.mark.equation("ldm-autoencoder")
@pytest.mark.equation("ldm-adaptive-weight")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_losses_of_both_players(shape):
    """Each is the sum written out; at the last layer the adversary pulls half as hard as the reconstruction."""
    model = autoencoder(shape, perceptual=lambda x, output: (x - output).flatten(1).square().mean(1)).double()
    model.adversary.eval()  # spectral normalisation estimates anew at every training call
    x, last = torch.randn(5, *shape, dtype=DOUBLE), model.adversary._last[0]
    players = model.objectives()
    output, penalty = model(x)
    rec = ((x - output).abs() + (x - output).square()).flatten(1).sum(1).mean()  # the perceptual mean, per pixel
    scores, real = model.adversary.discriminator(output), model.adversary.discriminator(x)
    (from_rec,) = torch.autograd.grad(rec, last, retain_graph=True)
    (from_adv,) = torch.autograd.grad(-scores.mean(), last, retain_graph=True)
    weight = from_rec.norm() / (from_adv.norm() + 1e-4)
    torch.testing.assert_close(players["autoencoder"].loss(x), rec - 0.5 * weight * scores.mean() + penalty.mean())
    torch.testing.assert_close(model.loss(x), rec + penalty.mean())
    pulled = torch.autograd.grad(model.adversary.generator_term(rec, output), last, retain_graph=True)[0].norm()
    expected = from_rec.norm() * from_adv.norm() / (from_adv.norm() + 1e-4) / 2
    torch.testing.assert_close(pulled, expected)
    by_hand = (1 - real).clamp(min=0).mean() + (1 + scores).clamp(min=0).mean()
    torch.testing.assert_close(players["discriminator"].loss(x), by_hand)
    assert model.adversary.game is hinge


@pytest.mark.equation("ldm-autoencoder")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_player_moves_its_own(shape):
    """Their parameters are disjoint and are all; training one leaves the other bit for bit."""
    model = autoencoder(shape)
    x, players = torch.randn(16, *shape), model.objectives()
    sizes = [sum(p.numel() for p in o.parameters) for o in players.values()]
    assert sum(sizes) == sum(p.numel() for p in model.parameters()) and min(sizes) > 0
    for name, other in (("autoencoder", "discriminator"), ("discriminator", "autoencoder")):
        before = {key: [p.detach().clone() for p in o.parameters] for key, o in players.items()}
        list(train(model, [(x,)], steps=2, objectives={name: players[name]}))
        same = {key: [torch.equal(*pair) for pair in zip(before[key], o.parameters)] for key, o in players.items()}
        assert all(same[other]) and not any(same[name][:1])


def test_the_adversary_may_wait_or_stay_away():
    model = autoencoder((2,))
    patient = model.players(adversarial=False)
    assert list(patient) == ["autoencoder"] and patient["autoencoder"].loss == model.loss
    assert len(patient["autoencoder"].parameters) == len(model.objectives()["autoencoder"].parameters)
    assert list(autoencoder((2,), adversarial=False).objectives()) == ["autoencoder"]


def test_the_last_weight_is_registered_once():
    names = list(autoencoder((2,)).state_dict())
    assert len(names) == len({*names}) and not any("last" in name for name in names)


def test_refusals():
    with pytest.raises(ValueError, match="expected a batch"):
        autoencoder((2,)).loss(torch.randn(4, 3))
    with pytest.raises(ValueError, match="need at least 8 latent vectors"):
        autoencoder((2,)).seed_codebook(torch.randn(4, 2))


@pytest.mark.equation("ldm-vq-loss")
def test_quantised_latents_of_a_mixture_find_its_modes():
    """Points about 8 centres, 8 codes: the codes end at the centres and every one of them is used."""
    angle = torch.arange(8) * (math.pi / 4)
    centres = torch.stack([angle.cos(), angle.sin()], 1)
    model = VQAutoencoder(nn.Identity(), nn.Identity(), (2,), 8, 2)
    model.codebook.data = centres + 0.2 * torch.randn(8, 2)
    x = centres.repeat(50, 1) + 0.05 * torch.randn(400, 2)
    list(train(model, [(x,)], steps=200, lr=0.01))
    assert torch.cdist(centres, model.codebook).min(1).values.max() < 0.03  # the mean of 50 points: 0.007 per axis
    assert perplexity(model.usage(x)) > 7.99


# ------------------------------------------------------------------------------------------- the perceptual loss


def stages():
    torch.manual_seed(1)
    first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU())
    second = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Dropout(0.5), nn.ReLU())
    return first, second


def test_feature_distance_place_by_place():
    """Each place's features are scaled to norm 1; squared differences are summed over channels and layers and averaged
    over places."""
    first, second = (part.double() for part in stages())
    distance = FeatureDistance(first, second)
    distance.train()  # stays in evaluation mode, dropout off
    x, output = torch.randn(2, 3, 1, 8, 8, dtype=DOUBLE)
    got, expected = distance(x, output), []
    for a, b in zip(x, output):
        total, pair = 0.0, [a[None], b[None]]
        for stage in (first, second):
            pair = [stage.eval()(part) for part in pair]
            of_a, of_b = (part[0].flatten(1).T for part in pair)
            gaps = [
                float(((u / u.norm().clamp(min=1e-10) - v / v.norm().clamp(min=1e-10)) ** 2).sum())
                for u, v in zip(of_a, of_b)
            ]
            total += sum(gaps) / len(gaps)
        expected.append(total)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=DOUBLE), rtol=1e-10, atol=1e-12)
    assert not distance(x, x).any()


def test_feature_distance_pulls_at_the_image_and_at_nothing_else():
    distance, x = FeatureDistance(*stages()), torch.randn(3, 1, 8, 8)
    output = torch.randn(3, 1, 8, 8, requires_grad=True)
    distance(x, output).sum().backward()
    assert output.grad.abs().min() > 0
    assert not any(p.requires_grad or p.grad is not None for p in distance.parameters())
    model = autoencoder((1, 8, 8), perceptual=distance, adversarial=False)
    assert not {id(p) for p in distance.parameters()} & {id(p) for p in model.objectives()["autoencoder"].parameters}


# ------------------------------------------------------------------------------------------ the balance of VQ's loss


@pytest.mark.equation("ldm-vq-loss")
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_the_balance_is_that_of_averages(weight):
    """The authors' loss, mean |x − x̂| + w (mean (sg z − e)² + β mean (z − sg e)²), is ours over the number of pixels;
    here a latent has 12 numbers and an image 64."""
    shape = (1, 8, 8)
    model = autoencoder(shape, adversarial=False).double()
    model.weight = weight
    x = torch.randn(5, *shape, dtype=DOUBLE)
    z = model.encode(x)
    e = model.quantise(z)[0]
    official = (x - model.decoder(e)).abs().mean() + weight * ((z - e) ** 2).mean() * (1 + model.beta)
    assert z[0].numel() == 12
    torch.testing.assert_close(model.loss(x) / 64, official)


def test_a_stronger_adversary_pulls_harder():
    """The factor of `Adversary` scales its term of the autoencoder's loss."""
    model, x = autoencoder((1, 8, 8)), torch.randn(4, 1, 8, 8)
    model.eval()
    output, penalty = model(x)
    rec = (x - output).abs().flatten(1).sum(1).mean()
    one = model.adversary.generator_term(rec, output)
    model.adversary.weight = 1.5
    torch.testing.assert_close(model.adversary.generator_term(rec, output), 3 * one)
