import keras
import numpy as np
import pytest

from kseg import layers
from kseg.errors import InputError
from kseg.export import inference_model
from kseg.export.flip import foldable_flips


def _network(shape=(None, None, 3), padding="same", dtype="float32"):
    keras.utils.set_random_seed(1)
    image = keras.Input(shape, name="picture")
    x = keras.ops.multiply(image, 1 / 255)
    x = keras.layers.Conv2D(4, 3, padding=padding, dtype=dtype)(x)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    inner_in = keras.Input((None, None, 4))
    inner = keras.Model(inner_in, keras.layers.Conv2D(4, 1, activation="relu", dtype=dtype)(inner_in), name="inner")
    x = keras.layers.Dropout(0.5, dtype=dtype)(inner(x))
    return keras.Model(image, keras.layers.Conv2D(2, 1, dtype="float32")(x), name="net")


def _image(size_px):
    return np.random.default_rng(0).uniform(0, 255, (1, *size_px, 3)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_float32_copy_at_a_fixed_size(dtype):
    network = _network(dtype=dtype)
    copy = inference_model(network, (17, 23))
    assert copy.input_shape == (1, 17, 23, 3)
    assert copy.output_shape == (1, 17, 23, 2)
    assert copy.name == "net"
    assert {layer.compute_dtype for layer in copy._flatten_layers()} == {"float32"}
    np.testing.assert_array_equal(np.concatenate([w.ravel() for w in network.get_weights()]),
                                  np.concatenate([w.ravel() for w in copy.get_weights()]))  # fmt: skip
    tolerance = 1e-6 if dtype == "float32" else 0.05
    images = _image((17, 23))
    np.testing.assert_allclose(copy(images), network(images), atol=tolerance)


def test_the_model_is_left_as_it_is():
    network = _network(dtype="mixed_bfloat16")
    before = network.to_json()
    copy = inference_model(network, (8, 8))
    copy.set_weights([np.zeros_like(w) for w in copy.get_weights()])
    assert network.to_json() == before
    assert any(weight.any() for weight in network.get_weights())


def test_a_compiled_and_trained_sequential_model():
    network = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 3, padding="same")])
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    network.train_on_batch(_image((8, 8)), np.zeros((1, 8, 8), int))
    copy = inference_model(network, (8, 8))
    assert len(copy.variables) == 2  # neither the optimizer's nor the metrics'
    np.testing.assert_allclose(copy(_image((8, 8))), network(_image((8, 8))), atol=1e-5)


def test_a_fixed_size_is_taken_from_the_model():
    network = _network((12, 16, 3))
    assert inference_model(network, None).input_shape == (1, 12, 16, 3)
    with pytest.raises(InputError, match=r"takes images of 12 x 16 only\. Received: 16 x 12"):
        inference_model(network, (16, 12))


def test_refused():
    with pytest.raises(InputError, match="say the height and width"):
        inference_model(_network(), None)
    with pytest.raises(InputError, match="at least one pixel"):
        inference_model(_network(), (0, 5))
    with pytest.raises(InputError, match="scores of 6 x 6 for an image of 8 x 8"):
        inference_model(_network(padding="valid"), (8, 8))
    with pytest.raises(InputError, match="only RGB images"):
        inference_model(keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 1)]), None)
    with pytest.raises(InputError, match="only RGB images"):
        inference_model(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalMaxPool2D()]), None)
    image = keras.Input((8, 8, 3))
    with pytest.raises(InputError, match="1 inputs and 2 outputs"):
        inference_model(keras.Model(image, [image, image]), None)

    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="must be a functional or sequential"):
        inference_model(Own(), (8, 8))


def _vgg_like(used_twice=False):
    keras.utils.set_random_seed(1)
    image = keras.Input((None, None, 3))
    normalised = layers.Preprocess("caffe")(image)
    x = layers.PadToStride(8)(normalised)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(x)
    x = keras.layers.Conv2D(4, 3, padding="same", name="second")(x)
    x = layers.CropLike()([x, image])
    return keras.Model(image, keras.layers.Concatenate()([x, normalised]) if used_twice else x)


def test_the_channel_flip_goes_into_the_first_convolution():
    network = _vgg_like()
    assert [[c.name for c in used] for used in foldable_flips(network).values()] == [["first"]]
    copy = inference_model(network, (13, 19))
    assert not any(isinstance(layer, layers.Preprocess) for layer in copy.layers)
    np.testing.assert_array_equal(copy.get_layer("first").kernel, network.get_layer("first").kernel[:, :, ::-1])
    np.testing.assert_array_equal(copy.get_layer("second").kernel, network.get_layer("second").kernel)
    images = _image((13, 19))
    np.testing.assert_allclose(copy(images), network(images), atol=1e-4)


def test_a_flip_that_something_else_sees_is_left_alone():
    network = _vgg_like(used_twice=True)
    assert not foldable_flips(network)
    images = _image((13, 19))
    np.testing.assert_allclose(inference_model(network, (13, 19))(images), network(images), atol=1e-4)
