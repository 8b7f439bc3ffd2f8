import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from delicate import LABELS, SIZE, delicate_network, pairs

from kseg import data, runtime
from kseg.errors import CheckError, InputError
from kseg.export import Calibration, export, tflite
from kseg.export.scoring import Maker, card_of, check_pairs, pairs_to_score, score, score_keras
from kseg.labels import LabelSet
from kseg.lowering import Lowered, lower, lower_with_ranges
from kseg.runtime import Predictor
from kseg.runtime.tflite import open_tflite

FOUR = LabelSet.numbered(4, ignore=255)


def _predictor(run, labels, size_px):
    image = keras.Input((*size_px, 3), batch_size=1)
    network = keras.Model(image, keras.layers.Conv2D(len(labels), 1)(image), name="stand_in")
    return Predictor(card_of(network, labels), run)


def _random(size_px, classes, count=3, label_px=None, seed=0):
    """(list of logits, pairs whose images tell their place, truth with unlabelled pixels)."""
    rng = np.random.default_rng(seed)
    logits = [rng.normal(size=(*size_px, classes)).astype(np.float32) for _ in range(count)]
    label_px = label_px or size_px
    truth = [rng.integers(0, classes, label_px).astype(np.int32) for _ in range(count)]
    for label in truth:
        label[rng.random(label_px) < 0.2] = 255
    return logits, [(np.full((*label_px, 3), place, np.uint8), label) for place, label in enumerate(truth)]


def _mean_iou(truth, predicted, classes):
    """Over the whole set, class by class, by sets of pixels."""
    counts = np.concatenate([label.ravel() for label in truth]) != 255
    truth = np.concatenate([label.ravel() for label in truth])[counts]
    predicted = np.concatenate([classes_.ravel() for classes_ in predicted])[counts]
    found = []
    for one in range(classes):
        union = ((truth == one) | (predicted == one)).sum()
        if union:
            found.append(((truth == one) & (predicted == one)).sum() / union)
    return np.mean(found)


def test_mean_iou_against_numpy():
    logits, given = _random((10, 14), 4)
    predictor = _predictor(lambda image: logits[int(image[0, 0, 0])], FOUR, (10, 14))
    expected = _mean_iou([label for _, label in given], [one.argmax(-1) for one in logits], 4)
    found = score(predictor, given)
    assert found.mean_iou == pytest.approx(expected, abs=1e-12)
    assert 0.05 < found.mean_iou < 0.4
    assert (found.relative_rms_error, found.argmax_agreement) == (0, 1)


def test_a_class_that_never_occurs_is_left_out():
    logits, given = _random((10, 14), 4)
    for one, (_, label) in zip(logits, given, strict=True):
        one[..., 3] = -100
        label[label == 3] = 2
    predictor = _predictor(lambda image: logits[int(image[0, 0, 0])], FOUR, (10, 14))
    expected = _mean_iou([label for _, label in given], [one.argmax(-1) for one in logits], 4)
    assert score(predictor, given).mean_iou == pytest.approx(expected, abs=1e-12)


def test_labels_of_another_size_are_met_by_bilinear_scores():
    logits, given = _random((10, 14), 4, label_px=(23, 31))
    predictor = _predictor(lambda image: logits[int(image[0, 0, 0])], FOUR, (10, 14))
    large = [tf.image.resize(one, (23, 31)).numpy().argmax(-1) for one in logits]
    expected = _mean_iou([label for _, label in given], large, 4)
    assert score(predictor, given).mean_iou == pytest.approx(expected, abs=0.002)  # a tie may fall otherwise


def test_change_against_a_reference_by_hand():
    zeros = [(np.zeros((1, 2, 3), np.uint8), np.array([[0, 1]], np.int32))]
    first = _predictor(lambda image: np.array([[[3.0, 0.0], [0.0, 4.0]]], np.float32), LABELS, (1, 2))
    second = _predictor(lambda image: np.array([[[3.0, 0.0], [1.0, 0.0]]], np.float32), LABELS, (1, 2))
    reference = score(first, zeros)
    assert (reference.mean_iou, len(reference.logits)) == (1, 1)
    found = score(second, zeros, reference)
    assert found.mean_iou == pytest.approx((1 / 2 + 0) / 2)
    assert found.relative_rms_error == pytest.approx(math.sqrt(17 / 25))
    assert found.argmax_agreement == 1 / 2
    assert found.logits == []  # those of many files would fill the memory


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_numbers(value):
    logits, given = _random((4, 6), 2)
    honest = _predictor(lambda image: logits[int(image[0, 0, 0])], LABELS, (4, 6))
    reference = score(honest, given)
    broken = [one.copy() for one in logits]
    broken[1][2, 3, 1] = value
    predictor = _predictor(lambda image: broken[int(image[0, 0, 0])], LABELS, (4, 6))
    for against in (None, reference):
        with pytest.raises(CheckError, match="stand_in: computes scores that are not numbers"):
            score(predictor, given, against)


def test_no_labelled_pixel():
    logits, given = _random((4, 6), 2)
    predictor = _predictor(lambda image: logits[int(image[0, 0, 0])], LABELS, (4, 6))
    with pytest.raises(InputError, match="no pixel of the images"):
        score(predictor, [(image, np.full_like(label, 255)) for image, label in given])


def test_keras_is_scored_as_it_predicts():
    network, given = delicate_network(), pairs()
    predicted = [np.asarray(network(image[None].astype(np.float32)))[0] for image, _ in given]
    flipped = [(image, np.where(label == 1, 0, 1 - label % 2)) for image, label in given]
    expected = _mean_iou([label for _, label in flipped], [one.argmax(-1) for one in predicted], 2)
    found = score_keras(lower(network, SIZE), LABELS, flipped)
    assert found.mean_iou == pytest.approx(expected, abs=1e-12)
    assert score_keras(lower(network, SIZE), LABELS, given).mean_iou == 1
    for mine, theirs in zip(found.logits, predicted, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "float_layers"), [("float16", ()), ("dynamic", ()), ("int8", ("delicate",)), ("int16x8", ())]
)
def test_files_on_the_way_compute_what_the_exported_ones_do(tmp_path, precision, float_layers):
    # Weights that every precision bears, or the exported file would be refused.
    network, given = delicate_network(largest=2.0), pairs()
    calibration = Calibration(tuple(image for image, _ in pairs(4, seed=8)))
    maker = Maker(lower_with_ranges(network, SIZE), LABELS, calibration, tmp_path)
    predictor, size = maker.make("tried", precision, float_layers)
    options = {"precision": precision, "calibration": calibration, "float_layers": float_layers}
    card = export(
        network, LABELS, tmp_path / "kept.tflite", format="tflite", size_px=SIZE, verification=given, **options
    )
    assert predictor.card.input == card.input
    assert size == (tmp_path / "tried.tflite").stat().st_size
    assert abs((tmp_path / "kept.tflite").stat().st_size - size) < 3000  # metadata
    kept = runtime.load(tmp_path / "kept.tflite")
    for image, _ in given:
        np.testing.assert_array_equal(predictor.at_size(image), kept.at_size(image))


def test_files_on_the_way_have_the_ranges_that_were_trained(tmp_path):
    image, given = keras.Input(batch_shape=(1, *SIZE, 3), name="image"), pairs()
    scores = delicate_network(largest=2.0)(image)
    pooled = keras.layers.MaxPooling2D(3, 1, padding="same")(scores)  # has the scale of what it pools
    network = keras.Model(image, pooled, name="pooled")
    lowered = Lowered(network, [(scores, (0.0, 0.9))])  # calibration would let them reach 0.99
    calibration = Calibration(tuple(image for image, _ in pairs(4, seed=8)))
    maker = Maker(lowered, LABELS, calibration, tmp_path)
    greatest = {}
    for precision in ("int8", "int16x8"):
        predictor, _ = maker.make("tried", precision)
        # As `export` writes it.
        options = {"calibration": calibration, "trained_ranges": lowered.ranges, "input_dtype": "float32"}
        tflite.write_tflite(network, tmp_path / "kept.tflite", precision, **options)
        kept = Predictor(card_of(network, LABELS), open_tflite(tmp_path / "kept.tflite", card_of(network, LABELS), 1))
        for image, _ in given:
            pixels = image.astype(np.float32)
            np.testing.assert_array_equal(predictor.at_size(pixels), kept.at_size(pixels))
        greatest[precision] = max(predictor.at_size(image).max() for image, _ in given)
    assert greatest["int8"] == pytest.approx(0.9, abs=1e-3)
    assert greatest["int16x8"] > 0.95  # 16 bits do not need them


# ---- which images score


def _source(count):
    given = pairs(count, seed=5)
    return data.arrays([image for image, _ in given], [label for _, label in given], LABELS)


def _is_among(image, images):
    return any(np.array_equal(image, other) for other in images)


def test_images_that_calibrate_do_not_score():
    source = _source(9)
    used = [source.load(place)[0] for place in (0, 2, 4, 6)]
    given = pairs_to_score(source, Calibration(tuple(used)), 32)
    assert len(given) == 5
    assert not any(_is_among(image, used) for image, _ in given)
    for (image, label), place in zip(given, (1, 3, 5, 7, 8), strict=True):
        np.testing.assert_array_equal(image, source.load(place)[0])
        np.testing.assert_array_equal(label, source.load(place)[1])


def test_the_images_that_score_are_spread():
    source = _source(12)
    other = Calibration(tuple(image for image, _ in pairs(2, seed=99)))
    given = pairs_to_score(source, other, 3)
    assert len(given) == 3
    assert _is_among(given[-1][0], [source.load(place)[0] for place in range(6, 12)])
    assert len(pairs_to_score(source, other, 100)) == 12


def test_every_image_calibrates():
    source = _source(3)
    with pytest.raises(InputError, match="every labelled image calibrates"):
        pairs_to_score(source, Calibration(tuple(source.load(place)[0] for place in range(3))), 32)


def test_pairs_that_cannot_score():
    given = pairs(2)
    calibration = Calibration(tuple(image for image, _ in pairs(2, seed=8)))
    check_pairs(given, calibration)
    with pytest.raises(InputError, match="no labelled images to score"):
        check_pairs([], calibration)
    with pytest.raises(InputError, match="has no label"):
        check_pairs([given[0], (given[1][0], None)], calibration)
    with pytest.raises(InputError, match="among those for calibration"):
        check_pairs([*given, (calibration.images[1], given[0][1])], calibration)
