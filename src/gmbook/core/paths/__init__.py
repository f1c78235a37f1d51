"""Gaussian paths from data to noise: what all have in common (`base`), and those of the papers (`family`)."""

from gmbook.core.paths.base import QUANTITIES, Bridge, GaussianPath, Quantity, broadcast
from gmbook.core.paths.family import (
    CosinePath,
    LinearPath,
    SubVPPath,
    TablePath,
    VariancePreservingPath,
    VEPath,
    VPPath,
)

__all__ = [
    "QUANTITIES",
    "Bridge",
    "CosinePath",
    "GaussianPath",
    "LinearPath",
    "Quantity",
    "SubVPPath",
    "TablePath",
    "VEPath",
    "VPPath",
    "VariancePreservingPath",
    "broadcast",
]
