"""Real data: the sets, their download, pixels and letters as numbers, and streams of batches."""

from gmbook.data.alphabet import ALPHABET, decode, encode
from gmbook.data.errors import DataCorrupt, DataMissing
from gmbook.data.pixels import binarise, dequantise, quantise, scale, unscale
from gmbook.data.sets import (
    CIFAR10_CLASSES,
    DIGIT_CLASSES,
    ImageSet,
    TextSet,
    cifar10,
    digits,
    digits_or,
    mnist,
    prose,
    text8,
    text8_or_prose,
)

__all__ = [
    "ALPHABET",
    "CIFAR10_CLASSES",
    "DIGIT_CLASSES",
    "DataCorrupt",
    "DataMissing",
    "ImageSet",
    "TextSet",
    "binarise",
    "cifar10",
    "decode",
    "dequantise",
    "digits",
    "digits_or",
    "encode",
    "mnist",
    "prose",
    "quantise",
    "scale",
    "text8",
    "text8_or_prose",
    "unscale",
]
