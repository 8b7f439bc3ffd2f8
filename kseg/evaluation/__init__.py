"""Predictor + data -> numbers and pictures; files -> how fast and how large they are.

Imported when it is used (PEP 562), because to time or run a .tflite file takes neither Keras nor TensorFlow.
"""

import importlib

_HOMES = {
    "Scores": "scores",
    "check_classes": "scores",
    "evaluate": "scores",
    "summarise": "scores",
    "Augmented": "augmentation",
    "BoundaryScores": "boundaries",
    "evaluate_boundaries": "boundaries",
    "KerasPredictor": "keras_predictor",
    "load_predictor": "predictors",
}


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"kseg.evaluation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'kseg.evaluation' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOMES])
