import keras
import numpy as np
import pytest
from conftest import MODELS, over_networks

from kseg.errors import InputError
from kseg.layers import BilinearUpsampling, CropLike
from kseg.lowering import PASSES, gives_probabilities, lower, quantization_aware


def _network(shape=(None, None, 3), padding="same", dtype="float32"):
    keras.utils.set_random_seed(1)
    image = keras.Input(shape, name="picture")
    x = keras.ops.multiply(image, 1 / 255)
    x = keras.layers.Conv2D(4, 3, padding=padding, dtype=dtype)(x)
    x = keras.layers.BatchNormalization(dtype=dtype)(x)
    inner_in = keras.Input((None, None, 4))
    inner = keras.Model(inner_in, keras.layers.Conv2D(4, 1, activation="relu", dtype=dtype)(inner_in), name="inner")
    x = keras.layers.Dropout(0.5, dtype=dtype)(inner(x))
    return keras.Model(image, keras.layers.Conv2D(2, 1, dtype="float32", name="last")(x), name="net")


def _image(size_px):
    return np.random.default_rng(0).uniform(0, 255, (1, *size_px, 3)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16", "bfloat16"])
def test_float32_copy_at_a_fixed_size(dtype):
    network = _network(dtype=dtype)
    copy = lower(network, (17, 23), skip=PASSES)
    assert copy.input_shape == (1, 17, 23, 3)
    assert copy.output_shape == (1, 17, 23, 2)
    assert copy.name == "net"
    assert {layer.compute_dtype for layer in copy._flatten_layers()} == {"float32"}
    np.testing.assert_array_equal(np.concatenate([w.ravel() for w in network.get_weights()]),
                                  np.concatenate([w.ravel() for w in copy.get_weights()]))  # fmt: skip
    tolerance = 1e-6 if dtype == "float32" else 0.05
    images = _image((17, 23))
    np.testing.assert_allclose(copy(images), network(images), atol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_model_is_left_as_it_is(dtype):
    network = _network(dtype=dtype)
    before, weights = network.to_json(), network.get_weights()
    lower(network, (8, 8), output="labels", input_dtype="uint8")
    assert network.to_json() == before
    for now, then in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)


def test_what_stays_as_it_is_shares_its_weights():
    network = _network()
    copy = lower(network, (8, 8))
    assert copy.get_layer("last").kernel is network.get_layer("last").kernel


def test_a_compiled_and_trained_sequential_model():
    network = keras.Sequential([keras.Input((None, None, 3)), keras.layers.Conv2D(2, 3, padding="same")])
    network.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    network.train_on_batch(_image((8, 8)), np.zeros((1, 8, 8), int))
    copy = lower(network, (8, 8))
    assert len(copy.variables) == 2  # neither the optimizer's nor the metrics'
    np.testing.assert_allclose(copy(_image((8, 8))), network(_image((8, 8))), atol=1e-5)


def test_a_fixed_size_is_taken_from_the_model():
    network = _network((12, 16, 3))
    assert lower(network, None).input_shape == (1, 12, 16, 3)
    with pytest.raises(InputError, match=r"takes images of 12 x 16 only\. Received: 16 x 12"):
        lower(network, (16, 12))


def test_refused():
    with pytest.raises(InputError, match="say the height and width"):
        lower(_network(), None)
    with pytest.raises(InputError, match="at least one pixel"):
        lower(_network(), (0, 5))
    with pytest.raises(InputError, match="scores of 6 x 6 for an image of 8 x 8"):
        lower(_network(padding="valid"), (8, 8))
    with pytest.raises(InputError, match="only RGB images"):
        lower(keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 1)]), None)
    with pytest.raises(InputError, match="only RGB images"):
        lower(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.GlobalMaxPool2D()]), None)
    image = keras.Input((8, 8, 3))
    with pytest.raises(InputError, match="1 inputs and 2 outputs"):
        lower(keras.Model(image, [image, image]), None)
    with_lora = keras.layers.Conv2D(2, 1, lora_rank=1, name="tuned")
    with pytest.raises(InputError, match="tuned: has weights of LoRA"):
        lower(keras.Model(image, with_lora(image)), None)

    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="must be a functional or sequential"):
        lower(Own(), (8, 8))


def _filled(build, classes=3):
    """A network whose every weight counts: normalisations that do something, scores that are not zero."""
    keras.utils.set_random_seed(3)
    network = build(classes)
    rng = np.random.default_rng(3)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
        elif layer.name.startswith("score"):
            layer.set_weights([rng.normal(0, 0.1, weight.shape) for weight in layer.get_weights()])
    return network


@over_networks()
def test_every_network_computes_the_same(build):
    network = _filled(build)
    images = _image((67, 99))
    expected = np.asarray(network(images))
    scale = np.abs(expected).max()
    assert scale > 0
    lowered = lower(network, (67, 99))
    assert np.abs(np.asarray(lowered(images)) - expected).max() <= 1e-5 * scale
    kinds = {type(layer).__name__ for layer in lowered.layers}
    assert not kinds & {"BatchNormalization", "Dropout", "Preprocess"}
    pixels = np.rint(images).astype(np.uint8)
    labels = np.asarray(lower(network, (67, 99), output="labels", input_dtype="uint8")(pixels))
    assert labels.dtype == np.uint8
    assert (labels == np.asarray(network(pixels)).argmax(-1)).mean() > 0.999
    anywhere = lower(network, None, resizable=True)
    assert np.abs(np.asarray(anywhere(images)) - expected).max() <= 1e-5 * scale


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize(
    "model", ["fcn8s", "fcn8s_caffe", "unet_bilinear", pytest.param("unet_mobilenet_v2", marks=pytest.mark.slow)]
)
def test_each_pass_alone_and_all_but_it(model, name):
    network = _filled(dict(MODELS)[model])
    images = _image((32, 48))
    expected = np.asarray(network(images))
    for skip in ([name], [other for other in PASSES if other != name]):
        found = np.asarray(lower(network, (32, 48), skip=skip)(images))
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_probabilities():
    network = _network()
    images = _image((8, 8))
    found = lower(network, (8, 8), output="probabilities")(images)
    np.testing.assert_allclose(found, keras.ops.softmax(network(images)), atol=1e-6)
    already = keras.Model(network.inputs[0], keras.layers.Activation("softmax")(network.outputs[0]))
    np.testing.assert_allclose(lower(already, (8, 8), output="probabilities")(images), found, atol=1e-6)


def _nested(x):
    inner = keras.Input((None, None, 2))
    return keras.Model(inner, keras.layers.Activation("softmax")(inner))(x)


def _reshaped(x):
    """As SegNets end that were written for Keras's categorical losses."""
    flat = keras.layers.Softmax()(keras.layers.Reshape((64, 2))(x))
    return keras.layers.Reshape((8, 8, 2))(flat)


def _joined(parts, activation="sigmoid"):
    """What makes two scores of one."""
    return lambda x: keras.layers.Concatenate()(parts(keras.layers.Conv2D(1, 1, activation=activation)(x)))


def _own_softmax(x):
    return 2 * keras.ops.softmax(x) - 1


_own_softmax.__name__ = "softmax"


ENDS = {
    "softmax layer": (keras.layers.Softmax(), True),
    "operation": (keras.ops.softmax, True),
    "activation": (keras.layers.Conv2D(2, 1, activation="softmax"), True),
    "operation as activation": (keras.layers.Conv2D(2, 1, activation=keras.ops.softmax), True),
    "sigmoid": (keras.ops.sigmoid, True),
    "inner model": (_nested, True),
    "cut": (lambda x: CropLike((0, 0))([keras.layers.Softmax()(x), x]), True),
    "enlarged": (lambda x: keras.layers.UpSampling2D()(keras.layers.Softmax()(x[:, ::2, ::2])), True),
    "enlarged by kseg": (lambda x: BilinearUpsampling(2)(keras.layers.Softmax()(x[:, ::2, ::2])), True),
    "reshaped": (_reshaped, True),
    "permuted": (lambda x: keras.layers.Permute((2, 1, 3))(keras.layers.Softmax()(x)), True),
    "rounded": (lambda x: keras.ops.cast(keras.layers.Softmax()(x), "float32"), True),
    "mean": (lambda x: keras.layers.Average()([keras.ops.softmax(x), keras.ops.softmax(2.0 * x)]), True),
    "mean as a sum": (lambda x: (keras.ops.softmax(x) + keras.ops.sigmoid(x)) / 2, True),
    "weighted mean": (lambda x: 0.7 * keras.ops.softmax(x) + keras.ops.softmax(x / 2) * 0.3, True),
    "mean of a stack": (
        lambda x: keras.ops.mean(keras.ops.stack([keras.ops.softmax(x), keras.ops.softmax(-x)]), axis=0),
        True,
    ),
    "pooled": (lambda x: keras.layers.AveragePooling2D(3, 1, padding="same")(keras.ops.softmax(x)), True),
    "hard sigmoid": (keras.layers.Activation("hard_sigmoid"), True),
    "sum": (lambda x: keras.ops.softmax(x) + keras.ops.softmax(-x), False),
    "softmax and a constant": (lambda x: 0.5 * keras.ops.softmax(x) + 0.5, False),
    "difference": (lambda x: 2 * keras.ops.softmax(x) + -1 * keras.ops.softmax(-x), False),
    "reciprocal": (lambda x: 1 / keras.ops.softmax(x), False),
    "product": (lambda x: keras.ops.softmax(x) * keras.ops.softmax(x), False),
    "softmax over the height": (keras.layers.Softmax(axis=1), False),
    "own function of that name": (keras.layers.Activation(_own_softmax), False),
    "mean with logits": (lambda x: keras.layers.Average()([keras.ops.softmax(x), x]), False),
    "resized by an operation": (lambda x: keras.ops.image.resize(keras.ops.softmax(x), (8, 8)), True),
    "cut by indices": (lambda x: keras.ops.softmax(keras.layers.ZeroPadding2D(1)(x))[:, 1:-1, 1:-1], True),
    "clipped": (lambda x: keras.ops.clip(keras.ops.softmax(x), 0.01, 0.99), True),
    "turned": (lambda x: keras.ops.swapaxes(keras.ops.softmax(x), 1, 2), True),
    "dropout": (lambda x: keras.layers.Dropout(0.5)(keras.ops.softmax(x)), True),
    "two classes by one sigmoid": (lambda x: _joined(lambda p: [1 - p, p])(x), True),
    "the other way round": (lambda x: _joined(lambda p: [p, 1.0 - p])(x), True),
    "not opposite": (lambda x: _joined(lambda p: [2 - p, p])(x), False),
    "opposite of a logit": (lambda x: _joined(lambda p: [1 - p, p], "linear")(x), False),
    "convolution": (keras.layers.Conv2D(2, 1), False),
    "weights behind": (lambda x: keras.layers.Conv2D(2, 1)(keras.ops.softmax(x)), False),
    "scaled": (lambda x: 2.0 * keras.ops.softmax(x), False),
    "linear": (keras.layers.Activation("linear"), False),
}


@pytest.mark.parametrize("end", ENDS)
def test_no_softmax_comes_twice(end):
    layer, normalised = ENDS[end]
    network = _network((8, 8, 3))
    network = keras.Model(network.inputs[0], layer(network.outputs[0]))
    assert gives_probabilities(network) == normalised
    images = _image((8, 8))
    expected = network(images) if normalised else keras.ops.softmax(network(images))
    np.testing.assert_allclose(lower(network, None, output="probabilities")(images), expected, atol=1e-6)
    # 8-bit training does not know the layer of the first, and rounds the two scores of the others each for itself.
    if normalised and end not in ("enlarged", "two classes by one sigmoid", "the other way round"):
        assert gives_probabilities(quantization_aware(network))


@pytest.mark.parametrize("operation", ["split", "unstack", "moments"])
def test_operations_that_give_several(operation):
    """A gate in the manner of a GLU: of what a step gives, one or all are used."""
    network = _network((8, 8, 3))
    parts = {
        "split": lambda x: keras.ops.split(x, 2, axis=-1),
        "unstack": lambda x: keras.ops.unstack(x[..., None, :], axis=-2),
        "moments": lambda x: keras.ops.moments(x, axes=(1, 2), keepdims=True),
    }[operation](network.outputs[0])
    network = keras.Model(network.inputs[0], parts[0] * keras.ops.sigmoid(parts[-1]) + network.outputs[0])
    image = _image((8, 8))
    np.testing.assert_allclose(lower(network, None)(image), network(image), atol=1e-6)


def test_reshaped_to_other_channels_they_are_no_probabilities():
    network = _network((8, 8, 3))
    scores = keras.layers.Softmax()(network.outputs[0])
    assert not gives_probabilities(keras.Model(network.inputs[0], keras.layers.Reshape((8, 4, 4))(scores)))


def test_one_class():
    network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(1, 1)])
    images = _image((8, 8)) / 255
    found = lower(network, None, output="probabilities")(images)
    np.testing.assert_allclose(found, keras.ops.sigmoid(network(images)), atol=1e-6)
    with pytest.raises(InputError, match="has one class, which every pixel would get"):
        lower(network, None, output="labels")


def test_an_inner_model_called_by_name():
    inner_in = keras.Input((None, None, 3))
    inner = keras.Model(inner_in, keras.layers.Conv2D(2, 1)(inner_in))
    image = keras.Input((None, None, 3))
    network = keras.Model(image, inner(inputs=image))
    np.testing.assert_allclose(lower(network, (8, 8))(_image((8, 8))), network(_image((8, 8))), rtol=1e-5)


def test_many_classes_give_int32_labels():
    network = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(300, 1)])
    assert lower(network, None, output="labels")(_image((8, 8))).dtype == "int32"


@pytest.mark.parametrize("further", [{}, {"more": 2.0}])
def test_an_inner_model_of_two_inputs_called_with_a_dict(further):
    one, two = keras.Input((None, None, 3), name="zz"), keras.Input((None, None, 3), name="aa")
    inner = keras.Model([one, two], one - 2 * two)
    image = keras.Input((None, None, 3))
    more = {name: factor * image for name, factor in further.items()}
    network = keras.Model(image, inner({"aa": keras.ops.relu(image - 100), "zz": image} | more))
    np.testing.assert_allclose(lower(network, (8, 8))(_image((8, 8))), network(_image((8, 8))), rtol=1e-5)


class _Doubled(keras.Model):
    """Functional, and more than that."""

    def call(self, images, training=None):
        return 2 * super().call(images, training=training)


def test_a_call_of_its_own_is_not_passed_over():
    image = keras.Input((None, None, 3))
    own = _Doubled(image, keras.layers.Conv2D(2, 1)(image))
    with pytest.raises(ValueError, match=r"must be a functional or sequential .* _Doubled, whose call\(\) is its own"):
        lower(own, (8, 8))
    outer = keras.Input((None, None, 3))
    network = keras.Model(outer, own(outer))  # inside another it stays one layer
    np.testing.assert_allclose(lower(network, (8, 8))(_image((8, 8))), network(_image((8, 8))), rtol=1e-5)


class _Normalised(keras.layers.Layer):
    """A layer of somebody's own around one that computes with what it made of its weights."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = keras.layers.Normalization()

    def build(self, shape):
        self.inside.build(shape)

    def call(self, images):
        return self.inside(images)


def test_a_normalisation_inside_another_layer():
    image = keras.Input((None, None, 3))
    layer = _Normalised(dtype="mixed_bfloat16")  # so that it is made anew, in float32
    scores = layer(image)
    layer.inside.adapt(_image((8, 8)))
    network = keras.Model(image, keras.layers.Conv2D(2, 1, dtype="float32")(scores))
    np.testing.assert_allclose(lower(network, (8, 8))(_image((8, 8))), network(_image((8, 8))), atol=0.05)


def test_names_that_inner_models_share():
    inner_in = keras.Input((None, None, 3))
    inner = keras.Model(inner_in, keras.layers.Conv2D(3, 1, name="same")(keras.ops.relu(inner_in)), name="inner")
    image = keras.Input((None, None, 3))
    x = keras.ops.relu(inner(image))
    x = inner(keras.layers.Conv2D(3, 1, name="same")(x))  # the inner model twice
    network = keras.Model(image, x)
    images = _image((5, 6)) / 255
    np.testing.assert_allclose(lower(network, (5, 6))(images), network(images), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_layer_that_is_called_three_times_stays_one(dtype):
    image = keras.Input((None, None, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same", dtype=dtype, name="head")
    x = keras.layers.Conv2D(3, 1, dtype=dtype, name="head_1")(image)  # the name that a second one would get
    network = keras.Model(image, shared(shared(shared(x))))
    lowered = lower(network, (5, 6))
    assert lowered.count_params() == network.count_params()
    assert [layer.name for layer in lowered.layers] == ["image", "head_1", "head"]
    images = _image((5, 6)) / 255
    tolerance = 1e-6 if dtype == "float32" else 0.02
    np.testing.assert_allclose(lowered(images), keras.ops.cast(network(images), "float32"), atol=tolerance)


def test_in_a_process_of_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        image = keras.Input((None, None, 3))
        x = keras.layers.Lambda(lambda pixels: pixels / 255)(image)
        x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x))
        network = keras.Model(image, keras.layers.Conv2D(3, 1)(x))
        lowered = lower(network, (5, 6), output="probabilities")
        assert {layer.compute_dtype for layer in lowered.layers[1:]} == {"float32"}
    finally:
        keras.config.set_dtype_policy("float32")


def test_mistakes():
    with pytest.raises(ValueError, match="`output` must be one of logits, probabilities, labels. Received: masks"):
        lower(_network(), (8, 8), output="masks")
    with pytest.raises(ValueError, match="`skip` must name passes: drop_training_layers, .* Received: all"):
        lower(_network(), (8, 8), skip=["all"])
    with pytest.raises(ValueError, match="float32 or uint8. Received: int8"):
        lower(_network(), (8, 8), input_dtype="int8")
    with pytest.raises(InputError, match="takes images of 8 x 8 only, and so cannot be made for any size"):
        lower(_network((8, 8, 3)), None, resizable=True)
    network = _network()
    network.layers[-1].kernel.assign(np.full((1, 1, 4, 2), np.nan))
    with pytest.raises(InputError, match="last/kernel hold NaN or infinity"):
        lower(network, (8, 8))
