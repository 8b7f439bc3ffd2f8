"""A Keras network as a predictor."""

from contextlib import contextmanager

import keras
import numpy as np
from keras import ops

from kseg.errors import CheckError, InputError, one_line
from kseg.lowering import gives_probabilities
from kseg.lowering.graph import check_functional, plain_ends
from kseg.metrics import first_largest
from kseg.runtime import windows
from kseg.training.checkpoint import load_model


def open_keras(path):
    """The KerasPredictor of a `.keras` file.

    Raises:
        InputError: no such file, damaged, or no network for RGB images.
    """
    model, labels = load_model(path)
    shape = model.inputs[0].shape  # not `input_shape`, which is a list or dict where the model was built with one
    if len(shape) != 4 or shape[-1] != 3:
        raise InputError(f"{path}: takes images of the shape {shape[1:]}; RGB is wanted")
    return KerasPredictor(model, labels)


class KerasPredictor:
    """A Keras network as a predictor.

    Attributes:
        model: keras.Model of the given layers, images [B, H, W, 3] -> logits or probabilities [B, H, W, classes].
        labels: LabelSet.
        kind: what the scores are, "logits" or "probabilities".
        size_px: None: it works at each image's own size.
    Raises:
        ValueError: the model is neither functional nor sequential.
    """

    size_px = None

    def __init__(self, model, labels):
        check_functional(model)
        self.labels = labels
        self.kind = "probabilities" if gives_probabilities(model) else "logits"
        given, scores = plain_ends(model)
        self.model = keras.Model(given, scores, name=model.name)  # the user's stays compiled as it is
        # The scores of a street scene of 21 classes are 84 times its classes: these are found where the scores are.
        self._labeller = keras.Model(given, _Classes(dtype="float32")(scores))
        for compiled in (self.model, self._labeller):
            # On TensorFlow, Keras would let XLA compile a model that was never compiled, anew for every image size.
            compiled.jit_compile = keras.backend.backend() == "jax"

    def __call__(self, images):
        """uint8 or float [B, H, W, 3] in 0..255 -> float32 scores [B, H, W, classes].

        Raises:
            InputError: the network does not take images of this size.
        """
        # Unlike `predict`, this does not trace anew for every image size.
        return np.asarray(self._run(self.model, images))

    def indices(self, images):
        """The class of every pixel, in bounded memory for images of any size (see `kseg.runtime.windows`).

        Images of equal size go through the same compiled call, the argmax included; on TensorFlow those of all other
        sizes share one more.

        Args:
            images: uint8 or float [B, H, W, 3] in 0..255.
        Returns:
            int32 [B, H, W].
        Raises:
            InputError: the network does not take images of this size.
            CheckError: scores that are not finite.
        """
        images = np.asarray(images)
        if windows.is_large(images[0]):
            return np.stack([windows.indices(lambda part: self(part[None])[0], image) for image in images])
        found, finite = self._run(self._labeller, images)
        if not np.all(finite):
            raise CheckError(windows.NOT_FINITE)
        return np.asarray(found, np.int32)

    def _run(self, model, images):
        self._check_size(images)
        height, width = np.shape(images)[1:3]
        with naming_size(self.model, (height, width)):
            found = model.predict_on_batch(np.asarray(images, np.float32))
        given = np.shape(found[0] if isinstance(found, list | tuple) else found)[1:3]
        if given != (height, width):
            raise InputError(
                f"{self.model.name}: gives scores of {given[0]} x {given[1]} for an image of {height} x {width}; "
                f'scores of the size of the image are wanted (padding="same")'
            )
        return found

    def _check_size(self, images):
        wanted = self.model.inputs[0].shape[1:3]
        given = np.shape(images)[1:3]
        if any(side not in (None, there) for side, there in zip(wanted, given, strict=True)):
            raise InputError(
                f"{self.model.name}: was built for images of {wanted[0]}x{wanted[1]} (height x width), not of "
                f"{given[0]}x{given[1]}; with input_shape=(None, None, 3) it takes any"
            )


@contextmanager
def naming_size(model, size_px):
    """Around a prediction: when a model cannot take images of a (height, width), say so.

    Raises:
        InputError: instead of what the backend raises for shapes that do not fit each other, or for lack of memory.
    """
    try:
        yield
    except Exception as error:
        name = f"{model.name}: cannot compute an image of {size_px[0]} x {size_px[1]} ({one_line(error)}); "
        if "RESOURCE_EXHAUSTED" in str(error) or type(error).__name__ == "ResourceExhaustedError":
            raise InputError(f"{name}the memory is too small for it: see it in windows (--window 512)") from error
        # Of TensorFlow, which need not be the backend.
        if isinstance(error, ValueError | TypeError) or type(error).__name__ == "InvalidArgumentError":
            raise InputError(
                f"{name}choose a size that its strides divide, or let kseg.layers.PadToStride come first"
            ) from error
        raise


class _Classes(keras.layers.Layer):
    """Scores [B, H, W, classes] -> the class of every pixel int32 [B, H, W], and whether all are finite, bool [B]."""

    def call(self, scores):
        return first_largest(scores), ops.all(ops.isfinite(scores), axis=(1, 2, 3))
