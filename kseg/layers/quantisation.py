"""Training that knows of the 8 bits to come: numbers are rounded as an integer file rounds them, gradients are not.

Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
section 3. The scales are those of TFLite: weights symmetric with one a channel, activations with a zero point.
"""

import keras
from keras import ops


def fake_quantise(values, low, high):
    """Round to the 256 numbers that an 8-bit tensor reaching from low to high can hold; zero is one of them.

    Args:
        values: float tensor.
        low, high: float32 scalars, low <= 0 <= high; both 0: nothing is rounded.
    Returns:
        As `values`. The gradient is 1 inside the range and 0 outside (straight-through).
    """
    real = ops.cast(values, "float32")
    span = ops.cast(high - low, "float32")
    scale = ops.where(span > 0, span / 255.0, 1.0)
    zero_point = ops.clip(ops.round(-128.0 - low / scale), -128.0, 127.0)
    least, greatest = (-128.0 - zero_point) * scale, (127.0 - zero_point) * scale
    inside = ops.clip(real, least, greatest)
    rounded = (ops.clip(ops.round(real / scale) + zero_point, -128.0, 127.0) - zero_point) * scale
    stepped = inside + ops.stop_gradient(rounded - inside)
    return ops.cast(ops.where(span > 0, stepped, real), values.dtype)


def fake_quantise_kernel(kernel, axes):
    """Round a kernel to -127..127 steps of one scale a channel; `axes` are those that a channel reaches over."""
    real = ops.cast(kernel, "float32")
    largest = ops.max(ops.abs(real), axis=axes, keepdims=True)
    scale = ops.stop_gradient(ops.where(largest > 0, largest / 127.0, 1.0))
    return ops.cast(real + ops.stop_gradient(ops.round(real / scale) * scale - real), kernel.dtype)


@keras.saving.register_keras_serializable("kseg")
class FakeQuantize(keras.layers.Layer):
    """Rounds activations to 8 bits. Its range follows the least and the greatest values seen in training.

    Args:
        momentum: share of the old range that is kept at each step.
    Input and output: float [B, H, W, C]. Until it has been trained for a step, it rounds nothing.
    """

    def __init__(self, momentum=0.95, **kwargs):
        super().__init__(**kwargs)
        self.momentum = momentum

    def build(self, input_shape):
        options = {"shape": (), "initializer": "zeros", "trainable": False, "dtype": "float32", "autocast": False}
        self.low = self.add_weight(name="low", **options)
        self.high = self.add_weight(name="high", **options)

    def call(self, values, training=False):
        if training:
            real = ops.stop_gradient(ops.cast(values, "float32"))
            self._follow(ops.minimum(ops.min(real), 0.0), ops.maximum(ops.max(real), 0.0))
        return fake_quantise(values, self.low.value, self.high.value)

    def _follow(self, least, greatest):
        # The first values count in full: there is nothing yet to keep.
        keep = ops.where(self.high.value > self.low.value, self.momentum, 0.0)
        self.low.assign(keep * self.low.value + (1 - keep) * least)
        self.high.assign(keep * self.high.value + (1 - keep) * greatest)

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


@keras.saving.register_keras_serializable("kseg")
class QuantizedConv2D(keras.layers.Conv2D):
    """Conv2D with a kernel that is rounded to 8 bits."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, fake_quantise_kernel(kernel, (0, 1, 2)))


@keras.saving.register_keras_serializable("kseg")
class QuantizedConv2DTranspose(keras.layers.Conv2DTranspose):
    """Conv2DTranspose (channels last) with a kernel that is rounded to 8 bits."""

    def call(self, inputs):
        outputs = ops.conv_transpose(
            inputs,
            fake_quantise_kernel(ops.convert_to_tensor(self.kernel), (0, 1, 3)),  # [kh, kw, out, in]
            strides=list(self.strides),
            padding=self.padding,
            output_padding=self.output_padding,
            dilation_rate=self.dilation_rate,
        )
        return _finished(self, outputs)


@keras.saving.register_keras_serializable("kseg")
class QuantizedDepthwiseConv2D(keras.layers.DepthwiseConv2D):
    """DepthwiseConv2D (channels last) with a kernel that is rounded to 8 bits."""

    def call(self, inputs):
        outputs = ops.depthwise_conv(
            inputs,
            fake_quantise_kernel(ops.convert_to_tensor(self.kernel), (0, 1)),  # [kh, kw, in, multiplier]
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
        )
        return _finished(self, outputs)


def _finished(layer, outputs):
    return layer.activation(outputs + layer.bias if layer.use_bias else outputs)


# Which layer learns in the place of which.
QUANTIZED = {
    keras.layers.Conv2D: QuantizedConv2D,
    keras.layers.Conv2DTranspose: QuantizedConv2DTranspose,
    keras.layers.DepthwiseConv2D: QuantizedDepthwiseConv2D,
}
