"""MAR's two tries on MNIST differ in the share that is hidden in training and in the optimizer."""

from dataclasses import replace

import pytest
import torch

from gmbook import experiments
from gmbook.experiments import mar


@pytest.fixture(autouse=True)
def no_codewords(monkeypatch):
    """K-means takes long, and no test here looks at a codeword."""
    monkeypatch.setattr(mar, "codebook", lambda: torch.zeros(mar.WORDS, mar.CHANNELS))


@pytest.mark.parametrize("head", mar.HEADS)
def test_two_tries_of_one_network_on_one_stream(head):
    first, second = (experiments.find("mar", f"mnist_{head}{name}", "laptop") for name in ("", "_even"))
    shapes = [{name: p.shape for name, p in e.model().named_parameters()} for e in (first, second)]
    assert shapes[0] == shapes[1] and first.batches is second.batches and first.sample is second.sample
    assert replace(first.recipe, lr=2e-2, optimizer=second.recipe.optimizer) == second.recipe


def hidden(ratio, draws=3000):
    """How many of the 49 patches the backbone had to tell, in so many losses of a codebook model."""
    model = mar.digits("codebook", 16, (1, 1), 1, ratio)
    counts, x = [], torch.zeros(1, 1, 28, 28)

    def backbone(tokens, order, known, y=None):
        counts.append(49 - known)
        return torch.zeros(1, 49 - known, 16)

    model.backbone.forward = backbone
    with torch.no_grad():
        for _ in range(draws):
            model.loss(x, torch.zeros(1, dtype=torch.long))
    return torch.bincount(torch.tensor(counts), minlength=50)


def test_the_first_hides_seven_tenths_at_least_and_the_second_any_number_alike():
    torch.manual_seed(0)
    assert not hidden(mar.PAPER, 500)[:35].any()
    counts = hidden(mar.EVEN)
    assert counts[0] == 0
    chi_squared = ((counts[1:] - 3000 / 49) ** 2 / (3000 / 49)).sum().item()
    assert chi_squared < 48 + 4 * 96**0.5  # 48 degrees of freedom
