"""From an exported file to predictions: NumPy and one interpreter, neither Keras nor TensorFlow.

predictor = kseg.runtime.load("unet.tflite")
scores = predictor(images)                  # uint8 [B, H, W, 3] -> float32 [B, H, W, classes]
picture = predictor.labels.to_colours(predictor.indices(images)[0])
"""

import os
from pathlib import Path

from kseg.errors import InputError
from kseg.runtime.card import Card
from kseg.runtime.onnx import open_onnx
from kseg.runtime.predictor import Predictor
from kseg.runtime.tflite import open_tflite
from kseg.runtime.windows import Windowed

__all__ = ["Card", "Predictor", "Windowed", "cores", "load"]

# The name alone says which interpreter is needed; it is imported only then, so that a board needs only one of them.
OPENERS = {".tflite": open_tflite, ".onnx": open_onnx}


def load(path, threads=None):
    """Return the `Predictor` of an exported file.

    Args:
        path: a .tflite or .onnx file that kseg exported, with its card beside it.
        threads: how many threads the interpreter may use; None: every core that this process may use.
    Raises:
        InputError: the file or its card is missing, damaged, or of another kind; the message names the cure.
        ImportError: the interpreter is not installed; the message names the extra.
    """
    path = Path(path)
    if path.suffix not in OPENERS:
        raise InputError(f"{path}: not an exported file; it must end in {' or '.join(OPENERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if threads is None:
        threads = cores()
    if threads < 1:
        raise InputError(f"`threads` must be at least 1. Received: {threads}")
    card = Card.load(path)
    return Predictor(card, OPENERS[path.suffix](path, card, threads))


def cores():
    """How many cores this process may use."""
    # Only Linux tells how many cores a container leaves to a process.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
