"""Predictor + data -> numbers and pictures; files -> how fast and how large they are.

Imported when it is used (PEP 562), because a board that times a .tflite file has neither Keras nor TensorFlow.
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
    "KerasPredictor": "predictors",
    "load_predictor": "predictors",
}


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"kseg.evaluation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'kseg.evaluation' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_HOMES])
