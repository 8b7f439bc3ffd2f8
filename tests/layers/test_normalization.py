"""kseg's BatchNormalization against Keras's own, which it must equal in everything but time."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

from kseg.layers import BatchNormalization

# TensorFlow's variables with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SHAPE = (2, 5, 7, 3)
# Of the largest value: what rounding to the policy's numbers makes of it.
TOLERANCE = {"float32": 2e-6, "mixed_bfloat16": 2**-7, "mixed_float16": 2**-10}
ANY_SIZE = tf.TensorSpec((None, None, None, SHAPE[-1]))


def _images(shape=SHAPE, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * rng.uniform(0.5, 3, shape[-1]) + rng.normal(size=shape[-1])).astype(np.float32)


def _pair(shape=SHAPE, **options):
    """Keras's layer and ours, of equal random weights."""
    layers = [kind(**options) for kind in (keras.layers.BatchNormalization, BatchNormalization)]
    for layer in layers:
        layer.build(shape)
        rng = np.random.default_rng(3)
        layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.weights])
    return layers


def _operations(layer, spec, training, **more):
    graph = tf.function(lambda images: layer(images, training=training, **more)).get_concrete_function(spec).graph
    return {operation.type for operation in graph.get_operations()}


def _is_fused(layer, training=True, spec=ANY_SIZE, **more):
    return "FusedBatchNormV3" in _operations(layer, spec, training, **more)


def _step(layer, images, weights, wrap=lambda call: call):
    """{what: float32 array} of one training step with the loss sum(weights * outputs)."""

    def call(images):
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = layer(images, training=True)
            loss = tf.reduce_sum(tf.cast(outputs, "float32") * weights)
        by_images, *by_weights = tape.gradient(loss, [images, *(v.value for v in layer.trainable_variables)])
        return outputs, by_images, by_weights

    outputs, by_images, by_weights = wrap(call)(tf.constant(images))
    assert outputs.dtype == layer.compute_dtype
    names = [variable.name for variable in layer.trainable_variables]
    return {
        "outputs": np.asarray(tf.cast(outputs, "float32")),
        "by images": np.asarray(tf.cast(by_images, "float32")),
        **{f"by {name}": np.asarray(value) for name, value in zip(names, by_weights, strict=True)},
        **{weight.name: np.array(weight.value) for weight in layer.non_trainable_variables},
    }


def _assert_equal(got, expected, tolerance):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        limit = tolerance * np.abs(value).max()
        np.testing.assert_allclose(got[name], value, rtol=0, atol=limit, err_msg=name, strict=True)


class TestTraining:
    def test_by_hand(self):
        """0 and 4: mean 2, variance 4 (not 8), each half of the way from 0 and 1."""
        layer = BatchNormalization(momentum=0.5, epsilon=0.0025, gamma_initializer=keras.initializers.Constant(3))
        got = layer(np.array([0, 4], np.float32).reshape(1, 2, 1, 1), training=True)
        np.testing.assert_allclose(np.ravel(got), [-3, 3], rtol=1e-3)
        np.testing.assert_allclose(layer.moving_mean.value, [1.0])
        np.testing.assert_allclose(layer.moving_variance.value, [2.5], rtol=1e-6)

    @pytest.mark.parametrize("policy", TOLERANCE)
    @pytest.mark.parametrize(
        "options", [{}, {"scale": False}, {"center": False}, {"axis": 3, "momentum": 0.3, "epsilon": 0.1}], ids=str
    )
    def test_says_what_keras_says(self, policy, options):
        theirs, ours = _pair(dtype=policy, **options)
        assert _is_fused(ours)
        images, weights = _images(), _images(seed=1)
        _assert_equal(_step(ours, images, weights), _step(theirs, images, weights), TOLERANCE[policy])

    @pytest.mark.parametrize(
        "wrap",
        [
            tf.function,
            lambda call: tf.function(call, input_signature=[ANY_SIZE]),
            lambda call: tf.function(call, jit_compile=True),
        ],
        ids=["graph", "any size", "xla"],
    )
    def test_in_graphs(self, wrap):
        theirs, ours = _pair()
        images, weights = _images(), _images(seed=1)
        _assert_equal(_step(ours, images, weights, wrap), _step(theirs, images, weights), 2e-6)

    def test_large_means_and_many_pixels(self):
        """Where a variance as E(x^2) - E(x)^2 would have lost its digits."""
        images = _images((2, 128, 128, 3)) + 1000
        _, layer = _pair()
        exact, (gamma, beta) = images.astype(np.float64), (np.asarray(weight) for weight in layer.weights[:2])
        mean, variance = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
        expected = gamma * (exact - mean) / np.sqrt(variance + layer.epsilon) + beta
        # Not beside Keras's: how a processor adds float32 numbers of 1000 decides 0.001 of ours, 0.002 of its own. With
        # digits lost the variance would be off by 1 to 12.
        np.testing.assert_allclose(layer(images, training=True), expected, rtol=0, atol=5e-3)

    def test_one_value_a_channel(self):
        theirs, ours = _pair()
        image, weights = _images((1, 1, 1, 3)), np.ones((1, 1, 1, 3), np.float32)
        _assert_equal(_step(ours, image, weights), _step(theirs, image, weights), 2e-6)

    def test_fit_equals_that_of_keras(self):
        results = []
        for kind in (keras.layers.BatchNormalization, BatchNormalization):
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(4, 3), kind()])
            model.compile(keras.optimizers.SGD(0.05), "mse")
            model.fit(_images((8, 6, 6, 3)), np.ones((8, 4, 4, 4)), batch_size=4, epochs=3, verbose=0, shuffle=False)
            results.append({weight.name: np.array(weight.value) for weight in model.layers[1].weights})
        _assert_equal(results[1], results[0], 1e-5)


class TestLeftToKeras:
    @pytest.mark.parametrize("policy", TOLERANCE)
    @pytest.mark.parametrize("frozen", [False, True])
    def test_prediction_and_frozen_layers(self, policy, frozen):
        theirs, ours = _pair(dtype=policy)
        ours.trainable = theirs.trainable = not frozen
        assert not _is_fused(ours, training=frozen)
        before = [np.array(weight.value) for weight in ours.weights]
        outputs = [tf.cast(layer(_images(), training=frozen), "float32") for layer in (theirs, ours)]
        np.testing.assert_array_equal(outputs[1], outputs[0])
        np.testing.assert_array_equal(before, [np.array(weight.value) for weight in ours.weights])

    @pytest.mark.parametrize(
        ("options", "shape"),
        [
            ({"axis": 1}, SHAPE),
            ({"epsilon": 1e-6}, SHAPE),
            ({"renorm": True}, SHAPE),
            ({"synchronized": True}, SHAPE),
            ({"dtype": "float64"}, SHAPE),
            ({"dtype": "bfloat16"}, SHAPE),  # the statistics, too
            ({}, (8, 3)),
            ({}, (2, 2, 2, 2, 3)),
        ],
        ids=str,
    )
    def test_what_has_no_operation(self, options, shape):
        theirs, ours = _pair(shape, **options)
        assert not _is_fused(ours, spec=tf.TensorSpec(shape))
        outputs = [tf.cast(layer(_images(shape), training=True), "float64") for layer in (theirs, ours)]
        np.testing.assert_array_equal(outputs[1], outputs[0])

    def test_masks(self):
        theirs, ours = _pair()
        mask = np.random.default_rng(4).random(SHAPE[:3]) < 0.5
        assert not _is_fused(ours, spec=tf.TensorSpec(SHAPE), mask=tf.constant(mask))
        outputs = [layer(_images(), training=True, mask=tf.constant(mask)) for layer in (theirs, ours)]
        np.testing.assert_array_equal(outputs[1], outputs[0])


class TestFiles:
    def _model(self, kind, seed):
        norms = [kind(name=f"norm{number}") for number in (1, 2)]
        model = keras.Sequential([keras.Input((4, 4, 3)), norms[0], keras.layers.Conv2D(3, 1), norms[1]])
        rng = np.random.default_rng(seed)
        model.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in model.weights])
        return model

    @pytest.mark.parametrize("kind", [keras.layers.BatchNormalization, BatchNormalization])
    def test_each_class_comes_back(self, kind, tmp_path):
        model = self._model(kind, 1)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert [type(layer) for layer in loaded.layers[::2]] == [kind, kind]
        assert loaded.layers[0].get_config() == model.layers[0].get_config()
        np.testing.assert_array_equal(loaded(_images((1, 4, 4, 3))), model(_images((1, 4, 4, 3))))

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["keras to kseg", "kseg to keras"])
    def test_weights_fit_both(self, order, tmp_path):
        kinds = (keras.layers.BatchNormalization, BatchNormalization)
        source, target = (self._model(kinds[index], seed) for seed, index in enumerate(order))
        source.save_weights(tmp_path / "model.weights.h5")
        target.load_weights(tmp_path / "model.weights.h5")
        for theirs, ours in zip(source.weights, target.weights, strict=True):
            np.testing.assert_array_equal(ours.value, theirs.value)


def _elsewhere(script, *arguments, **environment):
    command = [sys.executable, Path(__file__).with_name(script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_jax_says_what_tensorflow_says(tmp_path):
    """In a process of its own, without TensorFlow."""
    pytest.importorskip("jax")
    ours = _pair()[1]
    given = {"images": _images(), "weights": _images(seed=1)}
    before = {f"before_{number}": np.array(weight.value) for number, weight in enumerate(ours.weights)}
    np.savez(tmp_path / "in.npz", **given, **before)
    _elsewhere(
        "normalize_on_jax.py", tmp_path / "in.npz", tmp_path / "out.npz", KERAS_BACKEND="jax", JAX_PLATFORMS="cpu"
    )
    _assert_equal(dict(np.load(tmp_path / "out.npz")), _step(ours, *given.values()), 2e-6)


@pytest.mark.slow
def test_two_replicas_say_what_those_of_keras_say(tmp_path):
    """Each normalises by its own half of the batch."""
    np.savez(tmp_path / "in.npz", images=_images((4, 5, 7, 3)))
    _elsewhere("normalize_mirrored.py", tmp_path / "in.npz", tmp_path / "out.npz")
    got = np.load(tmp_path / "out.npz")
    for name in ("gamma", "beta", "moving_mean", "moving_variance"):
        np.testing.assert_allclose(got[f"kseg_{name}"], got[f"keras_{name}"], rtol=1e-5, err_msg=name)
