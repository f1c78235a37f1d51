"""Latent diffusion on DC-AE's codes: what is encoded, what is drawn, and what is reported of samples that are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook import data
from gmbook.experiments import latent_diffusion_colours, load_pretrained
from gmbook.experiments.dc_ae import bare, recorded
from gmbook.metrics import efficientnet
from gmbook.metrics.images import real_images
from gmbook.metrics.metric import by_key
from gmbook.papers.ddpm import DDPM
from gmbook.papers.latent_diffusion import sqrt_linear_betas


class Unchanged(nn.Module):
    """An autoencoder that changes nothing."""

    def reconstruct(self, x: Tensor) -> Tensor:
        return x


class Halved(nn.Module):
    """An autoencoder that halves the contrast."""

    def reconstruct(self, x: Tensor) -> Tensor:
        return x / 2


class Points(nn.Module):
    """The ideal network of codes that are one point for each class, all entries y + 1, and 0 for the null class."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward(self, xt, t, y):
        point = ((y + 1) % 11).double().reshape(-1, 1, 1, 1)
        alpha, sigma = (v.reshape(-1, 1, 1, 1) for v in self.path.alpha_sigma(t.double()))
        return ((xt - alpha * point) / sigma).to(xt.dtype)


@pytest.fixture
def cheap(monkeypatch, small_images):
    monkeypatch.setattr(efficientnet, "features", lambda x: F.adaptive_avg_pool2d(x, 4).flatten(1))


def few_pictures(n: int) -> data.ImageSet:
    x = torch.randint(0, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return data.ImageSet(x, torch.arange(n) % 10, "few", "train", tuple("0123456789"))


def test_codes_are_those_of_the_pictures_and_then_of_their_mirror_images():
    images = few_pictures(60)
    z = latent_diffusion_colours.codes(images)
    assert z.shape == (120, 32, 4, 4)
    x = images.x.double() / 127.5 - 1
    with torch.no_grad():
        for rows, picture in ((z[:60], x), (z[60:], x.flip(3))):
            torch.testing.assert_close(rows, 0.2128 * recorded().encoder(picture.float()), rtol=1e-4, atol=1e-4)


def test_each_code_keeps_its_label():
    images = few_pictures(30)
    z, y = next(iter(latent_diffusion_colours.batches(images, 0, 60)))  # all of them, in some order
    known = latent_diffusion_colours.codes(images)
    place = torch.cdist(z.flatten(1), known.flatten(1)).argmin(1)
    assert sorted(place.tolist()) == list(range(60)) and torch.equal(y, images.y.repeat(2)[place])


def test_the_third_phase_left_the_codes_as_they_were():
    """So one prior serves both decoders, which differ in the last layer alone."""
    before, after = (
        bare(run).state_dict() for run in (latent_diffusion_colours.FIRST, latent_diffusion_colours.REFINED)
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    last = max(int(name.split(".")[1]) for name in before if name.startswith("decoder."))
    assert changed and all(name.startswith(f"decoder.{last}.") for name in changed)


def test_both_stages_decode_what_was_encoded():
    images = few_pictures(8)
    both = latent_diffusion_colours.whole(latent_diffusion_colours.prior(16, 1))
    assert not any(p.requires_grad for p in both.autoencoder.parameters()) and len(both.objectives()) == 1
    with torch.no_grad():
        expected = load_pretrained("dc_ae", "cifar10_refined", "laptop").reconstruct(data.scale(images.x)).clamp(-1, 1)
    torch.testing.assert_close(
        latent_diffusion_colours.pictures(both, latent_diffusion_colours.codes(images)[:8]), expected
    )


def test_guidance_leads_half_the_distance_beyond_a_class_of_one_point():
    """At s = 1 the sampler ends at the point of its class; at 1.5 at the null's point and 1.5 times the difference."""
    table = sqrt_linear_betas()
    model = DDPM(nn.Identity(), latent_diffusion_colours.LATENT, betas=table)  # predicts ε
    model = model.with_network(Points(model.path))
    labels = torch.tensor([0, 4, 9])
    ends = torch.tensor([1.0, 5.0, 10.0]).reshape(3, 1, 1, 1).expand(3, *latent_diffusion_colours.LATENT)
    torch.testing.assert_close(latent_diffusion_colours.draw(model, labels, 1.0, 10), ends, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(latent_diffusion_colours.draw(model, labels, steps=10), 1.5 * ends, rtol=1e-3, atol=1e-3)


def test_the_gaussian_has_the_moments_of_the_codes():
    torch.manual_seed(0)
    mix = torch.tensor([[2.0, 0.0, 0.0, 0.0], [1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 0.1, 0.0], [3.0, 0.0, 0.0, 1.0]])
    z = (torch.rand(4000, 4) @ mix.T + torch.arange(4.0)).reshape(4000, 1, 2, 2)
    drawn = latent_diffusion_colours.gaussian(z, 20_000)
    assert drawn.shape == (20_000, 1, 2, 2) and drawn.dtype == z.dtype
    wanted, found = ((v.flatten(1).mean(0), v.flatten(1).T.cov()) for v in (z, drawn))
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=0.05)
    torch.testing.assert_close(found[1], wanted[1], rtol=0.05, atol=0.02)
    assert drawn.amin() < z.amin() - 0.5, "a Gaussian has tails, the codes have none"


def test_real_pictures_before_an_autoencoder_that_changes_nothing_stand_at_the_floor(cheap):
    """Then samples, reconstructions and real pictures are one law, and all three distances are the same number."""
    real, other = real_images(data.cifar10("test"), 40)
    grey = torch.zeros_like(other)
    told = by_key(latent_diffusion_colours.report(Unchanged(), other, {"gaussian_codes": grey, "again": other}))
    samples, rebuilt, split = (told[key] for key in latent_diffusion_colours.KEYS)
    assert samples.value == rebuilt.value == split.value == samples.floor == rebuilt.floor == split.floor > 0
    assert samples.part("again") == samples.value and samples.part("gaussian_codes") == split.part("gaussian_codes")
    assert samples.part("gaussian_codes") > 3 * samples.floor
    assert samples.protocol.samples == 40 and samples.protocol.examples == len(real)
    assert told["precision"].value == told["precision"].floor > told["recall"].part("gaussian_codes")
    assert told["nearest_training_image"].value == told["nearest_training_image"].floor


def test_samples_that_fail_as_reconstructions_do_are_at_the_floor_beside_those_only(cheap):
    real, other = real_images(data.cifar10("test"), 40)
    told = by_key(latent_diffusion_colours.report(Halved(), other / 2, {"gaussian_codes": other}))
    samples, rebuilt, split = (told[key] for key in latent_diffusion_colours.KEYS)
    assert samples.value == rebuilt.value > samples.floor
    assert split.value == split.floor < split.part("gaussian_codes")


def test_an_untrained_prior_is_reported_whole(cheap):
    torch.manual_seed(0)
    told = by_key(latent_diffusion_colours.evaluate(latent_diffusion_colours.prior(16, 1).eval(), 12))
    samples, rebuilt, split = (told[key] for key in latent_diffusion_colours.KEYS)
    assert set(samples.baselines) == {"gaussian_codes", "phase_one", "unguided"} and set(split.baselines) == {
        "gaussian_codes"
    }
    assert all(m.protocol.samples == 12 for m in told.values())
    assert "guidance s = 1.5" in samples.protocol.sampler and not rebuilt.protocol.sampler
    assert samples.value > samples.floor > 0 and rebuilt.value > 0 and split.value > split.floor > 0


def test_without_the_network_one_line_says_so(cheap, monkeypatch):
    def missing(x):
        raise efficientnet.WeightsMissing("install them")

    monkeypatch.setattr(efficientnet, "features", missing)
    _, other = real_images(data.cifar10("test"), 10)
    told = by_key(latent_diffusion_colours.report(Unchanged(), other, {"gaussian_codes": other}))
    assert all(told[key].value is None and "install them" in told[key].missing for key in latent_diffusion_colours.KEYS)


def test_the_scale_is_that_of_the_codes_of_real_pictures(data_home):
    train = data.cifar10("train")
    z = latent_diffusion_colours.codes(replace(train, x=train.x[:1000], y=train.y[:1000]))
    assert z.std().item() == pytest.approx(1.0, abs=0.02)
