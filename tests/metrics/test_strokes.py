"""Slant and thickness of strokes that were drawn with a known shear and width."""

import pytest
import torch

from gmbook.metrics.strokes import slant, thickness


def stroke(shear=0.0, width=3.0, size=64, length=40):
    """A straight stroke u = shear·v of a given width, drawn as its coverage of each pixel: (1, 1, size, size)."""
    fine = 8
    v, u = torch.meshgrid(torch.arange(size * fine), torch.arange(size * fine), indexing="ij")
    u, v = (u + 0.5) / fine - size / 2, size / 2 - (v + 0.5) / fine
    inside = ((u - shear * v).abs() * (1 + shear**2) ** -0.5 < width / 2) & (v.abs() < length / 2)
    coverage = torch.nn.functional.avg_pool2d(inside.float()[None, None], fine)
    return 2 * coverage - 1


@pytest.mark.parametrize("shear", [-0.5, 0.0, 0.3, 0.8])
def test_slant_is_the_shear(shear):
    assert abs(slant(stroke(shear)) - shear) < 0.03
    assert abs(slant(stroke(shear).flip(3)) + shear) < 0.03  # the mirror image leans the other way
    assert abs(slant(stroke(shear).roll((5, -7), (2, 3))) - shear) < 0.03  # wherever it stands


@pytest.mark.parametrize("width", [2.0, 3.0, 5.0])
@pytest.mark.parametrize("shear", [0.0, 0.5])
def test_thickness_is_the_width(width, shear):
    """Short of it by the two ends, of width w each on a length of 40; a tenth more for the pixels' corners."""
    assert abs(thickness(stroke(shear, width)) / width - 1) < width / 40 + 0.1
    assert thickness(stroke(shear, width)) < thickness(stroke(shear, width + 1))


def test_a_blank_image_has_neither():
    blank = torch.full((1, 1, 8, 8), -1.0)
    assert slant(blank) == 0 and thickness(blank) == 0
