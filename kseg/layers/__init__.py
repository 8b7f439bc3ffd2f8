"""Layers and initializers that the networks are built of; they run on every Keras backend."""

from kseg.layers.convolution import Conv2D, Conv2DTranspose
from kseg.layers.initializers import BilinearInitializer
from kseg.layers.normalization import BatchNormalization
from kseg.layers.preprocess import Preprocess, Subtract
from kseg.layers.quantisation import (
    QUANTIZED,
    FakeQuantize,
    QuantizedAdd,
    QuantizedConv2D,
    QuantizedConv2DTranspose,
    QuantizedDepthwiseConv2D,
    RoundedImage,
    RoundToStep,
)
from kseg.layers.sizes import BilinearUpsampling, CropLike, PadToStride

__all__ = [
    "QUANTIZED",
    "BatchNormalization",
    "BilinearInitializer",
    "BilinearUpsampling",
    "Conv2D",
    "Conv2DTranspose",
    "CropLike",
    "FakeQuantize",
    "PadToStride",
    "Preprocess",
    "QuantizedAdd",
    "QuantizedConv2D",
    "QuantizedConv2DTranspose",
    "QuantizedDepthwiseConv2D",
    "RoundToStep",
    "RoundedImage",
    "Subtract",
]
