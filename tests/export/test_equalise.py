"""Channels brought to like sizes: the network computes the same, and bears 8 bits better, in both formats."""

import importlib

import keras
import numpy as np
import onnx
import pytest
from conftest import over_networks
from running import SIZE, pictures, run

from kseg.export import Calibration, tflite
from kseg.export.onnx import int8, write_onnx
from kseg.export.onnx.structure import structure, with_weights_as_inputs
from kseg.export.onnx.weights import write as write_proto
from kseg.export.tflite.flatbuffer import write as write_network
from kseg.export.tflite.ranges import measure_ranges
from kseg.lowering import lower

# A package's function hides the module of the same name.
CORE = importlib.import_module("kseg.export.equalise")
ON_TFLITE, ON_ONNX = (importlib.import_module(f"kseg.export.{kind}.equalise") for kind in ("tflite", "onnx"))


class _Tflite:
    """A network on its way to a .tflite file."""

    def __init__(self, model, folder):
        self.path = folder / "float.tflite"
        self._network, _, _ = tflite.convert(model)

    def ranges(self):
        images = [image[None].astype(np.float32) for image in pictures(3)]
        return measure_ranges(self._network, images, self.path.parent)

    def equalise(self, ranges):
        return ON_TFLITE.equalise(self._network, ranges)

    def filters(self):
        constants = self._network.constants
        return {self._network.tensors[i].name: a for i, a in constants.items() if a.dtype == np.float32 and a.ndim > 1}

    def scores(self, image):
        write_network(self._network.copy(), self.path)
        return run(self.path, image)


class _Onnx:
    """A network on its way to an .onnx file."""

    def __init__(self, model, folder):
        self.path = folder / "float.onnx"
        proto, self._weights = structure(model)
        whole = with_weights_as_inputs(proto, self._weights)
        self._proto = onnx.shape_inference.infer_shapes(whole, strict_mode=True)
        del self._proto.graph.input[1:]

    def ranges(self):
        return int8.measure_ranges(self._proto, self._weights, self.path.parent, pictures(3))

    def equalise(self, ranges):
        self._weights, told = ON_ONNX.equalise(self._proto, self._weights, ranges)
        return told

    def filters(self):
        return {name: array for name, array in self._weights.items() if array.ndim > 1}

    def scores(self, image):
        proto = onnx.ModelProto()
        proto.CopyFrom(self._proto)
        write_proto(proto, self._weights, self.path)
        return run(self.path, image)


FORMATS = pytest.mark.parametrize("kind", [_Tflite, _Onnx])


def _check(kind, network, folder):
    """It says the same, and its channels reach as far as is told; returns the names of the filters that changed."""
    graph, (image,) = kind(lower(network, SIZE), folder), pictures(1, seed=1)
    before, scores = graph.filters(), graph.scores(image)
    told = graph.equalise(graph.ranges())
    np.testing.assert_allclose(graph.scores(image), scores, rtol=1e-4, atol=1e-4 * np.abs(scores).max())
    for key, limits in graph.ranges().items():
        largest = max(np.abs(limit).max() for limit in told[key])
        np.testing.assert_allclose(told[key], limits, rtol=1e-3, atol=1e-4 * max(largest, 1e-3))
    after = graph.filters()
    return {name for name in before if not np.array_equal(before[name], after[name])}


def _filled(build):
    """A network whose every weight counts."""
    keras.utils.set_random_seed(3)
    network, rng = build(3), np.random.default_rng(3)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.6, 1.2, weight.shape) for weight in layer.weights])
        elif layer.name.startswith("score"):
            layer.set_weights([rng.normal(0, 0.1, weight.shape) for weight in layer.get_weights()])
    return network


@FORMATS
@over_networks("fcn8s", "unet", "unet_bilinear", "deeplab_mobilenet_v2")
def test_a_network_computes_the_same(tmp_path, kind, build):
    assert _check(kind, _filled(build), tmp_path)


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
    "their means added": lambda x: x + keras.layers.GlobalAveragePooling2D(keepdims=True)(x),
    "a map added": lambda x: x + _convolution(1, "map")(x),
    "a constant added": lambda x: x + np.linspace(0, 1, 8, dtype="float32"),
    "less itself": lambda x: keras.layers.Subtract()([_convolution(8, "other", activation="relu")(x), x]),
    "softmax": lambda x: keras.layers.Softmax()(x),
}


@FORMATS
@pytest.mark.parametrize("block", BLOCKS)
def test_what_lies_between(tmp_path, kind, block):
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
    changed = _check(kind, network, tmp_path)
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


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_a_small_part_beside_a_large_one_keeps_its_digits(tmp_path, monkeypatch, suffix):
    network, (image,), path = _unlike(), pictures(1, seed=1), tmp_path / f"net.{suffix}"
    expected = np.asarray(network(image[None]))[0]

    def error():
        if suffix == "onnx":
            write_onnx(lower(network, SIZE), path, "int8", calibration=pictures(4))
        else:
            tflite.write_tflite(lower(network, SIZE), path, "int8", calibration=Calibration(tuple(pictures(4))))
        return np.sqrt(np.mean((run(path, image) - expected) ** 2) / np.mean(expected**2))

    found = error()
    monkeypatch.setattr(tflite, "equalise", lambda _, ranges: ranges)
    monkeypatch.setattr(int8, "equalise", lambda _, weights, ranges: (weights, ranges))
    assert found < 0.05
    assert found < error() / 3


@FORMATS
def test_very_large_filters_are_left_alone(tmp_path, monkeypatch, kind):
    for module in (ON_TFLITE, ON_ONNX):
        monkeypatch.setattr(module, "LARGEST", 1)
    assert not _check(kind, _unlike(), tmp_path)


def test_the_factor_leaves_activations_and_weights_equally_coarse():
    nodes = [
        CORE.Node("filter", ("image",), ("x",), lambda: np.ones(3)),
        CORE.Node("pass", ("x",), ("y",)),
        CORE.Node("filter", ("y",), ("z",), lambda: np.array([1.0, 0.25, 0.0])),
    ]
    channels = {"image": 3, "x": 3, "y": 3, "z": 2}
    reach = {"image": np.full(3, 255.0), "x": np.array([4.0, 1.0, 0.0]), "y": np.array([2.0, 1.0, 0.0])}
    found = CORE.factors(nodes, channels, ["image", "z"], reach)
    # sqrt(1 / 4), sqrt(0.25 / 1), and of what is 0 a sixteenth of the largest: sqrt((1 / 16) / (4 / 16)).
    np.testing.assert_allclose(found["x"], [0.5, 0.5, 0.5])
    np.testing.assert_array_equal(found["y"], found["x"])
    np.testing.assert_array_equal(found["image"], np.ones(3))
    np.testing.assert_array_equal(found["z"], np.ones(2))


def test_channels_that_calibration_hardly_shows_have_room_to_grow():
    """To a quarter of the largest, whatever they reached."""
    nodes = [CORE.Node("filter", ("image",), ("x",), lambda: np.ones(3)), CORE.Node("each", ("x",), ("y",))]
    reach = {"x": np.array([8.0, 1e-4])}
    found = CORE.factors(nodes, {"image": 3, "x": 2, "y": 2}, ["image", "y"], reach)["x"]
    assert (reach["x"] * found).max() / found[1] == pytest.approx(8 / 4)
