"""The rewritings. Each takes a Graph, changes it in place, and leaves what it computes (for prediction) as it is.

An exported network so holds nothing that is for training only, and nothing that a phone's delegate refuses.
"""

import keras
import numpy as np
from keras import layers as keras_layers
from keras import ops

from kseg.errors import need
from kseg.layers import BilinearInitializer, BilinearUpsampling, CropLike, PadToStride, Preprocess, Subtract
from kseg.layers.preprocess import IMAGENET_MEAN
from kseg.lowering.graph import float32_config

TRAINING_ONLY = tuple(
    getattr(keras_layers, name)
    for name in (
        *("Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout", "GaussianNoise", "ActivityRegularization"),
        *("RandomBrightness", "RandomContrast", "RandomColorJitter", "RandomHue", "RandomSaturation"),
        *("RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom", "RandomShear", "RandomErasing"),
    )
    if hasattr(keras_layers, name)
)
# Each channel by itself, and zero stays zero: a scale or an order of channels may pass through.
_CHANNELWISE = (PadToStride, CropLike, keras_layers.ZeroPadding2D, keras_layers.Cropping2D)
_CONVOLUTIONS = (keras_layers.Conv2D, keras_layers.DepthwiseConv2D, keras_layers.Conv2DTranspose)


def drop_training_layers(graph):
    """Take out what does nothing in prediction: dropout, noise, augmentation, linear activations."""
    for step in list(graph.steps):
        linear = step.is_a(keras_layers.Activation) and step.operation.activation is keras.activations.linear
        if (step.is_a(*TRAINING_ONLY) or linear) and len(step.inputs) == 1:
            graph.remove(step)


# ---- batch normalisation


def fold_batch_normalization(graph):
    """Put each batch normalisation into the convolution before it; where there is none, make it a 1x1 depthwise one.

    With s = gamma / sqrt(variance + epsilon): kernel s, and (bias - mean) s + beta (Jacob et al. 2018, section 3.2).
    """
    for step in [step for step in graph.steps if step.is_a(keras_layers.BatchNormalization)]:
        if len(step.inputs) != 1 or len(step.output.shape) != 4 or step.operation.axis not in (-1, 3):
            continue
        scale, shift = _affine_of(step)
        before = graph.maker(step.inputs[0])
        if before and _takes_affine(before) and graph.only_user(before.output) is step:
            _fold_affine(before, scale, shift)
            graph.remove(step)
        else:
            _make_depthwise(step, scale, shift)


def _make_depthwise(step, scale, shift):
    """Let a step compute scale * x + shift, [channels] each, as a 1x1 depthwise convolution."""
    step.args, step.kwargs = (step.inputs[0],), {}
    layer = keras_layers.DepthwiseConv2D(1, name=step.name, dtype="float32")
    step.replace(layer, [np.reshape(scale, (1, 1, -1, 1)), shift])


def _affine_of(step):
    """(scale, shift) [channels] of a batch normalisation in prediction, in double precision."""
    layer = step.operation
    arrays = [np.asarray(array, np.float64) for array in step.arrays()]
    channels = step.output.shape[-1]
    gamma = arrays.pop(0) if layer.scale else np.ones(channels)
    beta = arrays.pop(0) if layer.center else np.zeros(channels)
    mean, variance = arrays[:2]  # behind them, those of a renormalisation, which is for training
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return scale, beta - mean * scale


def _takes_affine(step):
    layer = step.operation
    return step.is_a(*_CONVOLUTIONS) and layer.activation is keras.activations.linear and _is_channels_last(layer)


def _fold_affine(step, scale, shift):
    """Let a convolution compute scale * itself + shift."""
    kernel, *bias = step.arrays()
    kernel, axes = np.asarray(kernel), (None, None)
    if step.is_a(keras_layers.Conv2D):
        factor = scale  # [kh, kw, in, out]
    elif step.is_a(keras_layers.Conv2DTranspose):
        factor = scale[:, None]  # [kh, kw, out, in]
    else:
        factor = scale.reshape(kernel.shape[2:])  # [kh, kw, in, multiplier]
    bias = (bias[0] if bias else 0.0) * scale + shift
    step.replace(
        _changed(step.operation, use_bias=True),
        [(kernel * factor[axes]).astype(np.float32), np.asarray(bias, np.float32)],
    )


def _changed(layer, **changes):
    """A new float32 layer with the configuration of another, some of it changed. It computes weights that are given
    later, and so wants no initial ones that take long."""
    config = float32_config(layer.get_config())
    zeros = {key: "zeros" for key in config if key.endswith("_initializer")}
    return type(layer).from_config(config | zeros | changes)


def _is_channels_last(layer):
    return layer.data_format == "channels_last"


# ---- preprocessing


def fold_preprocessing(graph):
    """Put scales and channel order of `Preprocess`, `Rescaling`, `Normalization` into the kernels that see the result.

    At most one subtraction stays: the mean, folded into the bias, would be wrong where "same" padding adds zeros.
    A `Normalization` before anything else becomes a depthwise convolution: it holds constants that a converter loses.
    Not only for speed: TensorFlow 2.21's calibration measures an operation's inputs once more after it ran, when an
    operation in place has already written its result there (tensorflow issue 127842), and so lost a reversal of
    channels.
    """
    kinds = (Preprocess, keras_layers.Rescaling, keras_layers.Normalization)
    for step in [step for step in graph.steps if step.is_a(*kinds)]:
        affine = _preprocessing(step)
        if affine is None:
            continue
        order, offset, scale = affine
        convolutions = _convolutions_behind(graph, step.output)
        if convolutions is None:
            if step.is_a(keras_layers.Normalization):
                _make_depthwise(step, scale, -offset * scale)
            continue
        for convolution in convolutions:
            kernel, *bias = convolution.arrays()
            kernel = (np.asarray(kernel) * np.float32(scale)[:, None])[:, :, order]  # [kh, kw, in, out]
            convolution.replace(_changed(convolution.operation), [kernel.astype(np.float32), *bias])
        if offset.any():
            step.args, step.kwargs = (step.inputs[0],), {}
            step.replace(Subtract(offset, name=step.name))
        elif len(step.inputs) == 1:
            graph.remove(step)


def _preprocessing(step):
    """(order of the channels, offset, scale), so that the layer computes (x - offset)[order] * scale; [channels] each.
    None: it computes something else."""
    channels = step.inputs[0].shape[-1]
    layer, same = step.operation, slice(None)
    if isinstance(layer, keras_layers.Normalization):
        if layer.invert or len(step.output.shape) != 4 or set(layer.axis) - {-1, 3}:
            return None
        mean, variance = (np.asarray(part, np.float64).reshape(-1) for part in _numbers_of(layer))
        scale = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
        return same, np.broadcast_to(mean, channels), np.broadcast_to(scale, channels)
    if isinstance(layer, keras_layers.Rescaling):
        scale, offset = np.asarray(layer.scale, np.float64), np.asarray(layer.offset, np.float64)
        if scale.ndim or not scale or max(offset.shape[:-1], default=1) > 1:
            return None
        return same, np.broadcast_to(-offset.reshape(-1) / scale, channels), np.full(channels, scale)
    if channels != 3:
        return None
    if layer.mode == "caffe":
        return slice(None, None, -1), np.array(IMAGENET_MEAN), np.ones(3)
    mean, scale = (127.5, 1 / 127.5) if layer.mode == "tf" else (0.0, 1 / 255)
    return same, np.full(3, mean), np.full(3, scale)


def _numbers_of(layer):
    """(mean, variance) that a Normalization computes with, which may be tensors in bfloat16."""
    return (ops.convert_to_numpy(ops.cast(part, "float32")) for part in (layer.mean, layer.variance))


def _convolutions_behind(graph, value):
    """The Conv2D steps that use a Value, maybe padded or cut; None when anything else does."""
    found = []
    if value is graph.output:
        return None
    for user in graph.users(value):
        if user.is_a(keras_layers.Conv2D) and user.operation.groups == 1 and _is_channels_last(user.operation):
            found.append(user)
        elif user.is_a(*_CHANNELWISE) and user.inputs[0] is value:
            behind = _convolutions_behind(graph, user.output)
            if behind is None:
                return None
            found += behind
        elif user.is_a(CropLike):
            continue  # as the second input it only says a size
        else:
            return None
    return found


# ---- upsampling


def resize_for_bilinear_transposition(graph):
    """Transposed convolutions that interpolate bilinearly become pad - resize - crop, which every delegate takes.

    Kernel 2 f, stride f, each channel for itself (Long et al. 2015, section 3.3). A border of zeros, a half-pixel
    resize by f, and a crop give the same numbers, borders included. Known by the weights: a kernel that has learned
    something else, or a bias, is left alone.
    """
    for step in graph.steps:
        if step.is_a(keras_layers.Conv2DTranspose) and len(step.inputs) == 1 and is_bilinear(step):
            factor = step.operation.strides[0]
            crop = factor if step.operation.padding == "same" else factor // 2
            step.args, step.kwargs = (step.inputs[0],), {}
            step.replace(_Enlarge(factor, crop, name=step.name))


class _Enlarge(keras.Layer):
    """float32 [B, H, W, C] -> [B, (H + 2) f - 2 crop, (W + 2) f - 2 crop, C]."""

    def __init__(self, factor, crop, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.factor, self.crop = factor, crop

    def call(self, values):
        large = _resize(ops.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0))), self.factor)
        crop = slice(self.crop, -self.crop)
        return large[:, crop, crop, :]

    def get_config(self):
        return {**super().get_config(), "factor": self.factor, "crop": self.crop}


def resize_for_upsampling(graph):
    """UpSampling2D (bilinear and nearest) and BilinearUpsampling become one resize: the first fails in a TensorFlow
    graph for any size, the second takes a dozen operators there."""
    for step in graph.steps:
        layer = step.operation
        if step.is_a(BilinearUpsampling):
            factors, interpolation = {layer.factor}, "bilinear"
        elif step.is_a(keras_layers.UpSampling2D) and _is_channels_last(layer):
            factors, interpolation = set(layer.size), layer.interpolation
        else:
            continue
        if len(factors) == 1 and interpolation in ("bilinear", "nearest"):
            step.args, step.kwargs = (step.inputs[0],), {}
            step.replace(_Resize(*factors, interpolation, name=step.name))


class _Resize(keras.Layer):
    """float32 [B, H, W, C] -> [B, f H, f W, C], bilinear between pixel centres, or the nearest pixel."""

    def __init__(self, factor, interpolation, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.factor, self.interpolation = factor, interpolation

    def call(self, values):
        return _resize(values, self.factor, self.interpolation)

    def compute_output_shape(self, shape):
        return (shape[0], *(None if edge is None else self.factor * edge for edge in shape[1:3]), shape[3])

    def get_config(self):
        return {**super().get_config(), "factor": self.factor, "interpolation": self.interpolation}


def _resize(values, factor, interpolation="bilinear"):
    height, width = (size * factor for size in ops.shape(values)[1:3])
    if keras.backend.backend() == "tensorflow":  # takes sizes that are known only later, which Keras's own does not
        return need("tensorflow", "cpu").image.resize(values, (height, width), interpolation)
    return ops.image.resize(values, (height, width), interpolation=interpolation, data_format="channels_last")


def is_bilinear(step):
    """Whether a Conv2DTranspose step only interpolates: known by its weights."""
    layer = step.operation
    factor = layer.strides[0]
    if layer.strides != (factor, factor) or layer.kernel_size != (2 * factor, 2 * factor) or factor % 2:
        return False
    if layer.dilation_rate not in (1, (1, 1)) or layer.output_padding is not None or not _is_channels_last(layer):
        return False
    kernel, *bias = step.arrays()
    if layer.activation is not keras.activations.linear or any(np.any(part) for part in bias):
        return False
    if kernel.shape[2] != kernel.shape[3]:
        return False
    expected = np.asarray(BilinearInitializer()(kernel.shape))
    return bool(np.abs(kernel - expected).max() <= 1e-6)


# In this order: preprocessing and normalisation look for a convolution right behind or before them.
PASSES = {
    one.__name__: one
    for one in (
        drop_training_layers,
        fold_preprocessing,
        fold_batch_normalization,
        resize_for_bilinear_transposition,
        resize_for_upsampling,
    )
}
