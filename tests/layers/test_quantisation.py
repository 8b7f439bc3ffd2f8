"""Fake quantisation by hand-worked numbers, and against the numbers of the file."""

import keras
import numpy as np
import pytest
from keras import ops

from kseg import layers
from kseg.export.tflite.scales import Numbers, weight_scales
from kseg.layers.quantisation import spacing

RNG = np.random.default_rng(4)


def _trained(layer, *arguments):
    """The layer after one step of training, whose range is that of its values."""
    layer(*arguments, training=True)
    return layer


def test_spacing_by_hand():
    step, zero_point = spacing(np.float32(-1), np.float32(1.55))
    assert float(step) == pytest.approx(0.01, rel=1e-6)
    assert float(zero_point) == -28  # -1 is stored as -128, 0 as -28, 1.55 as 127
    assert [float(part) for part in spacing(np.float32(0), np.float32(0))] == [0.0, 0.0]


def test_spacing_is_the_files_to_the_last_bit():
    for _ in range(500):
        low, high = -np.float32(RNG.exponential() * RNG.integers(2)), np.float32(RNG.exponential() * 10)
        expected = Numbers.covering(low, high, "int8")
        step, zero_point = spacing(low, high)
        assert (float(step), float(zero_point)) == (expected.scale, expected.zero_point)


def test_values_are_rounded_and_clipped():
    layer = layers.FakeQuantize(limits=(-1.0, 1.55))
    rounded, step = layer(np.float32([[[[-3.0, -0.996, 0.0, 0.004, 0.006, 1.2345, 9.0]]]]))
    np.testing.assert_allclose(np.ravel(rounded), [-1.0, -1.0, 0.0, 0.0, 0.01, 1.23, 1.55], atol=1e-6)
    assert float(step) == pytest.approx(0.01, rel=1e-6)


def test_before_any_training_nothing_is_rounded():
    values = RNG.normal(size=(1, 4, 4, 3)).astype(np.float32)
    rounded, step = layers.FakeQuantize()(values)
    np.testing.assert_array_equal(np.asarray(rounded), values)
    assert float(step) == 0.0


def test_the_range_follows_the_values():
    layer = layers.FakeQuantize(momentum=0.75)
    for low, high in ((-1.0, 3.0), (-5.0, 1.0)):  # the first counts in full
        _trained(layer, np.float32([[[[low, high]]]]))
    assert float(layer.low.value) == pytest.approx(0.75 * -1 + 0.25 * -5)
    assert float(layer.high.value) == pytest.approx(0.75 * 3 + 0.25 * 1)
    positive = _trained(layers.FakeQuantize(), np.float32([[[[2.0, 4.0]]]]))
    assert float(positive.low.value) == 0.0  # zero can always be stored


def test_limits_stay():
    layer = _trained(layers.FakeQuantize(limits=(0.0, 1.0)), np.float32([[[[-7.0, 7.0]]]]))
    assert (float(layer.low.value), float(layer.high.value)) == (0.0, 1.0)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="takes gradients with TensorFlow")
def test_gradients_pass_inside_the_range_only():
    import tensorflow as tf

    values = tf.constant([[[[-3.0, 0.004, 1.2345, 9.0]]]])
    layer = layers.FakeQuantize(limits=(-1.0, 1.55))
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = ops.sum(layer(values, training=True)[0])
    np.testing.assert_array_equal(np.ravel(tape.gradient(total, values)), [0, 1, 1, 0])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="takes gradients with TensorFlow")
def test_a_kernel_learns_through_its_rounding():
    import tensorflow as tf

    layer = layers.QuantizedConv2D(2, 1, use_bias=False)
    image = tf.ones((1, 2, 2, 3))
    with tf.GradientTape() as tape:
        total = ops.sum(layer(image, training=True)[0])
    gradient = np.asarray(tape.gradient(total, layer.kernel.value))
    assert (gradient >= 0).all()
    assert (gradient > 0).any()


@pytest.mark.parametrize(
    ("make", "axis"),
    [
        (lambda: layers.QuantizedConv2D(5, 3, padding="same", bias_initializer="normal"), 3),
        (lambda: layers.QuantizedConv2DTranspose(5, 2, strides=2, bias_initializer="normal"), 2),
        (lambda: layers.QuantizedDepthwiseConv2D(3, padding="same", bias_initializer="normal"), 2),
    ],
)
def test_whole_numbers_give_what_real_numbers_give(make, axis):
    """In prediction the layers compute with whole numbers; apart from single roundings it is the same."""
    source = _trained(layers.FakeQuantize(), RNG.normal(size=(2, 8, 8, 4)).astype(np.float32))
    values, step = source(RNG.normal(size=(2, 8, 8, 4)).astype(np.float32))
    layer = make()
    real, own_step = layer(values, step, training=True)
    whole, _ = layer(values, step)
    own_step = float(spacing(layer.low.value, layer.high.value)[0])
    difference = np.abs(np.asarray(whole) - np.asarray(real)) / own_step
    assert difference.max() <= 1.001
    assert (difference > 0.01).mean() < 0.01
    units = np.asarray(whole) / own_step
    np.testing.assert_allclose(units, np.rint(units), atol=1e-3)
    kernel = np.moveaxis(np.asarray(layer.kernel), axis, 0)
    scales = weight_scales(kernel, 0)
    kinds = {len(np.unique(np.rint(one / scale))) for one, scale in zip(kernel, scales, strict=True)}
    assert max(kinds) > 3


def test_a_sum_in_fixed_point():
    first = _trained(layers.FakeQuantize(), RNG.normal(size=(1, 9, 9, 2)).astype(np.float32))
    second = _trained(layers.FakeQuantize(), 3 * RNG.normal(size=(1, 9, 9, 2)).astype(np.float32))
    pairs = [layer(RNG.normal(size=(1, 9, 9, 2)).astype(np.float32)) for layer in (first, second)]
    values, steps = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    layer = layers.QuantizedAdd()
    layer(values, steps, training=True)
    total, step = layer(values, steps)
    exact = np.asarray(values[0]) + np.asarray(values[1])
    assert np.abs(np.asarray(total) - exact).max() <= 0.501 * float(step)


def test_interpolated_values_keep_their_step():
    values = np.float32([[[[0.0], [0.5]], [[1.0], [1.5]]]])
    enlarged = np.asarray(layers.RoundToStep()(values * 0.25, np.float32(0.25)))
    np.testing.assert_array_equal(np.ravel(enlarged), [0.0, 0.25, 0.25, 0.5])  # halves go up
    np.testing.assert_array_equal(np.asarray(layers.RoundToStep()(values, np.float32(0))), values)


def test_pixels():
    pixels = np.float32([[[[-3.0, 0.4, 254.6], [300.0, 127.0, 128.0]]]])
    rounded, step = layers.RoundedImage()(pixels)
    np.testing.assert_array_equal(np.ravel(rounded), [0, 0, 255, 255, 127, 128])
    assert float(step) == 1.0
    less, step = layers.RoundedImage([127.5])(np.float32([[[[0.0, 1.0, 200.0]]]]))
    assert float(step) == 1.0
    np.testing.assert_array_equal(np.ravel(less), [-127, -126, 73])  # XNNPACK rounds -127.5 up
    less, step = layers.RoundedImage([100.0, 116.0, 123.0])(np.float32([[[[0.0, 128.0, 255.0]]]]))
    assert np.abs(np.ravel(less) - [-100, 12, 132]).max() <= 0.51 * float(step)
