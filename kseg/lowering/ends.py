"""What a lowered network takes and gives at its two ends: pixels as bytes, probabilities, labels."""

import keras
from keras import layers as keras_layers
from keras import ops

from kseg.errors import need
from kseg.lowering.graph import Step, Value


def give_probabilities(graph):
    """Softmax over the classes; of one class, whose score is a logit against all else, the sigmoid."""
    name = "probabilities"
    one = graph.output.shape[-1] == 1
    options = {"name": name, "dtype": "float32"}
    layer = keras_layers.Activation("sigmoid", **options) if one else keras_layers.Softmax(**options)
    graph.append(layer, graph.output.shape)


def give_labels(graph):
    """The index of the greatest score, uint8 for up to 256 classes, else int32."""
    dtype = "uint8" if graph.output.shape[-1] <= 256 else "int32"
    graph.append(_Argmax(dtype, name="labels"), graph.output.shape[:-1])


class _Argmax(keras.Layer):
    """[B, H, W, C] -> [B, H, W], the index of the greatest value as the given integer type."""

    def __init__(self, indices, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.indices = indices

    def call(self, scores):
        if keras.backend.backend() == "tensorflow":
            # Keras's own looks at the bits to tell -0 from 0, which TFLite cannot.
            argmax = need("tensorflow", "cpu").argmax(scores, axis=-1, output_type="int32")
        else:
            argmax = ops.argmax(scores, axis=-1)
        return ops.cast(argmax, self.indices)

    def compute_output_spec(self, scores):
        return keras.KerasTensor(scores.shape[:-1], self.indices)

    def get_config(self):
        return {**super().get_config(), "indices": self.indices}


def take_uint8(graph):
    """Let the image be uint8: a cast comes first."""
    image = Value(graph.image.shape)
    graph.redirect(graph.image, image)
    graph.steps.insert(0, Step(_Pixels(name="pixels", dtype="float32"), (graph.image,), {}, [image]))


class _Pixels(keras.Layer):
    """uint8 -> float32, which Keras does not do by itself."""

    def call(self, pixels):
        return ops.cast(pixels, "float32")

    def compute_output_spec(self, pixels):
        return keras.KerasTensor(pixels.shape, "float32")
