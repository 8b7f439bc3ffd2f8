"""Files -> predictors: `.keras` through Keras, `.tflite` and `.onnx` through kseg.runtime."""

from pathlib import Path

import keras
import numpy as np

from kseg import runtime
from kseg.errors import InputError
from kseg.runtime.tiles import in_tiles
from kseg.training.checkpoint import load_model


class KerasPredictor:
    """A Keras network as a predictor.

    Attributes:
        model: keras.Model, images [B, H, W, 3] -> logits [B, H, W, classes], any size.
        labels: LabelSet.
    """

    def __init__(self, model, labels):
        # On TensorFlow, Keras would let XLA compile a model that was never compiled, anew for every image size.
        model.jit_compile = keras.backend.backend() == "jax"
        self.model = model
        self.labels = labels

    def __call__(self, images):
        """uint8 or float [B, H, W, 3] in 0..255 -> float32 scores [B, H, W, classes]."""
        # Unlike `predict`, this does not trace anew for every image size.
        return np.asarray(self.model.predict_on_batch(np.asarray(images, np.float32)))

    def indices(self, images):
        """The class of every pixel, in bounded memory for images of any size (see `kseg.runtime.tiles`).

        Args:
            images: uint8 or float [B, H, W, 3] in 0..255.
        Returns:
            int32 [B, H, W].
        """
        images = np.asarray(images)
        result = np.empty(images.shape[:3], np.int32)
        for image, target in zip(images, result, strict=True):
            target[...] = in_tiles(lambda part: self(part[None])[0].argmax(-1), image)
        return result


def load_predictor(path, threads=None):
    """Load whatever a user may have trained or exported.

    Args:
        path: `.keras`, or `.tflite` / `.onnx` with its card beside it.
        threads: for the interpreters; None leaves it to them.
    Raises:
        InputError: an unknown suffix, or the file is missing, damaged or no segmentation network.
    """
    path = Path(path)
    if path.suffix == ".keras":
        return KerasPredictor(*load_model(path))
    if path.suffix in (".tflite", ".onnx"):
        return runtime.load(path, threads=threads)
    raise InputError(f"{path}: a model is a .keras, .tflite or .onnx file")
