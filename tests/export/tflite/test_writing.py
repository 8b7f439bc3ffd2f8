"""Every network in every precision: what the file says, and how it is built."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from conftest import MODELS, over_networks
from networks import SIZE, filled, lowered, pictures, run

from kseg.export.calibration import Calibration
from kseg.export.inspect import fully_accelerated
from kseg.export.tflite import NotLean, layer_names, structure, write_tflite
from kseg.export.tflite.flatbuffer import parse
from kseg.lowering import lower

# Largest (rms of the difference) / (rms of the scores), and least share of pixels with the same class, on networks
# with random weights, whose classes lie nearer together than those of trained ones.
LIMITS = {
    "float32": (1e-5, 0.999),
    "float16": (3e-3, 0.995),
    "dynamic": (0.1, 0.95),
    "int8": (0.15, 0.93),
    "int16x8": (0.1, 0.95),
}


def _written(path, network, precision, **options):
    images = Calibration(tuple(pictures(4)))
    given = lowered(network, output=options.get("output", "logits"))
    return write_tflite(given, path, precision, calibration=images, **options)


def _compare(expected, found):
    error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    return error, (expected.argmax(-1) == found.argmax(-1)).mean()


def _check_files(tmp_path, network, precisions):
    (image,) = pictures(1, seed=1)
    expected = np.asarray(network(image[None]))[0]
    assert np.isfinite(expected).all()
    for precision in precisions:
        error, agreement = LIMITS[precision]
        path = tmp_path / f"{precision}.tflite"
        assert _written(path, network, precision) == {"converter": "structure"}
        measured = _compare(expected, run(path, image))
        assert measured[0] <= error, precision
        assert measured[1] >= agreement, precision
        if precision != "int16x8":  # those have no kernels in XNNPACK
            assert fully_accelerated(path), precision


@over_networks("fcn8s", "unet_bilinear")
def test_every_network_in_every_precision(tmp_path, build):
    _check_files(tmp_path, filled(build), LIMITS)
    sizes = {path.stem: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["int8"] < sizes["float16"] < sizes["float32"]


def test_a_network_on_mobilenet_in_8_bits(tmp_path):
    """Its many layers take long: in all precisions it is among the slow tests."""
    _check_files(tmp_path, filled(dict(MODELS)["unet_mobilenet_v2"]), ["int8"])


@pytest.mark.parametrize(
    ("output", "dtype"), [("logits", np.int8), ("probabilities", np.float32), ("labels", np.uint8)]
)
def test_the_signature(tmp_path, output, dtype):
    path = tmp_path / "net.tflite"
    _written(path, filled(MODELS[4][1]), "int8", output=output)
    interpreter = Interpreter(str(path))
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": [output]}}
    (image,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (image["name"], image["dtype"], image["quantization"]) == ("image", np.uint8, (1.0, 0))
    assert (scores["name"], scores["dtype"]) == (output, dtype)


def test_ranges_are_least_and_greatest_of_all_images(tmp_path):
    """Not a mean of them: one bright image among dark ones sets the scale, wherever it comes."""
    inputs = keras.Input((*SIZE, 3), batch_size=1, name="image")
    kernel = np.array([[1, -0.5], [0, 0], [0, 0]], np.float32).reshape(1, 1, 3, 2)
    network = keras.Model(inputs, keras.layers.Conv2D(2, 1, use_bias=False, name="score")(inputs))
    network.layers[-1].set_weights([kernel])
    images = [np.full((*SIZE, 3), grey, np.uint8) for grey in (10, 200, 12, 11)]
    for order in (images, images[::-1]):
        path = tmp_path / "net.tflite"
        write_tflite(network, path, "int8", calibration=Calibration(tuple(order)))
        scale, zero_point = Interpreter(str(path)).get_output_details()[0]["quantization"]
        # Scores from 10 * -0.5 .. 200 * -0.5 and 10 .. 200 together.
        assert scale == pytest.approx((200 + 100) / 255, rel=1e-5)
        assert scale * (-128 - zero_point) == pytest.approx(-100, abs=scale)


def test_float_pixels_for_an_int8_file(tmp_path):
    path, (image,) = tmp_path / "net.tflite", pictures(1, seed=1)
    network = filled(MODELS[4][1])
    _written(path, network, "int8", input_dtype="float32")
    assert Interpreter(str(path)).get_input_details()[0]["dtype"] == np.float32
    by_floats = run(path, image)
    _written(path, network, "int8")
    np.testing.assert_array_equal(run(path, image), by_floats)


@pytest.mark.parametrize("precision", ["float32", "int8", "int16x8"])
def test_labels_and_probabilities(tmp_path, precision):
    network, (image,) = filled(MODELS[2][1]), pictures(1, seed=1)
    expected = np.asarray(network(image[None]))[0]
    _written(tmp_path / "labels.tflite", network, precision, output="labels")
    labels = run(tmp_path / "labels.tflite", image)
    assert labels.dtype == np.uint8
    assert (labels == expected.argmax(-1)).mean() > 0.93
    _written(tmp_path / "shares.tflite", network, precision, output="probabilities")
    shares = run(tmp_path / "shares.tflite", image)
    assert np.abs(shares.sum(-1) - 1).max() < 0.02
    assert np.abs(shares - np.asarray(keras.ops.softmax(expected))).max() < 0.15


@pytest.mark.parametrize("model", ["fcn8s", "unet_bilinear", pytest.param("unet_mobilenet_v2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_file_for_any_size(tmp_path, precision, model):
    network, path = filled(dict(MODELS)[model]), tmp_path / "net.tflite"
    images = Calibration(tuple(pictures(2)) + tuple(pictures(1, size_px=(40, 50))))
    write_tflite(lower(network, None, resizable=True), path, precision, calibration=images)
    for size_px in (SIZE, (33, 47)):
        (image,) = pictures(1, seed=1, size_px=size_px)
        expected = np.asarray(network(image[None]))[0]
        found = run(path, image)
        assert found.shape == expected.shape
        assert _compare(expected, found)[0] <= LIMITS[precision][0]


def test_layers_left_in_float(tmp_path):
    network, path = filled(MODELS[4][1]), tmp_path / "net.tflite"
    names = layer_names(structure(lowered(network)))
    assert {"encode_1_conv1", "upsample_2", "score_1"} <= set(names)
    (image,) = pictures(1, seed=1)
    expected = np.asarray(network(image[None]))[0]
    _written(path, network, "int8")
    whole = _compare(expected, run(path, image))[0]
    _written(path, network, "int8", float_layers=names)
    assert _compare(expected, run(path, image))[0] <= 1e-5
    _written(path, network, "int8", float_layers=["encode_1_conv1", "score_1"])
    kept = {op.outputs[0]: op.name for op in parse(path.read_bytes()).operators}
    tensors = parse(path.read_bytes()).tensors
    floats = {tensors[index].name for index, name in kept.items() if name == "CONV_2D" and tensors[index].type == 0}
    assert floats == {"encode_1_conv1", "logits"}
    assert _compare(expected, run(path, image))[0] < whole


def test_a_network_that_computes_with_its_weights(tmp_path):
    """Weight standardisation: what the plain converter folds and the lean way does not."""

    class Standardised(keras.layers.Conv2D):
        def call(self, values):
            kernel = self.kernel - keras.ops.mean(self.kernel, axis=(0, 1, 2), keepdims=True)
            return keras.ops.conv(values, kernel * 3.0, padding="same")

    keras.utils.set_random_seed(1)
    image = keras.Input((None, None, 3))
    network = keras.Model(image, Standardised(3, 3, padding="same", name="standardised")(image / 255.0))
    (picture,) = pictures(1, seed=1)
    expected = np.asarray(network(picture[None]))[0]
    with pytest.raises(NotLean, match="on weights"):
        structure(lowered(network))
    for precision in ("float32", "int8"):
        told = _written(tmp_path / "net.tflite", network, precision)
        assert told["converter"] == "plain"
        assert "on weights" in told["because"]
        assert _compare(expected, run(tmp_path / "net.tflite", picture))[0] <= LIMITS[precision][0]


class Rows(keras.layers.Layer):
    """Adds a value to each row."""

    def build(self, shape):
        self.rows = self.add_weight(shape=(shape[1], 1, 1), initializer="normal")

    def call(self, values):
        return values + self.rows


@pytest.mark.parametrize("addition", [Rows(), lambda x: keras.layers.Add()([x, x])], ids=["rows", "twice"])
@pytest.mark.parametrize("precision", LIMITS)
def test_sums_that_are_no_bias(tmp_path, addition, precision):
    keras.utils.set_random_seed(3)
    image = keras.Input((*SIZE, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = addition(keras.layers.Conv2D(SIZE[0], 3, padding="same", use_bias=False)(x))
    network = keras.Model(image, keras.layers.Conv2D(3, 1)(x))
    (picture,) = pictures(1, seed=1)
    _written(tmp_path / "net.tflite", network, precision)
    error, _ = _compare(np.asarray(network(picture[None]))[0], run(tmp_path / "net.tflite", picture))
    assert error <= LIMITS[precision][0]


def test_dilation_groups_and_other_activations(tmp_path):
    keras.utils.set_random_seed(2)
    image = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(8, 3, padding="same", dilation_rate=2, activation="relu6")(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", dilation_rate=4)(x)
    x = keras.layers.LeakyReLU(0.1)(keras.layers.Conv2D(8, 3, padding="same", groups=4, bias_initializer="normal")(x))
    x = keras.layers.SeparableConv2D(8, 3, padding="same", activation="hard_swish")(x)
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = x * keras.layers.Conv2D(8, 1, activation="sigmoid")(pooled)
    x = keras.layers.AveragePooling2D(2)(x)
    x = keras.layers.Conv2DTranspose(8, 3, 2, padding="same", activation="relu")(x)
    x = keras.ops.clip(keras.layers.Conv2DTranspose(8, 2, padding="same", bias_initializer="normal")(x), -1, 1)
    network = keras.Model(image, keras.layers.Conv2D(3, 1)(x))
    (picture,) = pictures(1, seed=1)
    expected = np.asarray(network(picture[None]))[0]
    for precision in LIMITS:
        _written(tmp_path / "net.tflite", network, precision)
        assert _compare(expected, run(tmp_path / "net.tflite", picture))[0] <= LIMITS[precision][0], precision


def test_weights_too_large_for_their_output(tmp_path):
    """XNNPACK ends the process where input scale x weight scale / output scale reaches 256."""
    image = keras.Input((*SIZE, 3))
    x = keras.layers.Conv2D(3, 1, activation="relu", name="first")(image)
    network = keras.Model(image, keras.layers.Conv2D(2, 1, name="second")(x))
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    kernel[0, 0, :, 0] = 1e-4  # the second channel has no weights, the third is never active
    network.get_layer("first").set_weights([kernel, np.float32([0, 0.01, -5])])
    kernel = np.float32([[1, -1], [1, 1], [1e5, 1e5]]).reshape(1, 1, 3, 2)
    network.get_layer("second").set_weights([kernel, np.zeros(2, np.float32)])
    _written(tmp_path / "net.tflite", network, "int8")
    (picture,) = pictures(1, seed=1)
    assert np.isfinite(run(tmp_path / "net.tflite", picture)).all()
