"""Deep supervision, against sums worked out in NumPy."""

import keras
import numpy as np
import pytest

from kseg.applications import UNet
from kseg.labels import LabelSet
from kseg.losses import CrossEntropy
from kseg.lowering import quantization_aware
from kseg.metrics import ConfusionMatrix
from kseg.training import deeply_supervised, load_model, save_model

AT = ("decode_2_relu2", "encode_4_relu2")
LABELS = LabelSet(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)), 255)


@pytest.fixture
def sample():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 3, (2, 16, 24)).astype(np.int32)
    labels[0, :3] = 255
    return generator.uniform(0, 255, (2, 16, 24, 3)).astype(np.float32), labels


def _trainer(at=AT):
    keras.utils.set_random_seed(1)
    trainer = deeply_supervised(UNet(classes=3, filters=4, depth=2), at, weight=0.5)
    trainer.compile(keras.optimizers.SGD(0.0), CrossEntropy(ignore=255), metrics=[ConfusionMatrix(3, ignore=255)])
    return trainer


def test_the_loss_is_the_sum_over_all_outputs(sample):
    images, labels = sample
    trainer = _trainer()
    fine, half, quarter = (np.asarray(scores) for scores in trainer.predict_on_batch(images))
    assert (half.shape, quarter.shape) == ((2, 8, 12, 3), (2, 4, 6, 3))
    expected = _cross_entropy(labels, fine)
    # The middle of a cell of 2 or 4 pixels: pixel 1 of each pair, pixel 2 of each four.
    expected += 0.5 * _cross_entropy(labels[:, 1::2, 1::2], half) + 0.5 * _cross_entropy(labels[:, 2::4, 2::4], quarter)
    logs = trainer.fit(images, labels, batch_size=2, verbose=0).history
    assert logs["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert 0 < logs["mean_iou"][0] < 1
    assert trainer.evaluate(images, labels, verbose=0, return_dict=True)["loss"] == pytest.approx(
        _cross_entropy(labels, fine), rel=1e-5
    )


def test_cells_beyond_the_image_are_not_scored(sample):
    """The network pads 13x21 to 16x24: the last row of cells of four pixels begins at 12, the last column at 20."""
    images, labels = sample[0][:, :13, :21], sample[1][:, :13, :21]
    trainer = _trainer()
    fine, half, quarter = (np.asarray(scores) for scores in trainer.predict_on_batch(images))
    assert (half.shape, quarter.shape) == ((2, 8, 12, 3), (2, 4, 6, 3))
    rows, columns = [1, 3, 5, 7, 9, 11, 12], [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 20]
    expected = _cross_entropy(labels, fine)
    expected += 0.5 * _cross_entropy(labels[:, rows][:, :, columns], half[:, :7, :11])
    expected += 0.5 * _cross_entropy(labels[:, [2, 6, 10, 12]][:, :, [2, 6, 10, 14, 18, 20]], quarter)
    assert trainer.fit(images, labels, batch_size=2, verbose=0).history["loss"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (20, 12), (40, 33)])
@pytest.mark.parametrize("fixed", [False, True])
def test_crops_smaller_than_the_stride_are_padded_with_cells_that_do_not_count(size, fixed):
    """A U-Net on VGG16 pads to 32 pixels: of a crop of 16 its cells of 4 pixels are 4, and 4 more of nothing."""
    keras.utils.set_random_seed(1)
    shape = (*size, 3) if fixed else (None, None, 3)
    network = UNet(classes=3, filters=4, backbone="vgg16", alpha=0.1, input_shape=shape)
    trainer = deeply_supervised(network, ["decode_4_relu2"], 0.5)
    trainer.compile(keras.optimizers.SGD(0.0), CrossEntropy(ignore=255))
    generator = np.random.default_rng(3)
    images = generator.uniform(0, 255, (1, *size, 3)).astype(np.float32)
    labels = generator.integers(0, 3, (1, *size))
    fine, coarse = (np.asarray(scores) for scores in trainer.predict_on_batch(images))
    rows, columns = (np.minimum(np.arange(-(-edge // 4)) * 4 + 2, edge - 1) for edge in size)
    expected = _cross_entropy(labels, fine)
    expected += 0.5 * _cross_entropy(labels[:, rows][:, :, columns], coarse[:, : len(rows), : len(columns)])
    assert trainer.fit(images, labels, verbose=0).history["loss"][0] == pytest.approx(expected, rel=1e-4)


def test_logits_smaller_than_the_image_are_refused():
    network = UNet(classes=2, filters=4, depth=2, padding="valid", input_shape=(60, 60, 3))
    with pytest.raises(ValueError, match="must give logits of the size of the image .* 20 x 20 for 60 x 60 pixels"):
        deeply_supervised(network, ["decode_2_relu2"])


def test_weights_of_pixels_reach_the_coarse_scores(sample):
    images, labels = sample
    weights = np.zeros(labels.shape, np.float32)
    weights[:, 8:] = 1
    weighted = _trainer().fit(images, labels, sample_weight=weights, batch_size=2, verbose=0).history["loss"][0]
    void = np.where(weights > 0, labels, 255)
    assert weighted == pytest.approx(_trainer().fit(images, void, batch_size=2, verbose=0).history["loss"][0], rel=1e-5)


def test_what_is_kept_is_the_network_itself(sample, tmp_path):
    images, _ = sample
    trainer = _trainer()
    assert [w.path for w in trainer.prediction.weights] == [w.path for w in UNet(classes=3, filters=4, depth=2).weights]
    save_model(trainer.prediction, tmp_path / "unet.keras", LABELS)
    loaded, _ = load_model(tmp_path / "unet.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch(images), trainer.predict_on_batch(images)[0])


def test_coarse_scores_are_float32_under_every_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trainer = deeply_supervised(UNet(classes=3, filters=4, depth=2), AT)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in trainer.layers if layer.name.startswith("auxiliary")} == {"float32"}


def test_a_copy_of_a_trainer_has_the_same_loss(sample, tmp_path):
    trainer = _trainer()
    trainer.save(tmp_path / "trainer.keras")
    clone = keras.models.clone_model(trainer)
    clone.set_weights(trainer.get_weights())
    expected = trainer.fit(*sample, batch_size=2, verbose=0).history["loss"][0]
    for copy in (keras.models.load_model(tmp_path / "trainer.keras"), clone):
        copy.compile(keras.optimizers.SGD(0.0), CrossEntropy(ignore=255))
        assert copy.fit(*sample, batch_size=2, verbose=0).history["loss"][0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("at", [(), ("decode_3",), ("images", "no")])
def test_layers_that_are_not_there(at):
    with pytest.raises(ValueError, match="`at` must name layers"):
        deeply_supervised(UNet(classes=3, filters=4, depth=2), at)


def test_beside_quantization_aware_training(sample):
    keras.utils.set_random_seed(1)
    network = quantization_aware(UNet(classes=3, filters=4, depth=2))
    trainer = deeply_supervised(network, ["decode_2_conv2"])
    trainer.compile(keras.optimizers.SGD(1e-3), CrossEntropy(ignore=255))
    before = trainer.get_layer("auxiliary_decode_2_conv2").kernel.numpy()
    assert np.isfinite(trainer.fit(*sample, batch_size=2, verbose=0).history["loss"][0])
    assert (trainer.get_layer("auxiliary_decode_2_conv2").kernel.numpy() != before).any()


def _cross_entropy(labels, logits):
    logits = logits.astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    valid = labels != 255
    return -np.take_along_axis(logs, np.where(valid, labels, 0)[..., None], -1)[..., 0][valid].mean()
