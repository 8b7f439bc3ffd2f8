import keras
import numpy as np
import pytest

from kseg.applications import UNet, transplant

# TensorFlow's variables with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SMALL = {"filters": 4, "depth": 2, "classes": 3}


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_as_published(channels):
    """572 -> 388 with 31.0 M parameters (Ronneberger et al. 2015, figure 1), counted here by hand."""
    model = UNet(padding="valid", input_shape=(572, 572, channels), classes=2)
    assert model.output_shape == (None, 388, 388, 2)

    def convolution(size, inputs, outputs):
        return size * size * inputs * outputs + outputs

    widths = [64, 128, 256, 512, 1024]
    down = [convolution(3, a, b) + convolution(3, b, b) for a, b in zip([channels, *widths], widths, strict=False)]
    up = [
        convolution(2, 2 * width, width) + convolution(3, 2 * width, width) + convolution(3, width, width)
        for width in widths[:-1]
    ]
    expected = sum(down) + sum(up) + convolution(1, 64, 2)
    assert model.count_params() == expected
    assert round(expected / 1e6, 1) == 31.0
    sizes = [model.get_layer(f"encode_{2**level}_relu2").output.shape[1] for level in range(5)]
    assert sizes == [568, 280, 136, 64, 28]
    skips = [model.get_layer(f"crop_{2**level}").output.shape[1] for level in range(4)]
    assert skips == [392, 200, 104, 56]


def test_valid_equals_same_inside():
    """Far from the border, no padding and padding say the same."""
    keras.utils.set_random_seed(0)
    valid, same = (UNet(padding=padding, **SMALL) for padding in ("valid", "same"))
    assert not transplant(valid, same).skipped
    image = np.random.default_rng(0).integers(0, 256, (1, 92, 108, 3)).astype(np.uint8)
    inner = np.asarray(valid(image))
    assert inner.shape == (1, 52, 68, 3)
    # Without padding the first pooling begins at pixel 2: the padded network must group the same pixels, and what
    # looks at the two that it then lacks is left out.
    padded = np.asarray(same(image[:, 2:, 2:]))
    np.testing.assert_allclose(padded[:, 22:-20, 22:-20], inner[:, 4:, 4:], atol=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_smallest_valid_size(depth):
    options = {"padding": "valid", "filters": 1, "depth": depth}
    smallest = {1: 18, 2: 44, 3: 92}[depth]
    assert UNet(input_shape=(smallest, None, 1), **options).output_shape[1] > 0
    with pytest.raises(ValueError, match=f"at least {smallest} x {smallest} pixels"):
        UNet(input_shape=(smallest - 1, None, 1), **options)


def test_dropout_and_normalisation_are_optional():
    optional = (keras.layers.Dropout, keras.layers.BatchNormalization)
    assert not any(isinstance(layer, optional) for layer in UNet(**SMALL).layers)
    both = UNet(**SMALL, dropout=0.5, batch_normalization=True)
    assert [layer.name for layer in both.layers if isinstance(layer, keras.layers.Dropout)] == [
        "dropout_2",
        "dropout_4",
    ]
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in both.layers) == 2 * (2 * 2 + 1)


def test_kernels_are_he_normal():
    """Standard deviation sqrt(2 / N), N the number of incoming nodes (section 3)."""
    keras.utils.set_random_seed(0)
    kernel = UNet(filters=32, depth=1).get_layer("encode_2_conv2").kernel.value.numpy()
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.05)


@pytest.mark.parametrize(
    ("backbone", "skips"),
    [
        ("vgg16", {1: "block1_conv2", 2: "block2_conv2", 4: "block3_conv3", 8: "block4_conv3", 16: "block5_conv3"}),
        (
            "mobilenet_v2",
            {2: "block_1_expand_relu", 4: "block_3_expand_relu", 8: "block_6_expand_relu", 16: "block_13_expand_relu"},
        ),
    ],
)
def test_skips_of_a_backbone(backbone, skips):
    model = UNet(backbone=backbone, filters=2, alpha=0.1, input_shape=(64, 96, 3))
    found = {}
    for layer in model.layers:
        if layer.name.startswith("skip_"):
            stride = int(layer.name.removeprefix("skip_"))
            found[stride] = layer.input[0]._keras_history.operation.name
            assert layer.input[0].shape[1:3] == (64 // stride, 96 // stride)
    assert found == skips


@pytest.mark.parametrize("backbone", [None, "vgg16", "mobilenet_v2"])
def test_the_moving_statistics_settle_in_a_short_training(backbone):
    model = UNet(backbone=backbone, filters=2, **({"alpha": 0.1} if backbone else {}), batch_normalization=True)
    momenta = {layer.momentum for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)}
    assert momenta == {0.9}  # Keras has 0.99, keras.applications 0.999


@pytest.mark.parametrize("backbone", [None, "vgg16", "mobilenet_v2"])
def test_dropout_at_the_two_coarsest_strides(backbone):
    model = UNet(**SMALL, backbone=backbone, **({"alpha": 0.1} if backbone else {}), dropout=0.5)
    dropped = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert sorted(dropped) == (["dropout_16", "dropout_32"] if backbone else ["dropout_2", "dropout_4"])
    images = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3)).astype("float32")
    twice = [np.asarray(model(images, training=True)) for _ in range(2)]
    assert np.abs(twice[0] - twice[1]).max() > 1e-4


def test_a_depth_of_numpy():
    assert UNet(**{**SMALL, "depth": np.int64(3)}).get_layer("pad").stride == 8


def test_without_top():
    assert UNet(include_top=False, **SMALL)(np.zeros((1, 5, 6, 3))).shape == (1, 5, 6, 4)
    assert UNet(include_top=False, input_shape=(30, 45, 3), **SMALL).output_shape == (None, 30, 45, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "`depth` must be a whole number from 1"),
        ({"filters": -1}, "`filters`"),
        ({"padding": "full"}, "`padding` must be one of same, valid. Received: full"),
        ({"upsampling": "nearest"}, "`upsampling` must be one of transpose, bilinear"),
        ({"backbone": "resnet50"}, "`backbone` must be one of None, vgg16, mobilenet_v2"),
        ({"backbone": "vgg16", "padding": "valid"}, 'works with `padding="same"` only'),
        ({"backbone_weights": "imagenet"}, "needs a `backbone`"),
        ({"alpha": 0.5}, "`alpha` needs a `backbone`"),
        ({"include_top": 2}, "`include_top` must be one of True, False"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{**SMALL, **options})


def test_fine_skips_do_not_drown_the_coarse_features():
    """VGG16's features are hundreds at the fine strides and ones at the coarse; here the finest are larger still."""
    model = UNet(classes=2, filters=4, backbone="vgg16", alpha=0.125, batch_normalization=True)
    model.get_layer("block1_conv2").kernel.assign(1e3 * model.get_layer("block1_conv2").kernel.value)
    images = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    joined = keras.Model(model.input, [model.get_layer(f"skip_{stride}").input for stride in (1, 2, 4, 8, 16)])
    for skip, coarse in joined(images, training=True):
        assert 0.1 < np.std(skip) / np.std(coarse) < 10
