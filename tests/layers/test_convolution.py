"""kseg's convolutions against Keras's own, which they equal in all but the gradient of the bias in half precision."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

from kseg import layers

# TensorFlow's variables with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

KINDS = ("Conv2D", "Conv2DTranspose")
OPTIONS = ({}, {"strides": 2, "activation": "relu"}, {"padding": "same", "use_bias": False})


@pytest.fixture
def images():
    return np.random.default_rng(0).normal(size=(2, 9, 8, 3)).astype(np.float32)


def _pair(name, **options):
    """Keras's layer and ours, of equal random weights."""
    pair = [getattr(module, name)(4, 3, bias_initializer="normal", **options) for module in (keras.layers, layers)]
    for layer in pair:
        layer.build((None, None, None, 3))
    pair[1].set_weights([np.array(weight.value) for weight in pair[0].weights])
    return pair


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_says_what_keras_says(name, options, policy, images):
    theirs, ours = _pair(name, **options, dtype=policy)
    got, expected = (np.asarray(tf.cast(layer(images), "float32")) for layer in (ours, theirs))
    np.testing.assert_array_equal(got, expected, strict=True)


@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_bfloat16_are_near_those_of_float32(name):
    images = np.random.default_rng(1).normal(size=(8, 32, 32, 3)).astype(np.float32)
    gradients = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.utils.set_random_seed(0)
        _, layer = _pair(name, strides=2, activation="relu", dtype=policy)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.cast(layer(images), "float32")))
        gradients.append([np.asarray(part) for part in tape.gradient(loss, [layer.kernel.value, layer.bias.value])])
    for expected, got in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=0.02 * np.abs(expected).max(), strict=True)


@pytest.mark.parametrize(
    "environment",
    [{"TF_ENABLE_ONEDNN_OPTS": "0"}, {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}],
    ids=lambda environment: next(iter(environment)),
)
def test_sums_over_all_pixels(environment, tmp_path):
    """Where Keras's convolutions count to 256 of 8,192."""
    if "jax" in environment.values():
        pytest.importorskip("jax")
    command = [sys.executable, Path(__file__).with_name("bias_gradients.py"), tmp_path / "shares.npz"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "shares.npz") as shares:
        assert set(shares) == set(KINDS)
        for name in KINDS:
            np.testing.assert_allclose(shares[name], np.ones(5), rtol=0.01)


@pytest.mark.parametrize("name", KINDS)
def test_files_of_weights_fit_both(name, tmp_path):
    theirs, ours = (keras.Sequential([keras.Input((None, None, 3)), layer]) for layer in _pair(name))
    ours.layers[0].bias.assign(np.arange(4.0))
    ours.save_weights(tmp_path / "model.weights.h5")
    theirs.load_weights(tmp_path / "model.weights.h5")
    for old, new in zip(theirs.weights, ours.weights, strict=True):
        np.testing.assert_array_equal(old.value, new.value)
