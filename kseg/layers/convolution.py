"""Convolutions whose biases learn in half precision what they learn in float32."""

import keras
from keras import ops


class _SumsInFloat32:
    """A convolution that adds its bias in such a way that the bias's gradient is summed in float32 in half precision.

    That is a sum over all pixels. Of Keras's own layers, JAX on CPUs, and TensorFlow there for transposed convolutions
    (for all with TF_ENABLE_ONEDNN_OPTS=0), sum it in bfloat16, where a sum that is 256 times what is added stops
    growing: for eight maps of 128x128 less than a tenth of it is left.
    """

    def call(self, inputs):
        """Keras's numbers; nothing but the gradient of the bias differs."""
        half = self.compute_dtype in ("bfloat16", "float16")
        if not (half and self.use_bias and self.data_format == "channels_last"):
            return super().call(inputs)
        outputs = _add(self._convolve(inputs), ops.cast(self.bias, self.compute_dtype))
        return outputs if self.activation is None else self.activation(outputs)


def _add(outputs, bias):
    """outputs [B, H, W, C] + bias [C]."""
    if keras.backend.backend() == "tensorflow":
        # Its sums are in float32. The other way round Keras makes a BiasAdd of this, whose gradient is not.
        return ops.add(bias, outputs)
    return ops.cast(ops.cast(outputs, "float32") + ops.cast(bias, "float32"), outputs.dtype)


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
