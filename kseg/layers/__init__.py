"""Layers and initializers that the networks are built of; they run on every Keras backend."""

from kseg.layers.initializers import BilinearInitializer
from kseg.layers.preprocess import Preprocess
from kseg.layers.sizes import CropLike, DoubleSize, PadToStride

__all__ = ["BilinearInitializer", "CropLike", "DoubleSize", "PadToStride", "Preprocess"]
