"""Training that knows of the 8 bits to come: numbers are rounded as an integer file rounds them, gradients are not.

Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
section 3. The scales are those of TFLite: weights symmetric with one a channel, activations with a zero point.

Beside its values each layer gives their step, the real number that one unit stands for. With it the next layer computes
in prediction on whole numbers, held in float32, and rounds where XNNPACK does: sums of whole numbers are exact in any
order, so that the file gives the same numbers, not only nearly. One value rounded to the other side would grow through
the layers behind it to differences of several steps.
"""

import keras
import numpy as np
from keras import ops

# What a number is divided by, as a factor: compilers make it of a division by a constant, with another last bit.
PER_UNIT = {count: np.float32(1) / np.float32(count) for count in (127, 255)}


def spacing(low, high):
    """(step, zero point) of the 256 numbers that reach from low to high and hold 0, float32; (0, 0) if both are 0."""
    span = ops.cast(high, "float32") - ops.cast(low, "float32")
    step = ops.where(span > 0, span * PER_UNIT[255], 1.0)
    zero_point = ops.clip(ops.round(-128.0 - low / step), -128.0, 127.0)
    return ops.where(span > 0, step, 0.0), ops.where(span > 0, zero_point, 0.0)


def _units(values, step):
    """Values that are multiples of a step -> how many, as whole numbers in float32."""
    return ops.round(values / step)


def _clipped(units, zero_point):
    """What an int8 tensor can hold, counted from its zero point."""
    return ops.clip(units, -128.0 - zero_point, 127.0 - zero_point)


def _straight_through(values, rounded):
    """`rounded`, with the gradient of `values`."""
    return values + ops.stop_gradient(rounded - values)


class _Ranged(keras.Layer):
    """A layer that rounds what it gives; `low` and `high` follow the least and the greatest values seen in training."""

    limits = None

    def __init__(self, *args, momentum=0.95, **kwargs):
        super().__init__(*args, **{**kwargs, "dtype": "float32"})
        self.momentum = momentum

    def _add_range(self):
        options = {"shape": (), "initializer": "zeros", "trainable": False}
        self.low = self.add_weight(name="low", **options)
        self.high = self.add_weight(name="high", **options)

    def _follow(self, values):
        least, greatest = ops.minimum(ops.min(values), 0.0), ops.maximum(ops.max(values), 0.0)
        # The first values count in full: there is nothing yet to keep.
        keep = ops.where(self.high.value > self.low.value, self.momentum, 0.0)
        self.low.assign(ops.stop_gradient(keep * self.low.value + (1 - keep) * least))
        self.high.assign(ops.stop_gradient(keep * self.high.value + (1 - keep) * greatest))

    def _round(self, values, training):
        """(rounded values, step); the gradient is 1 within the range and 0 outside."""
        if training and not self.limits:
            self._follow(values)
        step, zero_point = spacing(self.low.value, self.high.value)
        safe = ops.where(step > 0, step, 1.0)
        rounded = _clipped(ops.round(values * (1.0 / safe)), zero_point) * safe
        if training:
            inside = ops.clip(values, (-128.0 - zero_point) * safe, (127.0 - zero_point) * safe)
            rounded = _straight_through(inside, rounded)
        return ops.where(step > 0, rounded, values), step

    def _is_ready(self, *steps):
        """Whether everything has been rounded in training, so that whole numbers can be computed."""
        ready = self.high.value > self.low.value
        for step in steps:
            ready = ops.logical_and(ready, step > 0)
        return ready

    def _finish(self, units):
        """Whole and rounded numbers of this layer's step -> (values, step)."""
        step, zero_point = spacing(self.low.value, self.high.value)
        return _clipped(units, zero_point) * step, step

    def compute_output_spec(self, values, *_, **__):
        first = values[0] if isinstance(values, list | tuple) else values
        return keras.KerasTensor(self.compute_output_shape(first.shape), "float32"), keras.KerasTensor((), "float32")

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


@keras.saving.register_keras_serializable("kseg")
class FakeQuantize(_Ranged):
    """Rounds activations to 8 bits, behind operations that have no layer of their own here.

    Args:
        momentum: share of the old range that is kept at each step of training.
        limits: (low, high) that training does not change; None: they follow the values.
    Call: float [B, H, W, C] -> (the same rounded, float32 scalar step). Until it has been trained for a step, it rounds
    nothing, and the step is 0.
    """

    def __init__(self, momentum=0.95, limits=None, **kwargs):
        super().__init__(momentum=momentum, **kwargs)
        self.limits = limits

    def build(self, values_shape):
        self._add_range()
        if self.limits:
            self.low.assign(self.limits[0])
            self.high.assign(self.limits[1])

    def call(self, values, training=False):
        return self._round(values, training)

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "limits": self.limits}


@keras.saving.register_keras_serializable("kseg")
class RoundedImage(keras.Layer):
    """Pixels as the file takes them, whole numbers from 0 to 255, less an offset.

    Args:
        offset: subtracted from each channel.
    Call: float [B, H, W, C] -> (the same rounded, float32 scalar step).
    """

    def __init__(self, offset=(0.0,), **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.offset = [float(value) for value in np.ravel(offset)]

    def call(self, pixels):
        pixels = _straight_through(pixels, ops.clip(ops.round(pixels), 0.0, 255.0))
        if not any(self.offset):
            return pixels, ops.ones(())
        step, zero_point = spacing(ops.minimum(-max(self.offset), 0.0), 255.0 - min(self.offset))
        constant = ops.convert_to_tensor(np.float32(max(self.offset)) * PER_UNIT[255])
        taken = np.asarray(self.offset, np.float32)
        units = _added(pixels, 1.0, -_units(taken, constant), constant, step)
        return _straight_through(pixels - taken, _clipped(units, zero_point) * step), step

    def compute_output_spec(self, pixels):
        return keras.KerasTensor(pixels.shape, "float32"), keras.KerasTensor((), "float32")

    def get_config(self):
        return {**super().get_config(), "offset": self.offset}


@keras.saving.register_keras_serializable("kseg")
class RoundToStep(keras.Layer):
    """Rounds interpolated values to the step of what they were interpolated from, halves upwards as XNNPACK does.

    Call: (float [B, H, W, C], float32 scalar step) -> float [B, H, W, C]; a step of 0: nothing is rounded.
    """

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def build(self, values_shape, step_shape):
        pass

    def call(self, values, step):
        safe = ops.where(step > 0, step, 1.0)
        # Enlarging by a power of two gives fractions with few bits; what float32 added to them is less than 0.001.
        rounded = ops.floor(values / safe + 0.501) * safe
        return ops.where(step > 0, _straight_through(values, rounded), values)

    def compute_output_spec(self, values, step):
        return keras.KerasTensor(values.shape, "float32")


@keras.saving.register_keras_serializable("kseg")
class QuantizedAdd(_Ranged):
    """The sum of two tensors, rounded. Call: (list of two float [B, H, W, C], list of their steps) -> (sum, step)."""

    def build(self, values_shape, steps_shape):
        self._add_range()

    def call(self, values, steps, training=False):
        def real():
            return self._round(values[0] + values[1], training)

        def whole():
            step, _ = spacing(self.low.value, self.high.value)
            first, second = (_units(*pair) for pair in zip(values, steps, strict=True))
            return self._finish(_added(first, steps[0], second, steps[1], step))

        return real() if training else ops.cond(self._is_ready(*steps), whole, real)

    def compute_output_shape(self, shape):
        return shape


def _added(first, first_step, second, second_step, step):
    """The sum of two tensors of whole numbers in units of `step`, by XNNPACK's fixed-point arithmetic.

    Both factors get 21 bits: the larger one fills them.
    """
    factors = [ops.convert_to_tensor(one / step, "float32") for one in (first_step, second_step)]
    bits = 20.0 - ops.floor(ops.log2(ops.maximum(*factors)))
    shifted = [ops.cast(ops.round(factor * ops.power(2.0, bits)), "int32") for factor in factors]
    divisor = ops.cast(ops.power(2.0, bits), "int32")
    total = ops.cast(first, "int32") * shifted[0] + ops.cast(second, "int32") * shifted[1] + divisor // 2
    return ops.cast(ops.floor_divide(total, divisor), "float32")


class _QuantizedFilter(_Ranged):
    """A convolution with its activation (linear, relu or relu6) and 8-bit rounding of its kernel and its result.

    Args:
        kernel_unit: what the kernel is multiplied by before it is used: a power of two, so that a kernel that takes
            pixels 0..255 still has weights of a size that optimizers are made for.
    Call: (float [B, H, W, C], float32 scalar step) -> (float [B, H, W, filters], step).
    """

    def __init__(self, *args, kernel_unit=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.kernel_unit = kernel_unit

    def build(self, values_shape, step_shape=None):
        super().build(values_shape)
        self._add_range()

    def call(self, values, step=None, training=False):
        def real():
            kernel, units, scale = self._rounded_kernel()
            result = self._convolve(values, _straight_through(kernel, units * scale))
            return self._round(self.activation(result + self.bias if self.use_bias else result), training)

        def whole():
            _, units, scale = self._rounded_kernel()
            scale = ops.reshape(scale, (-1,))
            sums = self._convolve(_units(values, step), units)
            if self.use_bias:
                sums += ops.round(self.bias / (step * scale))
            own_step, _ = spacing(self.low.value, self.high.value)
            # ReLU6 needs nothing of its own: its range ends at 6.
            rounded = ops.round(sums * (step * scale / own_step))
            return self._finish(rounded if self.activation is keras.activations.linear else ops.relu(rounded))

        return real() if training or step is None else ops.cond(self._is_ready(step), whole, real)

    def _rounded_kernel(self):
        """(kernel, the same in whole numbers, their scale for each channel)."""
        kernel = ops.convert_to_tensor(self.kernel) * self.kernel_unit
        largest = ops.max(ops.abs(kernel), axis=self._reduced, keepdims=True)
        scale = ops.stop_gradient(largest * PER_UNIT[127])
        greatest = ops.max(scale)  # for channels of zeros, which need some scale
        scale = ops.where(scale > 0, scale, ops.where(greatest > 0, greatest, 1.0))
        return kernel, ops.stop_gradient(ops.round(kernel / scale)), scale

    # Keras's convolutions save kernel and bias only.
    def save_own_variables(self, store):
        keras.Layer.save_own_variables(self, store)

    def load_own_variables(self, store):
        keras.Layer.load_own_variables(self, store)

    def get_config(self):
        return {**super().get_config(), "kernel_unit": self.kernel_unit}


@keras.saving.register_keras_serializable("kseg")
class QuantizedConv2D(_QuantizedFilter, keras.layers.Conv2D):
    __doc__ = _QuantizedFilter.__doc__
    _reduced = (0, 1, 2)  # of [kh, kw, in, out]

    def _convolve(self, values, kernel):
        return self.convolution_op(values, kernel)


@keras.saving.register_keras_serializable("kseg")
class QuantizedConv2DTranspose(_QuantizedFilter, keras.layers.Conv2DTranspose):
    __doc__ = _QuantizedFilter.__doc__
    _reduced = (0, 1, 3)  # of [kh, kw, out, in]

    def _convolve(self, values, kernel):
        options = {"output_padding": self.output_padding, "dilation_rate": self.dilation_rate}
        return ops.conv_transpose(values, kernel, list(self.strides), self.padding, **options)


@keras.saving.register_keras_serializable("kseg")
class QuantizedDepthwiseConv2D(_QuantizedFilter, keras.layers.DepthwiseConv2D):
    __doc__ = _QuantizedFilter.__doc__
    _reduced = (0, 1)  # of [kh, kw, in, multiplier]

    def _convolve(self, values, kernel):
        return ops.depthwise_conv(values, kernel, self.strides, self.padding, dilation_rate=self.dilation_rate)


# Which layer learns in the place of which.
QUANTIZED = {
    keras.layers.Conv2D: QuantizedConv2D,
    keras.layers.Conv2DTranspose: QuantizedConv2DTranspose,
    keras.layers.DepthwiseConv2D: QuantizedDepthwiseConv2D,
}
