"""What all builders share: the input, the head, and checks of the common arguments."""

import math
import numbers

import keras
from keras import layers

from kseg.layers import CropLike


def image_input(input_tensor, input_shape):
    """Return (the tensor to build on, the model's input).

    Args:
        input_tensor: Keras tensor [B, H, W, C] or None.
        input_shape: (height, width, channels), where sizes may be None for any; None: RGB images of any size.
    Raises:
        ValueError: not three dimensions, no number of channels, a side of less than a pixel, or not a Keras tensor; or
            Keras is set to `channels_first`.
    """
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "kseg's networks take images with the channels last: keras.config.set_image_data_format('channels_last')"
        )
    if input_tensor is not None:
        if not keras.backend.is_keras_tensor(input_tensor) or len(input_tensor.shape) != 4:
            raise ValueError(f"`input_tensor` must be a Keras tensor [B, H, W, C]. Received: {input_tensor}")
        sources = keras.utils.get_source_inputs(input_tensor)
        return input_tensor, sources[0] if len(sources) == 1 else sources
    shape = (None, None, 3) if input_shape is None else input_shape
    three = isinstance(shape, tuple | list) and len(shape) == 3
    if not three or shape[-1] is None or any(side is not None and side < 1 for side in shape):
        raise ValueError(f"`input_shape` must be (height, width, channels). Received: {input_shape}")
    inputs = keras.Input(shape, name="images")
    return inputs, inputs


def head(scores, images, classifier_activation, offset=(0, 0)):
    """Scores at full resolution -> float32 logits of the images' size, whatever the dtype policy.

    Args:
        scores: Keras tensor [B, >= H, >= W, classes].
        images: Keras tensor [B, H, W, C].
        classifier_activation: None for logits, or an activation's name such as "softmax".
        offset: (top, left) of the cut; None: `scores` stays as large as it is.
    """
    if offset is not None:
        scores = CropLike(offset, dtype="float32", name="crop")([scores, images])
    logits = layers.Activation("linear", dtype="float32", name="logits")(scores)
    if classifier_activation is None:
        return logits
    return layers.Activation(classifier_activation, dtype="float32", name="predictions")(logits)


def check_count(name, value):
    """Raise ValueError unless `value` is a whole number from 1."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a whole number from 1. Received: {value}")


def check_share(name, value):
    """Raise ValueError unless 0 <= value < 1."""
    if not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be in [0, 1). Received: {value}")


def check_positive(name, value):
    """Raise ValueError unless `value` > 0, and finite."""
    if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be positive and finite. Received: {value}")


def check_choice(name, value, allowed):
    """Raise ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(str, allowed))}. Received: {value}")
