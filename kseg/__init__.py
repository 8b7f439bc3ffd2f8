"""kseg: semantic segmentation for Keras, from a folder of images to a verified TFLite or ONNX file.

Sub-modules are imported when they are first used (PEP 562), so `import kseg` itself costs nothing and needs
neither Keras nor TensorFlow: `kseg.runtime` runs on a board that has only NumPy and an interpreter.
"""

import importlib

__version__ = "0.5.0"

_SUBMODULES = (
    "errors",
    "labels",
    "runtime",
    "data",
    "layers",
    "applications",
    "lowering",
    "losses",
    "metrics",
    "training",
    "evaluation",
    "export",
)


def __getattr__(name):
    if name in _SUBMODULES:
        return importlib.import_module(f"kseg.{name}")
    raise AttributeError(f"module 'kseg' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_SUBMODULES])
