"""Channels brought to like sizes: the network computes the same, and bears 8 bits better."""

import importlib

import keras
import numpy as np
import pytest
from conftest import over_networks
from networks import SIZE, filled, lowered, pictures, run

from kseg.export import tflite
from kseg.export.calibration import Calibration
from kseg.export.tflite.equalise import equalise
from kseg.export.tflite.flatbuffer import write
from kseg.export.tflite.ranges import measure_ranges

module = importlib.import_module("kseg.export.tflite.equalise")


def _converted(network, folder):
    """(float Network, the ranges of its channels)."""
    converted, _, _ = tflite.convert(lowered(network))
    return converted, measure_ranges(converted, _images(), folder)


def _images():
    return [image[None].astype(np.float32) for image in pictures(3)]


def _scores(converted, folder):
    path = folder / "net.tflite"
    write(converted.copy(), path)
    return run(path, pictures(1, seed=1)[0])


def _changed(before, after):
    """Names of the filters and biases whose numbers changed."""
    return {
        before.tensors[index].name
        for index, array in before.constants.items()
        if array.dtype == np.float32 and array.ndim > 1 and not np.array_equal(array, after.constants[index])
    }


def _check(network, folder):
    """It says the same, and its channels reach as far as is told; returns the names of what changed."""
    converted, ranges = _converted(network, folder)
    before, scores = converted.copy(), _scores(converted, folder)
    told = equalise(converted, ranges)
    np.testing.assert_allclose(_scores(converted, folder), scores, rtol=1e-4, atol=1e-4 * np.abs(scores).max())
    for index, limits in measure_ranges(converted, _images(), folder).items():
        largest = max(np.abs(limit).max() for limit in told[index])
        np.testing.assert_allclose(told[index], limits, rtol=1e-3, atol=1e-4 * max(largest, 1e-3))
    return _changed(before, converted)


@over_networks("fcn8s", "unet", "unet_bilinear", "deeplab_mobilenet_v2")
def test_a_network_computes_the_same(tmp_path, build):
    assert _check(filled(build), tmp_path)


def _convolution(channels, name, **options):
    return keras.layers.Conv2D(channels, 3, padding="same", name=name, **options)


def _residual(x):
    y = _convolution(8, "first", activation="relu")(x)
    return keras.layers.ReLU()(keras.layers.Add()([x, _convolution(8, "second")(y)]))


def _gate(x):
    weights = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    return keras.layers.Multiply()([x, keras.layers.Conv2D(8, 1, activation="sigmoid")(weights)])


def _twice(x):
    layer = _convolution(8, "twice", activation="relu")
    return layer(layer(x))


def _stacked(x):
    return keras.layers.Cropping2D(((0, SIZE[0]), (0, 0)))(keras.layers.Concatenate(axis=1)([x, 3.0 * x]))


def _pyramid(x):
    pooled = keras.layers.UpSampling2D(4, interpolation="bilinear")(keras.layers.AveragePooling2D(4)(x))
    return keras.layers.Concatenate()([x, pooled, _convolution(4, "beside")(x)])


def _separated(x):
    return keras.layers.SeparableConv2D(8, 3, padding="same", depth_multiplier=2, activation="leaky_relu")(x)


BLOCKS = {
    "residual": _residual,
    "gate": _gate,
    "shared layer": _twice,
    "joined along the height": _stacked,
    "pyramid": _pyramid,
    "separable, leaky": _separated,
    "ReLU6": lambda x: _convolution(8, "six", activation="relu6")(20.0 * x),
    "added to what is held": lambda x: x + keras.ops.tanh(_convolution(8, "held")(x)),
    "a channel more": lambda x: keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [0, 1]]),
    "swish": lambda x: _convolution(8, "swish", activation="swish")(x),
    "groups": lambda x: _convolution(8, "groups", groups=4)(x),
    "depthwise": lambda x: keras.layers.DepthwiseConv2D(3, padding="same", dilation_rate=2)(x),
    "transposed": lambda x: keras.layers.Conv2DTranspose(8, 2, 2)(keras.layers.MaxPooling2D()(x)),
    "channels turned round": lambda x: x[..., ::-1],
    "channels taken": lambda x: keras.layers.Concatenate()([x[..., :3], x[..., 3:]]),
    "a constant added": lambda x: x + np.linspace(0, 1, 8, dtype="float32"),
    "less itself": lambda x: keras.layers.Subtract()([_convolution(8, "other", activation="relu")(x), x]),
    "softmax": lambda x: keras.layers.Softmax()(x),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_what_lies_between(tmp_path, block):
    """Where factors cannot go through, they must not be."""
    keras.utils.set_random_seed(1)
    image = keras.Input((None, None, 3))
    x = _convolution(8, "before", activation="relu")(image / 255.0)
    x = _convolution(8, "after", activation="relu")(BLOCKS[block](x))
    network = keras.Model(image, keras.layers.Conv2D(3, 1, name="score")(x))
    rng = np.random.default_rng(2)
    for layer in network.layers:  # channels of very unlike sizes
        if layer.name in ("before", "after"):
            kernel, bias = layer.get_weights()
            sizes = np.exp(rng.uniform(-3, 3, bias.shape))
            layer.set_weights([kernel * sizes, rng.uniform(-0.1, 0.3, bias.shape) * sizes])
    changed = _check(network, tmp_path)
    assert {name.split("/")[0] for name in changed} >= {"after", "score"}


def _unlike():
    """A large and a small part of a concatenation, of which the small one tells the classes apart."""
    image = keras.Input((None, None, 3))
    large = _convolution(4, "large")(image / 255.0)
    small = _convolution(4, "small", activation="relu")(image / 255.0)
    network = keras.Model(image, keras.layers.Conv2D(3, 1, name="score")(keras.layers.Concatenate()([large, small])))
    rng = np.random.default_rng(0)
    for layer, factor in (("large", 50.0), ("small", 0.3)):
        kernel, bias = network.get_layer(layer).get_weights()
        network.get_layer(layer).set_weights([factor * rng.normal(0, 0.3, kernel.shape), bias])
    kernel = rng.normal(0, 1, (1, 1, 8, 3))
    kernel[:, :, :4] *= 1e-3
    network.get_layer("score").set_weights([kernel, np.zeros(3)])
    return network


def test_a_small_part_beside_a_large_one_keeps_its_digits(tmp_path, monkeypatch):
    network, image = _unlike(), pictures(1, seed=1)[0]
    expected = np.asarray(network(image[None]))[0]

    def error():
        path = tmp_path / "net.tflite"
        tflite.write_tflite(lowered(network), path, "int8", calibration=Calibration(tuple(pictures(4))))
        return np.sqrt(np.mean((run(path, image) - expected) ** 2) / np.mean(expected**2))

    found = error()
    monkeypatch.setattr(tflite, "equalise", lambda _, ranges: ranges)
    assert found < 0.02
    assert found < error() / 3


def test_very_large_filters_are_left_alone(tmp_path, monkeypatch):
    converted, ranges = _converted(_unlike(), tmp_path)
    monkeypatch.setattr(module, "_LARGEST", 1)
    before = converted.copy()
    told = equalise(converted, ranges)
    assert not _changed(before, converted)
    for index, limits in ranges.items():
        np.testing.assert_array_equal(told[index], limits)
