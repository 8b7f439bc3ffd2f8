"""Files -> predictors: `.keras` through Keras, `.tflite` and `.onnx` through kseg.runtime."""

from pathlib import Path

import keras
import numpy as np

from kseg import runtime
from kseg.errors import InputError
from kseg.training.checkpoint import load_model

# Beyond this many pixels an image is predicted in tiles.
LARGEST_PX = 2**21
TILE_PX, OVERLAP_PX = 1024, 192


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
        """The class of every pixel, in bounded memory for images of any size.

        Up to LARGEST_PX pixels an image goes through in one piece. A larger one is cut into tiles; each is predicted
        with OVERLAP_PX of its surroundings, of which only the middle is kept. A network whose receptive field is
        wider than that says nearly the same along the seams, not exactly.

        Args:
            images: uint8 or float [B, H, W, 3] in 0..255.
        Returns:
            int32 [B, H, W].
        """
        images = np.asarray(images)
        result = np.empty(images.shape[:3], np.int32)
        height, width = images.shape[1:3]
        tile_px = TILE_PX if height * width > LARGEST_PX else max(height, width)
        for top in range(0, height, tile_px):
            for left in range(0, width, tile_px):
                y0, x0 = max(0, top - OVERLAP_PX), max(0, left - OVERLAP_PX)
                bottom, right = min(height, top + tile_px), min(width, left + tile_px)
                scores = self(images[:, y0 : bottom + OVERLAP_PX, x0 : right + OVERLAP_PX])
                classes = scores.argmax(-1)
                result[:, top:bottom, left:right] = classes[:, top - y0 : bottom - y0, left - x0 : right - x0]
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
