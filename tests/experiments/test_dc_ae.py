"""What the runs of DC-AE on CIFAR-10 report of autoencoders whose numbers are known."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook import data
from gmbook.experiments import dc_ae
from gmbook.metrics import efficientnet
from gmbook.metrics.images import real_images
from gmbook.metrics.metric import by_key
from gmbook.networks.conv import PatchGAN


class Through(nn.Module):
    """An autoencoder that does one thing to pictures."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.change(x)


@pytest.fixture
def cheap(monkeypatch, small_images):
    monkeypatch.setattr(efficientnet, "features", lambda x: F.adaptive_avg_pool2d(x, 4).flatten(1))


def test_a_perfect_autoencoder_has_no_error_and_the_floor_of_real_images(cheap):
    report = by_key(dc_ae.evaluate(Through(lambda x: x), 40))
    assert report["reconstruction_error"].value == 0 and report["contrast_kept"].value == 1
    distance = report["reconstruction_feature_distance"]
    assert distance.value == distance.floor > 0 and distance.protocol.samples == 40


def test_one_that_answers_with_the_mean_image_has_its_error(cheap):
    """The same number as the baseline, which is the mean of other images than those that are measured."""
    real, other = real_images(data.cifar10("test"), 40)
    report = by_key(dc_ae.evaluate(Through(lambda x: real.mean(0).expand_as(x)), 40))
    error = report["reconstruction_error"]
    assert error.value == pytest.approx(error.part("mean_image"), rel=1e-5)
    assert error.value == pytest.approx((other - real.mean(0)).square().mean().sqrt().item(), rel=1e-5)


def test_contrast_by_hand():
    """A ramp of slope a along rows has contrast a; half the picture is half the contrast."""
    ramp = torch.arange(8.0).expand(2, 3, 8, 8)
    assert dc_ae.contrast(0.25 * ramp) == pytest.approx(0.25)
    assert dc_ae.contrast(3 * ramp + 4 * ramp.mT) == pytest.approx(5.0)
    report_of_half = dc_ae.contrast(ramp / 2) / dc_ae.contrast(ramp)
    assert report_of_half == pytest.approx(0.5)


def test_without_the_network_one_line_says_so(cheap, monkeypatch):
    def missing(x):
        raise efficientnet.WeightsMissing("install them")

    monkeypatch.setattr(efficientnet, "features", missing)
    distance = by_key(dc_ae.evaluate(Through(lambda x: x), 10))["reconstruction_feature_distance"]
    assert distance.value is None and "install them" in distance.missing


def test_the_sheet_shows_test_images_of_the_labels(cheap):
    """The k-th time a label is asked for it is the k-th test image of that class."""
    test = data.cifar10("test")
    labels = torch.tensor([int(test.y[0]), int(test.y[1]), int(test.y[0])])
    shown = dc_ae.reconstructions(Through(lambda x: x), labels)
    same = (test.y == test.y[0]).nonzero()[:, 0]
    torch.testing.assert_close(shown[0], data.scale(test.x[same[0]]))
    torch.testing.assert_close(shown[2], data.scale(test.x[same[1]]))


def test_the_refined_run_moves_the_last_layers_only():
    """Its objectives are the third phase's: the adversary acts, and no code can change."""
    model = dc_ae.Refined(
        dc_ae.SHAPE, 4, (8, 8, 8, 8), (0, 1, 1, 1), attention=3, head=8, discriminator=PatchGAN(3, 8, 2)
    )
    players = model.objectives()
    assert set(players) == {"autoencoder", "discriminator"}
    moving = {id(p) for p in players["autoencoder"].parameters}
    assert moving and not moving & {id(p) for p in model.encoder.parameters()}
    assert not moving & {id(p) for p in model.decoder[0].parameters()}


def test_the_two_runs_differ_in_the_shortcuts_alone():
    with_, without = dc_ae.colour_model(), dc_ae.colour_model(shortcut=False)
    assert {n: p.shape for n, p in with_.named_parameters()} == {n: p.shape for n, p in without.named_parameters()}
    laptop = {e.dataset: e for e in dc_ae.EXPERIMENTS if e.budget == "laptop"}
    assert laptop["cifar10"].recipe == laptop["cifar10_plain"].recipe
    flags = [[m.shortcut for m in laptop[name].model().encoder if "Down" in type(m).__name__] for name in laptop]
    assert [any(f) for f in flags] == [True, True, False, True]
