"""Convolutions whose biases learn in half precision what they learn in float32."""

import keras
from keras import ops


@ops.custom_gradient
def _add(outputs, bias):
    """outputs [B, H, W, C] + bias [C], where the gradient of the bias is summed in float32."""

    def gradient(upstream):
        by_bias = ops.sum(ops.cast(upstream, "float32"), (0, 1, 2))
        return upstream, ops.cast(by_bias, bias.dtype)

    return ops.add(outputs, bias), gradient


class _SumsInFloat32:
    """A convolution that says for itself how the gradient of its bias is summed while it trains in half precision.

    It is a sum over all pixels. On CPUs JAX, and TensorFlow for transposed convolutions (for all with
    TF_ENABLE_ONEDNN_OPTS=0), sum bfloat16 in bfloat16, where a sum that is 256 times what is added stops growing: for
    eight maps of 128x128 less than a tenth of it is left.
    """

    def call(self, inputs, training=None):
        """Keras's operations and numbers, but for that gradient."""
        half = self.compute_dtype in ("bfloat16", "float16")
        if not (training and half and self.use_bias and self.data_format == "channels_last"):
            return super().call(inputs)
        outputs = _add(self._convolve(inputs), ops.cast(self.bias, self.compute_dtype))
        return outputs if self.activation is None else self.activation(outputs)


@keras.saving.register_keras_serializable("kseg")
class Conv2D(_SumsInFloat32, keras.layers.Conv2D):
    """keras.layers.Conv2D with the right gradient of the bias in half precision: same arguments, numbers and weights.

    Input and output: float [B, H, W, C], in the compute dtype of the policy.
    """

    def _convolve(self, inputs):
        return self.convolution_op(inputs, self.kernel)


@keras.saving.register_keras_serializable("kseg")
class Conv2DTranspose(_SumsInFloat32, keras.layers.Conv2DTranspose):
    """keras.layers.Conv2DTranspose with the right gradient of the bias in half precision, as `Conv2D`."""

    def _convolve(self, inputs):
        return ops.conv_transpose(
            inputs,
            self.kernel,
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
