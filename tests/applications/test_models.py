"""What every network in MODELS must do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import MODELS, ROOT, over_networks

# TensorFlow's variables with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
CLASSES = 3

every_model = over_networks()


def images_of(height, width, channels=3, batch=1):
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, channels)).astype(np.uint8)


def randomise(model):
    """Give every weight other values than its initializer did, so that zeros and ones cannot hide a mistake."""
    noise = np.random.default_rng(1).uniform
    for weight in model.weights:
        value = np.asarray(weight.value)
        constant = np.ptp(value) == 0  # biases, normalisations, FCN's score layers
        weight.assign(value + 0.1 * noise(size=value.shape) if constant else value * (0.5 + noise(size=value.shape)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """name -> (model with random weights, the folder that holds it as NAME.keras); built once."""
    folder = tmp_path_factory.mktemp("models")
    models = {}
    for name, build in MODELS:
        keras.utils.set_random_seed(0)
        models[name] = build(CLASSES)
        randomise(models[name])
        models[name].save(folder / f"{name}.keras")
    return models, folder


every_name = pytest.mark.parametrize("name", [name for name, _ in MODELS])


@every_name
@pytest.mark.parametrize("size", [(67, 99), (1, 1)], ids=str)
def test_any_size(trained, name, size):
    model = trained[0][name]
    images = images_of(*size, batch=2)
    logits = model(images)
    assert logits.shape == (2, *size, CLASSES)
    assert logits.dtype == "float32"
    assert np.isfinite(logits).all()
    assert np.std(logits) > 0
    # One image of the batch says nothing about the other; uint8 and float are the same image.
    np.testing.assert_allclose(model(images[1:].astype(np.float32)), logits[1:], rtol=1e-3, atol=1e-4 * np.ptp(logits))


@every_name
def test_graph_for_any_size(trained, name):
    """One graph, traced without sizes, gives what the eager call gives."""
    tf = pytest.importorskip("tensorflow")
    model = trained[0][name]
    images = images_of(35, 70).astype(np.float32)
    graph = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 3))])
    expected = np.asarray(model(images))
    np.testing.assert_allclose(graph(images), expected, atol=1e-4 * np.ptp(expected))


@every_model
@pytest.mark.parametrize(("channels", "include_preprocessing"), [(1, True), (5, True), (1, False)])
def test_any_channels(build, channels, include_preprocessing):
    model = build(CLASSES, input_shape=(None, None, channels), include_preprocessing=include_preprocessing)
    assert model.output_shape == (None, None, None, CLASSES)
    assert np.isfinite(model(images_of(9, 11, channels))).all()


@every_name
def test_keras_file(trained, name):
    models, folder = trained
    loaded = keras.saving.load_model(folder / f"{name}.keras")
    images = images_of(35, 70)
    expected = np.asarray(models[name](images))
    np.testing.assert_allclose(loaded(images), expected, atol=1e-5 * np.ptp(expected))
    assert [layer.name for layer in loaded.layers] == [layer.name for layer in models[name].layers]
    assert [layer.trainable for layer in loaded.layers] == [layer.trainable for layer in models[name].layers]


def test_jax_says_what_tensorflow_says(trained, tmp_path):
    """Another process, on JAX, reads the files that TensorFlow wrote: nothing is registered there but by the import."""
    pytest.importorskip("jax")
    models, folder = trained
    images = images_of(35, 70)
    np.savez(tmp_path / "tensorflow.npz", images=images, **{name: m(images) for name, m in models.items()})
    script = Path(__file__).with_name("predict_on_jax.py")
    command = [sys.executable, script, folder, tmp_path / "tensorflow.npz", tmp_path / "jax.npz"]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    # Each size is compiled for one use.
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tensorflow, jax = np.load(tmp_path / "tensorflow.npz"), np.load(tmp_path / "jax.npz")
    for name in models:
        np.testing.assert_allclose(
            jax[name], tensorflow[name], atol=1e-4 * np.ptp(tensorflow[name]), err_msg=name, strict=True
        )


@every_model
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_float32_logits(build, policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = build(CLASSES, classifier_activation="softmax")
    finally:
        keras.config.set_dtype_policy("float32")
    half = policy.removeprefix("mixed_")
    assert {layer.compute_dtype for layer in model.layers if "conv" in layer.name} == {half}
    assert {weight.dtype for weight in model.weights} == {"float32"}
    scored = [layer for layer in model.layers if layer.name.startswith(("score", "fuse", "logits", "predictions"))]
    scored += [layer for layer in model.layers if layer.name in ("crop", "upsample_4_1")]
    assert {layer.compute_dtype for layer in scored} == {"float32"}
    probabilities = model(images_of(9, 11))
    assert probabilities.dtype == "float32"
    # To the precision of float32: half precision would miss by 1e-3.
    np.testing.assert_allclose(np.sum(probabilities, -1), 1, atol=1e-6)


@every_model
def test_biases_learn_in_half_precision(build):
    """Keras's own convolutions sum their gradients in bfloat16, see `kseg.layers.Conv2D`."""
    keras_own = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)
    assert not [layer.name for layer in build(CLASSES).layers if type(layer) in keras_own and layer.use_bias]


@every_model
def test_steps_change_every_trainable_weight_and_no_frozen_one(build):
    keras.utils.set_random_seed(0)
    model = build(CLASSES)
    before = _values(model)
    frozen = {w.path for layer in model.layers if not layer.trainable for w in layer.weights}
    assert frozen == {w.path for w in model.weights if "upsample" in w.path and "fcn" in model.name}
    # Of one image alone, DeepLab's normalisation takes away the mean that it adds everywhere.
    images = images_of(64, 64, batch=2)
    labels = np.random.default_rng(2).integers(0, CLASSES, (2, 64, 64))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, run_eagerly=True)  # for two steps a graph does not pay
    model.train_on_batch(images, labels)
    first = _changed(model, before)
    assert {path for path in before if "score" in path} <= first
    # FCN's score layers start at zero and so pass no gradient on in the first step; in the second they do.
    model.train_on_batch(images, labels)
    trainable = {w.path for w in model.trainable_weights}
    assert trainable <= _changed(model, before)
    assert not frozen & _changed(model, before)


def _values(model):
    return {w.path: np.array(w.value) for w in model.weights}


def _changed(model, before):
    return {path for path, value in _values(model).items() if not np.array_equal(value, before[path])}


@every_name
def test_golden_structure(trained, name):
    """The structure that trained weights depend on; KSEG_WRITE_GOLDEN=1 writes it anew, to be read in the diff."""
    file = GOLDEN / f"{name}.json"
    rows = [json.dumps(_describe(layer)) for layer in trained[0][name].layers]
    text = "[\n" + ",\n".join(rows) + "\n]\n"
    if os.environ.get("KSEG_WRITE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()


def _describe(layer):
    shapes = [list(weight.shape) for weight in layer.weights]
    row = {"name": layer.name, "class": type(layer).__name__, "output": list(layer.output.shape), "weights": shapes}
    return row if layer.trainable else {**row, "trainable": False}
