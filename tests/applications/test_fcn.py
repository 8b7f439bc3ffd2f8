import h5py
import keras
import numpy as np
import pytest

from kseg.applications import FCN8s, FCN16s, FCN32s, transplant
from kseg.applications.fcn import fully_convolutional, preprocess_input
from kseg.layers import BilinearInitializer

# TensorFlow's variables with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SMALL = {"fc_units": 16, "alpha": 0.125, "classes": 3}


def small_images(height=40, width=50):
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3)).astype(np.uint8)


def in_words(count):
    """As the lecture's table writes numbers: two digits, but from 100 on whole ones, cut off."""
    for unit in ("", " K", " M"):
        if count < 1000:
            return f"{count:.1f}{unit}" if unit and count < 100 else f"{int(count)}{unit}"
        count /= 1000
    raise ValueError(count)


@pytest.fixture(scope="module")
def full():
    """FCN-8s as published, with two classes; made once, because it weighs 537 MB."""
    return FCN8s(classes=2)


def test_parameter_counts_of_the_lecture(full):
    def count(*beginnings):
        return sum(layer.count_params() for layer in full.layers if layer.name.startswith(beginnings))

    assert [in_words(count(f"block{block}")) for block in range(1, 6)] == ["38.7 K", "221 K", "1.5 M", "5.9 M", "7.1 M"]
    assert in_words(count("fc6", "fc7", "score_32")) == "119 M"
    upsampling = [in_words(count(name)) for name in ("upsample_32_16", "upsample_16_8", "upsample_8_1")]
    assert upsampling == ["64", "64", "1.0 K"]
    assert in_words(count("score_16")) == "1.0 K"
    assert in_words(count("score_8")) == "514"
    assert in_words(full.count_params()) == "134 M"


def test_classifier_becomes_fc6_and_fc7(full, tmp_path, caplog):
    """The surgery, on a file of the published shape: fc6 at place (y, x) is fc1's row of the flattened place."""
    path = tmp_path / "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
    shapes = {layer.name: [w.shape for w in layer.weights] for layer in full.layers if "block" in layer.name}
    shapes |= {"fc1": [(25088, 4096), (4096,)], "fc2": [(4096, 4096), (4096,)], "predictions": [(4096, 1000), (1000,)]}
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in shapes]
        for number, (name, parts) in enumerate(shapes.items()):
            group = file.create_group(name)
            group.attrs["weight_names"] = [b"kernel", b"bias"][: len(parts)]
            for key, shape in zip(("kernel", "bias"), parts, strict=False):
                # Never written, so the file stays small; HDF5 gives the fill value.
                group.create_dataset(key, shape, "float32", fillvalue=number / 8, chunks=True)
        place = np.ravel_multi_index((2, 5, 300), (7, 7, 512))
        file["fc1/kernel"][place, 77] = 9.0
        file["fc2/kernel"][123, 45] = 8.0
    from kseg.applications.weights import load_vgg16

    load_vgg16(full, path, fc_units=4096)
    numbers = {name: number for number, name in enumerate(shapes)}
    for name, published, index, value in (("fc6", "fc1", (2, 5, 300, 77), 9), ("fc7", "fc2", (0, 0, 123, 45), 8)):
        kernel = full.get_layer(name).kernel.value.numpy()
        assert kernel[index] == value
        kernel[index] = numbers[published] / 8
        assert (kernel == numbers[published] / 8).all()
    assert (full.get_layer("block5_conv3").kernel.value.numpy() == numbers["block5_conv3"] / 8).all()
    assert not caplog.records


def test_preprocessing_outside_equals_inside():
    keras.utils.set_random_seed(0)
    inside, outside = FCN8s(**SMALL), FCN8s(**SMALL, include_preprocessing=False)
    _score_randomly(inside)
    assert not transplant(inside, outside).skipped
    images = small_images()
    given = preprocess_input(images)
    assert isinstance(given, np.ndarray)
    assert given.dtype == np.float32
    np.testing.assert_allclose(outside(given), inside(images), atol=1e-5)
    assert np.std(inside(images)) > 0


def test_upsampling_is_bilinear_and_frozen_unless_asked():
    for trainable in (False, True):
        model = FCN8s(**SMALL, trainable_upsampling=trainable)
        for stride, target in ((32, 16), (16, 8), (8, 1)):
            layer = model.get_layer(f"upsample_{stride}_{target}")
            factor = stride // target
            assert layer.kernel_size == (2 * factor, 2 * factor)
            assert layer.strides == (factor, factor)
            assert not layer.use_bias
            assert layer.trainable == trainable
            np.testing.assert_array_equal(layer.kernel.value, BilinearInitializer()(layer.kernel.shape))


def test_scores_start_at_zero():
    for build in (FCN32s, FCN16s, FCN8s):
        assert not np.any(build(**SMALL)(small_images()))


def test_stages():
    """FCN-32s -> 16s -> 8s: what has the same name means the same; the new scores add nothing yet."""
    keras.utils.set_random_seed(0)
    stages = [build(**SMALL) for build in (FCN32s, FCN16s, FCN8s)]
    _score_randomly(stages[0])
    new = [{"upsample_32_16", "score_16", "upsample_16_1"}, {"upsample_16_8", "score_8", "upsample_8_1"}]
    for coarse, fine, names in zip(stages, stages[1:], new, strict=False):
        report = transplant(coarse, fine)
        assert set(report.skipped) == names
        assert set(report.skipped.values()) == {"not in the source"}
        assert "score_32" in report.copied
    images = small_images(160, 160)
    coarse, _, fine = (np.asarray(stage(images))[:, 32:-32, 32:-32] for stage in stages)
    # Enlarged in one step or in three: the same but for the rounding of the corners of the bilinear surface.
    assert np.abs(coarse - fine).max() < 0.2 * np.ptp(coarse)
    assert np.mean(coarse.argmax(-1) == fine.argmax(-1)) > 0.9


@pytest.mark.parametrize(
    ("build", "skips", "end"), [(FCN32s, {}, 19), (FCN16s, {16: 5}, 27), (FCN8s, {16: 5, 8: 9}, 31)]
)
def test_caffe_cuts_put_scores_where_they_were_seen(build, skips, end):
    """The centre of the pixels that a cell of pool 1..5 or fc6 looks at is where its score lands."""
    model = build(**SMALL, alignment="caffe")
    assert model.get_layer("pad").padding == ((99, 99), (99, 99))
    assert model.get_layer("fc6").padding == "valid"
    assert model.get_layer("crop").offset == (end, end)
    for stride, offset in skips.items():
        assert model.get_layer(f"crop_{stride}").offset == (offset, offset)

    def seen(stride, index):  # the centre of the pixels of a pooled cell; 99: the first convolution looks one pixel out
        return stride * index + (stride - 1) / 2 - 99

    cell = 4
    centre = seen(32, cell + 3)  # fc6 without padding looks at seven cells
    place, stride = cell, 32
    for skip, offset in skips.items():
        place = place * (stride // skip) + (2 * stride // skip - 1) / 2
        assert seen(skip, place + offset) == centre
        stride = skip
    assert place * stride + (2 * stride - 1) / 2 - end == centre


def test_without_top():
    features = FCN8s(include_top=False, **SMALL)
    assert features(small_images(65, 96)).shape == (1, 3, 3, 16)
    caffe = FCN8s(include_top=False, alignment="caffe", **SMALL)
    assert caffe(small_images(65, 91)).shape == (1, 3, 4, 16)
    assert "score_32" not in [layer.name for layer in features.layers]


def test_fixed_size_and_input_tensor():
    assert FCN8s(**SMALL, input_shape=(67, 99, 3)).output_shape == (None, 67, 99, 3)
    images = keras.Input((None, None, 4))
    rgb = keras.layers.Conv2D(3, 1)(images)
    model = FCN8s(**SMALL, input_tensor=rgb)
    assert model.input is images
    assert model(np.zeros((1, 9, 9, 4))).shape == (1, 9, 9, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "`classes` must be a whole number from 1. Received: 0"),
        ({"classes": True}, "`classes`"),
        ({"fc_units": 2.5}, "`fc_units`"),
        ({"dropout": 1.0}, "`dropout` must be in"),
        ({"alpha": 0}, "`alpha` must be positive"),
        ({"alignment": "valid"}, "`alignment` must be one of same, caffe. Received: valid"),
        ({"input_shape": (None, 3)}, "`input_shape` must be"),
        ({"input_shape": (None, None, None)}, "`input_shape` must be"),
        ({"input_tensor": np.zeros((1, 4, 4, 3))}, "`input_tensor` must be a Keras tensor"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        FCN8s(**{**SMALL, **options})


@pytest.fixture(scope="module")
def pair():
    """A classifier whose 3x3 kernels have nothing but a centre, so that borders have no effect; and its network.

    On a VGG16 for windows of 64 pixels, which weighs a third of the published one; 10 classes.
    """
    keras.utils.set_random_seed(0)
    classifier = keras.applications.VGG16(weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None)
    for layer in classifier.layers:
        if "conv" in layer.name:
            kernel = np.zeros(layer.kernel.shape, np.float32)
            fan_in = kernel.shape[2]
            kernel[1, 1] = np.random.default_rng(1).normal(0, np.sqrt(2 / fan_in), kernel.shape[2:])
            layer.kernel.assign(kernel)
    return classifier, fully_convolutional(classifier)


class TestFullyConvolutional:
    def test_equals_the_classifier_on_its_own_size(self, pair):
        classifier, network = pair
        image = preprocess_input(small_images(64, 64))
        heat = np.asarray(network(image))
        assert heat.shape == (1, 1, 1, 10)
        np.testing.assert_allclose(heat[:, 0, 0], classifier(image), rtol=1e-3, atol=1e-4 * np.ptp(heat))

    def test_heat_map_is_the_classifier_slid_over_pixels(self, pair):
        classifier, network = pair
        image = preprocess_input(small_images(128, 170))
        heat = np.asarray(network(image))
        assert heat.shape == (1, 3, 4, 10)
        assert np.std(heat, axis=(1, 2)).max() > 1e-5
        for row, column in ((0, 0), (0, 3), (1, 2), (2, 1), (2, 3)):
            window = image[:, 32 * row : 32 * row + 64, 32 * column : 32 * column + 64]
            np.testing.assert_allclose(heat[:, row, column], classifier(window), rtol=1e-3, atol=1e-4 * np.ptp(heat))

    def test_heat_map_is_the_dense_layers_slid_over_features(self, pair):
        """With whole kernels, where sliding over pixels has effects at borders, this stays exact."""
        classifier, network = pair
        for model in pair:
            kernel = np.random.default_rng(2).normal(0, 0.2, (3, 3, 3, 64))
            model.get_layer("block1_conv1").kernel.assign(kernel)
        image = preprocess_input(small_images(90, 130))
        pool5 = keras.Model(network.input, network.get_layer("block5_pool").output)(image)
        heat = np.asarray(network(image))
        assert heat.shape == (1, 1, 3, 10)
        for column in range(3):
            x = pool5[:, :2, column : column + 2]
            for name in ("flatten", "fc1", "fc2", "predictions"):
                x = classifier.get_layer(name)(x)
            np.testing.assert_allclose(heat[:, 0, column], x, rtol=1e-3, atol=1e-4 * np.ptp(heat))

    def test_other_network(self):
        with pytest.raises(ValueError, match=r"VGG16\(include_top=True\)"):
            fully_convolutional(keras.applications.VGG16(weights=None, include_top=False))


def _score_randomly(model):
    for layer in model.layers:
        if layer.name.startswith("score"):
            layer.kernel.assign(np.random.default_rng(3).normal(size=layer.kernel.shape))
