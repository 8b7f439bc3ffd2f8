"""Batch normalisation in one operation."""

import math

import keras
from keras import ops

from kseg.errors import need

# cuDNN takes no smaller one (CUDNN_BN_MIN_EPSILON); TensorFlow would raise it without a word.
_SMALLEST_EPSILON = 1.001e-5
_FUSED_DTYPES = ("float32", "bfloat16", "float16")


@keras.saving.register_keras_serializable("kseg")
class BatchNormalization(keras.layers.BatchNormalization):
    """keras.layers.BatchNormalization in one operation on TensorFlow: same arguments, numbers and weights.

    Keras computes the statistics and the result from a dozen operations, in float32 under every dtype policy, so that
    half precision gains nothing there. TensorFlow has one operation for all of it, which reads half precision and
    computes in float32. This is the one layer that knows of TensorFlow: no operation of keras.ops stands for that one.
    It is used in training, on [B, H, W, C] with axis -1; whatever else is asked for (other backends and axes, masks,
    renormalisation, statistics of all replicas together, prediction) is left to Keras.

    The weights have the names and the places that they have with Keras's layer, so that files of weights fit both.

    Input and output: float [B, H, W, C], in the compute dtype of the policy; the statistics are float32.
    Departs from `FusedBatchNormV3`: the moving variance is that of the batch (divided by n), as in Keras, and not the
    estimate for all images (divided by n - 1).
    Reference: Ioffe & Szegedy 2015, "Batch Normalization", algorithm 1.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalise by the statistics of the batch in training, by the moving ones otherwise or when frozen."""
        if not (training and self.trainable and mask is None and self._is_fused(inputs)):
            return super().call(inputs, training=training, mask=mask)
        channels = (inputs.shape[-1],)
        gamma = self.gamma if self.scale else ops.ones(channels, "float32")
        beta = self.beta if self.center else ops.zeros(channels, "float32")
        outputs, mean, variance = need("tensorflow", "cpu").compat.v1.nn.fused_batch_norm(
            inputs, ops.convert_to_tensor(gamma), ops.convert_to_tensor(beta), epsilon=self.epsilon, is_training=True
        )
        variance = variance * _share_of_population(inputs)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs

    def _is_fused(self, inputs):
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.variable_dtype == "float32"
            and keras.backend.standardize_dtype(inputs.dtype) == self.compute_dtype
            and self.compute_dtype in _FUSED_DTYPES
            and self.epsilon >= _SMALLEST_EPSILON
            and not (self.renorm or self.synchronized)
        )


def _share_of_population(images):
    """(n - 1) / n for n values a channel, which turns the variance with n - 1 into that with n."""
    sizes = ops.shape(images)[:3]
    if all(isinstance(size, int) for size in sizes):
        return 1.0 - 1.0 / math.prod(sizes)
    count = 1.0
    for size in sizes:  # one after the other, in float32: their product may pass int32
        count = count * ops.cast(size, "float32")
    return 1.0 - 1.0 / count
