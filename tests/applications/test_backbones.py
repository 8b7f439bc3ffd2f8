import keras
import numpy as np
import pytest

from kseg.applications import transplant
from kseg.applications.backbones import mobilenet_v2

# TensorFlow's variables with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

FEATURES = {
    2: "block_1_expand_relu",
    4: "block_3_expand_relu",
    8: "block_6_expand_relu",
    16: "block_13_expand_relu",
    32: "out_relu",
}
IMAGES = np.random.default_rng(0).uniform(-1, 1, (1, 64, 96, 3)).astype(np.float32)


def _ours(alpha, output_stride=32, size=(None, None)):
    image = keras.Input((*size, 3))
    return keras.Model(image, mobilenet_v2(image, alpha, output_stride))


def _published(alpha):
    network = keras.applications.MobileNetV2(
        input_shape=(None, None, 3), include_top=False, weights=None, alpha=alpha, name="published"
    )
    generator = np.random.default_rng(1)
    for weight in network.weights:
        weight.assign(np.asarray(weight.value) * generator.uniform(0.5, 1.5, weight.shape))
    return network


@pytest.mark.parametrize("alpha", [0.1, 0.35, 0.75, 1.0, 1.4])
@pytest.mark.parametrize("size", [(None, None), (64, 96)], ids=str)
def test_mobilenet_v2_is_that_of_keras(alpha, size):
    published, ours = _published(alpha), _ours(alpha, size=size)
    report = transplant(published, ours)
    assert not report.skipped
    assert len(published.weights) == len(ours.weights)
    expected = keras.Model(published.input, {s: published.get_layer(name).output for s, name in FEATURES.items()})
    expected, features = expected(IMAGES), ours(IMAGES)
    assert list(features) == list(FEATURES)
    for stride in FEATURES:
        np.testing.assert_allclose(features[stride], expected[stride], atol=1e-6, err_msg=str(stride))


def test_mobilenet_v2_at_stride_16_takes_the_same_weights():
    """At every second place it says what the downsampled network says (Chen et al. 2017, section 3.1)."""
    coarse = _ours(0.35)
    last = coarse.get_layer("block_16_project_BN").output
    coarse = keras.Model(coarse.input, {16: coarse.output[16], 32: last})
    fine = _ours(0.35, output_stride=16)
    transplant(_published(0.35), coarse)
    assert not transplant(coarse, fine).skipped
    assert list(fine.output) == [2, 4, 8, 16]
    # Where a step of two pads at the bottom and right alone, it begins one place further on.
    expected, found = coarse(IMAGES)[32], fine(IMAGES)[16]
    assert found.shape[1:3] == (4, 6)
    assert expected.shape[1:3] == (2, 3)
    assert np.abs(np.asarray(found)[:, 1::2, 1::2] - expected).max() < 1e-5 * np.ptp(expected)
