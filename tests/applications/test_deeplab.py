import keras
import numpy as np
import pytest

from kseg.applications import DeepLabV3Plus

SMALL = {"filters": 4, "alpha": 0.125, "classes": 3}


@pytest.mark.parametrize(
    ("backbone", "fine", "coarse"),
    [("vgg16", "block3_conv3", "block5_conv3"), ("mobilenet_v2", "block_3_expand_relu", "block_16_project_BN")],
)
def test_strides(backbone, fine, coarse):
    """What is joined at stride 4, and what the pyramid starts from at stride 16."""
    model = DeepLabV3Plus(**SMALL, backbone=backbone, input_shape=(64, 96, 3))
    assert model.get_layer(fine).output.shape[1:3] == (16, 24)
    assert model.get_layer(coarse).output.shape[1:3] == (4, 6)
    assert model.get_layer("skip_4").output.shape == (None, 16, 24, 48 + 4)
    dilated = {
        layer.name: layer.dilation_rate for layer in model.layers if getattr(layer, "dilation_rate", (1, 1)) != (1, 1)
    }
    pyramid = {f"pyramid_{rate}_conv": (rate, rate) for rate in (6, 12, 18)}
    inner = {f"block_{number}_depthwise": (2, 2) for number in (14, 15, 16)} if backbone == "mobilenet_v2" else {}
    assert dilated == pyramid | inner


def test_parameters():
    """Counted by hand: convolutions without biases, each with a normalisation of four numbers a channel."""
    model = DeepLabV3Plus(classes=11, filters=128, input_shape=(32, 32, 3))
    vgg16 = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3)).count_params()
    filters = 128
    levels = 512 * filters + 3 * 9 * 512 * filters + 4 * (4 * filters)
    image = 512 * filters + filters + filters * filters
    pyramid = 4 * 512 + levels + image + 4 * filters * filters + 4 * filters
    decoder = 256 * 48 + 4 * 48 + 9 * (48 + filters) * filters + 9 * filters * filters + 2 * 4 * filters
    assert model.count_params() == vgg16 + pyramid + decoder + 11 * filters + 11


def test_the_mean_of_the_image_is_a_level_of_the_pyramid():
    """Joining it at every place, as in the paper, gives what adding its share once gives."""
    keras.utils.set_random_seed(0)
    model = DeepLabV3Plus(**SMALL, rates=(2,))
    inner = {name: model.get_layer(name) for name in ("pyramid", "pyramid_image_conv", "pyramid_sum")}
    levels, whole, total = keras.Model(model.input, [layer.output for layer in inner.values()])(
        np.random.default_rng(0).uniform(0, 255, (2, 64, 96, 3))
    )
    everywhere = np.broadcast_to(whole, (*np.shape(levels)[:3], 4))
    kernels = [np.asarray(model.get_layer(f"pyramid_{end}").kernel)[0, 0] for end in ("join", "image_join")]
    joined = np.concatenate([levels, everywhere], -1) @ np.concatenate(kernels)
    np.testing.assert_allclose(total, joined, atol=1e-4 * np.ptp(joined))
    assert np.std(everywhere) > 0


def test_far_places_are_seen():
    """A pixel changes what is said beyond the reach of the backbone: by the image's mean."""
    keras.utils.set_random_seed(0)
    image = np.random.default_rng(0).uniform(0, 255, (1, 16, 720, 3)).astype(np.float32)
    other = image.copy()
    other[:, :, :16] = 255 - other[:, :, :16]
    model = DeepLabV3Plus(**SMALL, rates=(), include_top=False)
    near, far = (np.abs(model(image) - model(other)).max((0, 1, 3))[part] for part in (slice(0, 8), slice(-8, None)))
    assert near.max() > far.max() > 0


def test_without_top():
    assert DeepLabV3Plus(include_top=False, **SMALL)(np.zeros((1, 17, 30, 3))).shape == (1, 8, 8, 4)


@pytest.mark.parametrize("backbone", ["vgg16", "mobilenet_v2"])
def test_the_moving_statistics_settle_in_a_short_training(backbone):
    model = DeepLabV3Plus(**SMALL, backbone=backbone)
    normalisations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in normalisations} == {0.9}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 0}, "`classes` must be a whole number from 1"),
        ({"filters": 1.5}, "`filters` must be a whole number from 1"),
        ({"rates": (6, 0)}, "`rates` must be a whole number from 1"),
        ({"rates": 6}, "`rates` must be different whole numbers"),
        ({"rates": (6, 6)}, "`rates` must be different whole numbers"),
        ({"backbone": None}, "`backbone` must be one of vgg16, mobilenet_v2. Received: None"),
        ({"dropout": "much"}, r"`dropout` must be in \[0, 1\)"),
        ({"alpha": None}, "`alpha` must be positive"),
        ({"input_shape": 64}, "`input_shape` must be"),
        ({"input_shape": (0, 0, 3)}, "`input_shape` must be"),
        ({"dropout": 1}, r"`dropout` must be in \[0, 1\)"),
        ({"alpha": -1}, "`alpha` must be positive"),
        ({"include_top": "no"}, "`include_top` must be one of True, False"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        DeepLabV3Plus(**{**SMALL, **options})


def test_rates_may_be_of_numpy():
    assert DeepLabV3Plus(**{**SMALL, "rates": (np.int64(2), np.int64(3))}).count_params() > 0


def test_channels_first_is_refused():
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(ValueError, match="with the channels last"):
            DeepLabV3Plus(**SMALL)
    finally:
        keras.config.set_image_data_format("channels_last")
