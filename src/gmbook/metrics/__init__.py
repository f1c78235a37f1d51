"""Distances between samples and between tables, code lengths, and the features in which images are compared."""

from gmbook.core.flows.pixels import bits_per_dim
from gmbook.metrics import wording
from gmbook.metrics.bits import PixelGaussian, bits_per_char, histogram_bits
from gmbook.metrics.distances import (
    Coverage,
    Floor,
    energy_distance,
    frechet_distance,
    kl,
    mmd2,
    mode_coverage,
    noise_floor,
    precision_recall,
    sliced_w2,
    tv,
    w2,
)
from gmbook.metrics.metric import Metric, Protocol

__all__ = [
    "Metric",
    "Protocol",
    "wording",
    "Coverage",
    "Floor",
    "PixelGaussian",
    "bits_per_char",
    "bits_per_dim",
    "energy_distance",
    "frechet_distance",
    "histogram_bits",
    "kl",
    "mmd2",
    "mode_coverage",
    "noise_floor",
    "precision_recall",
    "sliced_w2",
    "tv",
    "w2",
]
