"""FID is computed by torchmetrics or not at all, and then one line says why."""

import sys
import types

import pytest
import torch

from gmbook.metrics import fid

X, REAL = torch.full((3, 3, 4, 4), -1.0), torch.full((120, 3, 4, 4), 1.0)


def test_without_weights_or_library_it_says_so(monkeypatch):
    monkeypatch.delenv(fid.VARIABLE, raising=False)
    assert fid.VARIABLE in fid.fid(X, REAL)
    monkeypatch.setenv(fid.VARIABLE, "weights.pth")
    monkeypatch.setitem(sys.modules, "torchmetrics", None)  # as if it were not installed
    assert "torchmetrics[image]" in fid.fid(X, REAL) and "torchvision" in fid.fid(X, REAL)


def test_torchmetrics_gets_bytes_and_which_of_them_are_real(monkeypatch):
    class Metric:
        """torchmetrics' interface; its value: the difference of the mean pixels."""

        def __init__(self, feature, feature_extractor_weights_path):
            assert (feature, feature_extractor_weights_path) == (2048, "weights.pth")
            self.seen = {True: [], False: []}

        def update(self, imgs, real):
            assert imgs.dtype == torch.uint8 and len(imgs) <= 50
            self.seen[real].append(imgs)

        def compute(self):
            real, fake = (torch.cat(self.seen[key]).float() for key in (True, False))
            assert (len(real), len(fake)) == (120, 3)
            return real.mean() - fake.mean()

    module = types.ModuleType("torchmetrics.image.fid")
    module.FrechetInceptionDistance = Metric
    monkeypatch.setitem(sys.modules, "torchmetrics", types.ModuleType("torchmetrics"))
    monkeypatch.setitem(sys.modules, "torchmetrics.image", types.ModuleType("torchmetrics.image"))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", module)
    monkeypatch.setenv(fid.VARIABLE, "weights.pth")
    assert fid.fid(X, REAL) == pytest.approx(255)
