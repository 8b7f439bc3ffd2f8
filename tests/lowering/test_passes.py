import keras
import numpy as np
import pytest

from kseg import layers
from kseg.lowering import build, lower, read
from kseg.lowering.passes import resize_for_bilinear_transposition

IMAGE = np.random.default_rng(0).uniform(0, 255, (1, 13, 19, 3)).astype(np.float32)


def _model(*steps, size=(None, None, 3)):
    keras.utils.set_random_seed(1)
    image = x = keras.Input(size)
    for step in steps:
        x = step(x)
    return keras.Model(image, x)


def _kinds(network):
    return [type(layer).__name__ for layer in network.layers[1:]]


def _same(network, tolerance=1e-5):
    lowered = lower(network, (13, 19))
    expected = np.asarray(network(IMAGE, training=False))
    assert np.abs(np.asarray(lowered(IMAGE)) - expected).max() <= tolerance * np.abs(expected).max()
    return lowered


def _norm(channels, kind=keras.layers.BatchNormalization, **options):
    layer = kind(**options)
    layer.build((None, None, None, channels))
    rng = np.random.default_rng(2)
    layer.set_weights([rng.uniform(0.5, 1.5, channels) for _ in layer.weights])
    return layer


def _conv(filters=4, size=3, **options):
    return keras.layers.Conv2D(filters, size, padding="same", bias_initializer="normal", **options)


# ---- what is for training only


def test_training_layers_go():
    lowered = _same(
        _model(
            keras.layers.RandomFlip(),
            keras.layers.GaussianNoise(0.1),
            _conv(),
            keras.layers.SpatialDropout2D(0.5),
            keras.layers.Dropout(0.5),
            keras.layers.Activation("linear"),
        )
    )
    assert _kinds(lowered) == ["Conv2D"]


def test_an_activation_that_does_something_stays():
    assert _kinds(_same(_model(_conv(), keras.layers.Activation("relu")))) == ["Conv2D", "Activation"]


# ---- batch normalisation


@pytest.mark.parametrize(
    "options",
    [{}, {"scale": False}, {"center": False}, {"epsilon": 0.1}, {"renorm": True}, {"kind": layers.BatchNormalization}],
)
@pytest.mark.parametrize(
    "convolution",
    [
        _conv(),
        _conv(use_bias=False),
        keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
        keras.layers.Conv2DTranspose(4, 3, padding="same", use_bias=False),
    ],
    ids=["biased", "plain", "depthwise", "transposed"],
)
def test_normalisation_goes_into_the_convolution(convolution, options):
    convolution = type(convolution).from_config(convolution.get_config())
    channels = 6 if isinstance(convolution, keras.layers.DepthwiseConv2D) else 4
    lowered = _same(_model(convolution, _norm(channels, **options)))
    assert _kinds(lowered) == [type(convolution).__name__]


def test_normalisation_that_cannot_be_folded_becomes_a_depthwise_convolution():
    assert _kinds(_same(_model(_conv(activation="relu"), _norm(4)))) == ["Conv2D", "DepthwiseConv2D"]
    assert _kinds(_same(_model(_norm(3), _conv()))) == ["DepthwiseConv2D", "Conv2D"]
    image = keras.Input((None, None, 3))
    x = _conv()(image)
    twice = keras.Model(image, keras.layers.Add()([x, _norm(4)(x)]))  # the convolution itself is wanted too
    assert "DepthwiseConv2D" in _kinds(_same(twice))


def test_a_convolution_with_two_normalisations_is_folded_twice():
    image = keras.Input((None, None, 3))
    shared, other = _conv(), _conv(3)
    x = _norm(4)(shared(image))
    y = _norm(4)(shared(other(image)))
    lowered = _same(keras.Model(image, keras.layers.Add()([x, y])))
    assert sorted(_kinds(lowered)) == ["Add", "Conv2D", "Conv2D", "Conv2D"]


# ---- preprocessing


@pytest.mark.parametrize("mode", ["caffe", "tf", "unit"])
def test_preprocessing_goes_into_the_kernel(mode):
    first = keras.layers.Conv2D(4, 3, bias_initializer="normal")
    lowered = _same(_model(layers.Preprocess(mode), keras.layers.ZeroPadding2D(1), first, _conv()))
    assert "Preprocess" not in _kinds(lowered)
    assert ("Subtract" in _kinds(lowered)) is (mode != "unit")


def test_the_channel_flip_is_exact():
    network = _model(layers.Preprocess("caffe"), _conv(name="first"))
    lowered = lower(network, (13, 19))
    np.testing.assert_array_equal(lowered.get_layer("first").kernel, network.get_layer("first").kernel[:, :, ::-1])


@pytest.mark.parametrize(
    "rescaling", [(1 / 255, 0.0), (1 / 127.5, -1.0), (0.5, [1.0, 2.0, 3.0]), (0.5, [[[1.0, 2.0, 3.0]]])]
)
def test_rescaling_of_keras(rescaling):
    lowered = _same(_model(keras.layers.Rescaling(*rescaling), _conv()))
    assert "Rescaling" not in _kinds(lowered)


@pytest.mark.parametrize("behind", [_conv(), keras.layers.AveragePooling2D(1)], ids=["folded", "depthwise"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_normalization_of_keras(behind, dtype):
    """It computes with constants that it makes of its weights, or was given."""
    learned = keras.layers.Normalization(dtype=dtype)
    learned.adapt(IMAGE * [1.0, 0.5, 0.2])
    for layer in (learned, keras.layers.Normalization(mean=[9.0, 5, 1], variance=[400.0, 0, 90], dtype="float32")):
        lowered = _same(_model(layer, behind), tolerance=1e-5 if layer.compute_dtype == "float32" else 0.03)
        assert "Normalization" not in _kinds(lowered)
    undone = keras.layers.Normalization(mean=[9.0, 5, 1], variance=[4.0, 2, 9], invert=True)
    assert "Normalization" in _kinds(_same(_model(undone, behind)))


def test_preprocessing_that_something_else_sees_is_left_alone():
    image = keras.Input((None, None, 3))
    normalised = layers.Preprocess("caffe")(image)
    network = keras.Model(image, keras.layers.Concatenate()([_conv()(normalised), normalised]))
    assert "Preprocess" in _kinds(_same(network))
    assert "Preprocess" in _kinds(_same(_model(layers.Preprocess("tf"))))


# ---- bilinear transposed convolutions


def _upsampling(factor, channels=3, padding="same", **options):
    options = {"use_bias": False, "kernel_initializer": layers.BilinearInitializer(), **options}
    return keras.layers.Conv2DTranspose(channels, 2 * factor, strides=factor, padding=padding, **options)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("factor", [2, 4, 8, 16, 32])
def test_bilinear_transposed_convolution_becomes_a_resize(factor, padding):
    network = _model(_upsampling(factor, padding=padding))
    graph = read(network)  # not by `lower`, which wants scores of the size of the image
    resize_for_bilinear_transposition(graph)
    lowered, _ = build(graph, (1, 5, 7, 3))
    assert _kinds(lowered) == ["_Enlarge"]
    image = IMAGE[:, :5, :7]
    expected = np.asarray(network(image))
    assert lowered.output_shape == expected.shape
    assert np.abs(np.asarray(lowered(image)) - expected).max() <= 2e-6 * 255  # the borders too


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_initializer": "glorot_uniform"},
        {"use_bias": True, "bias_initializer": "ones"},
        {"activation": "relu"},
    ],
)
def test_what_is_not_just_bilinear_is_left_alone(options):
    network = _model(keras.layers.MaxPooling2D(2), _upsampling(2, **options), size=(12, 20, 3))
    assert "Conv2DTranspose" in _kinds(lower(network, None))


def test_a_kernel_that_has_learned_is_left_alone():
    network = _model(keras.layers.MaxPooling2D(2), _upsampling(2), size=(12, 20, 3))
    assert "_Enlarge" in _kinds(lower(network, None))
    kernel = network.layers[-1].kernel
    kernel.assign(kernel + 1e-3)
    assert "Conv2DTranspose" in _kinds(lower(network, None))


@pytest.mark.parametrize(
    "layer",
    [
        layers.BilinearUpsampling(4),
        keras.layers.UpSampling2D(4, interpolation="bilinear"),
        keras.layers.UpSampling2D(4),
    ],
)
def test_upsampling_becomes_one_resize(layer):
    network = _model(layer, keras.layers.AveragePooling2D(4))
    assert _kinds(_same(network)) == ["_Resize", "AveragePooling2D"]
