"""Biases that take back what the rounding of weights adds on the average."""

import importlib

import keras
import numpy as np
import pytest
from running import SIZE, pictures, run

from kseg.export import Calibration, tflite
from kseg.export.bias import shift
from kseg.export.onnx import int8, write_onnx
from kseg.lowering import lower

quantise = importlib.import_module("kseg.export.tflite.quantise")


def test_the_shift_by_hand():
    errors = np.array([[0.5, -1.0], [0.25, 0.0]])
    np.testing.assert_allclose(shift(errors, np.array([2.0, 3.0])), [-2.0, 0.5])
    # Two groups: the first channel takes the first two, the second the others.
    np.testing.assert_allclose(shift(errors, np.array([2.0, 3.0, 4.0, 5.0])), [-2.0, 1.0])
    # Depthwise.
    np.testing.assert_allclose(shift(errors[:, :1], np.array([2.0, 4.0])), [1.0, 1.0])


FILTERS = {
    "convolution": lambda: keras.layers.Conv2D(12, 3, padding="same", name="filter"),
    "in groups": lambda: keras.layers.Conv2D(12, 3, padding="same", groups=2, name="filter"),
    "depthwise": lambda: keras.layers.DepthwiseConv2D(3, padding="same", name="filter"),
    "transposed": lambda: keras.layers.Conv2DTranspose(12, 4, 2, padding="same", name="filter"),
}


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_bright_pictures_are_not_shifted(tmp_path, monkeypatch, suffix, kind):
    """Weights that nearly cancel each other, of pictures that are bright all over: each rounding error counts fully."""
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(12, 1, 2 if kind == "transposed" else 1, activation="relu", name="bright")(image / 255.0)
    network = keras.Model(image, keras.layers.Conv2D(3, 1, name="score")(FILTERS[kind]()(x)))
    rng = np.random.default_rng(2)
    kernel, bias = network.get_layer("bright").get_weights()
    network.get_layer("bright").set_weights([0.1 * kernel, bias + 4.0])
    kernel, bias = network.get_layer("filter").get_weights()
    kernel = rng.normal(0, 1, kernel.shape)
    # Over the window each weight's sum is 0, as in a filter that finds edges.
    network.get_layer("filter").set_weights([kernel - kernel.mean((0, 1), keepdims=True), bias])
    lowered, path, photo = lower(network, SIZE), tmp_path / f"net.{suffix}", pictures(1, seed=1)[0]
    expected = np.asarray(network(photo[None]))[0]

    def moved():
        if suffix == "onnx":
            write_onnx(lowered, path, "int8", calibration=pictures(4))
        else:
            tflite.write_tflite(lowered, path, "int8", calibration=Calibration(tuple(pictures(4))))
        return np.abs((run(path, photo) - expected)[4:-4, 4:-4].mean((0, 1))).max() / expected.std()

    found = moved()
    for module in (quantise, int8):
        monkeypatch.setattr(module, "shift", lambda errors, means: np.zeros(len(errors)))
    assert found < moved() / 2


@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_a_layer_that_is_called_twice(tmp_path, suffix):
    keras.utils.set_random_seed(0)
    image, path, photo = keras.Input((None, None, 3)), tmp_path / f"net.{suffix}", pictures(1, seed=1)[0]
    twice = keras.layers.Conv2D(3, 3, padding="same", name="twice")
    network = keras.Model(image, keras.layers.Conv2D(3, 1, name="score")(twice(twice(image / 255.0))))
    if suffix == "onnx":
        write_onnx(lower(network, SIZE), path, "int8", calibration=pictures(4))
    else:
        tflite.write_tflite(lower(network, SIZE), path, "int8", calibration=Calibration(tuple(pictures(4))))
    expected = np.asarray(network(photo[None]))[0]
    assert np.sqrt(np.mean((run(path, photo) - expected) ** 2) / np.mean(expected**2)) < 0.05
