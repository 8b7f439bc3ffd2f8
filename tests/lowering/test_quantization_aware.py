"""Networks trained for 8 bits: they start as they were, and their files give their very numbers."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from conftest import MODELS, over_networks
from PIL import Image

from kseg import layers
from kseg.errors import InputError
from kseg.export.calibration import Calibration
from kseg.export.tflite import write_tflite
from kseg.labels import LabelSet
from kseg.lowering import is_quantization_aware, lower, lower_with_ranges, quantization_aware
from kseg.training import load_model
from kseg.training.checkpoint import save_model

SIZE = (64, 80)


def _pictures(count, seed):
    rng = np.random.default_rng(seed)
    coarse = [Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)) for _ in range(count)]
    return np.stack([np.asarray(image.resize(SIZE[::-1], Image.BILINEAR)) for image in coarse])


def _filled(build):
    """A network whose every weight counts."""
    keras.utils.set_random_seed(5)
    network = build(3)
    rng = np.random.default_rng(5)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.6, 1.2, weight.shape) for weight in layer.weights])
        elif layer.name.startswith("score"):
            layer.set_weights([rng.normal(0, 0.1, weight.shape) for weight in layer.get_weights()])
    return network


def _ranged(model):
    """A copy for 8 bits that knows its ranges."""
    aware = quantization_aware(model)
    aware(_pictures(3, 1).astype(np.float32), training=True)
    return aware


def _run(path, image):
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(given["index"], image[None])
    interpreter.invoke()
    scale, zero_point = result["quantization"]
    return (interpreter.get_tensor(result["index"])[0].astype(np.float32) - zero_point) * np.float32(scale), scale


def _write(model, path):
    found = lower_with_ranges(model, SIZE)
    told = write_tflite(
        found.model, path, "int8", calibration=Calibration(tuple(_pictures(2, 2))), trained_ranges=found.ranges
    )
    assert told["trained_ranges"] == len(found.ranges) > 0


@over_networks("fcn8s", "fcn16s", "unet_bilinear")
def test_the_file_gives_the_networks_numbers(tmp_path, build):
    network = _filled(build)
    before = [weight.copy() for weight in network.get_weights()]
    images = _pictures(3, 3)
    aware = _ranged(network)
    assert is_quantization_aware(aware)
    assert not is_quantization_aware(network)
    expected, rounded = (np.asarray(one(images.astype(np.float32))) for one in (network, aware))
    assert np.sqrt(np.mean((rounded - expected) ** 2) / np.mean(expected**2)) < 0.2  # it still computes the same
    assert not np.array_equal(rounded, expected)
    _write(aware, tmp_path / "net.tflite")
    for image, mine in zip(images, rounded, strict=True):
        found, step = _run(tmp_path / "net.tflite", image)
        # Enlarging 16- and 32-fold may round a value to the other side, as the very last operation.
        assert np.abs(found - mine).max() <= 1.001 * step
        assert (np.abs(found - mine) > 0.01 * step).mean() < 0.25
        if "32" not in aware.name and "16" not in aware.name:
            assert (np.abs(found - mine) > 0.01 * step).mean() == 0
    for weight, old in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_layers_for_training_round_nothing(tmp_path):
    image = keras.Input((None, None, 3))
    x = keras.layers.RandomFlip()(image)
    x = keras.layers.RandomBrightness(0.2)(x)
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
    x = keras.layers.GaussianNoise(0.1)(x)
    aware = _ranged(keras.Model(image, keras.layers.Conv2D(4, 1)(x)))
    _write(aware, tmp_path / "net.tflite")
    for picture in _pictures(3, 3):
        found, step = _run(tmp_path / "net.tflite", picture)
        mine = np.asarray(aware(picture[None].astype(np.float32), training=False))[0]
        assert np.abs(found - mine).max() <= 0.01 * step


def test_without_training_only_the_kernels_are_rounded():
    network = _filled(dict(MODELS)["unet"])
    images = _pictures(2, 3).astype(np.float32)
    expected, found = (np.asarray(one(images)) for one in (network, quantization_aware(network)))
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_it_learns_and_can_be_saved(tmp_path):
    network = _filled(dict(MODELS)["unet"])
    aware = quantization_aware(network)
    aware.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = _pictures(4, 6).astype(np.float32)
    labels = (images[..., 0] > 128).astype(np.int32)
    losses = aware.fit(images, labels, batch_size=2, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    path = tmp_path / "aware.keras"
    save_model(aware, path, LabelSet.numbered(3))
    loaded, _ = load_model(path)
    np.testing.assert_array_equal(np.asarray(loaded(images)), np.asarray(aware(images)))
    _write(loaded, tmp_path / "net.tflite")
    found, step = _run(tmp_path / "net.tflite", images[0].astype(np.uint8))
    assert np.abs(found - np.asarray(aware(images[:1]))[0]).max() <= 0.01 * step


@pytest.mark.parametrize("first", [keras.layers.RandomFlip, keras.layers.ZeroPadding2D])
def test_what_comes_before_the_preprocessing_can_be_saved_and_exported(tmp_path, first):
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(first()(image))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, padding="same")(x))
    x = x if first is keras.layers.RandomFlip else keras.layers.Cropping2D(1)(x)
    aware, path = _ranged(keras.Model(image, keras.layers.Conv2D(3, 1)(x))), tmp_path / "aware.keras"
    save_model(aware, path, LabelSet.numbered(3))
    loaded, _ = load_model(path)
    images = _pictures(1, 6)
    expected = np.asarray(aware(images.astype(np.float32), training=False))
    np.testing.assert_array_equal(np.asarray(loaded(images.astype(np.float32), training=False)), expected)
    _write(loaded, tmp_path / "net.tflite")
    found, step = _run(tmp_path / "net.tflite", images[0])
    assert np.abs(found - expected[0]).max() <= (0.01 if first is keras.layers.RandomFlip else 2.01) * step


def test_other_activations_are_rounded_on_both_sides():
    image = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="swish")(image)
    x = keras.layers.LeakyReLU()(keras.layers.Conv2D(4, 1)(x))
    x = keras.layers.ReLU(6.0)(keras.layers.Conv2D(4, 1)(x))
    x = keras.layers.Multiply()([x, keras.layers.Conv2D(4, 1, activation="sigmoid")(x)])
    aware = quantization_aware(keras.Model(image, keras.layers.Softmax()(keras.layers.Conv2D(3, 1)(x))))
    kinds = [type(layer).__name__ for layer in aware.layers]
    assert kinds.count("QuantizedConv2D") == 5
    assert "ReLU" not in kinds  # it has become part of the convolution
    assert kinds.count("FakeQuantize") == 5  # swish, leaky, sigmoid, product, softmax
    limits = {layer.name: layer.limits for layer in aware.layers if isinstance(layer, layers.FakeQuantize)}
    assert list(limits.values()).count((0.0, 255 / 256)) == 2


@over_networks("unet_bilinear")
def test_taken_out_again_nothing_of_it_is_left(build):
    network = _filled(build)
    aware = _ranged(network)
    images = _pictures(1, 3).astype(np.float32)
    plain, rounded = lower(aware, SIZE), lower(aware, SIZE, keep_rounding=True)
    assert not [layer for layer in plain.layers if type(layer).__module__ == layers.FakeQuantize.__module__]
    expected = np.asarray(lower(network, SIZE)(images))
    np.testing.assert_allclose(np.asarray(plain(images)), expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(np.asarray(rounded(images)), np.asarray(aware(images)))


def test_once_is_enough():
    aware = quantization_aware(_filled(dict(MODELS)["unet"]))
    with pytest.raises(InputError, match="already; go on training it as it is"):
        quantization_aware(aware)


def test_a_layer_that_is_called_twice():
    image = keras.Input((None, None, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    with pytest.raises(InputError, match="calls the layer shared 2 times; .* wants a layer for each call"):
        quantization_aware(keras.Model(image, shared(shared(image))))


def test_statistics_of_the_images_are_kept():
    images = _pictures(2, 1).astype(np.float32)
    layer = keras.layers.Normalization()
    layer.adapt(images)
    image = keras.Input((None, None, 3))
    pooled = keras.layers.AveragePooling2D(2)(layer(image))  # so that no kernel can take them in
    network = keras.Model(image, keras.layers.Conv2D(3, 1)(pooled))
    expected = np.asarray(network(images))
    assert np.abs(np.asarray(quantization_aware(network)(images)) - expected).max() < 0.1 * np.abs(expected).max()


def test_a_network_trained_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = _filled(dict(MODELS)["unet"])
    finally:
        keras.config.set_dtype_policy("float32")
    aware = _ranged(network)
    assert {layer.compute_dtype for layer in aware.layers} == {"float32"}
